// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SetLogSink: sets where grpcfd reports what no status of a call can report.
//
// Errors of calls are in their statuses, and numbers in grpcfd/stats.h. These are logged:
//   kError    a port cannot listen, and why
//   kWarning  descriptors came with a call, and its handler never asked for them
// Each reason is logged at most once a second; the next line says how many were left out.
#ifndef GRPCFD_LOG_H_
#define GRPCFD_LOG_H_

#include <functional>
#include <string>

namespace grpcfd {

enum class LogLevel { kWarning, kError };

// Called on the thread where it happens, under no lock of grpcfd's, by several threads at once. It
// must not block.
using LogSink = std::function<void(LogLevel level, const std::string& text)>;

// Replaces the process's sink. Null, as at the start: gRPC's own log, as ERROR, or as INFO for
// kWarning (shown with GRPC_VERBOSITY=info). Thread-safe; a line that is being logged may still go
// to the former sink.
void SetLogSink(LogSink sink);

}  // namespace grpcfd

#endif  // GRPCFD_LOG_H_
