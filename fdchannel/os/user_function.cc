// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/user_function.h"

#include <cxxabi.h>

#include <exception>

#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {

absl::Status StatusOfException(const char* name) {
  std::string what = "something that is not a std::exception";
  try {
    throw;
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (const std::exception& exception) {
    what = exception.what();
  } catch (...) {
  }
  return absl::PermissionDeniedError(absl::StrCat(name, " threw: ", what));
}

}  // namespace internal
}  // namespace grpcfd
