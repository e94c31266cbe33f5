// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// AcceptWatch: tells when a listening socket has connections, with pauses.
//
// Why it exists: a backlog stays readable while accept(2) fails for want of descriptors, so a
// level-triggered poll would be a busy loop. The kernel has no event for "a descriptor was closed
// somewhere in this process". So whoever runs out pauses, and looks again a while later.
#ifndef GRPCFD_FDCHANNEL_OS_ACCEPT_WATCH_H_
#define GRPCFD_FDCHANNEL_OS_ACCEPT_WATCH_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// What accept(2) gave.
enum class Accepted {
  kConnection,
  kNone,       // The backlog is empty.
  kExhausted,  // Descriptors or memory are used up.
};
// A connection, non-blocking and close-on-exec. Those that are gone already are skipped.
Accepted AcceptConnection(BorrowedFd socket, UniqueFd* connection);

// Thread-safe.
class AcceptWatch : public std::enable_shared_from_this<AcceptWatch> {
 public:
  // The events of epoll(7). Called on the poller's thread.
  using Ready = std::function<void(uint32_t events)>;

  static std::shared_ptr<AcceptWatch> Create(std::shared_ptr<Poller> poller, absl::Duration pause) {
    return std::shared_ptr<AcceptWatch>(new AcceptWatch(std::move(poller), pause));
  }

  // Begins to watch `socket`, which must stay open until Stop(). If the kernel lacks the memory for
  // it now, it begins after a pause. Once.
  void Start(BorrowedFd socket, Ready ready);
  // Looks away for the length of the pause.
  void Pause();
  // Looks away for good, and drops `ready`. Idempotent.
  void Stop();

 private:
  AcceptWatch(std::shared_ptr<Poller> poller, absl::Duration pause)
      : poller_(std::move(poller)), pause_(pause) {}

  void Watch();

  const std::shared_ptr<Poller> poller_;
  const absl::Duration pause_;

  Mutex mutex_;
  int socket_ ABSL_GUARDED_BY(mutex_) = -1;
  Ready ready_ ABSL_GUARDED_BY(mutex_);  // Null: stopped, or not started.
  Poller::Id registration_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_ACCEPT_WATCH_H_
