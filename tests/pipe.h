// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Pipe: shows when every copy of a descriptor is closed, wherever it is: at either end of a
// session, on the way, or in a thread that closes it later.
#ifndef GRPCFD_TESTS_PIPE_H_
#define GRPCFD_TESTS_PIPE_H_

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace testing_internal {

// Waits until all write ends are closed. The limit is far longer than that takes.
inline bool AwaitHangUp(BorrowedFd read_end) {
  pollfd polled = {read_end.get(), 0, 0};  // POLLHUP needs no asking for.
  int ready = 0;
  do {
    ready = ::poll(&polled, 1, 20'000);
  } while (ready < 0 && errno == EINTR);
  return ready == 1 && (polled.revents & POLLHUP) != 0;
}

struct Pipe {
  Pipe() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    read = UniqueFd(ends[0]);
    write = UniqueFd(ends[1]);
  }
  // Closes the write end, if it is still here, and waits until all copies of it are closed.
  bool WriteEndsAreClosed() {
    write.Reset();
    return AwaitHangUp(read);
  }

  UniqueFd read;
  UniqueFd write;
};

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_PIPE_H_
