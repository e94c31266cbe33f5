// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Counters: the numbers of grpcfd/stats.h while they grow.
//
// Sessions come and go, and the sum over them must never go down, not even between a session's end
// and the moment when its numbers are added elsewhere. So each session has Counters of its own (it
// shares no memory with other sessions), and its owner, the CounterSum, adds them up. When a
// session ends, one lock covers folding its numbers into the sum and taking it off the list.
//
// Thread-safe.
#ifndef GRPCFD_FDCHANNEL_SESSION_COUNTERS_H_
#define GRPCFD_FDCHANNEL_SESSION_COUNTERS_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <atomic>
#include <memory>

#include "absl/container/flat_hash_set.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/stats.h"

namespace grpcfd {
namespace internal {

// Each counter stands once in these lists; the enum, the structs and the copies to the structs of
// grpcfd/stats.h are made from them.

// Of a session: its name here, its field of SessionStats.
#define GRPCFD_SESSION_COUNTERS(X)                  \
  X(kFdsSent, fds_sent)                             \
  X(kSendsRefusedLimit, sends_refused_limit)        \
  X(kSendsRefusedWindow, sends_refused_window)      \
  X(kSendsRefusedInFlight, sends_refused_in_flight) \
  X(kSendsFailed, sends_failed)                     \
  X(kFdsReceived, fds_received)                     \
  X(kFdsTaken, fds_taken)                           \
  X(kFdsRegistered, fds_registered)                 \
  X(kFdsRefusedPolicy, fds_refused_policy)          \
  X(kFdsRefusedCall, fds_refused_call)              \
  X(kFdsRefusedWindow, fds_refused_window)          \
  X(kFdsRefusedQuota, fds_refused_quota)            \
  X(kFdsUnclaimed, fds_unclaimed)                   \
  X(kFdsExpired, fds_expired)                       \
  X(kFdsDiscarded, fds_discarded)                   \
  X(kFdsLate, fds_late)                             \
  X(kFdsTruncated, fds_truncated)                   \
  X(kFramesReceived, frames_received)               \
  X(kFramesRefused, frames_refused)

// How a session ended: its name here, its field of FdServerStats.
#define GRPCFD_SESSION_ENDS(X)              \
  X(kClosedByPeer, sessions_closed_by_peer) \
  X(kCutProtocol, sessions_cut_protocol)    \
  X(kCutHere, sessions_cut_here)            \
  X(kBroken, sessions_broken)

// Of a server's listeners: fields of FdServerStats.
#define GRPCFD_LISTENER_COUNTERS(X) \
  X(half_open_now)                  \
  X(accepted)                       \
  X(handed_on)                      \
  X(connections_refused)            \
  X(half_open_evicted)              \
  X(half_open_expired)              \
  X(half_open_gone)                 \
  X(credentials_failed)             \
  X(early_fds_closed)               \
  X(accept_pauses)                  \
  X(accept_rejected)

// Of the relays of a server's ports, or of a channel: fields of InBandStats.
#define GRPCFD_IN_BAND_COUNTERS(X) \
  X(connections_now)               \
  X(connections)                   \
  X(cut_flood)                     \
  X(cut_truncated)                 \
  X(cut_unsendable)                \
  X(fds_received)                  \
  X(fds_repeated)                  \
  X(fds_pushed_out)                \
  X(fds_sent)                      \
  X(fds_unsent)                    \
  X(sends_refused)                 \
  X(asks_refused_policy)

// clang-format off
enum class Counter : size_t {
#define GRPCFD_COUNTER(name, field) name,
  GRPCFD_SESSION_COUNTERS(GRPCFD_COUNTER)
  GRPCFD_SESSION_ENDS(GRPCFD_COUNTER)
#undef GRPCFD_COUNTER
  kCount,
};
// clang-format on
inline constexpr size_t kCounters = static_cast<size_t>(Counter::kCount);
using CounterValues = std::array<uint64_t, kCounters>;

SessionStats ToSessionStats(const CounterValues& values);
// Fills in how sessions ended.
void FillSessionEnds(const CounterValues& values, FdServerStats* stats);

class CounterSum;

class Counters {
 public:
  // Of a session whose numbers are not summed up.
  Counters() = default;
  // Made by CounterSum::Open().
  explicit Counters(std::shared_ptr<CounterSum> sum);
  ~Counters();
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;

  void Add(Counter counter, uint64_t n = 1) {
    if (n != 0) values_[static_cast<size_t>(counter)].fetch_add(n, std::memory_order_relaxed);
  }
  CounterValues Values() const;

 private:
  const std::shared_ptr<CounterSum> sum_;
  std::array<std::atomic<uint64_t>, kCounters> values_{};
};

class CounterSum : public std::enable_shared_from_this<CounterSum> {
 public:
  // For a new session.
  std::shared_ptr<Counters> Open();
  // Over all that were opened.
  CounterValues Values() const;
  uint64_t opened() const;

 private:
  friend class Counters;
  void Close(const Counters* counters);

  mutable Mutex mutex_;
  uint64_t opened_ ABSL_GUARDED_BY(mutex_) = 0;
  CounterValues ended_ ABSL_GUARDED_BY(mutex_){};
  absl::flat_hash_set<const Counters*> open_ ABSL_GUARDED_BY(mutex_);
};

// Each event counts by itself; nothing is ordered by these.
inline void Count(std::atomic<uint64_t>* counter, uint64_t n = 1) {
  counter->fetch_add(n, std::memory_order_relaxed);
}

#define GRPCFD_COUNTER(field) std::atomic<uint64_t> field{0};
struct ListenerCounters {
  GRPCFD_LISTENER_COUNTERS(GRPCFD_COUNTER)
  // Hellos by their answer, a HelloStatus.
  std::array<std::atomic<uint64_t>, 8> hellos{};
};
void FillListenerStats(const ListenerCounters& counters, FdServerStats* stats);

struct InBandCounters {
  GRPCFD_IN_BAND_COUNTERS(GRPCFD_COUNTER)
};
InBandStats ToInBandStats(const InBandCounters& counters);
#undef GRPCFD_COUNTER

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_COUNTERS_H_
