// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Session: one pair of client and server processes, joined by a SOCK_SEQPACKET socket; both ends
// are this class. It sorts the frames that arrive to the calls they belong to, and keeps what it
// sends within the peer's window.
//
// Why it has no reading thread: a descriptor is nearly always there when somebody asks for it,
// because it was sent before the RPC that names it. A thread that reads ahead only adds a hand-over
// (measured: docs/decisions/0002). So whoever asks reads the socket itself: the *leader*. The
// rules:
//  1. Look in the table under the lock. There: take it. Session dead: UNAVAILABLE. Otherwise become
//     a waiter.
//  2. If nobody leads, lead: unlock, receive one batch, own every descriptor, lock, sort it to the
//     calls, finish their waiters.
//  3. Nothing there: wait for the socket until one's own deadline; cancellation, end of call and
//     death of the session wake it.
//  4. A leader that leaves, for whatever reason, hands the lead to exactly one other blocked waiter
//     in the same critical section; if only asynchronous waiters are left, the poller watches the
//     socket for them.
//  5. Under the lock: no close, no callback, no system call that can block.
//  6. At a hang-up what is still in the socket is read first; only then is the session dead.
//  7. When nobody waits nobody reads. A sweep, at most ten times a second while frames come in,
//     starts their time-outs and quotas.
// Never are there data and waiters, but nobody who leads, is being promoted, or watches
// (tests/fdchannel/session/session_model_test.cc).
//
// How people get it wrong: "the socket is empty, so the descriptor is lost" is true only for a
// waiter that was there before the look. Waiters carry the number of the look (epoch_) for that.
//
// Thread-safe. Descriptors are numbered per call and direction; what PROTOCOL.md calls the rules of
// the wire is enforced here.
#ifndef GRPCFD_FDCHANNEL_SESSION_SESSION_H_
#define GRPCFD_FDCHANNEL_SESSION_SESSION_H_

#include <stdint.h>

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "fdchannel/fds/fd_facts.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/counters.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/in_flight.h"
#include "fdchannel/session/scoped_table.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/hello.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

class Session;

// What one call has received. A member of whatever stands for the call; all of it is guarded by the
// mutex of the session it is attached to. It must be ended (Session::End) before it is destroyed.
class CallInbox {
 public:
  // `policy` decides what of its descriptors may be had; null accepts all.
  explicit CallInbox(CallKey key, std::shared_ptr<const ReceivePolicy> policy = nullptr)
      : key_(key), policy_(std::move(policy)) {}
  CallInbox(const CallInbox&) = delete;
  CallInbox& operator=(const CallInbox&) = delete;

  const CallKey& key() const { return key_; }

 private:
  friend class Session;
  struct Slot {
    uint32_t index;
    bool taken;
    bool refused;  // By the policy: closed, and nobody may have it.
    DevIno dev_ino;
    FdFacts facts;
    UniqueFd fd;

    bool gone() const { return taken || refused; }
  };

  Slot* Find(uint32_t index);
  void ForgetTaken();
  // Whether all that was announced has come.
  bool AnnouncedCame() const;

  const CallKey key_;
  const std::shared_ptr<const ReceivePolicy> policy_;
  bool attached_ = false;
  bool ended_ = false;
  bool cancelled_ = false;
  // Nothing is sent in the call any more, if it would have to wait.
  bool sends_cancelled_ = false;
  // The peer may still send more than it has announced.
  bool open_ended_ = true;
  // The call is over at the peer: what it sent is here, or in the socket.
  bool over_ = false;
  // Indices from 0 that were sent before the call, but for so many of them.
  uint32_t announced_ = 0;
  uint32_t holes_ = 0;
  // Why the call's descriptors are not to be had, if so.
  absl::Status failure_;
  // By index. Taken ones stay, so that asking again is told apart from asking too early; below
  // `forgotten_below_` all were taken.
  absl::InlinedVector<Slot, 1> slots_;
  uint32_t forgotten_below_ = 0;
  // For a call whose RPC has not come yet.
  absl::Time early_deadline_ = absl::InfiniteFuture();
};

// Who pays for the descriptors that a session holds. Thread-safe; called under session locks, so it
// must not call back.
class DescriptorQuota {
 public:
  virtual ~DescriptorQuota() = default;
  // RESOURCE_EXHAUSTED, naming the limit, if `n` more are too many.
  virtual absl::Status Charge(size_t n) = 0;
  virtual void Release(size_t n) = 0;
};

