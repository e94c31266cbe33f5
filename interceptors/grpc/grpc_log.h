// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#ifndef GRPCFD_INTERCEPTORS_GRPC_GRPC_LOG_H_
#define GRPCFD_INTERCEPTORS_GRPC_GRPC_LOG_H_

#include <string>

namespace grpcfd {
namespace internal {

// Writes a line to where gRPC writes: its own log, or abseil's with newer versions.
void WriteToGrpcLog(bool is_error, const std::string& text);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_GRPC_LOG_H_
