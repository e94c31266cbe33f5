// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sessions over real sockets: two sessions against each other, or one against a test that speaks
// the wire itself, well or badly. Where a test must know that a thread waits, or that a socket
// never runs dry, the socket is a FakeFrameSocket.
//
// The functions at the end of this file stand in for the C library's recvmsg and recvmmsg, and note
// which thread received descriptors.
#include "fdchannel/session/session.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "grpcfd/testing/inode_holders.h"
#include "tests/fdchannel/session/fake_frame_socket.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Nothing here takes that long unless it hangs.
constexpr absl::Duration kLong = absl::Seconds(20);

// Threads that received descriptors, while recording.
Mutex g_mutex;
bool g_recording ABSL_GUARDED_BY(g_mutex) = false;
std::vector<pid_t> g_receivers ABSL_GUARDED_BY(g_mutex);

pid_t ThreadId() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

InodeUrl Url(BorrowedFd fd, uint32_t index) { return InodeUrl(*FdToDevIno(fd), index); }
InodeUrl UrlWithoutIndex(BorrowedFd fd) { return InodeUrl(*FdToDevIno(fd)); }

WaitOptions Within(absl::Duration duration) {
  WaitOptions options;
  options.deadline = absl::Now() + duration;
  return options;
}

// How often this process has the file open. It has an inode of its own.
size_t Holders(BorrowedFd file) {
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
  CallInbox* inbox() { return &inbox_; }

  absl::StatusOr<UniqueFd> Take(const InodeUrl& url, const WaitOptions& options = Within(kLong)) {
    return session_->Receive(&inbox_, url, Session::Op::kTake, options);
  }
  absl::StatusOr<UniqueFd> Dup(const InodeUrl& url) {
    return session_->Receive(&inbox_, url, Session::Op::kDup, Within(kLong));
  }

 private:
  const std::shared_ptr<Session> session_;
  CallInbox inbox_;
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

// --- Which descriptor ---

UniqueFd CountingEventfd(unsigned int value) {
  return UniqueFd(::eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
}
uint64_t ReadEventfd(BorrowedFd fd) {
  uint64_t value = 0;
  EXPECT_EQ(::read(fd.get(), &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
  return value;
}
int AccessMode(BorrowedFd fd) { return ::fcntl(fd.get(), F_GETFL) & O_ACCMODE; }

TEST_F(SessionTest, TwoEventfdsAreNeverConfused) {
  MakeBoth();
  for (uint64_t id = 1; id <= 4; ++id) {
    const UniqueFd first = CountingEventfd(11), second = CountingEventfd(22);
    ASSERT_EQ(*FdToDevIno(first), *FdToDevIno(second)) << "one inode for all";
    ASSERT_TRUE(client_->Send({id, 0}, 0, {first.get()}, Within(kLong)).ok());
    ASSERT_TRUE(client_->Send({id, 0}, 1, {second.get()}, Within(kLong)).ok());
    Call call(server_, id, 2);
    // By index in both orders; without one the lowest that is left, though the second is still in
    // the socket.
    const bool by_index = id <= 2;
    const uint32_t start = id % 2 == 0 && by_index ? 1 : 0;
    auto a = call.Take(by_index ? Url(first, start) : UrlWithoutIndex(first));
    auto b = call.Take(by_index ? Url(first, 1 - start) : UrlWithoutIndex(first));
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_EQ(ReadEventfd(*a), start == 0 ? 11u : 22u);
    EXPECT_EQ(ReadEventfd(*b), start == 0 ? 22u : 11u);
    EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(UrlWithoutIndex(first)).status()));
  }
}

TEST_F(SessionTest, BothEndsOfAPipeAreNeverConfused) {
  MakeBoth();
  for (const bool by_index : {true, false}) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]), writer(ends[1]);
    ASSERT_EQ(*FdToDevIno(reader), *FdToDevIno(writer));
    const uint64_t id = by_index ? 1 : 2;
    ASSERT_TRUE(client_->Send({id, 0}, 0, {writer.get(), reader.get()}, Within(kLong)).ok());
    Call call(server_, id, 2);
    auto w = call.Take(by_index ? Url(writer, 0) : UrlWithoutIndex(writer));
    auto r = call.Take(by_index ? Url(reader, 1) : UrlWithoutIndex(reader));
    ASSERT_TRUE(w.ok() && r.ok());
    EXPECT_EQ(AccessMode(*w), O_WRONLY);
    EXPECT_EQ(AccessMode(*r), O_RDONLY);
    ASSERT_EQ(::write(w->get(), "x", 1), 1);
    char c = 0;
    EXPECT_EQ(::read(r->get(), &c, 1), 1);
    EXPECT_EQ(c, 'x');
  }
}

TEST_F(SessionTest, ReadOnlyAndReadWriteOpensOfOneFileAreNeverConfused) {
  MakeBoth();
  const UniqueFd file = MakeFile("shared");
  const std::string path = absl::StrCat("/proc/self/fd/", file.get());
  const UniqueFd ro(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd rw(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  for (const bool by_index : {true, false}) {
    const uint64_t id = by_index ? 1 : 2;
    ASSERT_TRUE(client_->Send({id, 0}, 0, {ro.get(), rw.get()}, Within(kLong)).ok());
    Call call(server_, id, 2);
    auto first = call.Take(by_index ? Url(file, 0) : UrlWithoutIndex(file));
    auto second = call.Take(by_index ? Url(file, 1) : UrlWithoutIndex(file));
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(AccessMode(*first), O_RDONLY);
    EXPECT_EQ(AccessMode(*second), O_RDWR);
  }
}

TEST_F(SessionTest, KeepsWhatComesBeforeItsCall) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(2);
  SendFile(1, 1, files[1]);
  SendFile(1, 0, files[0]);
  server_->Sweep();
  EXPECT_EQ(server_->held(), 2u);
  EXPECT_EQ(quota_->held(), 2);
  Call call(server_, 1, 2);
  for (uint32_t i = 0; i < 2; ++i) {
    auto fd = call.Take(Url(files[i], i));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i));
    EXPECT_TRUE(IsCloseOnExec(*fd));
  }
  EXPECT_EQ(server_->held(), 0u);
  EXPECT_EQ(quota_->held(), 0);
}

TEST_F(SessionTest, TakeDupTake) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  Call call(server_, 1, 1);
  auto copy = call.Dup(Url(file, 0));
  ASSERT_TRUE(copy.ok()) << copy.status();
  auto taken = call.Take(Url(file, 0));
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(Content(*copy), "x");
  EXPECT_EQ(Content(*taken), "x");
  for (const InodeUrl& url : {Url(file, 0), UrlWithoutIndex(file)}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(url).status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(call.Dup(url).status()));
  }
}

TEST_F(SessionTest, SaysAtOnceWhatCanNeverBe) {
  MakeServer();
  const UniqueFd file = MakeFile("x"), other = MakeFile("y");
  SendFile(1, 0, file);
  Call call(server_, 1, 2);  // The second was lost.
  WaitOptions forever;
  EXPECT_TRUE(absl::IsInvalidArgument(call.Take(Url(other, 0), forever).status()));
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(file, 2), forever).status()));
  EXPECT_TRUE(absl::IsNotFound(call.Take(UrlWithoutIndex(other), forever).status()));
  EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 1), forever).status()));
  EXPECT_TRUE(call.Take(Url(file, 0), forever).ok());
}

