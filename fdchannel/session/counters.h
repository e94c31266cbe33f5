// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Counters: where the numbers of grpcfd/stats.h are kept while they grow.
//
// Sessions come and go, and the sum over them must never go down, not even for the moment between
// a session's end and its numbers' being added elsewhere. So each session has a Counters of its own
// (no memory that all sessions write to), which its owner, the CounterSum, adds up; what a session
// leaves behind is folded into the sum, and the session out of the list, under one lock.
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

// In the order of SessionStats, and how a session ended.
enum class Counter : size_t {
  kFdsSent,
  kSendsRefusedLimit,
  kSendsRefusedWindow,
  kSendsRefusedInFlight,
  kSendsFailed,
  kFdsReceived,
  kFdsTaken,
  kFdsRegistered,
  kFdsRefusedPolicy,
  kFdsRefusedCall,
  kFdsRefusedWindow,
  kFdsRefusedQuota,
  kFdsUnclaimed,
  kFdsExpired,
  kFdsDiscarded,
  kFdsLate,
  kFdsTruncated,
  kFramesReceived,
  kFramesRefused,
  kClosedByPeer,
  kCutProtocol,
  kCutHere,
  kBroken,
  kCount,
};
inline constexpr size_t kCounters = static_cast<size_t>(Counter::kCount);
using CounterValues = std::array<uint64_t, kCounters>;

SessionStats ToSessionStats(const CounterValues& values);

class CounterSum;

class Counters {
 public:
  // Of a session that nobody sums up.
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

// Of a server's listeners. See FdServerStats.
struct ListenerCounters {
  std::atomic<uint64_t> half_open_now{0};
  std::atomic<uint64_t> accepted{0};
  std::atomic<uint64_t> handed_on{0};
  std::atomic<uint64_t> half_open_evicted{0};
  std::atomic<uint64_t> half_open_expired{0};
  std::atomic<uint64_t> half_open_gone{0};
  std::atomic<uint64_t> credentials_failed{0};
  std::atomic<uint64_t> early_fds_closed{0};
  std::atomic<uint64_t> accept_pauses{0};
  std::atomic<uint64_t> accept_rejected{0};
  // Hellos by their answer, a HelloStatus.
  std::array<std::atomic<uint64_t>, 8> hellos{};
};

// Of the relays of a server's ports, or of a channel. See InBandStats.
struct InBandCounters {
  std::atomic<uint64_t> connections_now{0};
  std::atomic<uint64_t> connections{0};
  std::atomic<uint64_t> cut_flood{0};
  std::atomic<uint64_t> cut_truncated{0};
  std::atomic<uint64_t> cut_unsendable{0};
  std::atomic<uint64_t> fds_received{0};
  std::atomic<uint64_t> fds_repeated{0};
  std::atomic<uint64_t> fds_pushed_out{0};
  std::atomic<uint64_t> fds_sent{0};
  std::atomic<uint64_t> fds_unsent{0};
  std::atomic<uint64_t> sends_refused{0};
  std::atomic<uint64_t> asks_refused_policy{0};
};
InBandStats ToInBandStats(const InBandCounters& counters);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_COUNTERS_H_
