// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Deadline: until when a call waits, in whichever form the program has it.
//
//   fds->RecvFd(url, std::chrono::milliseconds(200));         // From now on.
//   fds->RecvFd(url, absl::Seconds(1));                       // From now on.
//   fds->RecvFd(url, context->deadline());                    // A std::chrono time point.
//   fds->RecvFd(url, absl::Now() + absl::Seconds(1));
#ifndef GRPCFD_DEADLINE_H_
#define GRPCFD_DEADLINE_H_

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace grpcfd {

// A parameter type, made by implicit conversion. A time that has passed means "do not wait". A
// plain value: thread-compatible, copyable.
class Deadline {
 public:
  // No deadline: whatever limits the call itself holds.
  static Deadline Infinite() { return absl::InfiniteFuture(); }

  // NOLINTBEGIN(google-explicit-constructor): the conversions are what it is for.
  Deadline(absl::Time time) : time_(time) {}
  Deadline(absl::Duration from_now) : time_(absl::Now() + from_now) {}
  // time_point::max() is "no deadline", as in gRPC.
  template <typename Precision>
  Deadline(std::chrono::time_point<std::chrono::system_clock, Precision> time)
      : time_(time == decltype(time)::max()
                  ? absl::InfiniteFuture()
                  : absl::FromChrono(
                        std::chrono::time_point_cast<std::chrono::system_clock::duration>(time))) {}
  // From now on. Durations that overflow are "no deadline".
  template <typename Count, typename Period>
  Deadline(std::chrono::duration<Count, Period> from_now)
      : Deadline(absl::Seconds(std::chrono::duration<double>(from_now).count())) {}
  // NOLINTEND(google-explicit-constructor)

  // InfiniteFuture() if there is none.
  absl::Time time() const { return time_; }

 private:
  absl::Time time_;
};

}  // namespace grpcfd

#endif  // GRPCFD_DEADLINE_H_
