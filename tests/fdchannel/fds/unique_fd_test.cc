// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/unique_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <type_traits>
#include <utility>

#include "gtest/gtest.h"

namespace grpcfd {
namespace {

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

int Open() { return ::memfd_create("unique_fd_test", MFD_CLOEXEC); }

// One owner, and no conversion that would make a second one in silence.
static_assert(!std::is_copy_constructible_v<UniqueFd>);
static_assert(!std::is_copy_assignable_v<UniqueFd>);
static_assert(std::is_nothrow_move_constructible_v<UniqueFd>);
static_assert(std::is_nothrow_move_assignable_v<UniqueFd>);
static_assert(std::is_nothrow_destructible_v<UniqueFd>);
static_assert(!std::is_convertible_v<int, UniqueFd>);
static_assert(!std::is_convertible_v<UniqueFd, int>);
static_assert(!std::is_constructible_v<bool, UniqueFd>);

TEST(UniqueFdTest, OwnsNothingAtFirst) {
  const UniqueFd fd;
  EXPECT_FALSE(fd.valid());
  EXPECT_EQ(fd.get(), -1);
}

TEST(UniqueFdTest, ClosesWhenDestroyed) {
  const int number = Open();
  {
    const UniqueFd fd(number);
    EXPECT_TRUE(fd.valid());
    EXPECT_EQ(fd.get(), number);
    EXPECT_TRUE(IsOpen(number));
  }
  EXPECT_FALSE(IsOpen(number));
}

TEST(UniqueFdTest, MoveLeavesNothingBehind) {
  const int number = Open();
  UniqueFd first(number);
  UniqueFd second(std::move(first));
  EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move): that is the point.
  EXPECT_EQ(second.get(), number);
  UniqueFd third;
  third = std::move(second);
  EXPECT_FALSE(second.valid());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(third.get(), number);
  EXPECT_TRUE(IsOpen(number));
}

TEST(UniqueFdTest, MoveAssignmentClosesWhatWasOwned) {
  UniqueFd fd(Open());
  const int old = fd.get();
  UniqueFd other(Open());
  fd = std::move(other);
  EXPECT_FALSE(IsOpen(old));
  EXPECT_TRUE(IsOpen(fd.get()));
}

TEST(UniqueFdTest, MoveToItselfKeepsTheDescriptor) {
  UniqueFd fd(Open());
  UniqueFd& same = fd;
  fd = std::move(same);
  ASSERT_TRUE(fd.valid());
  EXPECT_TRUE(IsOpen(fd.get()));
}

TEST(UniqueFdTest, ReleaseGivesAway) {
  const int number = Open();
  {
    UniqueFd fd(number);
    EXPECT_EQ(fd.Release(), number);
    EXPECT_FALSE(fd.valid());
    EXPECT_EQ(fd.Release(), -1);
  }
  EXPECT_TRUE(IsOpen(number));
  ::close(number);
}

TEST(UniqueFdTest, ResetClosesAndAdopts) {
  UniqueFd fd(Open());
  const int first = fd.get();
  const int second = Open();
  fd.Reset(second);
  EXPECT_FALSE(IsOpen(first));
  EXPECT_EQ(fd.get(), second);
  fd.Reset();
  EXPECT_FALSE(IsOpen(second));
  EXPECT_FALSE(fd.valid());
}

TEST(UniqueFdTest, SwapExchangesOwners) {
  UniqueFd a(Open());
  UniqueFd b;
  const int number = a.get();
  swap(a, b);
  EXPECT_FALSE(a.valid());
  EXPECT_EQ(b.get(), number);
  EXPECT_TRUE(IsOpen(number));
}

// The error that is being reported is older than the clean-up that runs on the way out.
TEST(UniqueFdTest, KeepsErrnoEvenIfCloseFails) {
  {
    const UniqueFd fd(Open());
    errno = ENOTTY;
  }
  EXPECT_EQ(errno, ENOTTY);
  {
    const UniqueFd fd(Open());
    ::close(fd.get());  // The close of the destructor fails with EBADF.
    errno = ENOTTY;
  }
  EXPECT_EQ(errno, ENOTTY);
}

}  // namespace
}  // namespace grpcfd
