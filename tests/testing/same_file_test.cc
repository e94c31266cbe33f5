// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/testing/same_file.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

// Fails the test instead of crashing it where kcmp(2) is not allowed.
void ExpectSame(BorrowedFd a, BorrowedFd b, bool expected) {
  const absl::StatusOr<bool> same = SameOpenFile(a, b);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(*same, expected);
}

TEST(SameOpenFileTest, DuplicateIsTheSame) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const absl::StatusOr<UniqueFd> duplicate = BorrowedFd(event).Dup();
  ASSERT_TRUE(duplicate.ok()) << duplicate.status();
  ExpectSame(event, event, true);
  ExpectSame(event, *duplicate, true);
  ExpectSame(*duplicate, event, true);
}

TEST(SameOpenFileTest, EqualInodesAreNotTheSame) {
  const UniqueFd first(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd second(::eventfd(0, EFD_CLOEXEC));
  ASSERT_EQ(*FdToDevIno(first), *FdToDevIno(second));
  ExpectSame(first, second, false);
  ExpectSame(second, first, false);

  const UniqueFd one(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const UniqueFd other(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ASSERT_EQ(*FdToDevIno(one), *FdToDevIno(other));
  ExpectSame(one, other, false);

  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd reader(fds[0]);
  const UniqueFd writer(fds[1]);
  ASSERT_EQ(*FdToDevIno(reader), *FdToDevIno(writer));
  ExpectSame(reader, writer, false);
}

TEST(SameOpenFileTest, NegativeOrClosedNumberIsInvalid) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  UniqueFd gone(::eventfd(0, EFD_CLOEXEC));
  const BorrowedFd closed(gone.get());
  gone.Reset();
  for (const BorrowedFd bad : {BorrowedFd(-1), closed}) {
    EXPECT_EQ(SameOpenFile(event, bad).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(SameOpenFile(bad, event).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace grpcfd