struct WaitOptions {
  absl::Time deadline = absl::InfiniteFuture();
  // The limit where `deadline` is none, from when the wait begins: what need not wait, and hardly
  // anything does, need not look at the clock.
  absl::Duration patience = absl::InfiniteDuration();
  // Asked now and then while waiting, if set; true ends the wait with CANCELLED. gRPC's synchronous
  // server tells of a cancellation only when asked.
  const std::function<bool()>* cancelled = nullptr;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  enum class Role { kClient, kServer };
  enum class Op { kTake, kDup };
  using FdCallback = std::function<void(absl::StatusOr<UniqueFd>)>;
  using StatusCallback = std::function<void(absl::Status)>;

  struct Config {
    Role role = Role::kServer;
    uint64_t id = 0;
    Token token;
    ReceiveLimits local;                               // What we hold of the peer's.
    ReceiveLimits remote;                              // What the peer holds of ours.
    absl::Duration early_timeout = absl::Seconds(10);  // For descriptors whose RPC never comes.
    // A client's policy for all its calls; a server's for what no call asks for, its calls have
    // their methods'. Null accepts all.
    std::shared_ptr<const ReceivePolicy> policy;
    unsigned look = kLookNothing;    // What the policies of the inboxes need to know (LookFor).
    std::string peer;                // For messages: "pid 17, uid 1000".
    std::shared_ptr<Poller> poller;  // May be null in tests: then nobody watches.
    std::shared_ptr<Reaper> reaper;
    std::shared_ptr<DescriptorQuota> quota;  // May be null.
    std::shared_ptr<Counters> counters;      // Null: the session makes its own.
    // What may be in flight to all peers together; null: the window alone counts. `uid` is whose
    // part of it this session uses.
    std::shared_ptr<InFlightBudget> in_flight;
    uid_t uid = 0;
  };

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
  // Who closes what came by it.
  const std::shared_ptr<Reaper>& reaper() const { return config_.reaper; }
  bool alive() const { return usable_.load(std::memory_order_acquire); }

  // --- Receiving ---

  // Makes `inbox` the receiver of its call's descriptors, those that came early included.
  // Below `announced` are the indices that the peer had sent when it started the call, all but
  // `holes` of them; `open_ended` says whether it may send more.
  void Attach(CallInbox* inbox, uint32_t announced, bool open_ended, uint32_t holes = 0);
  // Ends the call here: waiters get FAILED_PRECONDITION, what was not taken is closed, now or when
  // it comes. `sent` says whether this side sent descriptors in the call: the peer may be told to
  // drop what it still holds of them. Idempotent.
  // Those who wait to send in the call are waiters too, but for a server's asynchronous ones: what
  // it passed on for a stream that it has ended may still be read there.
  void End(CallInbox* inbox, bool sent);
  // Waiters of the call, and those to come, get CANCELLED unless their descriptor is there, or
  // their room to send.
  void Cancel(CallInbox* inbox);
  // The same for those who wait to send only.
  void CancelSends(CallInbox* inbox);
  // The peer has ended the call and can send no more in it: what is neither here nor in the socket
  // by now is NOT_FOUND, for those who wait as for those who ask later.
  void Complete(CallInbox* inbox);

  // The URLs, by index, of what the peer has sent so far and nobody has taken: reads the socket to
  // its end first, or has whoever leads do it. It may be taken by others as soon as this returns.
  // Waits no longer than that look takes. Errors are the call's own failure, if it has one; and
  // UNAVAILABLE if something that was announced is lost.
  absl::StatusOr<std::vector<InodeUrl>> Arrived(CallInbox* inbox);

  // See FdReceiver for the errors. `inbox` must be attached.
  absl::StatusOr<UniqueFd> Receive(CallInbox* inbox, const InodeUrl& url, Op op,
                                   const WaitOptions& options);
  // Never blocks. `done` is called on this thread if the outcome is at hand, later on the poller's
  // otherwise.
  void ReceiveAsync(CallInbox* inbox, const InodeUrl& url, Op op, absl::Time deadline,
                    FdCallback done);

  // --- Sending ---

  // INVALID_ARGUMENT if these are more than the peer takes for one call, or at all.
  absl::Status CheckSend(size_t count) const;