// The socket is asked again for somebody who comes while another thread sleeps on it.
TEST_F(SessionTest, SaysAtOnceWhatIsLostWhileAnotherWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  std::thread waiting(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  {
    Call call(server_, 2, 1);
    EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 0)).status()));
    EXPECT_TRUE(absl::IsNotFound(call.Take(UrlWithoutIndex(file)).status()));
    Outcome<absl::StatusOr<UniqueFd>> outcome;
    server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::Now() + kLong,
                          outcome.Setter());
    EXPECT_TRUE(absl::IsUnavailable(outcome.Get().status()));
  }
  server_->Cancel(stream.inbox());
  waiting.join();
}

TEST_F(SessionTest, WaitsUntilItsDeadline) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  EXPECT_TRUE(absl::IsDeadlineExceeded(call.Take(Url(file, 0), Within(-kLong)).status()));
  const absl::Time start = absl::Now();
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(call.Take(Url(file, 0), Within(absl::Milliseconds(20))).status()));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(20));
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake,
                        absl::Now() + absl::Milliseconds(20), outcome.Setter());
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.Get().status()));
  // What is in the socket is found, however late it is.
  SendFile(1, 0, file);
  EXPECT_TRUE(call.Take(Url(file, 0), Within(-kLong)).ok());
}

// Guards FdStore::RecvOrGet, which asks without waiting: a descriptor that is in the socket is
// found though another thread has the lead and has not seen it yet.
TEST_F(SessionTest, FindsWhatIsThereWithoutWaitingWhileAnotherWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call other(server_, 1, 0, /*open_ended=*/true);
  std::thread waiting(
      [&] { EXPECT_TRUE(absl::IsCancelled(other.Take(Url(file, 0), WaitOptions()).status())); });
  for (uint64_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
    Call call(server_, 2 + i, 0, /*open_ended=*/true);
    EXPECT_TRUE(absl::IsDeadlineExceeded(call.Take(Url(file, 0), Within(-kLong)).status()));
    wire->PushData(CallKey{2 + i, 0}, 0, {file.get()});
    const auto fd = call.Take(Url(file, 0), Within(-kLong));
    EXPECT_TRUE(fd.ok()) << i << ": " << fd.status();
  }
  server_->Cancel(other.inbox());
  waiting.join();
}

// Also without waiting: its deadline has passed when it comes, and another thread leads.
TEST_F(SessionTest, AnAsynchronousReceiveIsAnsweredByALookHoweverLate) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call leaders(server_, 1, 0, /*open_ended=*/true), late(server_, 2, 0, /*open_ended=*/true);
  Outcome<absl::StatusOr<UniqueFd>> there, missing;
  wire->AfterNextReceive([&] {
    wire->PushData({2, 0}, 0, {file.get()});
    server_->ReceiveAsync(late.inbox(), Url(file, 0), Session::Op::kTake, absl::InfinitePast(),
                          there.Setter());
    server_->ReceiveAsync(late.inbox(), Url(file, 7), Session::Op::kTake, absl::InfinitePast(),
                          missing.Setter());
    // The deadlines' timers have run.
    Flush(poller_.get());
    Flush(poller_.get());
    wire->PushData({1, 0}, 0, {file.get()});
  });
  EXPECT_TRUE(leaders.Take(Url(file, 0)).ok());
  const auto fd = there.Get();
  EXPECT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(missing.Get().status()));
}

// Guards handlers that react: what the callback does with the session must not find it locked, also
// if the outcome was at hand and the callback runs before ReceiveAsync returns.
TEST_F(SessionTest, ACallbackMayUseTheSession) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  SendFile(1, 0, file);
  SendFile(1, 1, file);
  // The first look brings both.
  ASSERT_TRUE(call.Take(Url(file, 0)).ok());
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 1), Session::Op::kTake, absl::InfiniteFuture(),
                        [&](absl::StatusOr<UniqueFd> fd) {
                          EXPECT_TRUE(fd.ok()) << fd.status();
                          server_->ReceiveAsync(call.inbox(), Url(file, 1), Session::Op::kTake,
                                                absl::InfiniteFuture(), outcome.Setter());
                        });
  EXPECT_TRUE(absl::IsFailedPrecondition(outcome.Get().status()));
}

TEST_F(SessionTest, CancellationReleasesWhoeverWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  // The first leads, the second waits for it.
  std::atomic<bool> cancel{false};
  const std::function<bool()> cancelled = [&] { return cancel.load(); };
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      WaitOptions options;
      options.cancelled = &cancelled;
      EXPECT_TRUE(absl::IsCancelled(call.Take(Url(file, 0), options).status()));
    });
  }
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  cancel = true;
  for (std::thread& thread : threads) thread.join();

  threads.clear();
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back(
        [&] { EXPECT_TRUE(absl::IsCancelled(call.Take(Url(file, 0), WaitOptions()).status())); });
  }
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  server_->Cancel(call.inbox());
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsCancelled(outcome.Get().status()));
}

TEST_F(SessionTest, EndReleasesWhoeverWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(Url(file, 0), WaitOptions()).status()));
    });
  }
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  call.End();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsFailedPrecondition(outcome.Get().status()));
}

TEST_F(SessionTest, EndClosesWhatCameAndWhatStillComes) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendRaw(Data(1, 0, 2), {file.get(), file.get()});
  SendFile(1, 2, file);
  {
    Call call(server_, 1, 3);
    ASSERT_TRUE(call.Take(Url(file, 1)).ok());
  }
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(server_->held(), 0u);
  // The third was announced, so the end read it: nothing is in the socket.
  SendFile(1, 3, file);
  server_->Sweep();
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(server_->held(), 0u);
  EXPECT_TRUE(server_->alive());
}

TEST_F(SessionTest, EndReadsWhatWasAnnounced) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  { Call call(server_, 1, 1); }
  Flush(reaper_.get());
  // In flight, a descriptor still keeps the file; the peer's end would see it unread.
  int unread = -1;
  SendFile(2, 0, file);
  ASSERT_EQ(::ioctl(raw_.get(), TIOCOUTQ, &unread), 0);
  const int one = unread;
  { Call call(server_, 2, 1); }
  ASSERT_EQ(::ioctl(raw_.get(), TIOCOUTQ, &unread), 0);
  EXPECT_GT(one, 0);
  EXPECT_EQ(unread, 0);
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
}

// --- The end of the peer ---

TEST_F(SessionTest, ReadsToTheEndBeforeItIsDead) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(3);
  for (uint32_t i = 0; i < 3; ++i) SendFile(1, i, files[i]);
  raw_.Reset();
  Call call(server_, 1, 4);
  for (uint32_t i = 0; i < 3; ++i) {
    auto fd = call.Take(Url(files[i], i));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i));
  }
  EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(files[0], 3), WaitOptions()).status()));
  EXPECT_TRUE(Eventually([&] { return deaths_ == 1; }));
  EXPECT_FALSE(server_->alive());
}

