// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Many restarts under load, and servers that are killed. The program is its own second process:
// `restarts_test --serve ADDRESS` serves until its stdin ends.
#include <dirent.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/interceptors/child.h"
#include "tests/interceptors/landing_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using internal::MonotonicTime;
using internal::MutexLock;
using testing_internal::Child;
using testing_internal::Exchange;
using testing_internal::LandingTest;
using testing_internal::Load;
using testing_internal::MakeChannel;
using testing_internal::PlainCall;
using testing_internal::Process;
using testing_internal::Style;

// The sanitizers find with a tenth what the plain build needs numbers for.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRestarts = 20;
#else
constexpr int kRestarts = 200;
#endif

constexpr int kThreads = 8;

int Serve(const std::string& address) {
  Process server("child", address);
  printf("ready\n");
  fflush(stdout);
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}

// How many of this process's descriptors are files that the calls pass around.
int CountPassed() {
  int count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(dir)) {
    char target[256] = {};
    if (readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1) < 0) continue;
    if (strstr(target, "memfd:grpcfd_test") != nullptr) ++count;
  }
  closedir(dir);
  return count;
}

// What gives no signal: descriptors are closed by a thread of their own.
bool Soon(const std::function<bool()>& holds) {
  const MonotonicTime limit = MonotonicTime::Now() + absl::Seconds(20);
  while (!holds()) {
    if (limit < MonotonicTime::Now()) return false;
    poll(nullptr, 0, 1);
  }
  return true;
}

class RestartsTest : public LandingTest {};

TEST_F(RestartsTest, ManyUnderLoadLoseAndSwapNothingAndLeaveNothingOpen) {
  const auto channel = MakeChannel(address_);
  auto server = std::make_unique<Process>("number 0", address_);
  Load load(channel, Style::kSync, /*wait_for_ready=*/false, kThreads);
  for (int i = 1; i <= kRestarts && !HasFailure(); ++i) {
    load.AwaitMore(8 * kThreads);
    const std::string beside = absl::StrCat(path_, ".", i);
    auto next = std::make_unique<Process>(absl::StrCat("number ", i), "unix:" + beside);
    ASSERT_EQ(rename(beside.c_str(), path_.c_str()), 0);
    server->Drain();
    server->AwaitDrained();
    const auto fds = GetFdServer(*server->server());
    EXPECT_TRUE(Soon([&] { return fds->Stats().fds_held_now == 0; })) << "server " << i - 1;
    EXPECT_GT(server->calls, 0);
    server = std::move(next);
  }
  load.AwaitMore(8 * kThreads);
  load.ExpectNoFailures();
  EXPECT_TRUE(Soon([&] { return GetFdChannel(*channel)->Stats().fds_held_now == 0; }));
  EXPECT_TRUE(Soon([] { return CountPassed() == 0; })) << CountPassed() << " are left";
}

// Calls of one kind, one after another, and for how long they fail.
class Watch {
 public:
  explicit Watch(std::function<std::string()> call)
      : thread_([this, call = std::move(call)] {
          while (!over_) {
            const std::string wrong = call();
            Note(wrong);
            if (!wrong.empty())
              poll(nullptr, 0, 1);  // As a client would: the other one is to run, too.
          }
        }) {}
  ~Watch() {
    over_ = true;
    thread_.join();
  }

  // From the first failure to the first success after the last one. Begins anew.
  absl::Duration AwaitOutage() {
    const MonotonicTime limit = MonotonicTime::Now() + absl::Seconds(60);
    MutexLock lock(&mutex_);
    while (failures_ == 0 || successes_ < 20) {
      if (changed_.WaitUntil(&mutex_, limit)) continue;
      ADD_FAILURE() << failures_ << " failures, then " << successes_
                    << " successes; the last: " << last_;
      break;
    }
    failures_ = 0;
    return back_ - first_;
  }

 private:
  void Note(const std::string& wrong) {
    const MonotonicTime now = MonotonicTime::Now();
    MutexLock lock(&mutex_);
    if (wrong.empty()) {
      if (successes_++ == 0) back_ = now;
    } else {
      if (failures_++ == 0) first_ = now;
      successes_ = 0;
      last_ = wrong;
      EXPECT_EQ(wrong.find("swapped"), std::string::npos) << wrong;
    }
    changed_.NotifyAll();
  }

  internal::Mutex mutex_;
  internal::CondVar changed_;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  int successes_ ABSL_GUARDED_BY(mutex_) = 0;  // Since the last failure.
  MonotonicTime first_ ABSL_GUARDED_BY(mutex_);
  MonotonicTime back_ ABSL_GUARDED_BY(mutex_);
  std::string last_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> over_{false};
  std::thread thread_;
};

// The server is killed, and its supervisor starts it again. Both kinds of calls go by one channel:
// gRPC connects again after a random time.
TEST_F(RestartsTest, AfterAKillCallsWithDescriptorsFailForNoLongerThanPlainOnesDo) {
  const auto start = [this] {
    auto child = std::make_unique<Child>(std::vector<std::string>{"--serve", address_});
    EXPECT_EQ(child->Line(), "ready");
    return child;
  };
  auto server = start();
  const auto channel = MakeChannel(address_);
  auto stub = test::TestService::NewStub(channel);
  ASSERT_EQ(Exchange(stub.get(), "first", false), "");
  std::atomic<int> number{0};
  Watch plain([&] { return PlainCall(stub.get(), false); });
  Watch with([&] { return Exchange(stub.get(), absl::StrCat("file ", number++), false); });
  std::vector<absl::Duration> longer;
  for (int i = 0; i < 7; ++i) {
    server->Kill();
    server = start();
    const absl::Duration without = plain.AwaitOutage();
    longer.push_back(with.AwaitOutage() - without);
  }
  std::sort(longer.begin(), longer.end());
  EXPECT_LE(longer[longer.size() / 2], absl::Milliseconds(50))
      << "from " << longer.front() << " to " << longer.back();
}

}  // namespace
}  // namespace grpcfd

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "--serve") == 0) return grpcfd::Serve(argv[2]);
  ::testing::InitGoogleMock(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests)) grpcfd::testing_internal::WarmUp();
  grpcfd::InstallFdLeakListener();
  return RUN_ALL_TESTS();
}
