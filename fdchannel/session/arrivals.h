// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Arrivals: what has come by a session and was not taken: the descriptors of its calls, early ones
// whose call has not come yet, and session-scoped ones. It enforces the receiver's limits: of a
// call, of the session's window, and of the user's quota.
//
// What cannot be kept fails the whole call; descriptors are never missing in silence. Only a frame
// that breaks the protocol is an error of the session.
//
// The cost of a frame does not grow with what is here: it finds its call by hash; so does a
// DISCARD.
#ifndef GRPCFD_FDCHANNEL_SESSION_ARRIVALS_H_
#define GRPCFD_FDCHANNEL_SESSION_ARRIVALS_H_

#include <stddef.h>
#include <stdint.h>

#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/session/call_table.h"
#include "fdchannel/session/counters.h"
#include "fdchannel/session/deferred_closes.h"
#include "fdchannel/session/descriptor_inbox.h"
#include "fdchannel/session/scoped_table.h"
#include "fdchannel/session/session_config.h"
#include "fdchannel/wire/frame.h"

namespace grpcfd {
namespace internal {

// What was found out about a descriptor when it came.
struct Seen {
  DevIno dev_ino;
  FdFacts facts;
};

// Thread-compatible: a part of a Session, guarded by its mutex. It closes nothing and wakes nobody:
// what is to be closed goes into `closes`, and the session tells the waiters of an inbox that has
// changed.
class Arrivals {
 public:
  // Both outlive this.
  Arrivals(const SessionConfig* config, Counters* counters)
      : config_(*config), counters_(*counters) {}
  Arrivals(const Arrivals&) = delete;
  Arrivals& operator=(const Arrivals&) = delete;

  // Descriptors of calls that are held, or are being closed.
  uint32_t held() const { return held_; }
  bool has_early() const { return !early_.empty() || !refused_early_.empty(); }

  // --- Calls ---

  bool has_calls() const { return !calls_.empty(); }
  // Makes `inbox` its call's, with what came early. See Session::Attach.
  void Attach(DescriptorInbox* inbox, uint32_t announced, bool open_ended, uint32_t holes,
              DeferredCloses* closes);
  // The inbox of a call that has begun, or has descriptors here; null if there is none.
  DescriptorInbox* Find(const CallKey& call) const { return calls_.Find(call); }
  // Forgets an inbox that ends. False if its call is another inbox's, or nobody's.
  bool Detach(const DescriptorInbox* inbox);
  bool EndedLately(const CallKey& call) const;
  // Whether what came early for the call was closed, as its time was up before the RPC came.
  bool HasExpired(const CallKey& call) const;
  bool any_expired() const { return !expired_.empty(); }
  // The client is asked for all of the call again, by this session.
  void Expect(const CallKey& call, DeferredCloses* closes);
  // Takes the descriptors out of the inbox; `why` is what they count as.
  void Empty(DescriptorInbox* inbox, Counter why, DeferredCloses* closes) {
    if (inbox->holds_any()) TakeAll(inbox, why, closes);
  }
  UniqueFd Take(DescriptorInbox* inbox, DescriptorInbox::Slot* slot);

  // --- Frames ---

  // INVALID_ARGUMENT if the frame breaks the protocol. `*changed` is the inbox whose waiters may
  // find something new, if there is one.
  absl::Status Deliver(const Frame& frame, ReceivedMessage* message, absl::Span<const Seen> seen,
                       DescriptorInbox** changed, DeferredCloses* closes);
  // The same for session-scoped ones. `*kept` says whether they were.
  absl::Status DeliverScoped(const Frame& frame, ReceivedMessage* message,
                             absl::Span<const Seen> seen, bool* kept, DeferredCloses* closes);
  // Closes what came early for these calls.
  void Discard(absl::Span<const uint64_t> ids, DeferredCloses* closes);
  void Withdraw(absl::Span<const uint32_t> indices, DeferredCloses* closes);

  const ScopedTable& scoped() const { return scoped_; }

