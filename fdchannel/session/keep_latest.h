// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#ifndef GRPCFD_FDCHANNEL_SESSION_KEEP_LATEST_H_
#define GRPCFD_FDCHANNEL_SESSION_KEEP_LATEST_H_

#include <stddef.h>

#include <vector>

namespace grpcfd {
namespace internal {

// Drops the oldest of twice as many as are to be remembered. Not one by one, since all others move
// up each time.
template <typename T>
void KeepLatest(size_t count, std::vector<T>* all) {
  if (all->size() == 2 * count) {
    all->erase(all->begin(), all->begin() + static_cast<ptrdiff_t>(count));
  }
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_KEEP_LATEST_H_
