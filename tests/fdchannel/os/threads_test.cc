// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Threads that start, and those that the system does not give: peers can bring a server to start
// one, so a lack of them must not end it.
#include "fdchannel/os/threads.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "tests/fdchannel/session/fake_frame_socket.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr uid_t kSomebody = 54321;

FdVector One(UniqueFd fd) {
  FdVector fds;
  fds.push_back(std::move(fd));
  return fds;
}

// Runs `body` on a thread that cannot start others. The limit does not hold for root, so there the
// thread becomes somebody else: the kernel keeps ids per thread.
template <typename Body>
void WithoutThreads(const Body& body) {
  std::thread([&body] {
    if (::geteuid() == 0) {
      ASSERT_EQ(::syscall(SYS_setresuid, kSomebody, kSomebody, kSomebody), 0);
    }
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NPROC, &before), 0);
    rlimit none = before;
    none.rlim_cur = 0;
    ASSERT_EQ(::setrlimit(RLIMIT_NPROC, &none), 0);
    body();
    EXPECT_EQ(::setrlimit(RLIMIT_NPROC, &before), 0);
  }).join();
}

TEST(ThreadsTest, AThreadThatCannotStartLeavesNothingBehind) {
  WithoutThreads([] {
    sigset_t mine, before, after;
    sigemptyset(&mine);
    sigaddset(&mine, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &mine, nullptr);
    pthread_sigmask(SIG_SETMASK, nullptr, &before);
    const auto kept = std::make_shared<int>(0);
    std::thread thread = StartThread("test", [kept] { ADD_FAILURE() << "it ran"; });
    EXPECT_FALSE(thread.joinable());
    EXPECT_EQ(kept.use_count(), 1);
    pthread_sigmask(SIG_SETMASK, nullptr, &after);
    for (int signal = 1; signal < NSIG; ++signal) {
      EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal)) << signal;
    }
  });
}

TEST(ThreadsTest, APollerThatCannotStartSaysSo) {
  WithoutThreads([] {
    const auto poller = Poller::Start("poller-test");
    EXPECT_EQ(poller.status().code(), absl::StatusCode::kResourceExhausted) << poller.status();
  });
  const auto poller = Poller::Start("poller-test");
  ASSERT_TRUE(poller.ok()) << poller.status();
  Flush(poller->get());
}

// The caller may be a poller's thread, and the close may block.
TEST(ThreadsTest, WithoutAThreadNothingIsClosedHere) {
  Reaper reaper;
  std::vector<int> numbers, closed;
  WithoutThreads([&] {
    for (int i = 0; i < 2; ++i) {
      UniqueFd file = MakeFile("x");
      const int number = file.get();
      numbers.push_back(number);
      reaper.Close(One(std::move(file)), [&closed, number] {
        EXPECT_FALSE(IsOpen(number));
        closed.push_back(number);
      });
      EXPECT_TRUE(IsOpen(number));
    }
  });
  // From here on there is one, and what waited comes first.
  std::promise<std::thread::id> ran_on;
  reaper.Close({}, [&ran_on] { ran_on.set_value(std::this_thread::get_id()); });
  EXPECT_NE(ran_on.get_future().get(), std::this_thread::get_id());
  EXPECT_EQ(closed, numbers);
}

TEST(ThreadsTest, StopClosesWhatNoThreadDid) {
  Reaper reaper;
  UniqueFd file = MakeFile("x");
  const int number = file.get();
  WithoutThreads([&] { reaper.Close(One(std::move(file)), nullptr); });
  EXPECT_TRUE(IsOpen(number));
  reaper.Stop();
  EXPECT_FALSE(IsOpen(number));
}

// The caller may be a poller's thread, which a close that blocks would stop.
TEST(ThreadsTest, WhatNoThreadCanServeWaitsForTheNextJob) {
  const auto reaper = std::make_shared<Reaper>();
  std::promise<void> stuck, release, done;
  reaper->Lane(1)->Close({}, [&] {
    stuck.set_value();
    release.get_future().wait();
  });
  stuck.get_future().wait();
  UniqueFd file = MakeFile("x");
  const int number = file.get();
  WithoutThreads([&] { reaper->Lane(2)->Close(One(std::move(file)), nullptr); });
  EXPECT_TRUE(IsOpen(number));
  reaper->Lane(2)->Close({}, [&] {
    EXPECT_FALSE(IsOpen(number));
    done.set_value();
  });
  done.get_future().wait();
  release.set_value();
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
