// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/poller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/fdchannel/session/fake_frame_socket.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A gate that one thread waits at until another opens it.
class Gate {
 public:
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Pass() {
    const absl::Time limit = absl::Now() + absl::Seconds(20);
    MutexLock lock(&mutex_);
    while (!open_) {
      if (!changed_.WaitUntil(&mutex_, limit) && !open_) {
        ADD_FAILURE() << "nobody came";
        return;
      }
    }
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

UniqueFd Eventfd(unsigned int value) {
  return UniqueFd(::eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
}

class PollerTest : public ::testing::Test {
 protected:
  PollerTest() : poller_(*Poller::Start("poller-test")) {}
  // What is done between Hold() and Release() meets the poller's thread in one batch.
  void Hold() {
    auto held = std::make_shared<Gate>();
    release_ = std::make_shared<Gate>();
    poller_->Post([held, release = release_] {
      held->Open();
      release->Pass();
    });
    held->Pass();
  }
  void Release() { release_->Open(); }

  std::shared_ptr<Gate> release_;
  std::shared_ptr<Poller> poller_;
};

TEST_F(PollerTest, RunsTasksInTheirOrderOnOneThread) {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  for (int i = 0; i < 5; ++i) {
    poller_->Post([&, i] {
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
    });
  }
  Flush(poller_.get());
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(threads, ::testing::Each(threads[0]));
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST_F(PollerTest, CallsHandlersUntilTheyAreRemoved) {
  const UniqueFd fd = Eventfd(1);
  Gate seen;
  std::atomic<int> calls{0};
  const auto id = poller_->Add(fd, EPOLLIN | EPOLLONESHOT, [&](uint32_t events) {
    EXPECT_NE(events & EPOLLIN, 0u);
    ++calls;
    seen.Open();
  });
  ASSERT_TRUE(id.ok());
  seen.Pass();
  Flush(poller_.get());
  EXPECT_EQ(calls, 1) << "once only";
  Gate again;
  poller_->Post([&] { poller_->Modify(*id, EPOLLIN | EPOLLONESHOT); });
  // The event is there in the round after the one that armed it again; twice through is enough.
  Flush(poller_.get());
  Flush(poller_.get());
  Flush(poller_.get());
  EXPECT_EQ(calls, 2);
  poller_->Remove(*id);
  poller_->Modify(*id, EPOLLIN);  // Too late, and harmless.
  poller_->Remove(*id);
  Flush(poller_.get());
  Flush(poller_.get());
  EXPECT_EQ(calls, 2);
}

TEST_F(PollerTest, RefusesWhatCannotBePolled) {
  EXPECT_TRUE(absl::IsInvalidArgument(poller_->Add(BorrowedFd(-1), EPOLLIN, nullptr).status()));
  const UniqueFd file = MakeFile("x");
  EXPECT_TRUE(absl::IsInvalidArgument(poller_->Add(file, EPOLLIN, nullptr).status()));
}

// A number closed and opened again within a batch must not get its predecessor's events, nor its
// handler be called for them.
TEST_F(PollerTest, ADescriptorNumberUsedAgainWithinABatch) {
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> log;
    UniqueFd a = Eventfd(0), b = Eventfd(0), fresh;
    Poller::Id ids[2] = {0, 0};
    Poller::Id fresh_id = 0;
    // Whichever of the two is called first replaces the other by a descriptor of the same number
    // that has nothing to say.
    const auto replace = [&](int other) {
      log.push_back("old");
      UniqueFd& victim = other == 0 ? a : b;
      if (!victim.valid() || fresh.valid()) return;
      const int number = victim.get();
      poller_->Remove(ids[other]);
      UniqueFd silent = Eventfd(0);
      ASSERT_EQ(::dup3(silent.get(), number, O_CLOEXEC), number);
      fresh = std::move(victim);
      auto id = poller_->Add(fresh, EPOLLIN, [&](uint32_t) { log.push_back("fresh"); });
      ASSERT_TRUE(id.ok());
      fresh_id = *id;
    };
    Hold();
    ids[0] = *poller_->Add(a, EPOLLIN | EPOLLONESHOT, [&](uint32_t) { replace(1); });
    ids[1] = *poller_->Add(b, EPOLLIN | EPOLLONESHOT, [&](uint32_t) { replace(0); });
    const uint64_t one = 1;
    ASSERT_EQ(::write(a.get(), &one, sizeof(one)), 8);
    ASSERT_EQ(::write(b.get(), &one, sizeof(one)), 8);
    Release();
    for (int i = 0; i < 3; ++i) Flush(poller_.get());
    EXPECT_THAT(log, ElementsAre("old"));
    poller_->Remove(ids[0]);
    poller_->Remove(ids[1]);
    poller_->Remove(fresh_id);
    Flush(poller_.get());
  }
}

TEST_F(PollerTest, RunsTimersByTheirTimeAndNotBefore) {
  std::vector<int> order;
  Gate last;
  const MonotonicTime now = MonotonicTime::Now();
  Hold();
  poller_->RunAt(now + absl::Milliseconds(3), [&] {
    order.push_back(3);
    EXPECT_GE(MonotonicTime::Now() - now, absl::Milliseconds(3));
    last.Open();
  });
  poller_->RunAt(now + absl::Milliseconds(1), [&] { order.push_back(1); });
  poller_->RunAt(now + absl::Milliseconds(2), [&] { order.push_back(2); });
  poller_->RunAt(now + absl::Milliseconds(1), [&] { order.push_back(11); });
  Release();
  last.Pass();
  EXPECT_THAT(order, ElementsAre(1, 11, 2, 3));
}

TEST_F(PollerTest, AnEarlierTimerShortensTheWait) {
  Gate ran;
  poller_->RunAt(absl::Now() + absl::Hours(1), [] { ADD_FAILURE() << "an hour has passed"; });
  Flush(poller_.get());
  poller_->RunAt(absl::Now() + absl::Milliseconds(2), [&] { ran.Open(); });
  ran.Pass();
}

TEST_F(PollerTest, ATimerMayCancelTheNextOfItsBatch) {
  std::vector<int> order;
  Hold();
  Poller::Id second = 0;
  poller_->RunAt(absl::InfinitePast(), [&] {
    order.push_back(1);
    poller_->CancelTimer(second);
  });
  second = poller_->RunAt(absl::UnixEpoch(), [&] { order.push_back(2); });
  const Poller::Id third = poller_->RunAt(absl::UnixEpoch(), [&] { order.push_back(3); });
  Release();
  Flush(poller_.get());
  Flush(poller_.get());
  EXPECT_THAT(order, ElementsAre(1, 3));
  poller_->CancelTimer(third);  // Ran already.
  poller_->CancelTimer(0);
}

TEST_F(PollerTest, ATimerThatSetsAnotherDoesNotKeepTheRestWaiting) {
  std::atomic<bool> stop{false};
  std::function<void()> again = [&] {
    if (!stop) poller_->RunAt(absl::InfinitePast(), again);
  };
  again();
  Flush(poller_.get());
  Flush(poller_.get());
  stop = true;
  Flush(poller_.get());
  Flush(poller_.get());
}

TEST_F(PollerTest, StopRunsWhatWasPostedAndDropsTimersAndHandlers) {
  int tasks = 0;
  const auto alive = std::make_shared<int>(0);
  const UniqueFd fd = Eventfd(0);
  Hold();
  ASSERT_TRUE(poller_->Add(fd, EPOLLIN, [alive](uint32_t) {}).ok());
  poller_->RunAt(absl::Now() + absl::Hours(1), [alive] {});
  poller_->Post([&] {
    ++tasks;
    poller_->Post([&] { ++tasks; });
  });
  Release();
  poller_->Stop();
  poller_->Stop();
  EXPECT_EQ(tasks, 2);
  EXPECT_EQ(alive.use_count(), 1);
}

TEST_F(PollerTest, AfterStopTheCallersThreadRunsTasks) {
  poller_->Stop();
  std::thread::id ran_on;
  poller_->Post([&] { ran_on = std::this_thread::get_id(); });
  EXPECT_EQ(ran_on, std::this_thread::get_id());
  const auto alive = std::make_shared<int>(0);
  poller_->RunAt(absl::InfinitePast(), [alive] { ADD_FAILURE() << "a timer after Stop"; });
  EXPECT_EQ(alive.use_count(), 1) << "dropped";
}

TEST_F(PollerTest, MayBeStoppedAndDestroyedOnItsOwnThread) {
  Gate done;
  std::shared_ptr<Poller> poller = std::move(poller_);
  Poller* const raw = poller.get();
  raw->Post([&done, poller = std::move(poller)]() mutable {
    poller->Stop();
    poller.reset();
    done.Open();
  });
  done.Pass();
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
