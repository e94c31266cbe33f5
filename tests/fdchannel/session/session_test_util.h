// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of Session share: a session over a real socket, with another session or the test
// at the other end; calls; and the outcome of what is asynchronous.
#ifndef GRPCFD_TESTS_FDCHANNEL_SESSION_SESSION_TEST_UTIL_H_
#define GRPCFD_TESTS_FDCHANNEL_SESSION_SESSION_TEST_UTIL_H_

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "fdchannel/session/session.h"
#include "grpcfd/testing/inode_holders.h"
#include "tests/fdchannel/session/fake_frame_socket.h"

namespace grpcfd {
namespace internal {

// Nothing here takes that long unless it hangs.
inline constexpr absl::Duration kLong = absl::Seconds(20);

inline InodeUrl Url(BorrowedFd fd, uint32_t index) { return InodeUrl(*FdToDevIno(fd), index); }
inline InodeUrl UrlWithoutIndex(BorrowedFd fd) { return InodeUrl(*FdToDevIno(fd)); }

inline WaitOptions Within(absl::Duration duration) {
  WaitOptions options;
  options.deadline = absl::Now() + duration;
  return options;
}

// How often this process has the file open. It has an inode of its own.
inline size_t Holders(BorrowedFd file) {
  auto count = CountHolders(*FdToDevIno(file), {::getpid()});
  EXPECT_TRUE(count.ok()) << count.status();
  return count.ok() ? *count : 0;
}

template <typename Condition>
bool Eventually(const Condition& condition) {
  const absl::Time limit = absl::Now() + kLong;
  while (!condition()) {
    if (absl::Now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

// The outcome of something asynchronous. Thread-safe.
template <typename T>
class Outcome {
 public:
  std::function<void(T)> Setter() {
    return [this](T value) {
      MutexLock lock(&mutex_);
      EXPECT_FALSE(value_.has_value()) << "called twice";
      value_ = std::move(value);
      changed_.NotifyAll();
    };
  }
  bool ready() {
    MutexLock lock(&mutex_);
    return value_.has_value();
  }
  T Get() {
    const absl::Time limit = absl::Now() + kLong;
    MutexLock lock(&mutex_);
    while (!value_.has_value()) {
      if (!changed_.WaitUntil(&mutex_, limit) && !value_.has_value()) {
        ADD_FAILURE() << "never called";
        return absl::UnknownError("never called");
      }
    }
    return std::move(*value_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::optional<T> value_ ABSL_GUARDED_BY(mutex_);
};

// A call of a session, ended with its scope.
class Call {
 public:
  Call(std::shared_ptr<Session> session, uint64_t id, uint32_t announced, bool open_ended = false,
       uint32_t holes = 0)
      : session_(std::move(session)), inbox_(CallKey{id, 0}) {
    session_->Attach(&inbox_, announced, open_ended, holes);
  }
  ~Call() { End(); }
  void End(bool sent = false) { session_->End(&inbox_, sent); }
  DescriptorInbox* inbox() { return &inbox_; }

  absl::StatusOr<UniqueFd> Take(const InodeUrl& url, const WaitOptions& options = Within(kLong)) {
    return session_->Receive(&inbox_, url, Session::Op::kTake, options);
  }
  absl::StatusOr<UniqueFd> Dup(const InodeUrl& url) {
    return session_->Receive(&inbox_, url, Session::Op::kDup, Within(kLong));
  }

 private:
  const std::shared_ptr<Session> session_;
  DescriptorInbox inbox_;
};

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() : poller_(*Poller::Start("session-test")), reaper_(std::make_shared<Reaper>()) {
    config_.id = 1;
    config_.local = {16, 64};
    config_.remote = {16, 64};
    config_.peer = "the test";
    config_.poller = poller_;
    config_.reaper = reaper_;
    config_.quota = quota_;
  }

  void TearDown() override {
    server_.reset();
    client_.reset();
    Flush(poller_.get());
    Flush(reaper_.get());
    EXPECT_EQ(quota_->held(), 0);
    poller_->Stop();
    reaper_->Stop();
  }

  std::shared_ptr<Session> Make(UniqueFd socket, Session::Role role) {
    Session::Config config = config_;
    config.role = role;
    return Session::Create(std::make_unique<SeqpacketSocket>(std::move(socket)), std::move(config),
                           [this] { ++deaths_; });
  }

  // Two sessions, joined.
  void MakeBoth() {
    auto sockets = MakeSessionSockets();
    ASSERT_TRUE(sockets.ok());
    server_ = Make(std::move(sockets->first), Session::Role::kServer);
    client_ = Make(std::move(sockets->second), Session::Role::kClient);
  }

  // One session, the other end in our hands.
  std::shared_ptr<Session> MakeRaw(Session::Role role) {
    auto sockets = MakeSessionSockets();
    EXPECT_TRUE(sockets.ok());
    raw_ = std::move(sockets->second);
    return Make(std::move(sockets->first), role);
  }
  void MakeServer() { server_ = MakeRaw(Session::Role::kServer); }
  void MakeClient() { client_ = MakeRaw(Session::Role::kClient); }

  // A server (it is called so in any case) over a fake socket.
  std::shared_ptr<FakeWire> MakeFake(Session::Role role = Session::Role::kServer) {
    auto wire = std::make_shared<FakeWire>();
    Session::Config config = config_;
    config.role = role;
    server_ = Session::Create(std::make_unique<FakeFrameSocket>(wire), std::move(config), nullptr);
    return wire;
  }

  static Frame Data(uint64_t call, uint32_t first, uint16_t count) {
    Frame frame;
    frame.call.id = call;
    frame.first_index = first;
    frame.fd_count = count;
    return frame;
  }
  static Frame Credit(uint64_t total) {
    Frame frame;
    frame.type = FrameType::kCredit;
    frame.credit_total = total;
    return frame;
  }
  void SendRaw(const Frame& frame, const std::vector<int>& fds = {}) {
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    const IoResult io = SendMessage(raw_, buffer, fds);
    EXPECT_TRUE(io.ok()) << strerror(io.error);
  }
  void SendFile(uint64_t call, uint32_t index, BorrowedFd file) {
    SendRaw(Data(call, index, 1), {file.get()});
  }
  // The next frame that the session sent; nothing at the end of the session.
  std::optional<Frame> ReadRaw() {
    pollfd polled = {raw_.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kLong))), 1);
    FrameBuffer buffer;
    ReceivedMessage message;
    IoResult io;
    do {  // ECONNRESET comes once, before the end.
      io = ReceiveMessage(raw_, buffer.data(), buffer.size(), &message);
    } while (io.error == ECONNRESET);
    EXPECT_TRUE(io.ok()) << strerror(io.error);
    if (!io.ok() || message.size == 0) return std::nullopt;
    auto frame = DecodeFrame(absl::MakeConstSpan(buffer.data(), message.size));
    EXPECT_TRUE(frame.ok()) << frame.status();
    return frame.ok() ? std::optional<Frame>(*frame) : std::nullopt;
  }
  bool NothingToRead() {
    pollfd polled = {raw_.get(), POLLIN, 0};
    return ::poll(&polled, 1, 0) == 0;
  }

  std::atomic<int> deaths_{0};
  const std::shared_ptr<Poller> poller_;
  const std::shared_ptr<Reaper> reaper_;
  const std::shared_ptr<CountingQuota> quota_ = std::make_shared<CountingQuota>();
  Session::Config config_;
  UniqueFd raw_;
  std::shared_ptr<Session> server_;
  std::shared_ptr<Session> client_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SESSION_SESSION_TEST_UTIL_H_