TEST_F(SessionTest, AHangUpWakesEverybody) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back(
        [&] { EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 0), WaitOptions()).status())); });
  }
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  raw_.Reset();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsUnavailable(outcome.Get().status()));
}

// The poller may call before Create() has returned.
TEST_F(SessionTest, NoticesAHangUpThoughFramesWereThereFirst) {
  const UniqueFd file = MakeFile("x");
  for (int i = 1; i <= 200; ++i) {
    auto sockets = MakeSessionSockets();
    ASSERT_TRUE(sockets.ok());
    raw_ = std::move(sockets->second);
    SendFile(1, 0, file);
    server_ = Make(std::move(sockets->first), Session::Role::kServer);
    raw_.Reset();
    ASSERT_TRUE(Eventually([&] { return deaths_ == i; })) << i;
  }
}

// --- Hostile peers ---

TEST_F(SessionTest, CutsAPeerThatBreaksTheRules) {
  const UniqueFd file = MakeFile("x");
  const int fd = file.get();
  const std::vector<int> many(253, fd);
  const auto send_bytes = [this](size_t size, unsigned char type) {
    std::string bytes(size, '\0');
    if (size > 0) bytes[0] = static_cast<char>(type);
    EXPECT_TRUE(SendMessage(raw_, Bytes(bytes), {}).ok());
  };
  const std::vector<std::pair<std::string, std::function<void()>>> attacks = {
      {"one more than announced",
       [&] {
         SendRaw(Data(1, 0, 1), {fd, fd});
       }},
      {"one less than announced", [&] { SendRaw(Data(1, 0, 2), {fd}); }},
      {"253 for one", [&] { SendRaw(Data(1, 0, 1), many); }},
      {"none", [&] { SendRaw(Data(1, 0, 1)); }},
      {"index again",
       [&] {
         SendRaw(Data(1, 0, 2), {fd, fd});
         SendRaw(Data(1, 1, 1), {fd});
       }},
      {"too short", [&] { send_bytes(kFrameSize - 1, 1); }},
      {"too long", [&] { send_bytes(kFrameSize + 1, 1); }},
      {"unknown type", [&] { send_bytes(kFrameSize, 9); }},
      {"credit for nothing", [&] { SendRaw(Credit(1)); }},
      {"credit with a descriptor", [&] { SendRaw(Credit(0), {fd}); }},
  };
  for (const auto& [name, attack] : attacks) {
    SCOPED_TRACE(name);
    MakeServer();
    SendRaw(Data(7, 0, 2), {fd, fd});  // Held when it happens.
    attack();
    SendFile(8, 0, file);  // And behind it.
    {
      Call call(server_, 7, 3);
      EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 2), WaitOptions()).status()));
      EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 0), WaitOptions()).status()));
    }
    EXPECT_FALSE(server_->alive());
    const auto close = ReadRaw();
    ASSERT_TRUE(close.has_value());
    EXPECT_EQ(close->type, FrameType::kClose);
    EXPECT_EQ(close->close_code, CloseCode::kProtocolError);
    EXPECT_FALSE(ReadRaw().has_value());
    Flush(reaper_.get());
    EXPECT_EQ(Holders(file), 1u);
    EXPECT_EQ(quota_->held(), 0);
    EXPECT_EQ(server_->held(), 0u);
  }
}

TEST_F(SessionTest, ACloseFrameEndsTheSessionWithItsText) {
  MakeServer();
  Frame frame;
  frame.type = FrameType::kClose;
  frame.close_code = CloseCode::kShutdown;
  frame.close_text = "gone fishing";
  SendRaw(frame);
  Call call(server_, 1, 1);
  const absl::Status status = call.Take(InodeUrl(DevIno{1, 1}, 0)).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("gone fishing"));
}

TEST_F(SessionTest, NoPeerHoldsAThreadBeyondItsDeadline) {
  const auto wire = MakeFake();
  wire->Flood();
  Call call(server_, 1, 0, /*open_ended=*/true);
  const InodeUrl url(DevIno{1, 1}, 0);
  EXPECT_TRUE(absl::IsDeadlineExceeded(call.Take(url, Within(absl::Milliseconds(5))).status()));
  const std::function<bool()> yes = [] { return true; };
  WaitOptions options;
  options.cancelled = &yes;
  EXPECT_TRUE(absl::IsCancelled(call.Take(url, options).status()));
  // Nor the poller, which serves others too.
  server_->Sweep();
  Flush(poller_.get());
}

TEST_F(SessionTest, TruncationFailsThatCallOnly) {
  config_.local = {4, 8};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Flush(reaper_.get());  // Its thread is there.
  {
    Call call(server_, 1, 2);
    SendRaw(Data(1, 0, 2), {file.get(), file.get()});
    const ScopedFdRoom room(1);
    EXPECT_TRUE(absl::IsResourceExhausted(call.Take(Url(file, 0), WaitOptions()).status()));
    EXPECT_TRUE(absl::IsResourceExhausted(call.Take(Url(file, 1), WaitOptions()).status()));
  }
  // Lost is disposed of: the peer gets its window back.
  const auto credit = ReadRaw();
  ASSERT_TRUE(credit.has_value());
  EXPECT_EQ(credit->type, FrameType::kCredit);
  EXPECT_EQ(credit->credit_total, 2u);
  EXPECT_EQ(server_->held(), 0u);
  SendFile(2, 0, file);
  Call call(server_, 2, 1);
  EXPECT_TRUE(call.Take(Url(file, 0)).ok());
}

// --- Limits ---

TEST_F(SessionTest, ClosesWhatNobodyAsksFor) {
  config_.early_timeout = absl::Milliseconds(1);
  config_.local = {4, 4};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  // The poller does it on its own, and tells the peer.
  const auto credit = ReadRaw();
  ASSERT_TRUE(credit.has_value());
  EXPECT_EQ(credit->type, FrameType::kCredit);
  EXPECT_EQ(credit->credit_total, 1u);
  EXPECT_EQ(server_->held(), 0u);
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(quota_->held(), 0);
}

TEST_F(SessionTest, DropsTheOldestEarlyCallsFirst) {
  config_.local = {4, 4};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  for (uint64_t id = 1; id <= 6; ++id) SendFile(id, 0, file);
  server_->Sweep();
  Flush(reaper_.get());
  EXPECT_EQ(server_->held(), 4u);
  EXPECT_EQ(quota_->held(), 4);
  for (uint64_t id = 1; id <= 6; ++id) {
    Call call(server_, id, 1);
    const auto fd = call.Take(Url(file, 0));
    if (id <= 2) {
      EXPECT_TRUE(absl::IsResourceExhausted(fd.status())) << id << fd.status();
      EXPECT_THAT(std::string(fd.status().message()), HasSubstr("session_window"));
    } else {
      EXPECT_TRUE(fd.ok()) << id << fd.status();
    }
  }
}

