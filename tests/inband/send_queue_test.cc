// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What may be sent, and what is remembered of it.
#include "inband/send_queue.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "grpcfd/testing/same_file.h"
#include "inband/same_file.h"
#include "tests/inband/relay_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

UniqueFd Dup(const UniqueFd& fd) { return *BorrowedFd(fd).Dup(); }
UniqueFd Event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC)); }
UniqueFd Open(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC));
  EXPECT_TRUE(fd.valid()) << path;
  return fd;
}

NamedFd Named(UniqueFd fd) {
  const DevIno name = NameOf(fd);
  return NamedFd{name, std::move(fd)};
}

class SendQueueTest : public ::testing::Test {
 protected:
  template <typename... Fds>
  absl::Status Push(Fds... fds) {
    NamedFds all;
    (all.push_back(Named(std::move(fds))), ...);
    return queue_.Push(std::move(all), SendQueue::Checked(), &closing_);
  }
  // Takes all that is queued, as the relay does.
  size_t Drain() {
    size_t count = 0;
    while (auto fd = queue_.Pop()) {
      EXPECT_TRUE(IsOpen(fd->get()));
      queue_.Done(std::move(fd), &closing_);
      ++count;
    }
    return count;
  }

  SendQueue queue_{10, 4};
  FdVector closing_;
};

constexpr absl::StatusCode kExists = absl::StatusCode::kAlreadyExists;

TEST_F(SendQueueTest, GivesBackWhatWasPutInInOrder) {
  const auto files = MakeFiles(3);
  ASSERT_TRUE(queue_.empty());
  ASSERT_TRUE(Push(Dup(files[0]), Dup(files[1])).ok());
  ASSERT_TRUE(Push(Dup(files[2])).ok());
  EXPECT_EQ(3u, queue_.size());
  for (const UniqueFd& file : files) {
    auto fd = queue_.Pop();
    ASSERT_NE(nullptr, fd);
    EXPECT_TRUE(*SameOpenFile(file, *fd));
    queue_.Done(std::move(fd), &closing_);
  }
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(nullptr, queue_.Pop());
}

TEST_F(SendQueueTest, AnotherOpenFileOfAnInodeIsRefusedQueuedOrSent) {
  const UniqueFd event = Event();
  ASSERT_TRUE(Push(Dup(event)).ok());
  EXPECT_EQ(kExists, Push(Event()).code());
  EXPECT_EQ(1u, Drain());
  EXPECT_EQ(kExists, Push(Event()).code());
  EXPECT_TRUE(Push(Dup(event)).ok());  // The same one.
  EXPECT_EQ(1u, Drain());
  // Two opens of one file share nothing but the inode.
  TempDir dir;
  const UniqueFd file = Open(dir.File("f"), O_CREAT | O_RDWR);
  ASSERT_TRUE(Push(Dup(file)).ok());
  EXPECT_EQ(kExists, Push(Open(dir.File("f"), O_RDWR)).code());
}

TEST_F(SendQueueTest, OneRefusesTheWholeSet) {
  const UniqueFd event = Event();
  EXPECT_EQ(kExists, Push(MakeFile("a"), Dup(event), Event()).code());
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(0u, queue_.remembered());
  EXPECT_TRUE(Push(Dup(event), Dup(event)).ok());
  EXPECT_EQ(2u, Drain());
}

TEST_F(SendQueueTest, CheckSaysWhatPushWould) {
  SendQueue::Checked checked;
  NamedFds events;
  events.push_back(Named(Event()));
  EXPECT_TRUE(queue_.Check(SendQueue::Refer(events), &checked).ok());
  EXPECT_TRUE(SendQueue::CheckAmong(SendQueue::Refer(events)).ok());
  events.push_back(Named(Event()));
  EXPECT_EQ(kExists, queue_.Check(SendQueue::Refer(events), &checked).code());
  EXPECT_EQ(kExists, SendQueue::CheckAmong(SendQueue::Refer(events)).code());
  events.pop_back();
  ASSERT_TRUE(Push(Event()).ok());
  EXPECT_EQ(kExists, queue_.Check(SendQueue::Refer(events), &checked).code());
  EXPECT_TRUE(SendQueue::CheckAmong(SendQueue::Refer(events)).ok());
}