  // Sends the descriptors under these indices of the call, in as few frames as they fit: 253, with
  // consecutive indices, in each. They stay the caller's. A set that is too large for what room the
  // socket has waits for more. All are on their way if the status is OK. If not, none is, but for
  // those of a set of several frames that went before the deadline or the error came: the caller
  // gives its call up then.
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
  // The same; waits without a thread. `fds` must stay open until `done` was called, on the poller's
  // thread or on this one.
  void SendAsync(const CallKey& call, const Indices& indices, std::vector<int> fds,
                 absl::Time deadline, StatusCallback done);

  // --- Session-scoped descriptors: those of no call, which any call of the session may name ---

  // Registers a descriptor with the peer under an index that this side has never used in the
  // session. It stays the caller's. Errors as Send(), and RESOURCE_EXHAUSTED if the peer takes no
  // more of them.
  absl::Status SendScoped(uint32_t index, int fd, const WaitOptions& options);
  bool TrySendScoped(uint32_t index, int fd, absl::Status* status);
  void SendScopedAsync(uint32_t index, int fd, absl::Time deadline, StatusCallback done);
  // Takes back one whose sending is over. Never fails: what cannot be told now is told later.
  void WithdrawScoped(uint32_t index);
  // A duplicate of what the peer registered. Looks at the socket once if it is not there yet, and
  // waits for nothing. Also reached through Receive() and ReceiveAsync(), for which `op` makes no
  // difference then.
  //   INVALID_ARGUMENT  `url` has no session index; or as ScopedTable::Dup(), with its other errors
  //   UNAVAILABLE       the session is dead
  absl::StatusOr<UniqueFd> ReceiveScoped(const InodeUrl& url);

  // --- Upkeep ---

  // Cuts the session at once: tells the peer why, closes everything held, fails all waiters with
  // `status`.
  void Kill(CloseCode code, const absl::Status& status);
  // Reads what is there and drops what is overdue. Called by the poller; by tests as they like.
  void Sweep();

  // What the session holds of the peer's descriptors, not yet taken or closed. For tests and
  // statistics.
  uint32_t held() const;
  CounterValues counters() const { return counters_->Values(); }
  const std::shared_ptr<Counters>& shared_counters() const { return counters_; }

 private:
  struct Waiter;
  struct Trash;
  // What was found out about a descriptor when it came.
  struct Seen {
    DevIno dev_ino;
    FdFacts facts;
  };
  enum class PumpResult { kProgress, kEmpty, kDead };

  Session(std::unique_ptr<FrameSocket> socket, Config config, std::function<void()> on_dead);