TEST_F(SessionTest, RefusesAnAttachedCallBeyondTheWindow) {
  config_.local = {4, 4};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call greedy(server_, 1, 0, /*open_ended=*/true);
  Call modest(server_, 2, 1);
  for (uint32_t i = 0; i < 5; ++i) SendFile(1, i, file);
  server_->Sweep();
  Flush(reaper_.get());
  const absl::Status status = greedy.Take(Url(file, 0)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("session_window"));
  EXPECT_EQ(Holders(file), 1u);
  SendFile(2, 0, file);
  EXPECT_TRUE(modest.Take(Url(file, 0)).ok());
}

TEST_F(SessionTest, AFullQuotaFailsTheCall) {
  const auto small = std::make_shared<CountingQuota>(1);
  config_.quota = small;
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  SendFile(2, 0, file);
  server_->Sweep();
  Call first(server_, 1, 1), second(server_, 2, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(second.Take(Url(file, 0)).status()));
  EXPECT_TRUE(first.Take(Url(file, 0)).ok());
  EXPECT_EQ(small->held(), 0);
}

TEST_F(SessionTest, GivesCreditForEachQuarterOfTheWindow) {
  config_.local = {4, 16};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  for (uint32_t i = 0; i < 9; ++i) SendFile(1, i, file);
  for (uint32_t i = 0; i < 9; ++i) {
    ASSERT_TRUE(call.Take(Url(file, i)).ok());
    if (i % 4 != 3) {
      EXPECT_TRUE(NothingToRead()) << i;
      continue;
    }
    const auto credit = ReadRaw();
    ASSERT_TRUE(credit.has_value());
    EXPECT_EQ(credit->type, FrameType::kCredit);
    EXPECT_EQ(credit->credit_total, i + 1);
  }
}

// With a window of one call, credit that is owed must not keep the next full call waiting.
TEST_F(SessionTest, OwesNoCreditThatAFullCallNeeds) {
  config_.local = config_.remote = {8, 8};
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> eight(8, file.get());
  for (uint64_t id = 1; id <= 20; ++id) {
    const size_t count = id % 2 == 0 ? 8 : 1;
    ASSERT_TRUE(
        client_->Send({id, 0}, 0, absl::MakeConstSpan(eight).subspan(0, count), Within(kLong))
            .ok());
    Call call(server_, id, static_cast<uint32_t>(count));
    for (uint32_t i = 0; i < count; ++i) ASSERT_TRUE(call.Take(Url(file, i)).ok());
  }
}

TEST_F(SessionTest, SendsCreditLaterIfTheSocketIsFull) {
  config_.local = {1, 4};
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  wire->PushData({1, 0}, 0, {file.get()});
  Call call(server_, 1, 1);
  wire->RefuseSends(1);
  ASSERT_TRUE(call.Take(Url(file, 0)).ok());
  EXPECT_TRUE(Eventually([&] {
    const std::vector<Frame> sent = wire->sent();
    return !sent.empty() && sent.back().credit_total == 1;
  }));
}

// Tells, when it goes, whether another thread can use the session: not if the session's lock is
// held meanwhile.
class Probe {
 public:
  Probe(std::weak_ptr<Session> session, std::vector<std::thread>* threads, bool* usable)
      : session_(std::move(session)), threads_(threads), usable_(usable) {}
  ~Probe() {
    auto answered = std::make_shared<Notice>();
    threads_->emplace_back([session = session_.lock(), answered] {
      if (session != nullptr) (void)session->held();
      MutexLock lock(&answered->mutex);
      answered->done = true;
      answered->changed.NotifyAll();
    });
    const absl::Time limit = absl::Now() + absl::Seconds(10);
    MutexLock lock(&answered->mutex);
    while (!answered->done && answered->changed.WaitUntil(&answered->mutex, limit)) {
    }
    *usable_ = answered->done;
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

 private:
  struct Notice {
    Mutex mutex;
    CondVar changed;
    bool done ABSL_GUARDED_BY(mutex) = false;
  };
  const std::weak_ptr<Session> session_;
  std::vector<std::thread>* const threads_;
  bool* const usable_;
};

// What a callback has captured may use the session when it goes. Without a poller, so that this
// thread is the last one to hold it.
TEST_F(SessionTest, CallbacksAreNotDestroyedUnderTheLock) {
  config_.poller = nullptr;
  const UniqueFd file = MakeFile("x");
  std::vector<std::thread> threads;
  bool received = false, killed = false, dead = false;
  {
    auto wire = std::make_shared<FakeWire>();
    std::weak_ptr<Session>* weak = new std::weak_ptr<Session>();
    Session::Config config = config_;
    config.role = Session::Role::kServer;
    server_ = Session::Create(std::make_unique<FakeFrameSocket>(wire), std::move(config),
                              [weak = std::shared_ptr<std::weak_ptr<Session>>(weak), &threads,
                               &dead, probe = std::shared_ptr<Probe>()]() mutable {
                                probe = std::make_shared<Probe>(*weak, &threads, &dead);
                              });
    *weak = server_;
    Call call(server_, 1, 0, /*open_ended=*/true);
    const auto receive = [&](uint32_t index, bool* usable) {
      auto probe = std::make_shared<Probe>(server_, &threads, usable);
      server_->ReceiveAsync(call.inbox(), Url(file, index), Session::Op::kTake,
                            absl::InfiniteFuture(),
                            [probe = std::move(probe)](const absl::StatusOr<UniqueFd>&) {});
    };
    // It comes after the first look, and with the second.
    wire->AfterNextReceive([&] { wire->PushData({1, 0}, 0, {file.get()}); });
    receive(0, &received);
    receive(1, &killed);
    server_->Kill(CloseCode::kShutdown, absl::UnavailableError("over"));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(received);
  EXPECT_TRUE(killed);
  EXPECT_TRUE(dead);
}

// Somebody asynchronous comes during a look, for what is lost. The next look, which began after
// that and would tell, finds something, and its leader has what it came for.
TEST_F(SessionTest, ALookThatFindsSomethingOwesAnotherOne) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call mine(server_, 1, 1), others(server_, 2, 1);
  Outcome<absl::StatusOr<UniqueFd>> lost;
  wire->PushCredit(0);  // One frame for each look, as long as nobody else waits.
  wire->AfterNextReceive([&] {
    server_->ReceiveAsync(others.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                          lost.Setter());
    wire->PushData({1, 0}, 0, {file.get()});
  });
  EXPECT_TRUE(mine.Take(Url(file, 0)).ok());
  EXPECT_TRUE(absl::IsUnavailable(lost.Get().status()));
}

// The descriptor and the end of the call come after a look found nothing, and before who looked
// can wait.
TEST_F(SessionTest, WhatComesWithTheEndOfTheCallIsNotMissed) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  wire->AfterNextReceive([&] {
    wire->PushData({1, 0}, 0, {file.get()});
    server_->Complete(call.inbox());
  });
  const auto fd = call.Take(Url(file, 0));
  EXPECT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(file, 1)).status()));
}

// --- Sending ---

