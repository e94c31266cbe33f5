// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// CallQueue: the descriptors that a client's call is to send, and those that it keeps for another
// attempt. It owns them until it is released, and as long as an attempt sends them by number.
#ifndef GRPCFD_FDCHANNEL_CALLS_CALL_QUEUE_H_
#define GRPCFD_FDCHANNEL_CALLS_CALL_QUEUE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <utility>

#include "fdchannel/calls/call_transport.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

// Thread-compatible. Closes nothing except in its destructor: the caller closes what it gives up,
// without a lock.
class CallQueue {
 public:
  // By index, if they have one.
  const IndexedFds& fds() const { return fds_; }
  bool empty() const { return fds_.empty(); }
  size_t size() const { return fds_.size(); }
  // How they are numbered; the highest index + 1; how many below that are missing.
  Indices indices() const;
  uint32_t count() const { return fds_.empty() ? 0 : *fds_.back().url.index() + 1; }
  uint32_t holes() const { return count() - static_cast<uint32_t>(fds_.size()); }

  // Puts in one whose index is above all others, or any one.
  void Append(IndexedFd fd) {
    // Who sends two sends several, as a rule: they need not move each time that there is one more.
    if (fds_.size() == 1) fds_.reserve(kSeveral);
    fds_.push_back(std::move(fd));
  }
  void Insert(IndexedFd fd);
  void Insert(IndexedFds fds);
  IndexedFd Remove(const InodeUrl& url);
  // Closes received ones that have no reaper of their own.
  void DefaultTo(const std::shared_ptr<Reaper>& reaper);

  // They are sent by number from here to EndUse(): none is given up meanwhile. Uses may overlap.
  void BeginUse() { ++users_; }
  void EndUse(IndexedFds* given_up);
  bool in_use() const { return users_ != 0; }
  // Nothing is kept any more.
  void Release(IndexedFds* given_up);
  bool released() const { return released_; }

 private:
  static constexpr size_t kSeveral = 16;

  void GiveUp(IndexedFds* given_up);

  IndexedFds fds_;
  int users_ = 0;
  bool released_ = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_CALL_QUEUE_H_
