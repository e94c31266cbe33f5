// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A user's program that takes all of grpcfd through the umbrella header.

#include "grpcfd/grpcfd.h"

#include <grpcpp/grpcpp.h>
#include <stdio.h>

int main() {
  const grpc::Status status = grpcfd::ToGrpcStatus(absl::UnavailableError("no session"));
  printf("%s\n", status.error_message().c_str());
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ? 0 : 1;
}
