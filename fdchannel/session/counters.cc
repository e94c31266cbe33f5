// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/counters.h"

#include <utility>

#include "fdchannel/wire/hello.h"

namespace grpcfd {
namespace internal {
namespace {

uint64_t Load(const std::atomic<uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

uint64_t At(const CounterValues& values, Counter counter) {
  return values[static_cast<size_t>(counter)];
}

// What the answer to a hello counts as.
constexpr struct {
  HelloStatus status;
  uint64_t FdServerStats::*field;
} kHellos[] = {
    {HelloStatus::kOk, &FdServerStats::sessions_opened},
    {HelloStatus::kMalformed, &FdServerStats::hellos_malformed},
    {HelloStatus::kUnsupportedVersion, &FdServerStats::hellos_unsupported_version},
    {HelloStatus::kTokenInUse, &FdServerStats::hellos_token_in_use},
    {HelloStatus::kTooManySessions, &FdServerStats::hellos_too_many_sessions},
    {HelloStatus::kRefused, &FdServerStats::hellos_refused},
    {HelloStatus::kShuttingDown, &FdServerStats::hellos_shutting_down},
    {HelloStatus::kOutOfDescriptors, &FdServerStats::hellos_out_of_descriptors},
};

}  // namespace

SessionStats ToSessionStats(const CounterValues& values) {
  SessionStats stats;
#define GRPCFD_COUNTER(name, field) stats.field = At(values, Counter::name);
  GRPCFD_SESSION_COUNTERS(GRPCFD_COUNTER)
#undef GRPCFD_COUNTER
  return stats;
}

void FillSessionEnds(const CounterValues& values, FdServerStats* stats) {
#define GRPCFD_COUNTER(name, field) stats->field = At(values, Counter::name);
  GRPCFD_SESSION_ENDS(GRPCFD_COUNTER)
#undef GRPCFD_COUNTER
}

void FillListenerStats(const ListenerCounters& counters, FdServerStats* stats) {
#define GRPCFD_COUNTER(field) stats->field = Load(counters.field);
  GRPCFD_LISTENER_COUNTERS(GRPCFD_COUNTER)
#undef GRPCFD_COUNTER
  for (const auto& hello : kHellos) {
    stats->*hello.field = Load(counters.hellos[static_cast<size_t>(hello.status)]);
  }
}

InBandStats ToInBandStats(const InBandCounters& counters) {
  InBandStats stats;
#define GRPCFD_COUNTER(field) stats.field = Load(counters.field);
  GRPCFD_IN_BAND_COUNTERS(GRPCFD_COUNTER)
#undef GRPCFD_COUNTER
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
