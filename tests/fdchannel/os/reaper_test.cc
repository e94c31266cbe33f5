// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/reaper.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fdchannel/os/poller.h"
#include "fdchannel/server/quota.h"
#include "fdchannel/session/session.h"
#include "tests/fdchannel/session/fake_frame_socket.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr std::chrono::seconds kLong(20);
constexpr uid_t kAlice = 1000;
constexpr uid_t kBob = 2000;

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

// --- Lanes ---

// A job that blocks, as a close does that waits for the descriptor's sender.
class Blocked {
 public:
  explicit Blocked(Reaper* reaper) {
    std::promise<void> stuck;
    reaper->Close(One(MakeFile("x")), [&stuck, released = release_.get_future().share()] {
      stuck.set_value();
      released.wait();
    });
    EXPECT_EQ(stuck.get_future().wait_for(kLong), std::future_status::ready);
  }
  ~Blocked() { Release(); }
  Blocked(const Blocked&) = delete;
  Blocked& operator=(const Blocked&) = delete;
  void Release() {
    if (!std::exchange(released_, true)) release_.set_value();
  }

 private:
  std::promise<void> release_;
  bool released_ = false;
};

// Whether what is handed over now is closed, and with it all before.
bool Closes(Reaper* reaper) {
  const auto done = std::make_shared<std::promise<void>>();
  reaper->Close({}, [done] { done->set_value(); });
  return done->get_future().wait_for(kLong) == std::future_status::ready;
}

size_t ReaperThreads() {
  size_t count = 0;
  DIR* const dir = ::opendir("/proc/self/task");
  EXPECT_NE(dir, nullptr);
  while (const dirent* entry = ::readdir(dir)) {
    std::ifstream comm("/proc/self/task/" + std::string(entry->d_name) + "/comm");
    std::string name;
    if (std::getline(comm, name) && name == "grpcfd-reaper") ++count;
  }
  ::closedir(dir);
  return count;
}

bool ReaperThreadsBecome(size_t count) {
  const auto limit = std::chrono::steady_clock::now() + kLong;
  while (ReaperThreads() != count) {
    if (std::chrono::steady_clock::now() > limit) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
}

TEST(ReaperTest, ALaneThatBlocksHoldsUpNoOther) {
  const auto reaper = std::make_shared<Reaper>();
  Blocked blocked(reaper->Lane(kAlice).get());
  UniqueFd file = MakeFile("y");
  const int number = file.get();
  // Any lane of that user is the same one.
  reaper->Lane(kAlice)->Close(One(std::move(file)), nullptr);
  EXPECT_TRUE(Closes(reaper->Lane(kBob).get()));
  EXPECT_TRUE(Closes(reaper.get()));
  EXPECT_TRUE(IsOpen(number));
  blocked.Release();
  EXPECT_TRUE(Closes(reaper->Lane(kAlice).get()));
  EXPECT_FALSE(IsOpen(number));
}

TEST(ReaperTest, ALaneKeepsItsOrderWhateverThreadsServeIt) {
  const auto reaper = std::make_shared<Reaper>();
  Blocked blocked(reaper->Lane(kAlice).get());
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) {
    reaper->Lane(kAlice)->Close({}, [&order, i] { order.push_back(i); });
    EXPECT_TRUE(Closes(reaper->Lane(kBob).get()));
  }
  blocked.Release();
  reaper->Stop();
  EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2, 3, 4));
}

TEST(ReaperTest, ThereAreThreadsForTheLanesThatBlockAndOneMore) {
  ASSERT_TRUE(ReaperThreadsBecome(0));  // Of other tests.
  const auto reaper = std::make_shared<Reaper>();
  for (uid_t uid = 0; uid < 50; ++uid) EXPECT_TRUE(Closes(reaper->Lane(uid).get()));
  EXPECT_TRUE(ReaperThreadsBecome(1));
  {
    std::vector<std::unique_ptr<Blocked>> blocked;
    for (uid_t uid = 0; uid < 4; ++uid) {
      blocked.push_back(std::make_unique<Blocked>(reaper->Lane(uid).get()));
      // More in the same lane needs no more threads.
      reaper->Lane(uid)->Close(One(MakeFile("x")), nullptr);
    }
    EXPECT_EQ(ReaperThreads(), 4u);
    EXPECT_TRUE(Closes(reaper.get()));
    EXPECT_EQ(ReaperThreads(), 5u);
  }
  EXPECT_TRUE(ReaperThreadsBecome(1));
  EXPECT_TRUE(Closes(reaper.get()));
}

