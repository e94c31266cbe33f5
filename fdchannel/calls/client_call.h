// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ClientCall: the descriptors of one call, at the client. What FromContext(ClientContext*) hands
// out.
//
// Before the call starts its descriptors are queued here: nobody knows yet on which channel it will
// be made. Starting binds it to a session and sends them, in one frame if they fit. After that a
// streaming call sends more as they come.
//
// gRPC may make several attempts of one call (retries), on sessions that come and go. A call that
// is started with Start::per_attempt keeps its descriptors, those sent while it runs too, and sends
// all of them anew with each attempt, under that attempt's number; until gRPC can make no other one
// (Commit).
//
// How people get it wrong: they queue the *number* of a descriptor. By the time it is sent, the
// caller may have closed it and the number may belong to another file (Cap'n Proto issue 2755). The
// queue owns what is in it.
#ifndef GRPCFD_FDCHANNEL_CALLS_CLIENT_CALL_H_
#define GRPCFD_FDCHANNEL_CALLS_CLIENT_CALL_H_

#include <stdint.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/forwarding.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/limits.h"

namespace grpcfd {
namespace internal {

// What does a call's work in place of a session, once the call is made. Thread-safe.
class CallCarrier : public FdTransceiver {
 public:
  // As ClientCall's.
  virtual void OnCancelled() = 0;
  virtual void OnEnded() = 0;
  // The call will not be made: all methods report `why` from now on.
  virtual void Abandon(const absl::Status& why) = 0;
};

// Thread-safe. The call ends, and what was not taken is closed, when the last reference goes.
class ClientCall : public ForwardingCall, public std::enable_shared_from_this<ClientCall> {
 public:
  ClientCall() = default;
  ~ClientCall() override;

  using FdReceiver::DupFd;
  using FdReceiver::RecvFd;
  using FdReceiver::RecvFdAsync;
  using FdSender::SendFilename;

  absl::StatusOr<InodeUrl> SendFd(BorrowedFd fd) override;
  absl::StatusOr<InodeUrl> SendFd(UniqueFd&& fd) override;
  absl::StatusOr<InodeUrl> SendFilename(const std::string& path, int flags) override;
  absl::StatusOr<UniqueFd> RecvFd(const InodeUrl& url, absl::Time deadline) override;
  void RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override;
  absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url, absl::Time deadline) override;

  absl::StatusOr<std::vector<InodeUrl>> Arrived() override;
  absl::Status ClaimIndices(std::vector<InodeUrl>* urls) override;
  void UnclaimIndex(uint32_t index) override;
  size_t MaxAtOnce() override;
  size_t Room(size_t max_at_once) override;
  bool MustNotWait() override;
  std::shared_ptr<Reaper> reaper() override;
  absl::Status SendClaimed(IndexedFds fds) override;
  void SendClaimedLater(IndexedFd fd, std::function<void()> done) override;

  // Puts duplicates of what a set of descriptors shared by several calls holds in front of the
  // queue. FAILED_PRECONDITION, unless the set is empty, once anything else is queued; what
  // FailStart was given after that.
  absl::Status Preload(const std::vector<UniqueFd>& fds, const std::vector<InodeUrl>& urls);

  // --- For whoever makes the call ---

  struct Start {
    // Names the RPC; only compared.
    const void* rpc = nullptr;
    bool client_streams = false;  // More may be sent while the call runs.
    // Sent as often as gRPC makes an attempt, instead of once.
    bool per_attempt = false;
    absl::Time deadline = absl::InfiniteFuture();
    SessionLimits limits;
  };

  // Descriptors queued so far, and their URLs.
  bool has_queued() const;
  // Whether there are any at all, sent or not.
  bool has_descriptors() const;
  // Whether BeginStart or FailStart was called; whether BeginStart by `rpc`, and the call is
  // not bound yet; and whether it is between BeginStart and its outcome.
  bool begun() const;
  bool begun_for(const void* rpc) const;
  bool starting() const;
  // As BeginStart was told.
  bool per_attempt() const;
  absl::Time deadline() const;
  // Whether BindTo was called.
  bool bound() const;
  // Ties the call to the transport's own call object, once that exists. False if it is tied to
  // another one: credentials that were copied to a second context. Addresses are reused, hence
  // begun_for() as well.
  bool BindTo(const void* transport_call);
  // The same, if the call was started, and is its own carrier: false, with nothing done, otherwise.
  bool BindBegun(const void* transport_call);
  std::vector<InodeUrl> queued_urls() const;

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
  // The call goes out without descriptors, or not at all: all methods report `why` from now on.
  // What is queued is closed, and what waits for room leaves the line.
  void FailStart(const absl::Status& why);

