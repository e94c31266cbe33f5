// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ClientCall: the descriptors of one call, at the client, whichever wire carries them.
// FromContext(ClientContext*) returns it.
//
// Before the call starts its descriptors are queued here: its channel is not known yet. The queue
// owns what is in it: by the time it is sent, a borrowed number could be another file's.
// Starting gives the call a transport (call_transport.h) and sends what is queued, in one frame if
// it fits. After that a streaming call sends more as they come.
//
// gRPC may make several attempts of one call (retries), on sessions that come and go. A call that
// is started with Start::per_attempt keeps its descriptors, those sent while it runs too, and sends
// all of them anew with each attempt, under that attempt's number; until gRPC can make no other one
// (Commit).
//
// Which connection gRPC picks for a call is not known when its descriptors are sent. So a call that
// goes by a session keeps them for that as well, until a server says that it has the call
// (OnLanded), or asks for them by another session (SendAgain). docs/decisions/0025.
#ifndef GRPCFD_FDCHANNEL_CALLS_CLIENT_CALL_H_
#define GRPCFD_FDCHANNEL_CALLS_CLIENT_CALL_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/call.h"
#include "fdchannel/calls/call_queue.h"
#include "fdchannel/calls/call_transport.h"
#include "fdchannel/calls/session_transport.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/limits.h"

namespace grpcfd {
namespace internal {

// How a call is made.
struct ClientCallStart {
  // Names the RPC; only compared.
  const void* rpc = nullptr;
  bool client_streams = false;  // More may be sent while the call runs.
  // Sent as often as gRPC makes an attempt, instead of once.
  bool per_attempt = false;
  // The call goes by a connection (ClientCall::StartOnConnection), not by a session.
  bool by_connection = false;
  absl::Time deadline = absl::InfiniteFuture();
  SessionLimits limits;
};

// Thread-safe. The call ends, and what was not taken is closed, when the last reference goes.
//
// Long because each private method says by an annotation which lock it needs.
class ClientCall : public Call, public InboxOwner, public std::enable_shared_from_this<ClientCall> {
 public:
  ClientCall() = default;
  ~ClientCall() override;

  void ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override;

  bool indexed() const override;
  bool AnyCame() const override;
  absl::StatusOr<std::vector<InodeUrl>> Arrived() override;
  std::shared_ptr<Reaper> reaper() override;
  absl::Status ClaimIndices(std::vector<InodeUrl>* urls) override;
  size_t MaxAtOnce() override;
  size_t Room(size_t max_at_once) override;
  bool MustNotWait() override;
  absl::Status SendClaimed(IndexedFds fds) override;
  void SendClaimedLater(IndexedFd fd, std::function<void()> done) override;

  // Puts duplicates of what a set of descriptors shared by several calls holds in front of the
  // queue. FAILED_PRECONDITION, unless the set is empty, once anything else is queued; what
  // FailStart was given after that.
  absl::Status Preload(const std::vector<UniqueFd>& fds, const std::vector<InodeUrl>& urls);

  // --- For the code that makes the call ---

  using Start = ClientCallStart;
  // Whether any descriptors are queued, and the URLs of those.
  bool has_queued() const;
  std::vector<InodeUrl> queued_urls() const;
  // Whether there are any at all, sent or not.
  bool has_descriptors() const;
  // Whether BeginStart or FailStart was called; whether BeginStart by `rpc`, and the call is
  // not bound yet; and whether it is between BeginStart and its outcome.
  bool begun() const;
  bool begun_for(const void* rpc) const;
  bool starting() const;
  Start start() const;  // As BeginStart was told.
  // Ties the call to gRPC's own call object, once that exists. False if it is tied to another one:
  // credentials that were copied to a second context. Addresses are reused, hence begun_for() as
  // well.
  bool BindTo(const void* grpc_call);
  // The same for a call that was begun and is not bound: false, with nothing done, otherwise.
  bool BindBegun(const void* grpc_call);
  bool bound() const;

  // Takes the call from "queueing" to "starting"; from here on SendFd waits until it has started.
  // ALREADY_EXISTS if it was started before for the same RPC, and not bound yet.
  // FAILED_PRECONDITION if for another one: a context, and with it this state, serves one call.
  // INVALID_ARGUMENT if more are queued than start.limits allow.
  absl::Status BeginStart(const Start& start);
  // What the RPC must say, or why there will be none.
  using StartCallback = std::function<void(absl::StatusOr<CallMetadata>)>;
  // Attaches to `session` and sends all that the call has, without waiting. False, with nothing
  // sent, if that would have to wait. `*result` is what the RPC must say, or as Session::Send;
  // besides
  //   CANCELLED           GiveUp, or as FailStart said
  //   RESOURCE_EXHAUSTED  the call has sent more than is kept for another attempt
  // The call receives from this session from now on. A start that failed does not end the call:
  // there may be another one, on this session or the next. FailStart ends it.
  // `call_id` names the call in its channel; of attempts, the first one's counts for all.
  bool TryStartOn(const std::shared_ptr<Session>& session, uint64_t call_id,
                  absl::StatusOr<CallMetadata>* result);
  // The same; waits without a thread, then calls `done`, on this thread or the poller's.
  void StartOnAsync(const std::shared_ptr<Session>& session, uint64_t call_id, StartCallback done);

