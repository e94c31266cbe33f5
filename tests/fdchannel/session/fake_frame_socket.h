// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FakeFrameSocket: the socket of a Session with a test at the other end.
//
// Why it exists: a kernel's socket decides on its own when something arrives, is readable or full.
// Here the test does, so random schedules reach states that a real socket shows once in a million
// runs. Its fd() is a real socket that is readable and hung up whenever the fake is, so that a real
// Poller can watch it.
//
// It is not kinder than the kernel: it delivers batches, keeps what came before a hang-up, and
// forgets no Wake(). It fails the test when two threads read at once.
#ifndef GRPCFD_TESTS_FDCHANNEL_SESSION_FAKE_FRAME_SOCKET_H_
#define GRPCFD_TESTS_FDCHANNEL_SESSION_FAKE_FRAME_SOCKET_H_

#include <errno.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/frame.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {

// What a test and the socket of its session share: the test's end of the wire. Thread-safe.
class FakeWire {
 public:
  FakeWire() : ready_(MakePair(SOCK_STREAM | SOCK_NONBLOCK)) {}

  // --- The test's side ---

  // Delivers a frame with duplicates of `fds`.
  void Push(const Frame& frame, const std::vector<int>& fds = {}) {
    Message message;
    EncodeFrame(frame, &message.data);
    for (const int fd : fds) {
      message.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
      EXPECT_TRUE(message.fds.back().valid());
    }
    MutexLock lock(&mutex_);
    if (hung_up_ || shut_down_) return;
    queue_.push_back(std::move(message));
    if (queue_.size() == 1) MarkReadable();
    changed_.NotifyAll();
  }

  void PushData(const CallKey& call, uint32_t first_index, const std::vector<int>& fds) {
    Frame frame;
    frame.call = call;
    frame.first_index = first_index;
    frame.fd_count = static_cast<uint16_t>(fds.size());
    Push(frame, fds);
  }

  void PushCredit(uint64_t total) {
    Frame frame;
    frame.type = FrameType::kCredit;
    frame.credit_total = total;
    Push(frame);
  }

  void HangUp() {
    MutexLock lock(&mutex_);
    hung_up_ = true;
    ready_.b.Reset();
    changed_.NotifyAll();
  }

  // From now on there is always one more frame, an old CREDIT.
  void Flood() {
    MutexLock lock(&mutex_);
    flood_ = true;
    MarkReadable();
    changed_.NotifyAll();
  }

  // The next `n` sends find the socket full.
  void RefuseSends(int n) {
    MutexLock lock(&mutex_);
    refuse_ += n;
  }

  // All sends from now on fail so.
  void FailSends(int error) {
    MutexLock lock(&mutex_);
    send_error_ = error;
  }

  // Calls `then` on the thread of the next look, when that has found what it finds and has not
  // told the session yet.
  void AfterNextReceive(std::function<void()> then) {
    MutexLock lock(&mutex_);
    after_receive_ = std::move(then);
  }

  // Calls `then` on the thread of the next send, before that is done or refused.
  void BeforeNextSend(std::function<void()> then) {
    MutexLock lock(&mutex_);
    before_send_ = std::move(then);
  }

  // All frames that the session sent so far.
  std::vector<Frame> sent() const {
    MutexLock lock(&mutex_);
    return sent_;
  }
  uint64_t sent_fds() const {
    MutexLock lock(&mutex_);
    return sent_fds_;
  }
  // Blocks until the session has sent more descriptors than `fds` in all, or the deadline; returns
  // how many.
  uint64_t AwaitSentFds(uint64_t fds, absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (sent_fds_ <= fds) {
      if (!changed_.WaitUntil(&mutex_, deadline)) break;
    }
    return sent_fds_;
  }
  // Blocks until a thread is in Wait(). False at the deadline.
  bool AwaitWaiting(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (!waiting_) {
      if (!changed_.WaitUntil(&mutex_, deadline)) return waiting_;
    }
    return true;
  }
  int looks() const {
    MutexLock lock(&mutex_);
    return looks_;
  }

 private:
  friend class FakeFrameSocket;
  struct Message {
    FrameBuffer data;
    std::vector<UniqueFd> fds;
  };