TEST(ReaperTest, ABurstNeedsOneThread) {
  ASSERT_TRUE(ReaperThreadsBecome(0));  // Of other tests.
  const auto reaper = std::make_shared<Reaper>();
  // Before the first thread runs, as a rule.
  for (int i = 0; i < 100; ++i) reaper->Lane(kAlice)->Close(One(MakeFile("x")), nullptr);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Closes(reaper->Lane(kAlice).get()));
  EXPECT_EQ(ReaperThreads(), 1u);
}

TEST(ReaperTest, StopClosesWhatIsInAllLanes) {
  const auto reaper = std::make_shared<Reaper>();
  Blocked blocked(reaper->Lane(kAlice).get());
  std::vector<int> numbers;
  for (const uid_t uid : {kAlice, kBob, Reaper::kNoUser}) {
    UniqueFd file = MakeFile("x");
    numbers.push_back(file.get());
    reaper->Lane(uid)->Close(One(std::move(file)), nullptr);
  }
  auto stopped = std::async(std::launch::async, [&reaper] { reaper->Stop(); });
  EXPECT_EQ(stopped.wait_for(std::chrono::milliseconds(0)), std::future_status::timeout);
  blocked.Release();
  ASSERT_EQ(stopped.wait_for(kLong), std::future_status::ready);
  for (const int number : numbers) EXPECT_FALSE(IsOpen(number));
}

// Else a user who keeps the reaper busy would deny sessions to all.
TEST(ReaperTest, SessionsOfAUserEndWhileAnothersCloseBlocks) {
  const auto reaper = std::make_shared<Reaper>();
  Blocked blocked(reaper->Lane(kAlice).get());
  ServerLimits limits;
  limits.max_sessions_per_uid = 3;
  const auto ledger = std::make_shared<QuotaLedger>(*ResolveLimits(limits, 1024));
  for (uint32_t i = 0; i <= limits.max_sessions_per_uid; ++i) {
    auto account = ledger->OpenSession(kBob);
    ASSERT_TRUE(account.ok()) << account.status();
    auto sockets = MakeSessionSockets();
    ASSERT_TRUE(sockets.ok()) << sockets.status();
    Session::Config config;
    config.local.max_fds_per_call = 16;
    config.local.window = 64;
    config.remote = config.local;
    config.uid = kBob;
    config.reaper = reaper->Lane(kBob);
    config.quota = *std::move(account);
    auto session = Session::Create(std::make_unique<SeqpacketSocket>(std::move(sockets->first)),
                                   std::move(config), nullptr);
    // One descriptor that nobody takes, and one that nobody reads: both ways to the reaper.
    Frame frame;
    frame.type = FrameType::kData;
    frame.fd_count = 1;
    FrameBuffer buffer;
    const UniqueFd file = MakeFile("y");
    const int number = file.get();
    for (frame.call.id = 1; frame.call.id <= 2; ++frame.call.id) {
      EncodeFrame(frame, &buffer);
      ASSERT_TRUE(SendMessage(sockets->second, buffer, absl::MakeConstSpan(&number, 1)).ok());
      if (frame.call.id == 1) session->Sweep();
    }
    EXPECT_EQ(session->held(), 1u);
    session->Kill(CloseCode::kShutdown, absl::UnavailableError("test"));
    // All is read but what the session said last.
    sockets->second.Reset();
    session.reset();
    ASSERT_TRUE(Closes(reaper->Lane(kBob).get()));
    ASSERT_TRUE(Closes(reaper->Lane(kBob).get()));  // The first one's jobs may have added some.
    EXPECT_EQ(ledger->sessions(), 0u);
    EXPECT_EQ(ledger->held_total(), 0u);
  }
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
