// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Guarded: wraps a function of the program, and catches its exceptions where grpcfd calls it.
//
// Why it exists: grpcfd calls the program's functions on threads that serve everybody. An exception
// that leaves such a thread ends the process, and one that unwinds grpcfd's own code leaves its
// work half done.
//
// After an exception, a function that returns a status refuses, with the exception's text; one that
// returns nothing has simply ended.
#ifndef GRPCFD_FDCHANNEL_OS_USER_FUNCTION_H_
#define GRPCFD_FDCHANNEL_OS_USER_FUNCTION_H_

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace grpcfd {
namespace internal {

// PERMISSION_DENIED with the text of the exception that is being handled. A thread that is being
// cancelled (pthread_cancel(3)) goes on unwinding. Only in a catch block.
absl::Status StatusOfException(const char* name);

// Null stays null. `name` is for the text, and must live as long.
template <typename... Args>
std::function<absl::Status(Args...)> Guarded(std::function<absl::Status(Args...)> function,
                                             const char* name) {
  if (!function) return nullptr;
  return [function = std::move(function), name](Args... args) -> absl::Status {
    try {
      return function(std::forward<Args>(args)...);
    } catch (...) {
      return StatusOfException(name);
    }
  };
}

template <typename... Args>
std::function<void(Args...)> Guarded(std::function<void(Args...)> function, const char* name) {
  if (!function) return nullptr;
  return [function = std::move(function), name](Args... args) {
    try {
      function(std::forward<Args>(args)...);
    } catch (...) {
      StatusOfException(name).IgnoreError();
    }
  };
}

// Of options that have all three.
template <typename Options>
Options WithGuardedFunctions(Options options) {
  options.authorize_session = Guarded(std::move(options.authorize_session), "authorize_session");
  options.on_session = Guarded(std::move(options.on_session), "on_session");
  options.on_session_end = Guarded(std::move(options.on_session_end), "on_session_end");
  return options;
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_USER_FUNCTION_H_
