// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/call_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "fdchannel/calls/session_transport.h"

namespace grpcfd {
namespace internal {
namespace {

bool HasLowerIndex(const IndexedFd& a, const IndexedFd& b) {
  return *a.url.index() < *b.url.index();
}

}  // namespace

Indices CallQueue::indices() const {
  // As nearly always: 0, 1, 2 and so on.
  return holes() == 0 ? Indices(0) : Indices(IndicesOf(fds_));
}

void CallQueue::Insert(IndexedFd fd) {
  const auto at = std::upper_bound(fds_.begin(), fds_.end(), fd, HasLowerIndex);
  fds_.insert(at, std::move(fd));
}

void CallQueue::Insert(IndexedFds fds) {
  IndexedFds queued;
  queued.swap(fds_);
  std::merge(std::make_move_iterator(queued.begin()), std::make_move_iterator(queued.end()),
             std::make_move_iterator(fds.begin()), std::make_move_iterator(fds.end()),
             std::back_inserter(fds_), HasLowerIndex);
}

IndexedFd CallQueue::Remove(const InodeUrl& url) {
  const auto at = std::find_if(fds_.begin(), fds_.end(),
                               [&url](const IndexedFd& one) { return one.url == url; });
  IndexedFd removed = std::move(*at);
  fds_.erase(at);
  return removed;
}

void CallQueue::DefaultTo(const std::shared_ptr<Reaper>& reaper) {
  for (IndexedFd& one : fds_) one.fd.DefaultTo(reaper);
}

void CallQueue::EndUse(IndexedFds* given_up) {
  if (--users_ == 0 && released_) GiveUp(given_up);
}

void CallQueue::Release(IndexedFds* given_up) {
  released_ = true;
  if (users_ == 0) GiveUp(given_up);
}

void CallQueue::GiveUp(IndexedFds* given_up) {
  if (given_up->empty()) return given_up->swap(fds_);
  std::move(fds_.begin(), fds_.end(), std::back_inserter(*given_up));
  fds_.clear();
}

}  // namespace internal
}  // namespace grpcfd
