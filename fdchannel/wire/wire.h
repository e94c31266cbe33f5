// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Reading and writing of little-endian numbers at fixed offsets: what all encoders of PROTOCOL.md
// share.
//
// The protocol has one byte order (D-Bus lets the sender
// choose, and paid with CVE-2022-42012). Compilers turn the
// loops below into single loads and stores where that is the
// machine's own.
#ifndef GRPCFD_FDCHANNEL_WIRE_WIRE_H_
#define GRPCFD_FDCHANNEL_WIRE_WIRE_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <string>
#include <type_traits>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace grpcfd {
namespace internal {

// Writes `value` to `out[0]` ... `out[sizeof(T) - 1]`, lowest byte first.
template <typename T>
inline void StoreLittleEndian(T value, char* out) {
  static_assert(std::is_unsigned<T>::value, "wire numbers are unsigned");
  for (size_t i = 0; i < sizeof(T); ++i) {
    out[i] = static_cast<char>(static_cast<unsigned char>(static_cast<uint64_t>(value) >> (8 * i)));
  }
}

// Reads what StoreLittleEndian wrote.
template <typename T>
inline T LoadLittleEndian(const char* in) {
  static_assert(std::is_unsigned<T>::value, "wire numbers are unsigned");
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<uint64_t>(static_cast<unsigned char>(in[i])) << (8 * i);
  }
  return static_cast<T>(value);
}

// The offset of the first byte in [begin, end) of `bytes` that is not zero, or `end`.
inline size_t FirstNonZero(absl::Span<const char> bytes, size_t begin, size_t end) {
  // Eight at a time, for what nearly always is zero: half of each frame.
  while (end - begin >= sizeof(uint64_t)) {
    uint64_t word;
    memcpy(&word, bytes.data() + begin, sizeof(word));
    if (word != 0) break;
    begin += sizeof(word);
  }
  while (begin < end && bytes[begin] == 0) ++begin;
  return begin;
}

// `bytes` as lower-case hexadecimal digits, for error messages.
inline std::string ToHex(absl::Span<const char> bytes) {
  return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size()));
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_WIRE_WIRE_H_
