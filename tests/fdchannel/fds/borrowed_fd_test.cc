// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/borrowed_fd.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/testing/same_file.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

UniqueFd OpenMemory() { return UniqueFd(::memfd_create("borrowed_fd_test", MFD_CLOEXEC)); }

struct Device {
  int number;
  int fd() const { return number; }
};
struct Socket {
  int number;
  int native_handle() { return number; }
};
struct Handle {
  std::string fd() const { return "not a number"; }
};

// A view is a small value, and never made from an int by accident.
static_assert(std::is_trivially_copyable_v<BorrowedFd>);
static_assert(!std::is_convertible_v<int, BorrowedFd>);
static_assert(!std::is_convertible_v<FILE*, BorrowedFd>);
static_assert(std::is_convertible_v<const UniqueFd&, BorrowedFd>);
static_assert(std::is_constructible_v<BorrowedFd, FILE*>);
static_assert(std::is_constructible_v<BorrowedFd, Device&>);
static_assert(std::is_constructible_v<BorrowedFd, const Device&>);
static_assert(std::is_constructible_v<BorrowedFd, Socket&>);
static_assert(!std::is_constructible_v<BorrowedFd, Handle&>);
static_assert(!std::is_default_constructible_v<BorrowedFd>);

TEST(BorrowedFdTest, BorrowsTheNumber) {
  const UniqueFd memory = OpenMemory();
  const Device device{memory.get()};
  Socket socket{memory.get()};
  EXPECT_EQ(BorrowedFd(7).get(), 7);
  EXPECT_EQ(BorrowedFd(memory).get(), memory.get());
  EXPECT_EQ(BorrowedFd(device).get(), memory.get());
  EXPECT_EQ(BorrowedFd(socket).get(), memory.get());
  EXPECT_TRUE(BorrowedFd(0).valid());
  EXPECT_FALSE(BorrowedFd(-1).valid());
  EXPECT_FALSE(BorrowedFd(UniqueFd()).valid());
}

TEST(BorrowedFdTest, ClosesNothing) {
  const UniqueFd memory = OpenMemory();
  { const BorrowedFd view(memory); }
  EXPECT_GE(::fcntl(memory.get(), F_GETFD), 0);
}

TEST(BorrowedFdTest, BorrowsFromAStream) {
  FILE* const file = ::tmpfile();
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(BorrowedFd(file).get(), ::fileno(file));
  ::fclose(file);
  char buffer[16] = "";
  FILE* const memory = ::fmemopen(buffer, sizeof(buffer), "r");
  ASSERT_NE(memory, nullptr);
  EXPECT_FALSE(BorrowedFd(memory).valid());
  ::fclose(memory);
  EXPECT_FALSE(BorrowedFd(static_cast<FILE*>(nullptr)).valid());
}

TEST(BorrowedFdTest, BorrowsByFdFromWhatHasANativeHandleToo) {
  struct Both {
    int fd() const { return 41; }
    int native_handle() const { return 42; }
  };
  struct TextHandle {
    int fd() const { return 43; }
    const char* native_handle() const { return "no number"; }
  };
  const Both both;
  EXPECT_EQ(BorrowedFd(both).get(), 41);
  TextHandle other;
  EXPECT_EQ(BorrowedFd(other).get(), 43);
}

TEST(BorrowedFdDupTest, IsTheSameOpenFileUnderAnotherNumber) {
  const UniqueFd memory = OpenMemory();
  const absl::StatusOr<UniqueFd> duplicate = BorrowedFd(memory).Dup();
  ASSERT_TRUE(duplicate.ok()) << duplicate.status();
  EXPECT_NE(duplicate->get(), memory.get());
  EXPECT_EQ(*SameOpenFile(memory, *duplicate), true);
}

TEST(BorrowedFdDupTest, IsCloseOnExecEvenIfTheOriginalIsNot) {
  const UniqueFd memory(::memfd_create("inheritable", 0));
  ASSERT_EQ(::fcntl(memory.get(), F_GETFD), 0);
  const absl::StatusOr<UniqueFd> duplicate = BorrowedFd(memory).Dup();
  ASSERT_TRUE(duplicate.ok()) << duplicate.status();
  EXPECT_EQ(::fcntl(duplicate->get(), F_GETFD), FD_CLOEXEC);
}

// A daemon that closed its stdin must not find a stranger's file there.
TEST(BorrowedFdDupTest, NeverBecomesAStandardStream) {
  const UniqueFd memory = OpenMemory();
  UniqueFd saved(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  const bool had_stdin = saved.valid();
  if (had_stdin) {
    ASSERT_EQ(::close(STDIN_FILENO), 0);
  }
  {
    const absl::StatusOr<UniqueFd> duplicate = BorrowedFd(memory).Dup();
    ASSERT_TRUE(duplicate.ok()) << duplicate.status();
    EXPECT_GE(duplicate->get(), 3);
  }
  if (had_stdin) {
    ASSERT_EQ(::dup2(saved.get(), STDIN_FILENO), STDIN_FILENO);
  }
}

TEST(BorrowedFdDupTest, NegativeOrClosedNumberIsInvalid) {
  EXPECT_EQ(BorrowedFd(-1).Dup().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BorrowedFd(AT_FDCWD).Dup().status().code(), absl::StatusCode::kInvalidArgument);
  UniqueFd memory = OpenMemory();
  const int closed = memory.get();
  memory.Reset();
  EXPECT_EQ(BorrowedFd(closed).Dup().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(BorrowedFdDupTest, AtTheLimitOfDescriptorsResourcesAreExhausted) {
  const UniqueFd memory = OpenMemory();
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  // 0 makes even the lowest number that is asked for, 3, too high: fcntl(2) says EINVAL instead of
  // EMFILE.
  for (const rlim_t limit : {rlim_t{0}, rlim_t{4}}) {
    struct rlimit low = before;
    low.rlim_cur = limit;
    // Fills what is free below the limit.
    std::vector<UniqueFd> fill;
    while (true) {
      UniqueFd fd(::fcntl(memory.get(), F_DUPFD_CLOEXEC, 3));
      if (fd.get() >= static_cast<int>(limit)) break;
      fill.push_back(std::move(fd));
    }
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    const absl::Status status = BorrowedFd(memory).Dup().status();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << limit << ": " << status;
  }
}

}  // namespace
}  // namespace grpcfd
