// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Session: one pair of client and server processes, joined by a SOCK_SEQPACKET socket; both ends
// are this class. It sorts the frames that arrive to the calls they belong to, and keeps what it
// sends within the peer's window. It enforces what PROTOCOL.md calls the rules of the wire.
//
// Its parts have no lock and can be tested alone; Session has the mutex and joins them:
//   DescriptorInbox  what one call has received, and what a receive finds there
//   Arrivals         all inboxes, early calls, session-scoped descriptors, and the limits
//   CreditOwed       when the peer is told that it may send again
//   SendWindow       how much may be sent, and who waits to send more
//   SocketLeader     who reads the socket, and who waits for what it finds
//   Landings         which calls are here, and which are to be sent again
// The methods are in session.cc (its life, and that of its calls), session_wait.cc (waiters),
// session_receive.cc (looks at the socket), session_send.cc and session_landing.cc.
//
// Why there is no reading thread: a descriptor is nearly always there when a call asks for it,
// because it was sent before the RPC that names it. A thread that reads ahead only adds a switch
// (measured: docs/decisions/0002). So the thread that asks reads the socket itself:
//  1. It looks in the inbox, under the lock. If the descriptor is there, it takes it.
//  2. If nobody leads, it leads: it unlocks, receives a batch, owns every descriptor, locks, and
//     sorts the batch to the calls.
//  3. If nothing is there, it waits for the socket until its own deadline. A cancellation, the end
//     of the call and the death of the session wake it.
//  4. A leader that leaves passes the lead on (socket_leader.h).
//  5. At a hang-up what is still in the socket is read first; only then is the session dead.
//  6. When nobody waits, nobody reads. While frames come in, a sweep reads at most ten times a
//     second, so that time-outs and quotas start and credit is given.
//
// Under the lock there is no close, no callback, and no system call that can block. What has to be
// closed or called is collected, and RunDeferred() does it without the lock.
#ifndef GRPCFD_FDCHANNEL_SESSION_SESSION_H_
#define GRPCFD_FDCHANNEL_SESSION_SESSION_H_

#include <stdint.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/session/arrivals.h"
#include "fdchannel/session/counters.h"
#include "fdchannel/session/credit_owed.h"
#include "fdchannel/session/deferred_closes.h"
#include "fdchannel/session/descriptor_inbox.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/in_flight.h"
#include "fdchannel/session/landings.h"
#include "fdchannel/session/send_window.h"
#include "fdchannel/session/session_config.h"
#include "fdchannel/session/socket_leader.h"
#include "fdchannel/session/waiter.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

// Thread-safe. Descriptors are numbered per call and direction. Waiting methods end at the deadline
// of their options.
//
// Long because each private method says by an annotation which lock it needs.
class Session : public std::enable_shared_from_this<Session> {
 public:
  using Role = SessionRole;
  using Op = ReceiveOp;
  using Config = SessionConfig;
  using FdCallback = absl::AnyInvocable<void(absl::StatusOr<UniqueFd>)>;
  using StatusCallback = std::function<void(absl::Status)>;

  // `on_dead` is called once, on the poller's thread: when the session has died, or is destroyed
  // alive.
  static std::shared_ptr<Session> Create(std::unique_ptr<FrameSocket> socket, Config config,
                                         std::function<void()> on_dead);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  uint64_t id() const { return config_.id; }
  const Token& token() const { return config_.token; }
  const ReceiveLimits& local_limits() const { return config_.local; }
  const ReceiveLimits& remote_limits() const { return config_.remote; }
  const std::string& peer() const { return config_.peer; }
  const std::shared_ptr<const ReceivePolicy>& policy() const { return config_.policy; }
  // Closes the descriptors that came by the session.
  const std::shared_ptr<Reaper>& reaper() const { return config_.reaper; }
  bool alive() const { return usable_.load(std::memory_order_acquire); }
  // What the session holds of the peer's descriptors, not yet taken or closed.
  uint32_t held() const;
  // Whether a call is attached, or came early.
  bool has_calls() const;
  CounterValues counters() const { return counters_->Values(); }
  const std::shared_ptr<Counters>& shared_counters() const { return counters_; }