  // Instead of a session: the call has started, and `carrier` does all that its methods are asked
  // for from now on. MakeCarrier is given what is queued; it must not block.
  using MakeCarrier = std::function<std::shared_ptr<CallCarrier>(IndexedFds queued)>;
  std::shared_ptr<CallCarrier> StartBy(const MakeCarrier& make);
  std::shared_ptr<CallCarrier> carrier() const;

  CallMetadata metadata() const;

  // The RPC was cancelled: whoever waits for a descriptor gets CANCELLED. The server has ended it:
  // NOT_FOUND for what it has not sent. Neither blocks.
  void OnCancelled();
  void OnEnded();

  // --- For calls that are started per attempt ---

  // There will be no further attempt: what was kept for one is closed. If there was none at all, as
  // FailStart(why).
  void Commit(const absl::Status& why);
  // The call's context has gone: no attempt is begun any more, and one that waits for room does so
  // no longer. CANCELLED for both.
  void GiveUp();

 private:
  enum class Phase { kQueueing, kStarting, kStarted, kWithout };
  absl::StatusOr<InodeUrl> Send(BorrowedFd fd, UniqueFd* adopted);
  absl::StatusOr<InodeUrl> Enqueue(const DevIno& dev_ino, UniqueFd fd)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits out kStarting. The session, or why there is none.
  absl::StatusOr<std::shared_ptr<Session>> Started(absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The call has started, by an attempt that sent what lies below `announced` but for `holes`.
  void Begun(uint32_t announced, uint32_t holes, IndexedFds* done_with)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Indices QueuedIndices() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What an attempt leaves behind; to be ended without the lock.
  struct FormerAttempt {
    std::shared_ptr<Session> session;
    std::shared_ptr<CallInbox> inbox;
    ~FormerAttempt();
  };
  absl::Status BeginAttempt(const std::shared_ptr<Session>& session, uint64_t call_id,
                            FormerAttempt* former) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  CallKey NextKey(uint64_t call_id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  struct WaitingAttempt;
  void SendForAttempt(const std::shared_ptr<WaitingAttempt>& attempt, const Indices& indices,
                      std::vector<int> numbers);
  // Adds what came to the queue meanwhile. INVALID_ARGUMENT if all that is too many for the peer.
  absl::Status AddLatecomers(WaitingAttempt* attempt, std::vector<uint32_t>* more,
                             std::vector<int>* numbers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnSentForAttempt(const std::shared_ptr<WaitingAttempt>& attempt, absl::Status sent);
  // Whether what is sent is kept for another attempt.
  bool keeps() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return start_.per_attempt && !released_;
  }
  // Keeps nothing from now on; closing is the caller's, without the lock.
  void ReleaseKept(IndexedFds* done_with) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the use of kept descriptors by their numbers, which ++sending_ began.
  void DoneSending(IndexedFds* done_with) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether another one is more than is kept.
  bool KeptAreTooMany(const Session& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void InsertByIndex(IndexedFd fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether `inbox` is still the one to receive from: not if another attempt has begun.
  bool IsCurrent(const std::shared_ptr<CallInbox>& inbox) const;
  absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, absl::Time deadline, Session::Op op);
  WaitOptions Until(absl::Time deadline) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Time Limit(absl::Time deadline) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  CondVar started_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kQueueing;
  absl::Status without_ ABSL_GUARDED_BY(mutex_);
  // By index.
  IndexedFds queue_ ABSL_GUARDED_BY(mutex_);
  ForwardedIndices indices_ ABSL_GUARDED_BY(mutex_);
  absl::Status forward_failure_ ABSL_GUARDED_BY(mutex_);
  Start start_ ABSL_GUARDED_BY(mutex_);
  const void* transport_call_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint32_t announced_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t holes_ ABSL_GUARDED_BY(mutex_) = 0;
  // Set while starting, then unchanged; but for calls per attempt: the latest attempt's.
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<CallInbox> inbox_ ABSL_GUARDED_BY(mutex_);
  // What inbox_ points to until there is a second one: most calls have one, and it need not be
  // allocated. Stays as long as the call. Not for calls per attempt, which may have many.
  std::optional<CallInbox> own_inbox_ ABSL_GUARDED_BY(mutex_);
  // Calls per attempt only. While keeps(), queue_ holds all that was sent.
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  // How many use descriptors of queue_ by number: they must not be closed meanwhile.
  int sending_ ABSL_GUARDED_BY(mutex_) = 0;
  // The latest attempt's descriptors wait for room.
  bool attempt_waits_ ABSL_GUARDED_BY(mutex_) = false;
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<CallCarrier> carrier_ ABSL_GUARDED_BY(mutex_);
  // Whether there ever was one, which each method asks first.
  std::atomic<bool> has_carrier_{false};
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_CLIENT_CALL_H_
