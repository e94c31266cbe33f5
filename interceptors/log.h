// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Log: what goes to the sink of grpcfd/log.h.
#ifndef GRPCFD_INTERCEPTORS_LOG_H_
#define GRPCFD_INTERCEPTORS_LOG_H_

#include <stddef.h>

#include <string>

#include "grpcfd/log.h"

namespace grpcfd {
namespace internal {

// Each has its own limit, so that a flood of one does not hide the others.
enum class LogReason : size_t { kCannotListen, kIgnoredDescriptors, kCount };

// Logs `text`, unless something was logged for `reason` less than a second ago: then it is counted,
// and the next line says how many were left out. Thread-safe. Calls the sink under no lock.
void Log(LogReason reason, LogLevel level, const std::string& text);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_LOG_H_
