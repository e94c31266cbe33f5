// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A checker that finds nothing is worse than none, so most tests here make it fail. The descriptors
// are in static variables: EXPECT_NONFATAL_FAILURE runs its statement where it cannot see local
// ones.
#include "grpcfd/testing/fd_leak_checker.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

UniqueFd OpenMemory(const char* name) { return UniqueFd(::memfd_create(name, MFD_CLOEXEC)); }

// Runs `statement` and returns the messages of the failures it added to the current test, which
// does not fail by them.
template <typename Statement>
std::vector<std::string> FailuresOf(const Statement& statement) {
  ::testing::TestPartResultArray results;
  {
    const ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    statement();
  }
  std::vector<std::string> messages;
  for (int i = 0; i < results.size(); ++i) {
    messages.push_back(results.GetTestPartResult(i).message());
  }
  return messages;
}

TEST(FdLeakCheckerTest, CleanTestPasses) {
  FdLeakChecker checker;
  { const UniqueFd memory = OpenMemory("closed again"); }
  EXPECT_TRUE(checker.Check());
}

TEST(FdLeakCheckerTest, DestructorFailsOnALeak) {
  static UniqueFd leaked;
  EXPECT_NONFATAL_FAILURE(
      {
        const FdLeakChecker checker;
        leaked = OpenMemory("leaked");
      },
      "memfd:leaked");
  leaked.Reset();
}

TEST(FdLeakCheckerTest, DestructorFailsOnAMissingDescriptor) {
  static UniqueFd missing;
  missing = OpenMemory("missing");
  EXPECT_NONFATAL_FAILURE(
      {
        const FdLeakChecker checker;
        missing.Reset();
      },
      "memfd:missing");
}

TEST(FdLeakCheckerTest, NamesEveryDescriptorWithNumberAndTarget) {
  UniqueFd missing = OpenMemory("the missing one");
  const std::string missing_line =
      absl::StrCat("\n  ", missing.get(), " -> /memfd:the missing one");
  std::vector<UniqueFd> opened;
  bool clean = true;
  const std::vector<std::string> failures = FailuresOf([&] {
    FdLeakChecker checker;
    opened.push_back(OpenMemory("first"));
    opened.push_back(UniqueFd(::eventfd(0, EFD_CLOEXEC)));
    missing.Reset();
    clean = checker.Check();
  });
  EXPECT_FALSE(clean);
  ASSERT_EQ(failures.size(), 1u) << "one failure, and not another one by the destructor";
  EXPECT_THAT(failures[0],
              AllOf(HasSubstr(absl::StrCat("\n  ", opened[0].get(), " -> /memfd:first")),
                    HasSubstr(absl::StrCat("\n  ", opened[1].get(), " -> anon_inode:[eventfd]")),
                    HasSubstr("(leaked)"), HasSubstr("(missing)"), HasSubstr(missing_line)));
}

// Closed and opened again: the count is right, the number is right, the file is not.
TEST(FdLeakCheckerTest, FailsWhenANumberIsAnotherFile) {
  UniqueFd fd = OpenMemory("before");
  const int number = fd.get();
  const std::vector<std::string> failures = FailuresOf([&] {
    FdLeakChecker checker;
    fd.Reset();
    fd = OpenMemory("after");
    checker.Check();
  });
  ASSERT_EQ(fd.get(), number);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_THAT(failures[0], AllOf(HasSubstr("memfd:before"), HasSubstr("memfd:after")));
}

TEST(FdLeakCheckerTest, FailsWhenAnAnonymousInodeIsOfAnotherKind) {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
  const std::vector<std::string> failures = FailuresOf([&] {
    FdLeakChecker checker;
    fd.Reset();
    fd = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    checker.Check();
  });
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_THAT(failures[0], AllOf(HasSubstr("[eventfd]"), HasSubstr("[timerfd]")));
}

TEST(FdLeakCheckerTest, UnlinkingAnOpenFileIsNoChange) {
  std::string path = ::testing::TempDir() + "/fd_leak_checker_test.XXXXXX";
  const UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  FdLeakChecker checker;
  ASSERT_EQ(::unlink(path.c_str()), 0);
  EXPECT_TRUE(checker.Check());
}

TEST(FdLeakCheckerTest, WaitUntilCleanWaitsForAnotherThread) {
  UniqueFd fd;
  FdLeakChecker checker;
  fd = OpenMemory("closed later");
  const absl::Time start = absl::Now();
  constexpr absl::Duration kDelay = absl::Milliseconds(30);
  // The delay is what is tested, a close that comes late; nothing depends on its length.
  std::thread closer([&] {
    absl::SleepFor(kDelay);
    fd.Reset();
  });
  EXPECT_TRUE(checker.WaitUntilClean(absl::Seconds(60)));
  EXPECT_GE(absl::Now() - start, kDelay);
  closer.join();
}

