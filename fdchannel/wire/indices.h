// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Indices: how the descriptors of one send are numbered. IndexAllocator: which indices a call has
// used, in one direction.
//
// Why it exists: a call that is made here numbers its descriptors 0, 1, 2. One that is forwarded
// keeps the numbers that it came with, so that the URLs in its messages stay true, and those may
// have holes: what a filter left out, or the forwarder took for itself.
//
// Forwarding keeps the indices, so that no hop has to know or rewrite the
// messages.
#ifndef GRPCFD_FDCHANNEL_WIRE_INDICES_H_
#define GRPCFD_FDCHANNEL_WIRE_INDICES_H_

#include <stddef.h>
#include <stdint.h>

#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace grpcfd {
namespace internal {

// The highest index that the wire can carry: first_index + fd_count fits 32 bits (PROTOCOL.md).
inline constexpr uint32_t kMaxIndex = 0xfffffffe;

// A plain value. Implicit from the first of a contiguous sequence.
class Indices {
 public:
  Indices(uint32_t first) : first_(first) {}  // NOLINT(google-explicit-constructor)
  // One for each descriptor, strictly ascending.
  explicit Indices(std::vector<uint32_t> given) : given_(std::move(given)) {}

  uint32_t at(size_t k) const {
    return given_.empty() ? first_ + static_cast<uint32_t>(k) : given_[k];
  }
  // How many descriptors from the k-th on, of `count`, have consecutive indices.
  size_t Run(size_t k, size_t count) const {
    if (given_.empty()) return count - k;
    size_t end = k + 1;
    while (end < count && given_[end] == given_[end - 1] + 1) ++end;
    return end - k;
  }

 private:
  uint32_t first_ = 0;
  std::vector<uint32_t> given_;
};

// Thread-compatible.
class IndexAllocator {
 public:
  // The highest index in use + 1; how many are in use.
  uint32_t next() const { return next_; }
  uint32_t used() const { return used_; }
  // Whether Take() has one left.
  bool exhausted() const { return next_ > kMaxIndex; }

  // The one above all that were ever in use. Not to be called when exhausted.
  uint32_t Take() {
    ++used_;
    return next_++;
  }
  // Takes these, strictly ascending and none above kMaxIndex. False, with nothing taken, if one is
  // in use.
  bool Take(absl::Span<const uint32_t> given);
  bool IsFree(uint32_t index);
  // Undoes a Take: nothing was sent under this index.
  void GiveBack(uint32_t index);

 private:
  // Free indices below next_: [begin, end), ascending, never touching.
  struct Run {
    uint32_t begin;
    uint32_t end;
  };

  // The first run that ends above `index`.
  std::vector<Run>::iterator FirstAbove(uint32_t index);
  void TakeOne(uint32_t index);

  uint32_t next_ = 0;
  uint32_t used_ = 0;
  std::vector<Run> holes_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_WIRE_INDICES_H_
