// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#ifndef GRPCFD_TESTS_FDCHANNEL_SESSION_CPU_TIME_H_
#define GRPCFD_TESTS_FDCHANNEL_SESSION_CPU_TIME_H_

#include <time.h>

#include "absl/time/time.h"

namespace grpcfd {
namespace internal {

// What this thread has computed so far. A busy machine does not change it.
inline absl::Duration CpuTime() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SESSION_CPU_TIME_H_