TEST(FdLeakCheckerTest, WaitUntilCleanFailsAtTheTimeout) {
  UniqueFd leaked;
  bool clean = true;
  const absl::Time start = absl::Now();
  const std::vector<std::string> failures = FailuresOf([&] {
    FdLeakChecker checker;
    leaked = OpenMemory("leaked for good");
    clean = checker.WaitUntilClean(absl::Milliseconds(20));
  });
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(20));
  EXPECT_FALSE(clean);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_THAT(failures[0], HasSubstr("memfd:leaked for good"));
}

TEST(FdLeakCheckerTest, WaitUntilCleanReturnsAtOnceIfClean) {
  FdLeakChecker checker;
  EXPECT_TRUE(checker.WaitUntilClean(absl::ZeroDuration()));
  FdLeakChecker patient;
  const absl::Time start = absl::Now();
  EXPECT_TRUE(patient.WaitUntilClean(absl::Hours(1)));
  EXPECT_LT(absl::Now() - start, absl::Minutes(1));
}

// ----- The listener -----

TEST(FdLeakListenerTest, ChecksFromStartToEndOfATest) {
  const ::testing::TestInfo& test = *::testing::UnitTest::GetInstance()->current_test_info();
  FdLeakListener listener(absl::Milliseconds(1));
  UniqueFd leaked;
  const std::vector<std::string> failures = FailuresOf([&] {
    listener.OnTestStart(test);
    leaked = OpenMemory("leaked by a test");
    listener.OnTestEnd(test);
    // The next test starts afresh, and is not blamed.
    listener.OnTestStart(test);
    listener.OnTestEnd(test);
    // An end without a start, as when it is installed in the middle of a test.
    listener.OnTestEnd(test);
  });
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_THAT(failures[0], HasSubstr("memfd:leaked by a test"));
}

TEST(FdLeakListenerTest, InstallsItself) {
  FdLeakListener* const listener = InstallFdLeakListener(absl::Milliseconds(1));
  ASSERT_NE(listener, nullptr);
  // Found among the listeners of the binary, and owned by the test from here on.
  const std::unique_ptr<::testing::TestEventListener> released(
      ::testing::UnitTest::GetInstance()->listeners().Release(listener));
  EXPECT_EQ(released.get(), listener);
}

// ----- Counting -----

TEST(CountOpenFdsTest, CountsOwnDescriptors) {
  const size_t before = CountOpenFds();
  {
    const UniqueFd one = OpenMemory("one");
    const UniqueFd two = OpenMemory("two");
    EXPECT_EQ(CountOpenFds(), before + 2);
    EXPECT_EQ(*CountOpenFds(::getpid()), before + 2);
  }
  EXPECT_EQ(CountOpenFds(), before);
}

TEST(CountOpenFdsTest, CountsAtTheLimitOfDescriptors) {
  const size_t before = CountOpenFds();
  struct rlimit limit;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  struct rlimit low = limit;
  low.rlim_cur = 64;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<UniqueFd> fill;
  while (true) {
    UniqueFd fd = OpenMemory("fill");
    if (!fd.valid()) break;
    fill.push_back(std::move(fd));
  }
  const size_t full = CountOpenFds();
  const size_t filled = fill.size();
  fill.clear();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_GT(filled, 0u);
  EXPECT_EQ(full, before + filled);
}

TEST(CountOpenFdsTest, CountsDescriptorsOfAnotherProcess) {
  int ready[2];
  int stop[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(stop, O_CLOEXEC), 0);
  const UniqueFd ready_reader(ready[0]);
  UniqueFd ready_writer(ready[1]);
  UniqueFd stop_reader(stop[0]);
  UniqueFd stop_writer(stop[1]);
  const size_t before = CountOpenFds();
  const pid_t pid = ::fork();
  if (pid == 0) {
    stop_writer.Reset();
    const UniqueFd one = OpenMemory("one");
    const UniqueFd two = OpenMemory("two");
    char byte = 0;
    if (::write(ready_writer.get(), &byte, 1) != 1) ::_exit(1);
    ::_exit(::read(stop_reader.get(), &byte, 1) == 0 ? 0 : 1);
  }
  ASSERT_GT(pid, 0);
  char byte;
  ASSERT_EQ(::read(ready_reader.get(), &byte, 1), 1);
  const absl::StatusOr<size_t> count = CountOpenFds(pid);
  stop_writer.Reset();
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  ASSERT_TRUE(count.ok()) << count.status();
  EXPECT_EQ(*count, before - 1 + 2);
  // No process any more.
  EXPECT_EQ(CountOpenFds(pid).status().code(), absl::StatusCode::kNotFound);
}

TEST(CountOpenFdsTest, ImpossibleProcessIsInvalid) {
  EXPECT_EQ(CountOpenFds(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CountOpenFds(-1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace grpcfd
