// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ToAbslTime: a gRPC context's deadline as an absl::Time.
#ifndef GRPCFD_INTERCEPTORS_DEADLINE_H_
#define GRPCFD_INTERCEPTORS_DEADLINE_H_

#include <chrono>

#include "absl/time/time.h"

namespace grpcfd {
namespace internal {

// gRPC says "no deadline" with the largest time point there is.
inline absl::Time ToAbslTime(std::chrono::system_clock::time_point deadline) {
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_DEADLINE_H_