  // --- Calls ---

  // Makes `inbox` the receiver of its call's descriptors, those that came early included. Below
  // `announced` are the indices that the peer had sent when it started the call, all but `holes` of
  // them; `open_ended` says whether it may send more.
  void Attach(DescriptorInbox* inbox, uint32_t announced, bool open_ended, uint32_t holes = 0);
  // Ends the call here: waiters get FAILED_PRECONDITION; what was not taken is closed, now or when
  // it comes. `sent`: this side sent descriptors in the call, and the peer may be told to drop what
  // it still holds of them. Idempotent. Senders that wait for room are waiters too, except a
  // server's asynchronous ones: the peer may still read what was passed on for a stream that has
  // ended.
  void End(DescriptorInbox* inbox, bool sent);
  // Present and later waiters of the call get CANCELLED, unless their descriptor, or their room to
  // send, is there. CancelSends: only those who wait to send.
  void Cancel(DescriptorInbox* inbox);
  void CancelSends(DescriptorInbox* inbox);
  // The peer has ended the call and can send no more in it: what is neither here nor in the socket
  // by now is NOT_FOUND.
  void Complete(DescriptorInbox* inbox);
  // The URLs, by index, of what the peer has sent so far and nobody has taken. Reads the socket to
  // its end first, or has the leader do it, and waits no longer than that look takes.
  // UNAVAILABLE if something that was announced is lost; otherwise the call's own failure, if it
  // has one.
  absl::StatusOr<std::vector<InodeUrl>> Arrived(DescriptorInbox* inbox);

  // --- Receiving. See FdReceiver for the errors. `inbox` must be attached ---

  absl::StatusOr<UniqueFd> Receive(DescriptorInbox* inbox, const InodeUrl& url, Op op,
                                   const WaitOptions& options);
  // Never blocks. `done` is called on this thread if the outcome is at hand, later on the poller's
  // otherwise.
  void ReceiveAsync(DescriptorInbox* inbox, const InodeUrl& url, Op op, absl::Time deadline,
                    FdCallback done);
  // A duplicate of a session-scoped descriptor, for no call. Looks at the socket once if it is not
  // there yet, and waits for nothing. INVALID_ARGUMENT if `url` has no session index; UNAVAILABLE
  // if the session is dead; otherwise as ScopedTable::Dup().
  absl::StatusOr<UniqueFd> ReceiveScoped(const InodeUrl& url);

  // --- Sending. The descriptors stay the caller's ---

  // INVALID_ARGUMENT if these are more than the peer takes for one call, or at all.
  absl::Status CheckSend(size_t count) const {
    if (count <= config_.remote.max_fds_per_call && count <= config_.remote.window) {
      return absl::OkStatus();
    }
    return TooManyToSend(count);
  }
  // Sends the descriptors under these indices of the call, in as few frames as they fit: 253 with
  // consecutive indices in each. If the status is not OK none is on its way, but for those of a set
  // of several frames that went before the deadline or the error came: the caller ends its call.
  //   INVALID_ARGUMENT    more than the peer's limit for a call or its window
  //   RESOURCE_EXHAUSTED  the window stayed full until the deadline, or the kernel is out of memory
  //                       or of descriptors in flight (ETOOMANYREFS)
  //   UNAVAILABLE         the session is dead
  //   CANCELLED, FAILED_PRECONDITION  after Cancel, End, if it would have to wait
  absl::Status Send(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                    const WaitOptions& options);
  // The same without waiting: false, with nothing sent, if it would have to, or if the set takes
  // several frames and so might have to midway.
  bool TrySend(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
               absl::Status* status);
  // Attach() and TrySend() under one lock, for a call of a client that begins. `inbox` is attached
  // whatever comes of the rest.
  bool TryBegin(DescriptorInbox* inbox, const Indices& indices, absl::Span<const int> fds,
                absl::Status* status);
  // The same without a thread. `fds` must stay open until `done` was called, on the poller's thread
  // or on this one.
  void SendAsync(const CallKey& call, const Indices& indices, std::vector<int> fds,
                 absl::Time deadline, StatusCallback done);
  // Registers a session-scoped descriptor with the peer, under an index that this side has never
  // used in the session. Errors as Send(), and RESOURCE_EXHAUSTED if the peer takes no more.
  absl::Status SendScoped(uint32_t index, int fd, const WaitOptions& options);
  bool TrySendScoped(uint32_t index, int fd, absl::Status* status);
  void SendScopedAsync(uint32_t index, int fd, absl::Time deadline, StatusCallback done);
  // Takes back one whose sending is over. Never fails: what cannot be told now is told later.
  void WithdrawScoped(uint32_t index);