  // What is delivered until EndPrepaid() was charged to the quota before it was read, `n` in all.
  // Nothing else came in the same look.
  void Prepay(size_t n) {
    prepaid_ = n;
    by_prepayment_ = true;
  }
  // Releases what was not needed; what was refused stays charged until it is closed.
  void EndPrepaid(DeferredCloses* closes);

  // --- Upkeep ---

  // `n` of what was charged are closed; `scoped` of the session-scoped ones.
  void Closed(size_t charged, size_t scoped);
  // Closes early ones whose time has come.
  void Expire(absl::Time now, DeferredCloses* closes);
  // The session dies: closes all that calls hold, and fails them.
  void FailAll(const absl::Status& status, DeferredCloses* closes);
  void ClearScoped(DeferredCloses* closes);
  // Closes early ones and session-scoped ones; the rest has gone already. Returns how many are
  // charged.
  size_t TakeRest(FdVector* fds);

 private:
  // A call that has descriptors but no RPC yet. Those with the same id, attempts of one call, are
  // linked.
  struct EarlyCall : DescriptorInbox {
    explicit EarlyCall(const CallKey& key) : DescriptorInbox(key) {}
    absl::Time deadline;
    std::list<EarlyCall>::iterator place;
    bool refused = false;
    EarlyCall* previous = nullptr;
    EarlyCall* next = nullptr;
  };

  DescriptorInbox* InboxFor(const CallKey& call, DeferredCloses* closes);
  void Unlink(EarlyCall* early);
  void Forget(EarlyCall* early);
  void Drop(EarlyCall* early, DeferredCloses* closes);
  void Fail(DescriptorInbox* inbox, absl::Status status, Counter why, DeferredCloses* closes);
  bool MakeRoom(size_t n, const DescriptorInbox* keep, DeferredCloses* closes) {
    return Fits(n, *closes) || DropEarly(n, keep, closes);
  }
  // What waits to be closed is as good as closed, though still counted.
  bool Fits(size_t n, const DeferredCloses& closes) const {
    return held_ - closes.charged + n <= config_.local.window;
  }
  bool DropEarly(size_t n, const DescriptorInbox* keep, DeferredCloses* closes);
  absl::Status Charge(size_t n);
  // Why a message was truncated, if it is known not to be the process's limit.
  absl::Status WhyTruncated(size_t n) const;
  absl::Status RefusedByQuota(const CallKey& call, const absl::Status& why) const;
  // DeliverData's steps.
  absl::Status Validate(const Frame& frame, DescriptorInbox* inbox) const {
    const bool fine = inbox->AboveAll(frame.first_index) || inbox->may_repeat();
    return fine ? absl::OkStatus() : ValidateEach(frame, inbox);
  }
  absl::Status ValidateEach(const Frame& frame, DescriptorInbox* inbox) const;
  absl::Status Admit(const Frame& frame, const ReceivedMessage& message, DescriptorInbox* inbox,
                     Counter* why, DeferredCloses* closes);
  void Store(const Frame& frame, ReceivedMessage* message, absl::Span<const Seen> seen,
             DescriptorInbox* inbox, DeferredCloses* closes);
  void TakeAll(DescriptorInbox* inbox, Counter why, DeferredCloses* closes);
  void ApplyPolicy(DescriptorInbox* inbox, DescriptorInbox::Slot* slot, DeferredCloses* closes);

  const SessionConfig& config_;
  Counters& counters_;
  uint32_t held_ = 0;
  size_t prepaid_ = 0;
  bool by_prepayment_ = false;
  CallTable calls_;
  // Oldest first; they are in calls_ too. Apart: those whose descriptors were refused, kept to tell
  // their RPC why.
  std::list<EarlyCall> early_;
  std::list<EarlyCall> refused_early_;
  absl::flat_hash_map<uint64_t, EarlyCall*> early_by_id_;
  // Calls that ended here lately: what still comes for them is closed, not kept for 10 seconds. A
  // vector: an empty deque has half a kilobyte.
  std::vector<CallKey> ended_;
  // Calls whose RPC may wait in gRPC for longer than early_timeout. The latest of them.
  std::vector<CallKey> expired_;
  // What the peer has registered, and is charged for, apart from held_.
  ScopedTable scoped_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_ARRIVALS_H_
