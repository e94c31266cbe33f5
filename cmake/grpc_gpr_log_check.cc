// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Compiles if and only if gRPC has a log of its own. Configured by GrpcDialects.cmake; not part of
// the library.

#include <grpc/support/log.h>

void Use() { gpr_log(__FILE__, __LINE__, GPR_LOG_SEVERITY_ERROR, "%s", ""); }