TEST_F(SessionTest, ASenderWaitsForCredit) {
  config_.remote = {4, 4};
  MakeClient();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(5, file.get());
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Send({1, 0}, 0, fds, Within(kLong))));
  const absl::Span<const int> four = absl::MakeConstSpan(fds).subspan(0, 4);
  {
    Call call(client_, 1, 0, true);
    ASSERT_TRUE(client_->Send({1, 0}, 0, four, Within(kLong)).ok());
    call.End(/*sent=*/true);
  }
  absl::Status status;
  EXPECT_FALSE(client_->TrySend({2, 0}, 0, four.subspan(0, 1), &status));
  EXPECT_TRUE(absl::IsResourceExhausted(
      client_->Send({2, 0}, 0, four.subspan(0, 1), Within(absl::Milliseconds(10)))));
  EXPECT_EQ(ReadRaw()->type, FrameType::kData);
  const auto discard = ReadRaw();
  ASSERT_TRUE(discard.has_value());
  EXPECT_EQ(discard->type, FrameType::kDiscard);
  ASSERT_EQ(discard->discard_count, 1u);
  EXPECT_EQ(discard->discard[0], 1u);

  std::thread blocked([&] {
    EXPECT_TRUE(client_->Send({3, 0}, 0, four.subspan(0, 2), Within(kLong)).ok());
  });
  Outcome<absl::Status> outcome;
  client_->SendAsync({4, 0}, 0, {file.get()}, absl::Now() + kLong, outcome.Setter());
  SendRaw(Credit(3));
  blocked.join();
  EXPECT_TRUE(outcome.Get().ok());
}

TEST_F(SessionTest, ASenderThatGivesUpLetsTheNextOneTry) {
  config_.remote = {4, 4};
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(4, file.get());
  const auto some = absl::MakeConstSpan(fds);
  for (const bool async : {false, true}) {
    SCOPED_TRACE(async);
    const uint64_t before = wire->sent_fds();
    ASSERT_TRUE(server_->Send({1, 0}, 0, some.subspan(0, 2), Within(kLong)).ok());
    const absl::Time soon = absl::Now() + absl::Milliseconds(50);
    Outcome<absl::Status> large;
    std::thread blocked;
    if (async) {
      server_->SendAsync({2, 0}, 0, fds, soon, large.Setter());
    } else {
      blocked = std::thread([&] {
        WaitOptions options;
        options.deadline = soon;
        large.Setter()(server_->Send({2, 0}, 0, fds, options));
      });
      ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
    }
    // There is room for these two, but they stand behind the large one; and no credit ever comes.
    Outcome<absl::Status> last;
    server_->SendAsync({4, 0}, 0, {file.get()}, absl::Now() + kLong, last.Setter());
    EXPECT_TRUE(server_->Send({3, 0}, 0, some.subspan(0, 1), Within(kLong)).ok());
    EXPECT_TRUE(last.Get().ok());
    EXPECT_TRUE(absl::IsResourceExhausted(large.Get()));
    if (blocked.joinable()) blocked.join();
    wire->PushCredit(before + 4);
    server_->Sweep();
  }
}

// Blocked and asynchronous senders of a call go with it, those of other calls stay. A server's
// asynchronous ones stay too: what it passed on belongs to replies that the client may still read.
TEST_F(SessionTest, ACallThatIsOverReleasesItsSenders) {
  config_.remote = {4, 4};
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(4, file.get());
  for (const auto role : {Session::Role::kClient, Session::Role::kServer}) {
    for (const bool cancel : {false, true}) {
      SCOPED_TRACE(absl::StrCat(role == Session::Role::kClient, " ", cancel));
      const auto wire = MakeFake(role);
      const auto over =
          cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kFailedPrecondition;
      Outcome<absl::Status> async, other;
      Call mine(server_, 1, 0, true), others(server_, 2, 0, true);
      ASSERT_TRUE(server_->Send({2, 0}, 0, fds, Within(kLong)).ok());
      std::thread blocked([&] {
        EXPECT_EQ(server_->Send({1, 0}, 0, fds, WaitOptions()).code(), over);
      });
      EXPECT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
      server_->SendAsync({1, 0}, 4, {file.get()}, absl::InfiniteFuture(), async.Setter());
      server_->SendAsync({2, 0}, 4, {file.get()}, absl::InfiniteFuture(), other.Setter());
      if (cancel) {
        server_->Cancel(mine.inbox());
      } else {
        mine.End();
      }
      blocked.join();
      if (role == Session::Role::kClient) {
        EXPECT_EQ(async.Get().code(), over);
      }
      if (cancel) {
        // Who comes later does not wait either.
        EXPECT_TRUE(absl::IsCancelled(server_->Send({1, 0}, 5, {file.get()}, WaitOptions())));
      }
      EXPECT_FALSE(other.ready());
      wire->PushCredit(4);
      EXPECT_EQ(other.Get(), absl::OkStatus());
      if (role == Session::Role::kServer) {
        EXPECT_EQ(async.Get(), absl::OkStatus());
      }
    }
  }
}

class FullSocketTest : public SessionTest {
 protected:
  // Sends until the socket takes no more; returns how many went.
  uint64_t Fill(BorrowedFd file, uint32_t max_fds_per_call = 16) {
    config_.remote = {max_fds_per_call, 100000};
    auto sockets = MakeSessionSockets();
    EXPECT_TRUE(sockets.ok());
    raw_ = std::move(sockets->second);
    const int small = 4096;
    EXPECT_EQ(::setsockopt(sockets->first.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    client_ = Make(std::move(sockets->first), Session::Role::kClient);
    absl::Status status;
    uint64_t sent = 0;
    while (client_->TrySend({1, 0}, static_cast<uint32_t>(sent), {file.get()}, &status)) {
      EXPECT_TRUE(status.ok()) << status;
      ++sent;
    }
    EXPECT_GT(sent, 0u);
    return sent;
  }
  // Reads `frames` DATA frames and never gives credit.
  void Read(uint64_t frames) {
    for (uint64_t i = 0; i < frames; ++i) {
      const auto frame = ReadRaw();
      ASSERT_TRUE(frame.has_value());
      EXPECT_EQ(frame->type, FrameType::kData);
      EXPECT_EQ(frame->first_index, i);
    }
  }
};

TEST_F(FullSocketTest, ABlockedSenderWaitsForRoom) {
  const UniqueFd file = MakeFile("x");
  const uint64_t sent = Fill(file);
  EXPECT_TRUE(absl::IsResourceExhausted(client_->Send(
      {1, 0}, static_cast<uint32_t>(sent), {file.get()}, Within(absl::Milliseconds(5)))));
  std::thread blocked([&] {
    EXPECT_TRUE(
        client_->Send({1, 0}, static_cast<uint32_t>(sent), {file.get()}, Within(kLong)).ok());
  });
  Read(sent + 1);
  blocked.join();
}

TEST_F(FullSocketTest, AnAsynchronousSenderWaitsForRoom) {
  const UniqueFd file = MakeFile("x");
  const uint64_t sent = Fill(file);
  Outcome<absl::Status> first, second;
  client_->SendAsync({1, 0}, static_cast<uint32_t>(sent), {file.get()}, absl::Now() + kLong,
                     first.Setter());
  EXPECT_FALSE(first.ready());
  Read(sent);
  EXPECT_TRUE(first.Get().ok());
  client_->SendAsync({1, 0}, static_cast<uint32_t>(sent) + 1, {file.get()}, absl::Now() + kLong,
                     second.Setter());
  EXPECT_TRUE(second.Get().ok());
}

TEST_F(SessionTest, SplitsWhatDoesNotFitOneMessage) {
  config_.local = config_.remote = {600, 600};
  MakeBoth();
  const std::vector<UniqueFd> files = MakeFiles(7);
  std::vector<int> fds;
  for (size_t i = 0; i < 300; ++i) fds.push_back(files[i % 7].get());
  ASSERT_TRUE(client_->Send({1, 0}, 0, fds, Within(kLong)).ok());
  Call call(server_, 1, 300);
  for (uint32_t i = 0; i < 300; ++i) {
    auto fd = call.Take(Url(files[i % 7], i));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i % 7));
  }
}

