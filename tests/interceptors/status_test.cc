// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/status.h"

#include <gtest/gtest.h>

namespace grpcfd {
namespace {

TEST(StatusTest, EveryCodeKeepsItsNumberAndTextBothWays) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status converted = ToGrpcStatus(status);
    EXPECT_EQ(code, static_cast<int>(converted.error_code()));
    EXPECT_EQ("why", converted.error_message());
    EXPECT_EQ(status, ToAbslStatus(converted));
  }
  EXPECT_EQ(grpc::StatusCode::NOT_FOUND, ToGrpcStatus(absl::NotFoundError("")).error_code());
}

TEST(StatusTest, OkIsOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(ToAbslStatus(grpc::Status::OK).ok());
}

}  // namespace
}  // namespace grpcfd
