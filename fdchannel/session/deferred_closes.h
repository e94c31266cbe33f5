// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// DeferredCloses: descriptors that are to be closed once the session's lock is released. Closing a
// descriptor from a peer can block, so nothing is closed under the lock.
#ifndef GRPCFD_FDCHANNEL_SESSION_DEFERRED_CLOSES_H_
#define GRPCFD_FDCHANNEL_SESSION_DEFERRED_CLOSES_H_

#include <stddef.h>

#include <utility>

#include "fdchannel/os/cmsg.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Thread-compatible. Empty when it is destroyed: Session::RunDeferred has moved the content out.
struct DeferredCloses {
  FdVector fds;
  size_t charged = 0;    // Of `fds`: held by the session, and charged to its quota.
  size_t uncharged = 0;  // Arrived, or lost on arrival; never charged.
  size_t scoped = 0;     // Session-scoped ones: charged to the quota only.
  size_t roomed = 0;     // Of `fds`: uncharged ones, which have the room of the look (ReadRoom).

  bool empty() const { return fds.empty() && charged + uncharged + scoped == 0; }
  void AddCharged(UniqueFd fd) {
    fds.push_back(std::move(fd));
    ++charged;
  }
  void AddScoped(UniqueFd fd) {
    if (!fd.valid()) return;
    fds.push_back(std::move(fd));
    ++scoped;
  }
  // `count` descriptors came, and those that were not lost are in `*more`.
  void AddUncharged(FdVector* more, size_t count) {
    roomed += more->size();
    for (UniqueFd& fd : *more) fds.push_back(std::move(fd));
    more->clear();
    uncharged += count;
  }
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_DEFERRED_CLOSES_H_