// Several frames, and room for a part of them. The rest waits, and nobody gets in between.
TEST_F(FullSocketTest, ALargeSetWaitsForRoomMidway) {
  const UniqueFd file = MakeFile("x");
  const uint64_t filled = Fill(file, /*max_fds_per_call=*/600);
  Read(1);  // Makes room for a frame or two of the following.
  const std::vector<int> fds(600, file.get());
  absl::Status status;
  EXPECT_FALSE(client_->TrySend({2, 0}, 0, fds, &status));
  std::thread blocked([&] {
    EXPECT_EQ(client_->Send({2, 0}, 0, fds, Within(kLong)), absl::OkStatus());
    std::vector<uint32_t> indices;
    for (uint32_t i = 0; i < 30; ++i) indices.push_back(100 + 2 * i);
    const auto some = absl::MakeConstSpan(fds).subspan(0, indices.size());
    EXPECT_EQ(client_->Send({3, 0}, Indices(indices), some, Within(kLong)), absl::OkStatus());
  });
  for (uint64_t i = 1; i < filled; ++i) ASSERT_EQ(ReadRaw()->first_index, i);
  for (uint32_t next = 0; next < 600;) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(frame->call.id, 2u);
    EXPECT_EQ(frame->first_index, next);
    next += frame->fd_count;
  }
  for (uint32_t i = 0; i < 30; ++i) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(frame->call.id, 3u);
    EXPECT_EQ(frame->first_index, 100 + 2 * i);
    EXPECT_EQ(frame->fd_count, 1);
  }
  blocked.join();
}

TEST_F(FullSocketTest, ALargeSetGivesUpMidway) {
  const UniqueFd file = MakeFile("x");
  const uint64_t filled = Fill(file, /*max_fds_per_call=*/600);
  Read(1);
  const std::vector<int> fds(600, file.get());
  EXPECT_TRUE(
      absl::IsResourceExhausted(client_->Send({2, 0}, 0, fds, Within(absl::Milliseconds(5)))));
  // The line is free again, and a small one goes.
  std::thread next([&] {
    EXPECT_EQ(client_->Send({3, 0}, 0, {file.get()}, Within(kLong)), absl::OkStatus());
  });
  for (uint64_t i = 1; i < filled; ++i) ASSERT_EQ(ReadRaw()->first_index, i);
  uint64_t call = 0;
  uint32_t of_the_large = 0;
  while (call != 3) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    call = frame->call.id;
    if (call == 2) of_the_large += frame->fd_count;
  }
  EXPECT_LT(of_the_large, 600u);
  next.join();
}

TEST_F(FullSocketTest, ACancelledSetStopsMidway) {
  const UniqueFd file = MakeFile("x");
  const uint64_t filled = Fill(file, /*max_fds_per_call=*/600);
  Read(1);
  Call call(client_, 2, 0, true);
  Outcome<absl::Status> large;
  client_->SendAsync({2, 0}, 0, std::vector<int>(600, file.get()), absl::InfiniteFuture(),
                     large.Setter());
  client_->Cancel(call.inbox());
  EXPECT_TRUE(absl::IsCancelled(large.Get()));
  // The line is free again, and a small one goes.
  std::thread next([&] {
    EXPECT_EQ(client_->Send({3, 0}, 0, {file.get()}, Within(kLong)), absl::OkStatus());
  });
  for (uint64_t i = 1; i < filled; ++i) ASSERT_EQ(ReadRaw()->first_index, i);
  uint64_t of_call = 0;
  uint32_t of_the_large = 0;
  while (of_call != 3) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    of_call = frame->call.id;
    if (of_call == 2) of_the_large += frame->fd_count;
  }
  EXPECT_LT(of_the_large, 600u);
  next.join();
}

TEST_F(SessionTest, HolesArePartOfTheCount) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(3);
  // 0, 2 and 5 of 6.
  const uint32_t indices[] = {0, 2, 5};
  for (size_t i = 0; i < 3; ++i) SendFile(1, indices[i], files[i]);
  Call call(server_, 1, 6, /*open_ended=*/false, /*holes=*/3);
  EXPECT_EQ(Content(*call.Take(Url(files[1], 2))), "file 1");
  // All that was announced is there: what is missing was never sent.
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(files[0], 1), Within(kLong)).status()));
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(files[0], 6), Within(kLong)).status()));
  EXPECT_EQ(Content(*call.Take(UrlWithoutIndex(files[2]))), "file 2");
  EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(UrlWithoutIndex(files[2])).status()));

  // One of the announced is lost: nobody can tell it from the holes.
  SendFile(2, 5, files[0]);
  Call lossy(server_, 2, 6, /*open_ended=*/false, /*holes=*/4);
  EXPECT_TRUE(absl::IsUnavailable(lossy.Take(Url(files[0], 1), Within(kLong)).status()));
  EXPECT_EQ(Content(*lossy.Take(Url(files[0], 5))), "file 0");
}