  // The leader's work.
  PumpResult Pump(size_t max_frames, Trash* trash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Reads until the socket is empty or the session dead, if nobody leads. False if somebody does.
  bool Drain(Trash* trash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Deliver(const Frame& frame, ReceivedMessage* message, absl::Span<const Seen> seen,
                       Trash* trash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status DeliverData(const Frame& frame, ReceivedMessage* message,
                           absl::Span<const Seen> seen, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status DeliverScoped(const Frame& frame, ReceivedMessage* message,
                             absl::Span<const Seen> seen, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  CallInbox* InboxFor(const CallKey& key, Trash* trash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MakeRoom(size_t n, const CallInbox* keep, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailInbox(CallInbox* inbox, absl::Status status, Counter why, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Closes what the call's policy refuses. Before anybody can take it.
  void ApplyPolicy(CallInbox* inbox, CallInbox::Slot* slot, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `why` is what the descriptors in it are counted as.
  void EmptyInbox(CallInbox* inbox, Counter why, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ExpireEarly(absl::Time now, Trash* trash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandOver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Waiters.
  // Looks for what `waiter` wants without making it one: in the table, and in the socket if nobody
  // leads. True if it is settled.
  bool LookFirst(Waiter* waiter, Trash* trash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunWaiter(Waiter* waiter, const WaitOptions& options, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EnlistAsync(const std::shared_ptr<Waiter>& waiter, absl::Time deadline, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enlist(Waiter* waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Has OnLate called for an asynchronous waiter.
  void SetTimer(const std::shared_ptr<Waiter>& waiter, absl::Time when)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnLate(const std::shared_ptr<Waiter>& late, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ProgressReceive(Waiter* waiter, bool drained) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The descriptor of `slot`, which has one.
  UniqueFd Take(CallInbox* inbox, CallInbox::Slot* slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ProgressScoped(Waiter* waiter, bool drained) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ProgressSend(Waiter* waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ProgressAll(uint64_t before_epoch, bool drained) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ProgressSenders() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(Waiter* waiter, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status DeadlineError(const Waiter& waiter) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishAll(const CallInbox* inbox, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishSenders(const CallInbox* inbox, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CancelSendsLocked(CallInbox* inbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Why nothing of the call may wait to be sent, if so.
  absl::Status SendsOver(const CallKey& call) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Sending.
  // Room for `count` more descriptors, in the peer's window and in flight; reserves it if so.
  bool ReserveRoom(size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnRoom();
  IoResult SendFrames(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                      size_t* sent);
  absl::Status SendError(int error) const;
  absl::Status ReserveScoped();
  void UnreserveScoped();
  void SendWithdrawals() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PeerGone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendDiscards() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Disposed(size_t n) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendCreditIfDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void KillLocked(CloseCode code, const absl::Status& status, Trash* trash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkDead(const absl::Status& status, Counter why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Does, without the lock, what must not be done under it: sends a due credit, hands over what is
  // to be closed, and has the callbacks of finished waiters run. The last thing in every method
  // that delivers or finishes anything.
  void Leave(Trash* trash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnClosed(size_t charged, size_t uncharged, size_t scoped);
  void Watch(bool for_input) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A sweep, unless somebody has looked at the socket since look number `epoch`.
  void SweepIfQuiet(uint64_t epoch);
  void ScheduleSweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnPollerEvent(uint32_t events);

  std::shared_ptr<FrameSocket> socket_;
  const Config config_;
  const uint64_t credit_step_;
  const std::shared_ptr<Counters> counters_;
  // Both written once, before Create() returns, the id under the lock.
  std::shared_ptr<InFlight> in_flight_;
  Poller::Id registration_ = 0;

  mutable Mutex mutex_;
  std::function<void()> on_dead_ ABSL_GUARDED_BY(mutex_);
  absl::Status dead_ ABSL_GUARDED_BY(mutex_);
  bool leader_ ABSL_GUARDED_BY(mutex_) = false;
  bool leader_waits_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  // Since the last look began that found the socket empty, somebody came whom such a look settles.
  bool look_again_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<Waiter*> waiters_ ABSL_GUARDED_BY(mutex_);
  std::list<Waiter*> senders_
      ABSL_GUARDED_BY(mutex_);  // Those of waiters_ that send, in their order.
  std::vector<std::shared_ptr<Waiter>> finished_async_ ABSL_GUARDED_BY(mutex_);

  absl::flat_hash_map<CallKey, CallInbox*> calls_ ABSL_GUARDED_BY(mutex_);
  // Calls that have descriptors but no RPC yet, oldest first; they are in calls_ too.
  std::list<std::unique_ptr<CallInbox>> early_ ABSL_GUARDED_BY(mutex_);
  // Vectors, here and below: an empty deque has half a kilobyte, and a session has several.
  // Calls that ended here lately: what still comes for them is closed, not kept for 10 seconds.
  std::vector<CallKey> ended_ ABSL_GUARDED_BY(mutex_);
  uint32_t held_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t ended_since_drain_ ABSL_GUARDED_BY(mutex_) = 0;

  // What the peer has registered, and is charged for, apart from held_.
  ScopedTable scoped_ ABSL_GUARDED_BY(mutex_);
  // What is registered with the peer, or may be: up to its max_session_fds. Withdrawn ones count
  // until the peer was told.
  uint32_t scoped_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint32_t> withdrawn_ ABSL_GUARDED_BY(mutex_);

  uint64_t disposed_total_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t credit_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sent_total_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t credit_total_ ABSL_GUARDED_BY(mutex_) = 0;
  // The peer's credit would let the next sender go on; what is in flight does not, unless kYes.
  InFlight::Room room_ ABSL_GUARDED_BY(mutex_) = InFlight::Room::kYes;
  // Ended calls that may still have descriptors at the peer, for DISCARD frames. Clients only.
  std::vector<uint64_t> discardable_ ABSL_GUARDED_BY(mutex_);

  bool sweep_scheduled_ ABSL_GUARDED_BY(mutex_) = false;
  // The poller saw something while a leader was there to deal with it; whoever leaves the lead
  // watches again.
  bool watch_again_ ABSL_GUARDED_BY(mutex_) = false;
  // sendmsg said that nobody is at the other end; what came before can still be read.
  bool peer_gone_ ABSL_GUARDED_BY(mutex_) = false;
  // Neither dead nor that: each call asks, without the lock.
  std::atomic<bool> usable_{true};
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SESSION_H_
