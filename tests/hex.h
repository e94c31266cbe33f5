// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#ifndef GRPCFD_TESTS_HEX_H_
#define GRPCFD_TESTS_HEX_H_

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"

namespace grpcfd {
namespace testing_internal {

// The bytes that pairs of hexadecimal digits stand for; up to the first that is none.
inline std::string FromHex(absl::string_view digits) {
  std::string bytes;
  uint32_t byte = 0;
  for (size_t i = 0; i + 2 <= digits.size(); i += 2) {
    if (!absl::SimpleHexAtoi(digits.substr(i, 2), &byte)) break;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_HEX_H_
