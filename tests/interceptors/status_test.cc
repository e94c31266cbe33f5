// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/status.h"

#include <gtest/gtest.h>

#include <memory>

#include "grpcfd/status_macros.h"

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

// --- The macros ---

absl::StatusOr<std::unique_ptr<int>> Number(int number) {
  if (number < 0) return absl::OutOfRangeError("negative");
  return std::make_unique<int>(number);
}

// Each of the three return types, by each of the two macros.
grpc::Status DoubleInto(int number, int* out) {
  GRPCFD_ASSIGN_OR_RETURN(const std::unique_ptr<int> value, Number(number));
  GRPCFD_ASSIGN_OR_RETURN(*out, [&]() -> absl::StatusOr<int> { return *value * 2; }());
  return grpc::Status::OK;
}
absl::Status DoubleIntoAbsl(int number, int* out) {
  GRPCFD_RETURN_IF_ERROR(DoubleInto(number, out));
  return absl::OkStatus();
}
absl::StatusOr<int> Doubled(int number) {
  int doubled = 0;
  GRPCFD_RETURN_IF_ERROR(DoubleIntoAbsl(number, &doubled));
  GRPCFD_RETURN_IF_ERROR(Number(number));
  GRPCFD_ASSIGN_OR_RETURN(auto first, Number(doubled));
  GRPCFD_ASSIGN_OR_RETURN(auto second, Number(*first));
  return *second;
}

TEST(StatusMacrosTest, ValuesAreAssigned) {
  int doubled = 0;
  EXPECT_TRUE(DoubleInto(4, &doubled).ok());
  EXPECT_EQ(doubled, 8);
  EXPECT_EQ(*Doubled(3), 6);
}

TEST(StatusMacrosTest, ErrorsAreReturnedInTheFunctionsOwnType) {
  int untouched = 7;
  const grpc::Status status = DoubleInto(-1, &untouched);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(status.error_message(), "negative");
  EXPECT_EQ(DoubleIntoAbsl(-1, &untouched), absl::OutOfRangeError("negative"));
  EXPECT_EQ(Doubled(-1).status(), absl::OutOfRangeError("negative"));
  EXPECT_EQ(untouched, 7);
}

TEST(StatusMacrosTest, DetailsOfAGrpcStatusArePassedOn) {
  const grpc::Status detailed(grpc::StatusCode::ABORTED, "why", "details");
  const auto returned = [&]() -> grpc::Status {
    GRPCFD_RETURN_IF_ERROR(detailed);
    return grpc::Status::OK;
  }();
  EXPECT_EQ(returned.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(returned.error_details(), "details");
}

TEST(StatusMacrosTest, AnExpressionIsEvaluatedOnce) {
  int calls = 0;
  const auto count = [&calls]() -> absl::StatusOr<int> { return ++calls; };
  const auto run = [&]() -> absl::Status {
    GRPCFD_ASSIGN_OR_RETURN(const int first, count());
    GRPCFD_RETURN_IF_ERROR(count());
    return first == 1 ? absl::OkStatus() : absl::InternalError("not the first");
  };
  EXPECT_EQ(run(), absl::OkStatus());
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace grpcfd
