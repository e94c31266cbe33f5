// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// GRPCFD_ASSIGN_OR_RETURN, GRPCFD_RETURN_IF_ERROR: leave a function with the error of an
// expression.
//
//   grpc::Status Attach(grpc::ServerContext* context, const AttachRequest* request,
//                       AttachReply* reply) override {
//     auto fds = grpcfd::FromContext(context);
//     GRPCFD_ASSIGN_OR_RETURN(grpcfd::UniqueFd memory, grpcfd::Take(*fds, request->memory()));
//     GRPCFD_ASSIGN_OR_RETURN(*reply->mutable_event(), grpcfd::Attach(*fds, event));
//     GRPCFD_RETURN_IF_ERROR(Use(memory));
//     return grpc::Status::OK;
//   }
//
// The function may return grpc::Status, absl::Status or absl::StatusOr<T>.
#ifndef GRPCFD_STATUS_MACROS_H_
#define GRPCFD_STATUS_MACROS_H_

#include <grpcpp/support/status.h>

#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/status.h"

// Evaluates an expression of type absl::StatusOr<T>. Assigns its value to `lhs`, which may declare
// a variable, or returns its status.
#define GRPCFD_ASSIGN_OR_RETURN(lhs, ...)                                                          \
  GRPCFD_INTERNAL_ASSIGN_OR_RETURN(GRPCFD_INTERNAL_CONCAT(grpcfd_internal_result_, __LINE__), lhs, \
                                   __VA_ARGS__)

// Evaluates an expression of type absl::Status, absl::StatusOr<T> or grpc::Status, and returns its
// status if that is not OK.
#define GRPCFD_RETURN_IF_ERROR(...)                                                    \
  do {                                                                                 \
    auto grpcfd_internal_error = ::grpcfd::internal::AsStatusResult(__VA_ARGS__);      \
    if (ABSL_PREDICT_FALSE(!grpcfd_internal_error.ok())) return grpcfd_internal_error; \
  } while (false)

#define GRPCFD_INTERNAL_ASSIGN_OR_RETURN(result, lhs, ...)    \
  auto result = (__VA_ARGS__);                                \
  if (ABSL_PREDICT_FALSE(!result.ok())) {                     \
    return ::grpcfd::internal::StatusResult(result.status()); \
  }                                                           \
  lhs = *std::move(result)

#define GRPCFD_INTERNAL_CONCAT(a, b) GRPCFD_INTERNAL_CONCAT_EXPANDED(a, b)
#define GRPCFD_INTERNAL_CONCAT_EXPANDED(a, b) a##b

namespace grpcfd {
namespace internal {

// Converts to the statuses of both libraries, and by way of absl::Status to an absl::StatusOr<T>.
// NOLINTBEGIN(google-explicit-constructor)
class StatusResult {
 public:
  explicit StatusResult(absl::Status status) : status_(std::move(status)) {}

  bool ok() const { return status_.ok(); }
  operator absl::Status() const { return status_; }
  operator grpc::Status() const { return ToGrpcStatus(status_); }

 private:
  absl::Status status_;
};

// The same, from a grpc::Status, whose error details it keeps.
class GrpcStatusResult {
 public:
  explicit GrpcStatusResult(grpc::Status status) : status_(std::move(status)) {}

  bool ok() const { return status_.ok(); }
  operator absl::Status() const { return ToAbslStatus(status_); }
  operator grpc::Status() const { return status_; }

 private:
  grpc::Status status_;
};
// NOLINTEND(google-explicit-constructor)

inline StatusResult AsStatusResult(absl::Status status) { return StatusResult(std::move(status)); }
inline GrpcStatusResult AsStatusResult(grpc::Status status) {
  return GrpcStatusResult(std::move(status));
}
template <typename T>
StatusResult AsStatusResult(const absl::StatusOr<T>& result) {
  return StatusResult(result.status());
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_STATUS_MACROS_H_