  void MarkReadable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (marked_ || !ready_.b.valid()) return;
    EXPECT_EQ(::send(ready_.b.get(), "x", 1, MSG_NOSIGNAL), 1);
    marked_ = true;
  }
  void MarkEmpty() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    char ignored;
    if (marked_) {
      EXPECT_EQ(::recv(ready_.a.get(), &ignored, 1, MSG_DONTWAIT), 1);
    }
    marked_ = false;
  }

  mutable Mutex mutex_;
  CondVar changed_;
  SocketPair ready_;
  bool marked_ ABSL_GUARDED_BY(mutex_) = false;
  bool hung_up_ ABSL_GUARDED_BY(mutex_) = false;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  bool flood_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  int looks_ ABSL_GUARDED_BY(mutex_) = 0;
  int refuse_ ABSL_GUARDED_BY(mutex_) = 0;
  int send_error_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<void()> after_receive_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> before_send_ ABSL_GUARDED_BY(mutex_);
  std::deque<Message> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<Frame> sent_ ABSL_GUARDED_BY(mutex_);
  uint64_t sent_fds_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeFrameSocket final : public FrameSocket {
 public:
  explicit FakeFrameSocket(std::shared_ptr<FakeWire> wire) : wire_(std::move(wire)) {}

  IoResult Send(const FrameBuffer& frame, absl::Span<const int> fds) override {
    IoResult result;
    const auto decoded = DecodeFrame(frame);
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    MutexLock lock(&wire_->mutex_);
    if (auto then = std::exchange(wire_->before_send_, nullptr)) {
      lock.Unlock();
      then();
      lock.Lock();
    }
    if (wire_->hung_up_ || wire_->shut_down_) {
      result.error = EPIPE;
    } else if (wire_->send_error_ != 0) {
      result.error = wire_->send_error_;
    } else if (wire_->refuse_ > 0) {
      --wire_->refuse_;
      result.error = EAGAIN;
    } else {
      wire_->sent_.push_back(*decoded);
      wire_->sent_fds_ += fds.size();
      wire_->changed_.NotifyAll();
    }
    return result;
  }

  IoResult Receive(absl::Span<FrameBuffer> data, absl::Span<ReceivedMessage> messages,
                   size_t max_fds) override {
    const Alone alone(&reading_);
    const IoResult result = Look(data, messages, max_fds);
    std::function<void()> then;
    {
      MutexLock lock(&wire_->mutex_);
      then = std::exchange(wire_->after_receive_, nullptr);
    }
    if (then) then();
    return result;
  }

  void PrepareWait() override {
    MutexLock lock(&wire_->mutex_);
    prepared_ = true;
  }

  void Wait(bool want_write, absl::Time deadline) override {
    const Alone alone(&reading_);
    MutexLock lock(&wire_->mutex_);
    EXPECT_TRUE(std::exchange(prepared_, false)) << "Wait() without PrepareWait()";
    wire_->waiting_ = true;
    wire_->changed_.NotifyAll();
    while (!wire_->woken_ && wire_->queue_.empty() && !wire_->hung_up_ && !wire_->shut_down_ &&
           !wire_->flood_ && !want_write) {
      if (!wire_->changed_.WaitUntil(&wire_->mutex_, deadline)) break;
    }
    wire_->woken_ = false;
    wire_->waiting_ = false;
  }

  void Wake() override {
    MutexLock lock(&wire_->mutex_);
    wire_->woken_ = true;
    wire_->changed_.NotifyAll();
  }

  void ShutDown() override {
    MutexLock lock(&wire_->mutex_);
    wire_->shut_down_ = true;
    wire_->ready_.b.Reset();
    wire_->changed_.NotifyAll();
  }

  BorrowedFd fd() const override { return BorrowedFd(wire_->ready_.a); }

 private:
  IoResult Look(absl::Span<FrameBuffer> data, absl::Span<ReceivedMessage> messages,
                size_t max_fds) {
    IoResult result;
    MutexLock lock(&wire_->mutex_);
    ++wire_->looks_;
    while (result.bytes < messages.size() && !wire_->queue_.empty()) {
      FakeWire::Message& message = wire_->queue_.front();
      data[result.bytes] = message.data;
      messages[result.bytes].size = message.data.size();
      for (UniqueFd& fd : message.fds) {
        if (messages[result.bytes].fds.size() < max_fds) {
          messages[result.bytes].fds.push_back(std::move(fd));
        } else {
          messages[result.bytes].control_truncated = true;
        }
      }
      wire_->queue_.pop_front();
      ++result.bytes;
    }
    if (wire_->flood_ && !wire_->shut_down_) {
      Frame frame;
      frame.type = FrameType::kCredit;
      EncodeFrame(frame, &data[0]);
      messages[0].size = kFrameSize;
      result.bytes = std::max<size_t>(result.bytes, 1);
      return result;
    }
    if (wire_->queue_.empty()) wire_->MarkEmpty();
    if (result.bytes == 0) {
      if (wire_->hung_up_ || wire_->shut_down_) {
        result.bytes = 1;  // The end: one message of size 0.
      } else {
        result.error = EAGAIN;
      }
    }
    return result;
  }

  // Only the leader reads.
  class Alone {
   public:
    explicit Alone(std::atomic<int>* inside) : inside_(inside) {
      EXPECT_EQ(inside_->fetch_add(1), 0) << "two threads read the socket at once";
    }
    ~Alone() { inside_->fetch_sub(1); }

   private:
    std::atomic<int>* const inside_;
  };

  const std::shared_ptr<FakeWire> wire_;
  std::atomic<int> reading_{0};
  bool prepared_ = false;
};

// Counts what is charged and not released; optionally refuses above a limit.
class CountingQuota final : public DescriptorQuota {
 public:
  explicit CountingQuota(int64_t limit = 1 << 20) : limit_(limit) {}
  absl::Status Charge(size_t n) override {
    const int64_t now = held_.fetch_add(static_cast<int64_t>(n)) + static_cast<int64_t>(n);
    if (now <= limit_) return absl::OkStatus();
    held_.fetch_sub(static_cast<int64_t>(n));
    return absl::ResourceExhaustedError("test quota");
  }
  void Release(size_t n) override {
    EXPECT_GE(held_.fetch_sub(static_cast<int64_t>(n)), static_cast<int64_t>(n));
  }
  int64_t held() const { return held_; }

 private:
  const int64_t limit_;
  std::atomic<int64_t> held_{0};
};

// Returns once everything that was posted to `poller` before has run.
inline void Flush(Poller* poller) {
  Mutex mutex;
  CondVar ran;
  bool done = false;
  poller->Post([&] {
    MutexLock lock(&mutex);
    done = true;
    ran.NotifyAll();
  });
  MutexLock lock(&mutex);
  while (!done) ran.Wait(&mutex);
}

// Returns once everything that was given to `reaper` before is closed.
inline void Flush(Reaper* reaper) {
  Mutex mutex;
  CondVar ran;
  bool done = false;
  reaper->Close({}, [&] {
    MutexLock lock(&mutex);
    done = true;
    ran.NotifyAll();
  });
  MutexLock lock(&mutex);
  while (!done) ran.Wait(&mutex);
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SESSION_FAKE_FRAME_SOCKET_H_
