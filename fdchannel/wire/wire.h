// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Reading and writing of little-endian numbers at fixed offsets: what all encoders of PROTOCOL.md
// share.
//
// The protocol has one byte order (D-Bus lets the sender choose, and paid with CVE-2022-42012).
// Where it is the machine's own, the functions below are single loads and stores.
#ifndef GRPCFD_FDCHANNEL_WIRE_WIRE_H_
#define GRPCFD_FDCHANNEL_WIRE_WIRE_H_

#include <endian.h>
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
  const uint64_t little = htole64(value);
  memcpy(out, &little, sizeof(T));
}

// Reads what StoreLittleEndian wrote.
template <typename T>
inline T LoadLittleEndian(const char* in) {
  static_assert(std::is_unsigned<T>::value, "wire numbers are unsigned");
  uint64_t little = 0;
  memcpy(&little, in, sizeof(T));
  return static_cast<T>(le64toh(little));
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
  uint32_t half;
  if (end - begin >= sizeof(half)) {
    memcpy(&half, bytes.data() + begin, sizeof(half));
    if (half == 0) begin += sizeof(half);
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
