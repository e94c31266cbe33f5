// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The fuzz targets. Each takes any bytes and aborts (or is stopped by a sanitizer) if a promise is
// broken. libFuzzer runs them one by one (entry.cc), replay.cc all of them over their corpus, with
// any compiler.
//
// The targets also compare what was read with what is written again: a decoder
// that takes what its encoder would never have written has misunderstood the
// format.
#ifndef GRPCFD_FUZZ_TARGETS_H_
#define GRPCFD_FUZZ_TARGETS_H_

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <string>

namespace grpcfd {
namespace fuzz {

// Hello, HelloReply, and the first bytes of a connection.
void FuzzHello(const uint8_t* data, size_t size);
void FuzzFrame(const uint8_t* data, size_t size);
// Ancillary data as a broken kernel, emulator or supervisor might hand it up.
void FuzzCmsg(const uint8_t* data, size_t size);
void FuzzUrl(const uint8_t* data, size_t size);
// grpcfd-bin and grpcfd-urls.
void FuzzMetadata(const uint8_t* data, size_t size);
// Any messages with any number of descriptors, on a session.
void FuzzSession(const uint8_t* data, size_t size);
// Any bytes, in any pieces, with and without descriptors, on a living listener.
void FuzzListener(const uint8_t* data, size_t size);

struct Target {
  const char* name;  // Of its folder in fuzz/corpus/ too.
  void (*run)(const uint8_t* data, size_t size);
};
inline constexpr Target kTargets[] = {
    {"hello", FuzzHello},       {"frame", FuzzFrame},       {"cmsg", FuzzCmsg},
    {"url", FuzzUrl},           {"metadata", FuzzMetadata}, {"session", FuzzSession},
    {"listener", FuzzListener},
};

// Ends the process as a failed assertion does: what libFuzzer takes for a find.
inline void Require(bool holds, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (holds) return;
  fprintf(stderr, "%s:%d: does not hold\n", file, line);
  abort();
}

// Takes an input apart, front to back; past its end everything is zero.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  // At most `size` bytes.
  std::string Bytes(size_t size) {
    if (size > size_) size = size_;
    std::string bytes(reinterpret_cast<const char*>(data_), size);
    data_ += size;
    size_ -= size;
    return bytes;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace fuzz
}  // namespace grpcfd

#endif  // GRPCFD_FUZZ_TARGETS_H_