  // --- Calls that reach another process than their descriptors. From kNamesVersion on ---

  // Whether both ends speak that.
  bool resends() const { return config_.version >= kNamesVersion; }
  // Whether calls of this session may land elsewhere, and so keep what they sent until a server has
  // them: not in-process, and not if gRPC's connections have no names.
  bool keeps() const { return config_.keeps && resends(); }
  // A server: whether what came for the call was closed because its RPC did not come for so long.
  bool HasExpired(const CallKey& call) const;
  // A server: has the client send a call again. `done` gets OK when all of it has come, and may be
  // attached; UNAVAILABLE if the client has not kept it or the session dies; or why the call is not
  // the client's to make. On the poller's thread; not after GiveUpResend().
  void AskToResend(const CallKey& call, StatusCallback done);
  void GiveUpResend(const CallKey& call);
  // A client: what `call` brings was sent before this, or is gone.
  void AnswerResend(const CallKey& call, ResendOutcome outcome);
  // A client: tells the server at once which calls have ended, and need nothing there any more.
  void TellDiscards();
  // A client's call that goes by this session, alive or dead; null if there is none.
  std::shared_ptr<InboxOwner> OwnerOf(const CallKey& call) const;

  // --- Upkeep ---

  // Cuts the session at once: tells the peer why, closes everything held, fails all waiters with
  // `status`.
  void Kill(CloseCode code, const absl::Status& status);
  // Reads what is there, drops what is overdue, and gives all credit that is owed. The poller calls
  // it, and so do tests.
  void Sweep();

 private:
  struct Batch;  // What one look at the socket brought.
  // kNoRoom: it has not looked. The lead is to be passed to the lane.
  enum class PumpResult { kProgress, kEmpty, kDead, kNoRoom };

  Session(std::unique_ptr<FrameSocket> socket, Config config, std::function<void()> on_dead);

