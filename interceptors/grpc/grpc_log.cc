// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/grpc/grpc_log.h"

#include <grpc/support/log.h>

namespace grpcfd {
namespace internal {

void WriteToGrpcLog(bool is_error, const std::string& text) {
  const gpr_log_severity severity = is_error ? GPR_LOG_SEVERITY_ERROR : GPR_LOG_SEVERITY_INFO;
#if GRPCFD_GRPC_LOG_BY_ABSL
  grpc_absl_log(__FILE__, __LINE__, severity, ("grpcfd: " + text).c_str());
#else
  gpr_log(__FILE__, __LINE__, severity, "grpcfd: %s", text.c_str());
#endif
}

}  // namespace internal
}  // namespace grpcfd
