// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/counters.h"

#include <utility>

namespace grpcfd {
namespace internal {

InBandStats ToInBandStats(const InBandCounters& counters) {
  const auto load = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  InBandStats stats;
  stats.connections_now = load(counters.connections_now);
  stats.connections = load(counters.connections);
  stats.cut_flood = load(counters.cut_flood);
  stats.cut_truncated = load(counters.cut_truncated);
  stats.cut_unsendable = load(counters.cut_unsendable);
  stats.fds_received = load(counters.fds_received);
  stats.fds_repeated = load(counters.fds_repeated);
  stats.fds_pushed_out = load(counters.fds_pushed_out);
  stats.fds_sent = load(counters.fds_sent);
  stats.fds_unsent = load(counters.fds_unsent);
  stats.sends_refused = load(counters.sends_refused);
  stats.asks_refused_policy = load(counters.asks_refused_policy);
  return stats;
}

SessionStats ToSessionStats(const CounterValues& values) {
  const auto at = [&values](Counter counter) { return values[static_cast<size_t>(counter)]; };
  SessionStats stats;
  stats.fds_sent = at(Counter::kFdsSent);
  stats.sends_refused_limit = at(Counter::kSendsRefusedLimit);
  stats.sends_refused_window = at(Counter::kSendsRefusedWindow);
  stats.sends_refused_in_flight = at(Counter::kSendsRefusedInFlight);
  stats.sends_failed = at(Counter::kSendsFailed);
  stats.fds_received = at(Counter::kFdsReceived);
  stats.fds_taken = at(Counter::kFdsTaken);
  stats.fds_registered = at(Counter::kFdsRegistered);
  stats.fds_refused_policy = at(Counter::kFdsRefusedPolicy);
  stats.fds_refused_call = at(Counter::kFdsRefusedCall);
  stats.fds_refused_window = at(Counter::kFdsRefusedWindow);
  stats.fds_refused_quota = at(Counter::kFdsRefusedQuota);
  stats.fds_unclaimed = at(Counter::kFdsUnclaimed);
  stats.fds_expired = at(Counter::kFdsExpired);
  stats.fds_discarded = at(Counter::kFdsDiscarded);
  stats.fds_late = at(Counter::kFdsLate);
  stats.fds_truncated = at(Counter::kFdsTruncated);
  stats.frames_received = at(Counter::kFramesReceived);
  stats.frames_refused = at(Counter::kFramesRefused);
  return stats;
}

Counters::Counters(std::shared_ptr<CounterSum> sum) : sum_(std::move(sum)) {}

Counters::~Counters() {
  if (sum_ != nullptr) sum_->Close(this);
}

CounterValues Counters::Values() const {
  CounterValues values{};
  for (size_t i = 0; i < kCounters; ++i) values[i] = values_[i].load(std::memory_order_relaxed);
  return values;
}

std::shared_ptr<Counters> CounterSum::Open() {
  auto counters = std::make_shared<Counters>(shared_from_this());
  MutexLock lock(&mutex_);
  ++opened_;
  open_.insert(counters.get());
  return counters;
}

void CounterSum::Close(const Counters* counters) {
  const CounterValues last = counters->Values();
  MutexLock lock(&mutex_);
  open_.erase(counters);
  for (size_t i = 0; i < kCounters; ++i) ended_[i] += last[i];
}

CounterValues CounterSum::Values() const {
  MutexLock lock(&mutex_);
  CounterValues sum = ended_;
  for (const Counters* counters : open_) {
    const CounterValues values = counters->Values();
    for (size_t i = 0; i < kCounters; ++i) sum[i] += values[i];
  }
  return sum;
}

uint64_t CounterSum::opened() const {
  MutexLock lock(&mutex_);
  return opened_;
}

}  // namespace internal
}  // namespace grpcfd