TEST_F(SendQueueTest, WhatWasCheckedIsComparedAgainIfAnotherFileCameBetween) {
  const UniqueFd event = Event();
  const auto one = [](UniqueFd fd) {
    NamedFds fds;
    fds.push_back(Named(std::move(fd)));
    return fds;
  };
  SendQueue::Checked checked;
  NamedFds fds = one(Dup(event));
  ASSERT_TRUE(queue_.Check(SendQueue::Refer(fds), &checked).ok());
  ASSERT_TRUE(Push(Event()).ok());
  EXPECT_EQ(kExists, queue_.Push(std::move(fds), checked, &closing_).code());
  // It does not count for another queue either.
  SendQueue other(10, 4);
  fds = one(Dup(event));
  ASSERT_TRUE(other.Check(SendQueue::Refer(fds), &checked).ok());
  EXPECT_EQ(kExists, queue_.Push(std::move(fds), checked, &closing_).code());
  fds = one(Dup(event));
  EXPECT_TRUE(other.Push(std::move(fds), checked, &closing_).ok());
  for (UniqueFd& fd : other.End(absl::UnavailableError("over"))) closing_.push_back(std::move(fd));
}

TEST_F(SendQueueTest, HoldsABoundedNumber) {
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Push(MakeFile("x")).ok());
  const absl::Status full = Push(MakeFile("x"));
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, full.code()) << full;
  EXPECT_EQ(10u, Drain());
  EXPECT_TRUE(Push(MakeFile("x")).ok());
}

TEST_F(SendQueueTest, WhatIsForgottenIsJudgedByItsKind) {
  TempDir dir;
  const std::string path = dir.File("f");
  Open(path, O_CREAT | O_RDWR).Reset();
  const UniqueFd event = Event();
  ASSERT_TRUE(Push(Dup(event), Open(path, O_RDONLY)).ok());
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(Push(MakeFile("x")).ok());
    Drain();
  }
  EXPECT_EQ(4u, queue_.remembered());
  // The peer may have any eventfd under this name; it cannot be told any more.
  EXPECT_EQ(kExists, Push(Dup(event)).code());
  // A file that is opened alike is as good; one that is not would be another.
  EXPECT_EQ(kExists, Push(Open(path, O_RDWR)).code());
  EXPECT_TRUE(Push(Open(path, O_RDONLY)).ok());
}

TEST_F(SendQueueTest, EndGivesUpEverythingOnce) {
  const auto files = MakeFiles(3);
  ASSERT_TRUE(Push(Dup(files[0]), Dup(files[1])).ok());
  auto leaving = queue_.Pop();
  FdVector all = queue_.End(absl::UnavailableError("over"));
  EXPECT_EQ(1u, all.size());
  FdVector last;
  queue_.Done(std::move(leaving), &last);
  EXPECT_EQ(1u, last.size());
  EXPECT_EQ(absl::StatusCode::kUnavailable, Push(Dup(files[2])).code());
  EXPECT_TRUE(queue_.empty());
}

// --- SameFile ---

TEST(SameFileTest, KindsThatAreInterchangeable) {
  TempDir dir;
  const std::string path = dir.File("f");
  const UniqueFd read_write = Open(path, O_CREAT | O_RDWR);
  const UniqueFd again = Open(path, O_RDWR);
  const UniqueFd read_only = Open(path, O_RDONLY);
  const UniqueFd handle = Open(path, O_PATH);
  EXPECT_TRUE(AsGoodAs(LookAtFile(read_write), LookAtFile(again)));
  EXPECT_FALSE(AsGoodAs(LookAtFile(read_write), LookAtFile(read_only)));
  EXPECT_FALSE(AsGoodAs(LookAtFile(read_only), LookAtFile(handle)));
  const UniqueFd event = Event();
  EXPECT_FALSE(AsGoodAs(LookAtFile(event), LookAtFile(event)));
  int ends[2];
  ASSERT_EQ(0, ::pipe2(ends, O_CLOEXEC));
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  EXPECT_FALSE(AsGoodAs(LookAtFile(read_end), LookAtFile(read_end)));
  const UniqueFd device = Open("/dev/null", O_RDWR);
  EXPECT_FALSE(AsGoodAs(LookAtFile(device), LookAtFile(device)));
}

TEST(SameFileTest, ByKcmp) {
  const UniqueFd event = Event();
  const UniqueFd copy = Dup(event);
  EXPECT_TRUE(SameFile(event, copy));
  EXPECT_FALSE(SameFile(event, Event()));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