  // session_receive.cc. Pump is one look of the leader; Drain looks until the socket is empty or
  // the session dead, and returns false if another thread leads. Without room for what a look may
  // bring, the lead goes to the user's lane of the reaper.
  bool TryReceive(Request* request, DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<UniqueFd> AwaitReceive(Request request, const WaitOptions& options,
                                        DeferredCloses* closes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  PumpResult Pump(size_t max_frames, DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  PumpResult PumpOnLane(DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  PumpResult SortLook(const SocketLeader::Look& look, Batch* batch, DeferredCloses* closes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PassLeadToLane(DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadOnLane();
  void CloseOnLane(DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Drain(DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadBatch(Batch* batch) const;
  PumpResult SortBatch(Batch* batch, DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropBatch(Batch* batch, size_t from, DeferredCloses* closes) const;
  absl::Status Deliver(const Frame& frame, ReceivedMessage* message, absl::Span<const Seen> seen,
                       DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status DeliverData(const Frame& frame, ReceivedMessage* message,
                           absl::Span<const Seen> seen, DeferredCloses* closes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  UniqueFd Take(DescriptorInbox* inbox, DescriptorInbox::Slot* slot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // session_wait.cc. Progress... settles a waiter if it can; `drained`: the socket was found empty.
  void RunWaiter(Waiter* waiter, const WaitOptions& options, DeferredCloses* closes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeadOnce(Waiter* waiter, const WaitOptions& options, int* looks, DeferredCloses* closes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FollowOnce(Waiter* waiter, const WaitOptions& options) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AwaitLook(Waiter* waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EnlistAsync(const std::shared_ptr<Waiter>& waiter, absl::Time deadline,
                   DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enlist(Waiter* waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetTimer(const std::shared_ptr<Waiter>& waiter, absl::Time when)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnLate(const std::shared_ptr<Waiter>& late, DeferredCloses* closes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ProgressReceive(Request* request, bool drained) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ProgressScoped(Request* request, bool drained) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveOut(Request* request, DescriptorInbox::Slot* slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ProgressSend(Waiter* waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ProgressCall(DescriptorInbox* inbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ProgressSenders() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SettleAsking(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SettleAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(Waiter* waiter, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishCall(DescriptorInbox* inbox, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishSenders(const DescriptorInbox* inbox, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status DeadlineError(const Waiter& waiter) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PassLead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // session_send.cc. SendOneFrame enters with the lock and leaves without it.
  bool SendOneFrame(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                    absl::Status* status) ABSL_UNLOCK_FUNCTION(mutex_);
  absl::Status TooManyToSend(size_t count) const;
  void CancelSendsLocked(DescriptorInbox* inbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SendsOver(const CallKey& call) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Reserve(size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unreserve(size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnRoom();
  absl::Status ReserveScoped();
  void UnreserveScoped();
  IoResult SendControl(const Frame& frame) const;
  void SendWithdrawals() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendDiscards() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveCredit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PeerGone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // session_landing.cc
  absl::Status DeliverLanding(const Frame& frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendLandings() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteLanding(const DescriptorInbox& inbox, bool open_ended)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellLanded();
  void RunOutcome(const Landings::Outcome& outcome);

  // session.cc. RunDeferred does, without the lock, what must not be done under it. It is the last
  // thing in every method that delivers or finishes anything. Usually there is nothing, and letting
  // go of the lock for that would cost as much as taking it.
  void RunDeferred(DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!closes->empty() || AnyDeferred()) DoDeferred(closes);
  }
  // The same where nothing is to be closed.
  void RunDeferred() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!AnyDeferred()) return;
    DeferredCloses none;
    DoDeferred(&none);
  }
  bool AnyDeferred() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !finished_async_.empty() || !landings_.quiet() || !dead_.ok() || !violation_.ok() ||
           owed_.due() || owed_.needs_sweep();
  }
  void DoDeferred(DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnClosed(size_t charged, size_t uncharged, size_t scoped, size_t roomed);
  void KillLocked(CloseCode code, const absl::Status& status, DeferredCloses* closes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkDead(const absl::Status& status, Counter why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Watch(bool for_input) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnPollerEvent(uint32_t events);
  void ScheduleSweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SweepIfQuiet(uint64_t number);
  void Upkeep(DeferredCloses* closes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::shared_ptr<FrameSocket> socket_;
  const Config config_;
  // Descriptors in a frame.
  const size_t most_at_once_;
  const std::shared_ptr<Counters> counters_;
  // Both written once, before Create() returns, the id under the lock.
  std::shared_ptr<InFlight> in_flight_;
  Poller::Id registration_ = 0;

  mutable Mutex mutex_;
  std::function<void()> on_dead_ ABSL_GUARDED_BY(mutex_);
  absl::Status dead_ ABSL_GUARDED_BY(mutex_);
  // How the peer broke the protocol, if the session could not be cut at once.
  absl::Status violation_ ABSL_GUARDED_BY(mutex_);
  SocketLeader leader_ ABSL_GUARDED_BY(mutex_);
  Arrivals arrivals_ ABSL_GUARDED_BY(mutex_);
  CreditOwed owed_ ABSL_GUARDED_BY(mutex_);
  SendWindow window_ ABSL_GUARDED_BY(mutex_);
  Landings landings_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Waiter>> finished_async_ ABSL_GUARDED_BY(mutex_);
  // Registered with the peer, or may be: up to its max_session_fds. Withdrawn ones count until the
  // peer was told.
  uint32_t scoped_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint32_t> withdrawn_ ABSL_GUARDED_BY(mutex_);
  // sendmsg said that the other end is closed; what came before can still be read.
  bool peer_gone_ ABSL_GUARDED_BY(mutex_) = false;
  // Neither dead nor that: each call asks, without the lock.
  std::atomic<bool> usable_{true};
  std::atomic<bool> any_expired_{false};  // The same.
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SESSION_H_
