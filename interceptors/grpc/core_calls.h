// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What grpcfd does with gRPC's core calls and threads that the C++ classes have no way for.
#ifndef GRPCFD_INTERCEPTORS_GRPC_CORE_CALLS_H_
#define GRPCFD_INTERCEPTORS_GRPC_CORE_CALLS_H_

#include <grpc/grpc.h>

#include <functional>

#include "absl/status/status.h"

namespace grpcfd {
namespace internal {

// Ends `call` on this side with `status`.
void CancelWithStatus(grpc_call* call, const absl::Status& status);

// Calls `function` on a thread of gRPC's, soon: what gRPC is told may run the program's callbacks,
// and those belong on its threads, not on the poller's.
void RunOnGrpcThread(std::function<void()> function);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_CORE_CALLS_H_
