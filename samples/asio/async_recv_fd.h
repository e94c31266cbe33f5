// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// AsyncRecvFd: RecvFdAsync as an operation of Asio, for programs that are built around an
// io_context. Copy it into yours. It takes any completion token: a callback, asio::use_future,
// asio::use_awaitable.
//
//   AsyncRecvFd(io.get_executor(), fds, url, std::chrono::seconds(1),
//               [](absl::StatusOr<grpcfd::UniqueFd> fd) { ... });  // On a thread of the
//               io_context.
#ifndef GRPCFD_SAMPLES_ASIO_ASYNC_RECV_FD_H_
#define GRPCFD_SAMPLES_ASIO_ASYNC_RECV_FD_H_

#include <asio/any_io_executor.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcfd/deadline.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/unique_fd.h"

// `fds` is what grpcfd::FromContext returned. The completion handler runs on its own executor, or
// on `executor` if it has none; the io_context has work until then.
template <typename CompletionToken>
auto AsyncRecvFd(asio::any_io_executor executor, std::shared_ptr<grpcfd::FdReceiver> fds,
                 std::string url, grpcfd::Deadline deadline, CompletionToken&& token) {
  const auto initiate = [](auto handler, asio::any_io_executor executor,
                           const std::shared_ptr<grpcfd::FdReceiver>& fds, const std::string& url,
                           grpcfd::Deadline deadline) {
    auto work = asio::make_work_guard(asio::get_associated_executor(handler, executor));
    // The callback of RecvFdAsync runs on a thread of grpcfd's, which the handler must not hold up.
    fds->RecvFdAsync(url, deadline,
                     [handler = std::move(handler),
                      work = std::move(work)](absl::StatusOr<grpcfd::UniqueFd> fd) mutable {
                       asio::post(work.get_executor(),
                                  [handler = std::move(handler), fd = std::move(fd)]() mutable {
                                    handler(std::move(fd));
                                  });
                       work.reset();
                     });
  };
  return asio::async_initiate<CompletionToken, void(absl::StatusOr<grpcfd::UniqueFd>)>(
      initiate, token, std::move(executor), std::move(fds), std::move(url), deadline);
}

#endif  // GRPCFD_SAMPLES_ASIO_ASYNC_RECV_FD_H_
