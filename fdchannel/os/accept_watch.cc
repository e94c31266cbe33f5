// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/accept_watch.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace grpcfd {
namespace internal {

Accepted AcceptConnection(BorrowedFd socket, UniqueFd* connection) {
  for (;;) {
    connection->Reset(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection->valid()) return Accepted::kConnection;
    if (errno == EINTR || errno == ECONNABORTED) continue;
    return errno == EAGAIN ? Accepted::kNone : Accepted::kExhausted;
  }
}

void AcceptWatch::Start(BorrowedFd socket, Ready ready) {
  {
    MutexLock lock(&mutex_);
    socket_ = socket.get();
    ready_ = std::move(ready);
  }
  Watch();
}

void AcceptWatch::Watch() {
  MutexLock lock(&mutex_);
  if (!ready_ || registration_ != 0) return;
  auto id = poller_->Add(BorrowedFd(socket_), EPOLLIN, ready_);
  if (id.ok()) {
    registration_ = *id;
    return;
  }
  poller_->RunAfter(pause_, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->Watch();
  });
}

void AcceptWatch::Pause() {
  {
    MutexLock lock(&mutex_);
    if (registration_ != 0) poller_->Remove(std::exchange(registration_, 0));
  }
  poller_->RunAfter(pause_, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->Watch();
  });
}

void AcceptWatch::Stop() {
  Ready dropped;  // Outlives the lock: it may hold the last reference to its owner.
  MutexLock lock(&mutex_);
  if (registration_ != 0) poller_->Remove(std::exchange(registration_, 0));
  dropped = std::exchange(ready_, nullptr);
}

}  // namespace internal
}  // namespace grpcfd
