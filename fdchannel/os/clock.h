// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// MonotonicTime: the clock of all waits and time-outs of grpcfd.
//
// Why it exists: the wall clock (absl::Now, std::chrono::system_clock) steps when NTP sets it or a
// virtual machine resumes. A time-out by it may last an hour longer, or end at once. Deadlines from
// gRPC and the program are of the wall clock; each is converted once, where it comes in.
// tools/check_clocks.py keeps the wall clock out of fdchannel/ and inband/.
//
// CLOCK_MONOTONIC, which stands still while the machine sleeps, and not CLOCK_BOOTTIME: both ends
// are on one host and sleep together, so no peer is late for a sleep
// (docs/decisions/0022-waits-go-by-the-monotonic-clock.md).
#ifndef GRPCFD_FDCHANNEL_OS_CLOCK_H_
#define GRPCFD_FDCHANNEL_OS_CLOCK_H_

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace grpcfd {
namespace internal {

// A moment on CLOCK_MONOTONIC. A plain value; arithmetic saturates at the two infinities.
class MonotonicTime {
 public:
  // Long ago, as InfinitePast().
  constexpr MonotonicTime() = default;

  // The edge: the moment that lies as far ahead, or back, as `deadline` does now on the wall clock.
  // What the wall clock does afterwards does not move it. The infinities stay.
  MonotonicTime(absl::Time deadline)  // NOLINT(google-explicit-constructor)
      : since_(deadline == absl::InfiniteFuture() ? absl::InfiniteDuration()
               : deadline == absl::InfinitePast() ? -absl::InfiniteDuration()
                                                  : Now().since_ + (deadline - absl::Now())) {}

  static MonotonicTime Now() {
    return MonotonicTime(absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()));
  }
  static constexpr MonotonicTime InfiniteFuture() {
    return MonotonicTime(absl::InfiniteDuration());
  }
  static constexpr MonotonicTime InfinitePast() { return MonotonicTime(); }

  // For std::condition_variable. Far away moments are cut to what fits.
  std::chrono::steady_clock::time_point ToChrono() const {
    return std::chrono::steady_clock::time_point(absl::ToChronoNanoseconds(since_));
  }

  friend MonotonicTime operator+(MonotonicTime time, absl::Duration duration) {
    return MonotonicTime(time.since_ + duration);
  }
  friend absl::Duration operator-(MonotonicTime a, MonotonicTime b) { return a.since_ - b.since_; }
  friend bool operator==(MonotonicTime a, MonotonicTime b) { return a.since_ == b.since_; }
  friend bool operator!=(MonotonicTime a, MonotonicTime b) { return a.since_ != b.since_; }
  friend bool operator<(MonotonicTime a, MonotonicTime b) { return a.since_ < b.since_; }
  friend bool operator>(MonotonicTime a, MonotonicTime b) { return a.since_ > b.since_; }
  friend bool operator<=(MonotonicTime a, MonotonicTime b) { return a.since_ <= b.since_; }
  friend bool operator>=(MonotonicTime a, MonotonicTime b) { return a.since_ >= b.since_; }

 private:
  explicit constexpr MonotonicTime(absl::Duration since) : since_(since) {}

  absl::Duration since_ = -absl::InfiniteDuration();
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_CLOCK_H_
