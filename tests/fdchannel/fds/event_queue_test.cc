// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/event_queue.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/testing/fake_fd_pair.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace {

using internal::Content;
using internal::IsCloseOnExec;
using internal::IsOpen;
using internal::MakeFile;
using internal::ScopedFdRoom;

std::unique_ptr<EventQueue> MakeQueue() {
  auto queue = EventQueue::Create();
  EXPECT_TRUE(queue.ok()) << queue.status();
  return *std::move(queue);
}

bool IsReadable(int fd, int timeout_ms = 0) {
  pollfd polled = {fd, POLLIN, 0};
  return ::poll(&polled, 1, timeout_ms) == 1;
}

// The argument of a wrapped callback, and how often it was called.
struct Log {
  std::vector<std::string> contents;
  std::vector<absl::StatusCode> errors;
  FdReceiver::FdCallback Callback() {
    return [this](absl::StatusOr<UniqueFd> fd) {
      if (fd.ok()) {
        contents.push_back(Content(*fd));
      } else {
        errors.push_back(fd.status().code());
      }
    };
  }
};

TEST(EventQueueTest, IsQuietUntilSomethingIsReady) {
  const auto queue = MakeQueue();
  EXPECT_TRUE(IsCloseOnExec(BorrowedFd(queue->fd())));
  EXPECT_NE(0, ::fcntl(queue->fd(), F_GETFL) & O_NONBLOCK);
  EXPECT_FALSE(IsReadable(queue->fd()));
  EXPECT_EQ(0u, queue->Process());
  Log log;
  const auto wrapped = queue->Wrap(log.Callback());
  EXPECT_FALSE(IsReadable(queue->fd()));
}

TEST(EventQueueTest, RunsWhatIsReadyInOrderOnTheThreadOfProcess) {
  const auto queue = MakeQueue();
  std::vector<std::thread::id> threads;
  Log log;
  const auto note = [&](absl::StatusOr<UniqueFd> fd) {
    threads.push_back(std::this_thread::get_id());
    log.Callback()(std::move(fd));
  };
  std::thread([&] {
    queue->Wrap(note)(MakeFile("first"));
    queue->Wrap(note)(absl::NotFoundError("second"));
    queue->Wrap(note)(MakeFile("third"));
  }).join();
  EXPECT_TRUE(log.contents.empty());
  EXPECT_TRUE(IsReadable(queue->fd()));
  EXPECT_EQ(3u, queue->Process());
  EXPECT_EQ((std::vector<std::string>{"first", "third"}), log.contents);
  EXPECT_EQ(std::vector<absl::StatusCode>{absl::StatusCode::kNotFound}, log.errors);
  EXPECT_EQ(std::vector<std::thread::id>(3, std::this_thread::get_id()), threads);
  EXPECT_FALSE(IsReadable(queue->fd()));
  EXPECT_EQ(0u, queue->Process());
}

TEST(EventQueueTest, LeavesWhatComesMeanwhileForTheNextCall) {
  const auto queue = MakeQueue();
  Log log;
  queue->Wrap([&](absl::StatusOr<UniqueFd>) { queue->Wrap(log.Callback())(MakeFile("later")); })(
      MakeFile("now"));
  EXPECT_EQ(1u, queue->Process());
  EXPECT_TRUE(log.contents.empty());
  EXPECT_TRUE(IsReadable(queue->fd()));
  EXPECT_EQ(1u, queue->Process());
  EXPECT_EQ(std::vector<std::string>{"later"}, log.contents);
}