  // Calls `look` with what is queued, which must not change it, and not block.
  absl::Status InspectQueue(absl::FunctionRef<absl::Status(const IndexedFds&)> look) const;
  // For calls that start by_connection: an attempt of the call was given to the connection of
  // `transport`; null: to the same one as before. `send` gets what is queued, to take it; it must
  // not block. A second connection cannot bring what went with the first: UNAVAILABLE.
  absl::Status StartOnConnection(const std::shared_ptr<CallTransport>& transport,
                                 absl::FunctionRef<absl::Status(IndexedFds*)> send);

  // The call goes out without descriptors, or is not made: all methods report `why` from now on.
  // What is queued is closed, and what waits for room leaves the line.
  void FailStart(const absl::Status& why);
  // Of a start per attempt: there will be no further attempt, and what was kept for one is closed.
  // If there was none at all, as FailStart(why).
  void Commit(const absl::Status& why);
  // The call's context has gone: later attempts, and one that waits for room, are CANCELLED. No
  // attempt begins after this.
  void GiveUp();
  // --- By a session: where the call is ---

  void OnLanded() override;
  void SendAgain(const std::shared_ptr<Session>& session, const CallKey& key) override;

  // Of the attempt that has started last; not bound() if there is none.
  CallMetadata metadata() const;

  // The RPC was cancelled: waits for a descriptor get CANCELLED. The server has ended it: NOT_FOUND
  // for what it has not sent. Nothing can be sent after either. Neither blocks.
  void OnCancelled();
  void OnEnded();

 protected:
  absl::StatusOr<InodeUrl> Send(BorrowedFd fd, UniqueFd* adopted) override;

 private:
  enum class Phase { kQueueing, kStarting, kStarted, kWithout };
  struct FormerAttempt;
  struct WaitingAttempt;

  absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, absl::Time deadline,
                                   CallTransport::Op op) override;
  absl::StatusOr<InodeUrl> Enqueue(const DevIno& dev_ino, UniqueFd fd)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether an attempt that has not begun yet takes along what is sent now.
  bool QueuesWhileStarting() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether `url`, which `transport` could not send, is brought by another attempt all the same.
  bool BroughtAnyway(const CallTransport* transport, const absl::Status& status) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits out kStarting. The transport, or why there is none.
  absl::StatusOr<std::shared_ptr<CallTransport>> Started(absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing is sent any more; `over` says why. A call that has not reached a connection goes
  // without. Its transport, to be told as well; null if there is none.
  std::shared_ptr<CallTransport> EndSending(const absl::Status& over, const absl::Status& without);
  void SetWithout(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<SessionTransport>> BeginAttempt(
      const std::shared_ptr<Session>& session, uint64_t call_id, FormerAttempt* former)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The transport of `session` for this attempt, in place of the one before, which `former` ends.
  // It is to be attached.
  std::shared_ptr<SessionTransport> GoBy(const std::shared_ptr<Session>& session,
                                         FormerAttempt* former)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The call has started, and its RPC says this.
  void Begun(const CallMetadata& said, IndexedFds* given_up) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether what is sent is kept, for another attempt or another session.
  bool keeps() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool KeptAreTooMany() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether `transport` is still the one to receive from: not if another attempt has begun.
  bool IsCurrent(const std::shared_ptr<CallTransport>& transport) const;

  CondVar started_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kQueueing;
  absl::Status without_ ABSL_GUARDED_BY(mutex_);
  // Why nothing more can be sent; what came can still be received.
  absl::Status over_ ABSL_GUARDED_BY(mutex_);
  // While keeps(), all that was sent.
  CallQueue queue_ ABSL_GUARDED_BY(mutex_);
  Start start_ ABSL_GUARDED_BY(mutex_);
  const void* grpc_call_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // The latest attempt's.
  std::shared_ptr<CallTransport> transport_ ABSL_GUARDED_BY(mutex_);
  CallKey key_ ABSL_GUARDED_BY(mutex_);
  CallMetadata said_ ABSL_GUARDED_BY(mutex_);
  // What transport_ points to until there is a second one: most calls have one, and it need not be
  // allocated. Stays as long as the call. Not for calls per attempt, which may have many.
  std::optional<SessionTransport> own_transport_ ABSL_GUARDED_BY(mutex_);
  // The latest attempt's descriptors wait for room.
  bool attempt_waits_ ABSL_GUARDED_BY(mutex_) = false;
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;
  // A server may ask for the call by another session than this one, which transport_ goes by.
  bool until_landed_ ABSL_GUARDED_BY(mutex_) = false;
  const Session* session_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // By connection: something was sent with it.
  bool sent_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_CLIENT_CALL_H_
