// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The example for Asio, compiled and run where Asio is installed.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <asio/io_context.hpp>
#include <chrono>
#include <thread>

#include "absl/status/status.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/testing/fake_fd_pair.h"
#include "grpcfd/testing/same_file.h"
#include "samples/asio/async_recv_fd.h"

namespace grpcfd {
namespace {

TEST(AsioTest, TheHandlerRunsOnTheIoContext) {
  const UniqueFd memory(::memfd_create("asio_test", MFD_CLOEXEC));
  FakeFdPair call;
  asio::io_context io;
  absl::StatusOr<UniqueFd> received = absl::UnknownError("the handler did not run");
  std::thread::id handled_by;
  AsyncRecvFd(io.get_executor(), call.server(), InodeUrl(*FdToDevIno(memory), 0).ToString(),
              std::chrono::seconds(20), [&](absl::StatusOr<UniqueFd> fd) {
                received = std::move(fd);
                handled_by = std::this_thread::get_id();
              });
  ASSERT_TRUE(call.client()->SendFd(memory).ok());
  io.run();  // Returns when nothing is left to do.
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_TRUE(*SameOpenFile(memory, *received));
  EXPECT_EQ(handled_by, std::this_thread::get_id());
}

TEST(AsioTest, ErrorsReachTheHandler) {
  FakeFdPair call;
  asio::io_context io;
  absl::Status status;
  AsyncRecvFd(io.get_executor(), call.server(), "inode://1/2", std::chrono::milliseconds(1),
              [&](const absl::StatusOr<UniqueFd>& fd) { status = fd.status(); });
  io.run();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
}

}  // namespace
}  // namespace grpcfd