TEST(EventQueueTest, WakesAnEdgeTriggeredLoopForWhatComesMeanwhile) {
  const auto queue = MakeQueue();
  const UniqueFd loop(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLET;
  ASSERT_EQ(0, ::epoll_ctl(loop.get(), EPOLL_CTL_ADD, queue->fd(), &event));
  Log log;
  queue->Wrap([&](absl::StatusOr<UniqueFd>) { queue->Wrap(log.Callback())(MakeFile("later")); })(
      MakeFile("now"));
  ASSERT_EQ(1, ::epoll_wait(loop.get(), &event, 1, 0));
  EXPECT_EQ(1u, queue->Process());
  ASSERT_EQ(1, ::epoll_wait(loop.get(), &event, 1, 0));
  EXPECT_EQ(1u, queue->Process());
  EXPECT_EQ(0, ::epoll_wait(loop.get(), &event, 1, 0));
  EXPECT_EQ(std::vector<std::string>{"later"}, log.contents);
}

TEST(EventQueueTest, AnExceptionPassesThroughAndTheRestIsKept) {
  const auto queue = MakeQueue();
  Log log;
  queue->Wrap([](absl::StatusOr<UniqueFd>) { throw std::runtime_error("thrown"); })(MakeFile("a"));
  queue->Wrap(log.Callback())(MakeFile("b"));
  EXPECT_THROW(queue->Process(), std::runtime_error);
  EXPECT_TRUE(IsReadable(queue->fd()));
  EXPECT_EQ(1u, queue->Process());
  EXPECT_EQ(std::vector<std::string>{"b"}, log.contents);
  EXPECT_FALSE(IsReadable(queue->fd()));
}

TEST(EventQueueTest, ClosesWhatWasNotProcessed) {
  auto queue = MakeQueue();
  Log log;
  const auto alive = std::make_shared<int>(0);
  UniqueFd ready = MakeFile("ready");
  UniqueFd late = MakeFile("late");
  const int ready_number = ready.get();
  const int late_number = late.get();
  const int queue_number = queue->fd();
  const auto callback = [alive, &log](absl::StatusOr<UniqueFd> fd) {
    log.Callback()(std::move(fd));
  };
  queue->Wrap(callback)(std::move(ready));
  FdReceiver::FdCallback outlives = queue->Wrap(callback);
  EXPECT_EQ(4, alive.use_count());
  queue.reset();
  EXPECT_FALSE(IsOpen(ready_number));
  EXPECT_FALSE(IsOpen(queue_number));
  outlives(std::move(late));
  EXPECT_FALSE(IsOpen(late_number));
  outlives = nullptr;
  EXPECT_EQ(2, alive.use_count());  // Ours, and that of `callback`.
  EXPECT_TRUE(log.contents.empty() && log.errors.empty());
}

TEST(EventQueueTest, ACallbackMayDestroyTheQueue) {
  auto queue = MakeQueue();
  Log log;
  EventQueue* const processed = queue.get();
  queue->Wrap([&](absl::StatusOr<UniqueFd>) { queue.reset(); })(MakeFile("a"));
  queue->Wrap(log.Callback())(MakeFile("b"));
  EXPECT_EQ(1u, processed->Process());
  EXPECT_TRUE(log.contents.empty());
}

TEST(EventQueueTest, SaysThatThereIsNoDescriptorToBeHad) {
  const ScopedFdRoom none(0);
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, EventQueue::Create().status().code());
}

TEST(EventQueueTest, BringsResultsOfManyThreadsToAPollLoop) {
  constexpr int kThreads = 4;
  constexpr int kEach = 200;
  const auto queue = MakeQueue();
  std::vector<int> seen(kThreads, 0);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const std::string content = absl::StrCat(t, ":", i);
        queue->Wrap([&, t, i, content](absl::StatusOr<UniqueFd> fd) {
          if (!fd.ok() || Content(*fd) != content || seen[t] != i) ++wrong;
          ++seen[t];
        })(MakeFile(content));
      }
    });
  }
  size_t processed = 0;
  while (processed < kThreads * kEach && IsReadable(queue->fd(), 20000)) {
    processed += queue->Process();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(static_cast<size_t>(kThreads * kEach), processed);
  EXPECT_EQ(std::vector<int>(kThreads, kEach), seen);
  EXPECT_EQ(0, wrong.load());
}

// A call's end, by way of the in-memory pair: the waiter is released on the loop's thread.
TEST(EventQueueTest, BringsWhatRecvFdAsyncFinds) {
  const auto queue = MakeQueue();
  Log log;
  {
    FakeFdPair call;
    const UniqueFd sent = MakeFile("sent");
    const auto url = call.client()->SendFd(sent);
    ASSERT_TRUE(url.ok());
    call.server()->RecvFdAsync(*url, absl::InfiniteFuture(), queue->Wrap(log.Callback()));
    call.server()->RecvFdAsync(InodeUrl(url->dev_ino(), 1), absl::InfiniteFuture(),
                               queue->Wrap(log.Callback()));
    EXPECT_TRUE(log.contents.empty());
    ASSERT_TRUE(IsReadable(queue->fd(), 20000));
    EXPECT_EQ(1u, queue->Process());
  }
  EXPECT_EQ(1u, queue->Process());
  EXPECT_EQ(std::vector<std::string>{"sent"}, log.contents);
  EXPECT_EQ(std::vector<absl::StatusCode>{absl::StatusCode::kFailedPrecondition}, log.errors);
}

}  // namespace
}  // namespace grpcfd
