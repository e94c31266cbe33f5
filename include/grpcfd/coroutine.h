// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// AwaitFd: receives a descriptor in a coroutine, without blocking a thread. For C++20; empty
// before.
//
//   MyTask Serve(grpcfd::FdTransceiver& fds, AttachRequest request) {
//     absl::StatusOr<grpcfd::UniqueFd> memory =
//         co_await grpcfd::AwaitFd(fds, request.memory_url(), std::chrono::seconds(1));
//     ...
//   }
//
// The coroutine type is the program's own. It goes on where the callback of RecvFdAsync would run:
// on a thread of grpcfd's, which it must not block, or on its own, if the descriptor or an error is
// at hand. To go on elsewhere, resume it from an executor or an EventQueue (grpcfd/event_queue.h).
#ifndef GRPCFD_COROUTINE_H_
#define GRPCFD_COROUTINE_H_

#if defined(__cpp_impl_coroutine)

#include <atomic>
#include <coroutine>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/deadline.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// What AwaitFd returns. `co_await` it once, at once.
class FdAwaiter {
 public:
  FdAwaiter(FdReceiver& receiver, absl::StatusOr<InodeUrl> url, Deadline deadline)
      : receiver_(receiver), url_(std::move(url)), deadline_(deadline) {}
  FdAwaiter(const FdAwaiter&) = delete;
  FdAwaiter& operator=(const FdAwaiter&) = delete;

  bool await_ready() {
    if (!url_.ok()) result_ = url_.status();
    return !url_.ok();
  }

  // False if the result is here already: then the coroutine goes on at once, and a loop of many
  // descriptors does not go deeper and deeper.
  bool await_suspend(std::coroutine_handle<> coroutine) {
    receiver_.RecvFdAsync(*url_, deadline_, [this, coroutine](absl::StatusOr<UniqueFd> fd) {
      result_ = std::move(fd);
      // The second to come goes on. After this the coroutine, and this object with it, may be
      // gone unless it came first.
      if (second_.exchange(true, std::memory_order_acq_rel)) coroutine.resume();
    });
    return !second_.exchange(true, std::memory_order_acq_rel);
  }

  absl::StatusOr<UniqueFd> await_resume() { return std::move(result_); }

 private:
  FdReceiver& receiver_;
  const absl::StatusOr<InodeUrl> url_;
  const Deadline deadline_;
  absl::StatusOr<UniqueFd> result_;
  std::atomic<bool> second_{false};
};

// Takes the descriptor of `url` when it is co_awaited; the value is that of RecvFd. `receiver` must
// outlive the wait. A coroutine that is destroyed while it waits is an error, as with any operation
// that is under way.
inline FdAwaiter AwaitFd(FdReceiver& receiver, const InodeUrl& url,
                         Deadline deadline = Deadline::Infinite()) {
  return FdAwaiter(receiver, url, deadline);
}
inline FdAwaiter AwaitFd(FdReceiver& receiver, const std::string& url,
                         Deadline deadline = Deadline::Infinite()) {
  return FdAwaiter(receiver, InodeUrl::Parse(url), deadline);
}

}  // namespace grpcfd

#endif  // defined(__cpp_impl_coroutine)

#endif  // GRPCFD_COROUTINE_H_
