// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/same_open_file.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "tests/fdchannel/fd_test_util.h"
#include "tests/fdchannel/seccomp.h"

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY (1024 + 3)
#endif

namespace grpcfd {
namespace internal {
namespace {

// Older kernels do not know the command, and say EINVAL.
const RefusedCall kQuery = {SYS_fcntl, F_DUPFD_QUERY};
const RefusedCall kKcmp = {SYS_kcmp, {}};

class SameOpenFileTest : public ::testing::Test {
 protected:
  SameOpenFileTest() : first_(::eventfd(0, EFD_CLOEXEC)), second_(::eventfd(0, EFD_CLOEXEC)) {
    auto copy = BorrowedFd(first_).Dup();
    EXPECT_TRUE(copy.ok()) << copy.status();
    if (copy.ok()) copy_ = *std::move(copy);
  }

  // How many of the answers are wrong.
  int WrongAnswers() const {
    int wrong = 0;
    bool same = false;
    wrong += CompareOpenFiles(first_, first_, &same) != 0 || !same;
    wrong += CompareOpenFiles(first_, copy_, &same) != 0 || !same;
    wrong += CompareOpenFiles(copy_, first_, &same) != 0 || !same;
    wrong += CompareOpenFiles(first_, second_, &same) != 0 || same;
    wrong += CompareOpenFiles(first_, BorrowedFd(1000000), &same) != EBADF;
    wrong += CompareOpenFiles(BorrowedFd(1000000), first_, &same) != EBADF;
    wrong += CompareOpenFiles(BorrowedFd(-1), BorrowedFd(-1), &same) != EBADF;
    return wrong;
  }

  const UniqueFd first_;
  const UniqueFd second_;
  UniqueFd copy_;
};

TEST_F(SameOpenFileTest, TellsDuplicatesFromOthers) { EXPECT_EQ(WrongAnswers(), 0); }

TEST_F(SameOpenFileTest, DoesWithoutTheQuery) {
  EXPECT_EQ(RunRefusing({kQuery}, EINVAL, [this] { return WrongAnswers(); }), 0);
}

TEST_F(SameOpenFileTest, DoesWithoutKcmpWhereTheKernelHasTheQuery) {
  const bool has_query = ::fcntl(first_.get(), F_DUPFD_QUERY, first_.get()) == 1;
  for (const int error : {EPERM, ENOSYS}) {
    const int result = RunRefusing({kKcmp}, error, [&] {
      bool same = false;
      return CompareOpenFiles(first_, copy_, &same) == (has_query ? 0 : error) && same == has_query
                 ? 0
                 : 1;
    });
    EXPECT_EQ(result, 0) << "errno " << error;
  }
}

TEST_F(SameOpenFileTest, SaysWhyNobodyMayAsk) {
  for (const int error : {EPERM, ENOSYS}) {
    const int result = RunRefusing({kQuery, kKcmp}, error, [&] {
      bool same = false;
      return CompareOpenFiles(first_, copy_, &same) == error && !same ? 0 : 1;
    });
    EXPECT_EQ(result, 0) << "errno " << error;
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
