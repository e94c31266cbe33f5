// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Compiles if and only if gRPC hands out its default event engine. Configured by
// GrpcDialects.cmake; not part of the library.

#include <grpc/event_engine/event_engine.h>

bool Use() { return grpc_event_engine::experimental::GetDefaultEventEngine() != nullptr; }