TEST_F(SessionTest, ArrivedListsWhatCameAndWasNotTaken) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(3);
  for (uint32_t i = 0; i < 3; ++i) SendFile(1, i, files[i]);
  Call call(server_, 1, 3, /*open_ended=*/true);
  auto urls = server_->Arrived(call.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  ASSERT_EQ(urls->size(), 3u);
  EXPECT_EQ((*urls)[1], Url(files[1], 1));
  EXPECT_TRUE(call.Take(Url(files[1], 1)).ok());
  SendFile(1, 7, files[1]);
  urls = server_->Arrived(call.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  ASSERT_EQ(urls->size(), 3u);
  EXPECT_EQ((*urls)[1], Url(files[2], 2));
  EXPECT_EQ((*urls)[2], Url(files[1], 7));

  Call lossy(server_, 2, 1);
  EXPECT_TRUE(absl::IsUnavailable(server_->Arrived(lossy.inbox()).status()));
  // What a peer sent before it died is there.
  SendFile(1, 8, files[0]);
  raw_.Reset();
  urls = server_->Arrived(call.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_EQ(urls->size(), 4u);
  call.End();
  EXPECT_TRUE(absl::IsFailedPrecondition(server_->Arrived(call.inbox()).status()));
}

TEST_F(SessionTest, ArrivedHasTheLeaderLook) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  Call other(server_, 2, 1);
  std::thread leader(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  wire->PushData({2, 0}, 0, {file.get()});
  const auto urls = server_->Arrived(other.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_EQ(urls->size(), 1u);
  server_->Cancel(stream.inbox());
  leader.join();
}

TEST_F(SessionTest, SendErrorsAreTyped) {
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Send({1, 0}, 0, {1000000}, Within(kLong))));
  EXPECT_TRUE(client_->Send({1, 0}, 0, {file.get()}, Within(kLong)).ok());
  server_->Kill(CloseCode::kShutdown, absl::UnavailableError("bye"));
  EXPECT_TRUE(absl::IsUnavailable(client_->Send({1, 0}, 1, {file.get()}, Within(kLong))));
  EXPECT_TRUE(Eventually([&] { return deaths_ == 2; }));
}

// --- A leader that waits long holds nothing up ---

// Kernels without "unix: Fix race in SOCK_SEQPACKET's unix_dgram_sendmsg()" may say ECONNREFUSED of
// a peer that is just dying.
TEST_F(SessionTest, APeerThatRefusesIsGone) {
  const UniqueFd file = MakeFile("x");
  for (const bool waits : {false, true}) {
    const auto wire = MakeFake();
    wire->FailSends(ECONNREFUSED);
    absl::Status status;
    if (waits) {
      status = server_->Send({1, 0}, Indices({0, 2}), {file.get(), file.get()}, Within(kLong));
    } else {
      EXPECT_TRUE(server_->TrySend({1, 0}, 0, {file.get()}, &status));
    }
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_FALSE(server_->alive());
  }
}

TEST_F(SessionTest, CallbacksDoNotWaitForABlockedLeader) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  Call other(server_, 2, 0, /*open_ended=*/true);
  std::thread leader(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(other.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  wire->PushData({2, 0}, 0, {file.get()});
  EXPECT_TRUE(outcome.Get().ok());
  server_->Cancel(stream.inbox());
  leader.join();
}

TEST_F(SessionTest, ABlockedLeaderHoldsNoDescriptorsOfOthers) {
  config_.local = {4, 8};
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  { Call ended(server_, 2, 0); }
  std::thread leader(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  wire->PushData({2, 0}, 0, {file.get(), file.get()});
  EXPECT_TRUE(Eventually([&] {
    const std::vector<Frame> sent = wire->sent();
    return !sent.empty() && sent.back().type == FrameType::kCredit && sent.back().credit_total == 2;
  }));
  EXPECT_EQ(Holders(file), 1u);
  server_->Cancel(stream.inbox());
  leader.join();
}

// --- Threads ---

TEST_F(SessionTest, ManyThreadsNeverSwap) {
  MakeBoth();
  std::vector<std::thread> threads;
  std::atomic<uint64_t> ids{0};
  std::atomic<bool> done{false};
  // Whatever is started meanwhile inherits none of it.
  std::thread forker([&] {
    while (!done) {
      FILE* const child = ::popen("exec ls -l /proc/self/fd", "re");
      ASSERT_NE(child, nullptr);
      std::string listing;
      char buffer[512];
      while (const size_t n = ::fread(buffer, 1, sizeof(buffer), child)) listing.append(buffer, n);
      EXPECT_EQ(::pclose(child), 0);
      EXPECT_THAT(listing, Not(HasSubstr("memfd")));
    }
  });
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 60; ++round) {
        const uint64_t id = ++ids;
        const std::string content = absl::StrCat("thread ", t, " round ", round);
        const std::vector<UniqueFd> files = MakeFiles(2, content);
        ASSERT_TRUE(client_->Send({id, 0}, 0, Numbers(files), Within(kLong)).ok());
        Call there(server_, id, 2);
        Call here(client_, id, 0, /*open_ended=*/true);
        for (const uint32_t i : {1u, 0u}) {
          auto fd = there.Take(Url(files[i], i));
          ASSERT_TRUE(fd.ok()) << fd.status();
          EXPECT_EQ(Content(*fd), absl::StrCat(content, i));
          ASSERT_TRUE(server_->Send({id, 0}, 1 - i, {fd->get()}, Within(kLong)).ok());
        }
        auto back = here.Take(Url(files[0], 1));
        ASSERT_TRUE(back.ok()) << back.status();
        EXPECT_EQ(Content(*back), content + "0");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  forker.join();
  EXPECT_EQ(server_->held(), 0u);
}

TEST_F(SessionTest, OneCallAtATimeEveryReceiveRunsOnTheThreadThatAsks) {
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  {
    MutexLock lock(&g_mutex);
    g_recording = true;
  }
  for (uint64_t id = 1; id <= 200; ++id) {
    ASSERT_TRUE(client_->Send({id, 0}, 0, {file.get(), file.get()}, Within(kLong)).ok());
    Call there(server_, id, 2);
    Call here(client_, id, 0, /*open_ended=*/true);
    ASSERT_TRUE(there.Take(Url(file, 0)).ok());
    ASSERT_TRUE(there.Take(Url(file, 1)).ok());
    ASSERT_TRUE(server_->Send({id, 0}, 0, {file.get()}, Within(kLong)).ok());
    ASSERT_TRUE(here.Take(Url(file, 0)).ok());
  }
  MutexLock lock(&g_mutex);
  g_recording = false;
  EXPECT_EQ(g_receivers.size(), 400u);
  EXPECT_THAT(g_receivers, Each(ThreadId()));
  g_receivers.clear();
}

// --- What is in flight ---

// A client that gives credit for what it has not read: it must not have more in flight than its
// window, for the kernel charges that to the server's user (unix(7), ETOOMANYREFS).
TEST_F(SessionTest, CreditForWhatIsUnreadDoesNotWidenTheWindow) {
  config_.remote = {8, 8};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  const auto send = [&](uint32_t index) {
    absl::Status status;
    const bool done = server_->TrySend({1, 0}, index, {file.get()}, &status);
    EXPECT_TRUE(status.ok()) << status;
    return done;
  };
  for (uint32_t i = 0; i < 8; ++i) EXPECT_TRUE(send(i));
  EXPECT_FALSE(send(8));
  SendRaw(Credit(8));  // A lie.
  server_->Sweep();
  EXPECT_FALSE(send(8));
  const absl::Status late = server_->Send({1, 0}, 8, {file.get()}, Within(absl::Milliseconds(20)));
  EXPECT_TRUE(absl::IsResourceExhausted(late)) << late;
  EXPECT_THAT(late.message(), HasSubstr("has not read 8 descriptors"));
  EXPECT_EQ(ToSessionStats(server_->counters()).sends_refused_window, 1u);
  // Reading three makes room for three, and nobody has to say so.
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(ReadRaw().has_value());
  for (uint32_t i = 8; i < 11; ++i) EXPECT_TRUE(send(i));
  EXPECT_FALSE(send(11));
  // One that waits is let go on soon after the peer has read.
  Outcome<absl::Status> sent;
  server_->SendAsync({1, 0}, 11, {file.get()}, absl::Now() + kLong, sent.Setter());
  EXPECT_FALSE(sent.ready());
  EXPECT_TRUE(ReadRaw().has_value());
  EXPECT_EQ(sent.Get(), absl::OkStatus());
}

TEST_F(SessionTest, AnHonestPeerNeverMeetsTheKernelsCount) {
  config_.local = config_.remote = {16, 16};
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  for (uint64_t id = 1; id <= 200; ++id) {
    const std::vector<int> fds(1 + id % 16, file.get());
    ASSERT_EQ(client_->Send({id, 0}, 0, fds, Within(kLong)), absl::OkStatus()) << id;
    Call call(server_, id, static_cast<uint32_t>(fds.size()));
    for (uint32_t i = 0; i < fds.size(); ++i) ASSERT_TRUE(call.Take(Url(file, i)).ok());
    call.End();
  }
  const SessionStats client = ToSessionStats(client_->counters());
  const SessionStats server = ToSessionStats(server_->counters());
  EXPECT_EQ(client.sends_refused_window, 0u);
  EXPECT_EQ(client.fds_sent, server.fds_received);
  EXPECT_EQ(server.fds_taken, server.fds_received);
}

// --- Counters ---

TEST_F(SessionTest, CountsWhatBecomesOfEachDescriptor) {
  config_.local = {4, 6};
  config_.early_timeout = absl::Milliseconds(1);
  MakeServer();
  const UniqueFd file = MakeFile("x");
  const auto stats = [this] { return ToSessionStats(server_->counters()); };
  {
    Call call(server_, 1, 2);
    SendRaw(Data(1, 0, 2), {file.get(), file.get()});
    ASSERT_TRUE(call.Take(Url(file, 0)).ok());
    EXPECT_EQ(stats().fds_received, 2u);
    EXPECT_EQ(stats().fds_taken, 1u);
    call.End();
    EXPECT_EQ(stats().fds_unclaimed, 1u);
    SendFile(1, 2, file);
    server_->Sweep();
    EXPECT_EQ(stats().fds_late, 1u);
  }
  SendFile(2, 0, file);
  server_->Sweep();
  EXPECT_TRUE(Eventually([&] {
    server_->Sweep();
    return stats().fds_expired == 1;
  }));
  {
    Call call(server_, 3, 0, /*open_ended=*/true);
    SendRaw(Data(3, 0, 5), std::vector<int>(5, file.get()));
    server_->Sweep();
    EXPECT_EQ(stats().fds_refused_call, 5u);
  }
  Flush(reaper_.get());  // Held until closed.
  {
    Call a(server_, 4, 0, /*open_ended=*/true), b(server_, 5, 0, /*open_ended=*/true);
    SendRaw(Data(4, 0, 4), std::vector<int>(4, file.get()));
    SendRaw(Data(5, 0, 4), std::vector<int>(4, file.get()));
    server_->Sweep();
    EXPECT_EQ(stats().fds_refused_window, 4u);
  }
  EXPECT_EQ(stats().fds_unclaimed, 5u);
  EXPECT_EQ(stats().frames_refused, 0u);
  SendRaw(Data(9, 0, 2), {file.get()});
  server_->Sweep();
  EXPECT_EQ(stats().frames_refused, 1u);
  EXPECT_EQ(stats().fds_discarded, 1u);
  EXPECT_EQ(server_->counters()[static_cast<size_t>(Counter::kCutProtocol)], 1u);
  const SessionStats all = stats();
  EXPECT_EQ(all.fds_received, all.fds_taken + all.fds_registered + all.fds_refused_policy +
                                  all.fds_refused_call + all.fds_refused_window +
                                  all.fds_refused_quota + all.fds_unclaimed + all.fds_expired +
                                  all.fds_discarded + all.fds_late);
}

TEST(CounterSumTest, NeverGoesDownWhenASessionEnds) {
  auto sum = std::make_shared<CounterSum>();
  const auto taken = [&sum] { return ToSessionStats(sum->Values()).fds_taken; };
  auto a = sum->Open(), b = sum->Open();
  a->Add(Counter::kFdsTaken, 3);
  b->Add(Counter::kFdsTaken);
  EXPECT_EQ(taken(), 4u);
  a.reset();
  EXPECT_EQ(taken(), 4u);
  b->Add(Counter::kFdsTaken);
  b.reset();
  EXPECT_EQ(taken(), 5u);
  EXPECT_EQ(sum->opened(), 2u);
  // While sessions come and go.
  std::atomic<bool> stop{false};
  std::thread churn([&] {
    while (!stop.load()) sum->Open()->Add(Counter::kFdsTaken);
  });
  uint64_t last = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t now = taken();
    EXPECT_GE(now, last);
    last = now;
  }
  stop = true;
  churn.join();
  EXPECT_EQ(taken(), 5u + sum->opened() - 2u);
}

TEST(UnreadFramesTest, CountsTheLast) {
  UnreadFrames frames;
  EXPECT_EQ(frames.fds(), 0u);
  for (const uint32_t fds : {1u, 1u, 1u, 0u, 16u, 0u, 0u, 2u}) frames.Add(fds);
  EXPECT_EQ(frames.fds(), 21u);
  UnreadFrames all = frames;
  all.KeepLast(100);
  EXPECT_EQ(all.fds(), 21u);
  all.KeepLast(7);
  EXPECT_EQ(all.fds(), 20u);
  all.KeepLast(4);
  EXPECT_EQ(all.fds(), 18u);
  all.KeepLast(3);
  EXPECT_EQ(all.fds(), 2u);
  all.KeepLast(0);
  EXPECT_EQ(all.fds(), 0u);
  frames.KeepLast(1);
  EXPECT_EQ(frames.fds(), 2u);
  frames.KeepLast(0);
  frames.KeepLast(1);
  EXPECT_EQ(frames.fds(), 0u);
}

}  // namespace

void NoteReceive(const msghdr& header) {
  if (header.msg_controllen == 0) return;
  MutexLock lock(&g_mutex);
  if (g_recording) g_receivers.push_back(ThreadId());
}

}  // namespace internal
}  // namespace grpcfd

// The next definition is the sanitizer's or the C library's.
extern "C" ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
  using Function = ssize_t (*)(int, struct msghdr*, int);
  static const auto next = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "recvmsg"));
  const ssize_t result = next(fd, message, flags);
  if (result >= 0) grpcfd::internal::NoteReceive(*message);
  return result;
}

extern "C" int recvmmsg(int fd, struct mmsghdr* messages, unsigned int count, int flags,
                        struct timespec* timeout) {
  using Function = int (*)(int, struct mmsghdr*, unsigned int, int, struct timespec*);
  static const auto next = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "recvmmsg"));
  const int result = next(fd, messages, count, flags, timeout);
  for (int i = 0; i < result; ++i) grpcfd::internal::NoteReceive(messages[i].msg_hdr);
  return result;
}
