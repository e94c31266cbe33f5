// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/reaper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "fdchannel/poller.h"
#include "tests/fdchannel/fake_frame_socket.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr std::chrono::seconds kLong(20);

FdVector One(UniqueFd fd) {
  FdVector fds;
  fds.push_back(std::move(fd));
  return fds;
}

TEST(ReaperTest, ClosesOnAThreadOfItsOwnThenReports) {
  Reaper reaper;
  UniqueFd file = MakeFile("x");
  const int number = file.get();
  std::promise<std::thread::id> closed;
  reaper.Close(One(std::move(file)), [&] {
    EXPECT_FALSE(IsOpen(number));
    closed.set_value(std::this_thread::get_id());
  });
  auto thread = closed.get_future();
  ASSERT_EQ(thread.wait_for(kLong), std::future_status::ready);
  EXPECT_NE(thread.get(), std::this_thread::get_id());
}

TEST(ReaperTest, DoesTheJobsInTheirOrder) {
  Reaper reaper;
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) {
    reaper.Close(One(MakeFile("x")), [&order, i] { order.push_back(i); });
  }
  reaper.Close({}, nullptr);
  reaper.Stop();
  EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2, 3, 4));
}

// close(2) itself can block (FUSE); what runs after it on the same thread can too, and stands for
// it here.
TEST(ReaperTest, AJobThatBlocksDelaysNobodyWhoHandsOneOver) {
  Reaper reaper;
  auto poller = *Poller::Start("reaper-test");
  std::promise<void> stuck, release, done;
  reaper.Close(One(MakeFile("x")), [&] {
    stuck.set_value();
    release.get_future().wait();
  });
  ASSERT_EQ(stuck.get_future().wait_for(kLong), std::future_status::ready);
  // While it is stuck, both this thread and a poller's pass on.
  UniqueFd file = MakeFile("y");
  const int number = file.get();
  reaper.Close(One(std::move(file)), [&] { done.set_value(); });
  poller->Post([&] { reaper.Close(One(MakeFile("z")), nullptr); });
  Flush(poller.get());
  EXPECT_TRUE(IsOpen(number));
  release.set_value();
  EXPECT_EQ(done.get_future().wait_for(kLong), std::future_status::ready);
  EXPECT_FALSE(IsOpen(number));
  poller->Stop();
}

TEST(ReaperTest, AfterStopTheCallersThreadCloses) {
  Reaper reaper;
  reaper.Stop();
  reaper.Stop();
  UniqueFd file = MakeFile("x");
  const int number = file.get();
  std::thread::id ran_on;
  reaper.Close(One(std::move(file)), [&] {
    EXPECT_FALSE(IsOpen(number));
    ran_on = std::this_thread::get_id();
  });
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST(ReaperTest, MayBeStoppedAndDestroyedOnItsOwnThread) {
  auto reaper = std::make_shared<Reaper>();
  std::promise<void> done;
  UniqueFd file = MakeFile("x");
  const int number = file.get();
  Reaper* const raw = reaper.get();
  // The last reference is the job's own, and a job is queued behind it.
  std::promise<void> queued;
  raw->Close({}, [&queued, reaper = std::move(reaper)]() mutable {
    queued.get_future().wait();
    reaper->Stop();
    reaper.reset();
  });
  raw->Close(One(std::move(file)), [&] { done.set_value(); });
  queued.set_value();
  ASSERT_EQ(done.get_future().wait_for(kLong), std::future_status::ready);
  EXPECT_FALSE(IsOpen(number));
}

// Drops a reference, and tells when that has returned.
template <typename T>
class LastReference {
 public:
  explicit LastReference(std::shared_ptr<T> object) : object_(std::move(object)) {}
  ~LastReference() {
    object_.reset();
    dropped_.set_value();
  }
  LastReference(const LastReference&) = delete;
  LastReference& operator=(const LastReference&) = delete;
  std::future<void> dropped() { return dropped_.get_future(); }

 private:
  std::shared_ptr<T> object_;
  std::promise<void> dropped_;
};

// What is closed for a session may keep the session, and with it the poller; what lingers at a
// poller keeps the reaper that is to close it. Each thread may come to drop the other's object.
TEST(ReaperTest, TwoThreadsThatDropEachOthersObjectsDoNotWaitForEachOther) {
  auto poller = *Poller::Start("reaper-test");
  auto reaper = std::make_shared<Reaper>();
  // Both threads are at work, and nobody else has the objects any more.
  std::promise<void> only_they;
  const std::shared_future<void> ready = only_they.get_future().share();
  std::promise<void> in_poller;
  std::promise<void> in_reaper;
  auto of_poller = std::make_shared<LastReference<Poller>>(poller);
  auto of_reaper = std::make_shared<LastReference<Reaper>>(reaper);
  auto poller_dropped = of_poller->dropped();
  auto reaper_dropped = of_reaper->dropped();
  poller->Post([of_reaper = std::move(of_reaper), ready, &in_poller] {
    in_poller.set_value();
    ready.wait();
  });
  reaper->Close({}, [of_poller = std::move(of_poller), ready, &in_reaper] {
    in_reaper.set_value();
    ready.wait();
  });
  in_poller.get_future().wait();
  in_reaper.get_future().wait();
  poller.reset();
  reaper.reset();
  only_they.set_value();
  EXPECT_EQ(poller_dropped.wait_for(kLong), std::future_status::ready);
  EXPECT_EQ(reaper_dropped.wait_for(kLong), std::future_status::ready);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
