// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ToGrpcStatus, ToAbslStatus: between the status type of the library and that of handlers and
// stubs. The codes of both are the same numbers (google/rpc/code.proto), so nothing is lost.
#ifndef GRPCFD_STATUS_H_
#define GRPCFD_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace grpcfd {

// The same code and text. Payloads of an absl::Status are not carried over.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The other way, for clients. Error details of a grpc::Status are not carried over.
absl::Status ToAbslStatus(const grpc::Status& status);

}  // namespace grpcfd

#endif  // GRPCFD_STATUS_H_
