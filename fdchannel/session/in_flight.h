// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// InFlight and InFlightBudget: descriptors that were sent and that the peers have not read, of one
// session and of all sessions of a server (or of one client channel).
//
// Why it exists: the kernel charges descriptors in flight to the user of the *sender*,
// all its processes together, and at RLIMIT_NOFILE refuses every further one with
// ETOOMANYREFS (unix(7); net/unix/scm.c, too_many_unix_fds). 63 clients that never
// read, each within its window of 64, would take 4032, and a server with the usual
// limit of 1024 could send to nobody any more. So there is a budget, with shares:
//  - A third is divided by the greatest number of sessions. Each is sure of its part, even the one
//    that comes last.
//  - Of the rest a user may have three quarters of what the other users leave, and a session its
//    window, scaled down by how much of its user's part its other sessions use. As the budget
//    fills, every session's share shrinks alike.
//
// A descriptor is in flight until the peer reads it or closes its end, also after the
// session has ended. The peer's credit does not prove that it was read, and a hostile
// peer that reconnects again and again could otherwise pile up any number. See
// linger.h.
//
// How it is counted: SIOCOUTQ says how many frames the peer has not read (unread_frames.h). Asking
// is a system call, so a session takes its share in steps, and asks when a step is used up. What
// others have read meanwhile is found out when a session is short: once for all, at most every
// millisecond.
//
// Locks: InFlightBudget's, then InFlight's. Both are leaves below the session's, but for the
// poller's, which `on_room` may take.
#ifndef GRPCFD_FDCHANNEL_SESSION_IN_FLIGHT_H_
#define GRPCFD_FDCHANNEL_SESSION_IN_FLIGHT_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/unread_frames.h"

namespace grpcfd {
namespace internal {

class InFlightBudget;

// One session's. Thread-safe.
class InFlight {
 public:
  enum class Room {
    kYes,
    kUnread,  // The peer has not read enough of what it was sent: its window is full.
    kShared,  // The session's share of the budget is.
  };

  // At most `window` for this session, of `uid`; `budget` may be null. `on_room` (may be empty) is
  // called, on any thread and under locks, when there may be room again after kShared: it must
  // only post.
  InFlight(std::shared_ptr<FrameSocket> socket, uint32_t window,
           std::shared_ptr<InFlightBudget> budget, uid_t uid, std::function<void()> on_room);
  ~InFlight();
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  // Reserves room for `n` more. Each of them ends in Sent() or Return().
  Room Reserve(size_t n);
  // A frame with `n` of what was reserved is in the socket. Whether the last Reserve() found no
  // room: what is in the socket may be read by now, so there may be some.
  bool Sent(size_t n);
  // `n` of what was reserved will not be sent.
  void Return(size_t n);
  // The peer may have read: lets others have what it no longer needs, if a session waits for it.
  void MayHaveRoom();

  // Descriptors that may be unread, as far as is known; Look() asks the kernel.
  uint64_t fds() const;
  uint64_t Look();

 private:
  friend class InFlightBudget;
  uint64_t used() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return reserved_ + frames_.fds(); }
  void LookLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    frames_.KeepLast(socket_->UnreadFrames());
  }

  const std::shared_ptr<FrameSocket> socket_;
  const uint64_t window_;
  const std::shared_ptr<InFlightBudget> budget_;
  const uid_t uid_;
  const std::function<void()> on_room_;

  mutable Mutex mutex_;
  uint64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  bool short_ ABSL_GUARDED_BY(mutex_) = false;
  UnreadFrames frames_ ABSL_GUARDED_BY(mutex_);
  // Of the budget; used() never exceeds it. Changed under both locks.
  uint64_t granted_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Thread-safe.
class InFlightBudget {
 public:
  enum class Shares {
    kFair,  // As above.
    kNone,  // First come, first served: for the consecutive sessions of one channel.
  };
  // `max_sessions`: of those that there are at a time, lingering ones included; for kFair.
  InFlightBudget(uint64_t total, Shares shares, uint64_t max_sessions = 0);

  // Descriptors in flight to all peers: asks the kernel about each of them.
  uint64_t Look();
  uint64_t total() const { return total_; }
  // What each session has for certain.
  uint64_t sure() const { return sure_; }
  // The most that a session with this window gets, with nobody else there.
  uint64_t MostForOne(uint64_t window) const;

 private:
  friend class InFlight;
  using Wakes = std::vector<std::function<void()>>;

  void Add(InFlight* session);
  void Remove(InFlight* session);
  InFlight::Room Grant(InFlight* session, size_t n);
  void Trim(InFlight* session);
  // What the session may have now.
  uint64_t ShareOf(const InFlight& session, uint64_t granted) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes back what was read; whether there was any.
  bool TrimAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t TrimOne(InFlight* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Change(uid_t uid, uint64_t from, uint64_t to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetWaiting(InFlight* session, bool waits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of all that wait, who ask again, and wait again if that was not enough.
  Wakes WakeAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // What counts of a session's grant, beyond what it has for certain.
  uint64_t Shared(uint64_t granted) const { return granted > sure_ ? granted - sure_ : 0; }

  const uint64_t total_;
  const Shares shares_;
  const uint64_t sure_;
  const uint64_t shared_total_;
  std::atomic<bool> anybody_waits_{false};

  mutable Mutex mutex_;
  uint64_t shared_ ABSL_GUARDED_BY(mutex_) = 0;  // Of shared_total_.
  absl::flat_hash_map<uid_t, uint64_t> by_user_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<InFlight*> sessions_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<InFlight*> waiting_ ABSL_GUARDED_BY(mutex_);
  MonotonicTime next_trim_ ABSL_GUARDED_BY(mutex_);  // Long ago at first.
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_IN_FLIGHT_H_
