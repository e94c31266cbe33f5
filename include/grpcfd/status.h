// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ToGrpcStatus: from the status type of the library to that of handlers. The codes of both are the same numbers
// (google/rpc/code.proto), so nothing is lost.
#ifndef GRPCFD_STATUS_H_
#define GRPCFD_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace grpcfd {

// The same code and text. Payloads of an absl::Status are not carried over.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace grpcfd

#endif  // GRPCFD_STATUS_H_
