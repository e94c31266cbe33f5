// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of listener, channel and the Python client share: a directory for sockets, a raw
// client that says what it is told to, and a server with one listener that records what it hands
// on.
#ifndef GRPCFD_TESTS_FDCHANNEL_SERVER_SERVER_TEST_UTIL_H_
#define GRPCFD_TESTS_FDCHANNEL_SERVER_SERVER_TEST_UTIL_H_

#include <errno.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fdchannel/calls/call_start.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/calls/server_call.h"
#include "fdchannel/client/channel_core.h"
#include "fdchannel/os/bind.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/socket_address.h"
#include "fdchannel/server/listener.h"
#include "fdchannel/server/server_core.h"
#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/fd_channel.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {

// How long a test waits for what must come. Far more than it takes: nothing is timed with it.
constexpr absl::Duration kPatience = absl::Seconds(20);

// A directory of its own, removed with all that is in it. Short, for sun_path.
class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/grpcfd.XXXXXX";
    EXPECT_NE(::mkdtemp(name), nullptr);
    path_ = name;
  }
  ~TempDir() {
    for (const std::string& name : List()) ::unlink(absl::StrCat(path_, "/", name).c_str());
    EXPECT_EQ(::rmdir(path_.c_str()), 0) << path_;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return absl::StrCat(path_, "/", name); }

  std::vector<std::string> List() const {
    std::vector<std::string> names;
    DIR* const dir = ::opendir(path_.c_str());
    EXPECT_NE(dir, nullptr);
    while (const dirent* entry = ::readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    ::closedir(dir);
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

inline SocketAddress Address(const std::string& path) {
  auto address = SocketAddress::Parse("unix:" + path);
  EXPECT_TRUE(address.ok()) << address.status();
  return *address;
}

// Waits until `condition` holds, looking at it again and again: for what gives no signal.
template <typename Condition>
bool Eventually(const Condition& condition) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
}

// A stream connection to a socket path.
inline UniqueFd Connect(const SocketAddress& address, int flags = 0) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  EXPECT_TRUE(fd.valid());
  sockaddr_un sockaddr;
  const socklen_t length = address.ToSockaddr(&sockaddr);
  if (::connect(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length) != 0) {
    return UniqueFd();
  }
  return fd;
}

inline void WriteAll(BorrowedFd fd, const std::string& bytes) {
  ASSERT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}

inline bool WaitReadable(BorrowedFd fd, absl::Duration patience = kPatience) {
  pollfd polled = {fd.get(), POLLIN, 0};
  return ::poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(patience))) == 1;
}

// The end of the stream, clean or by a reset.
inline bool IsCut(BorrowedFd fd) {
  char byte;
  if (!WaitReadable(fd)) return false;
  const ssize_t got = ::recv(fd.get(), &byte, 1, MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno == ECONNRESET);
}

// Exactly `size` bytes, or fewer at the end of the stream.
inline std::string ReadSome(BorrowedFd fd, size_t size) {
  std::string bytes(size, '\0');
  size_t got = 0;
  while (got < size && WaitReadable(fd)) {
    const ssize_t n = ::recv(fd.get(), &bytes[got], size - got, MSG_DONTWAIT);
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  bytes.resize(got);
  return bytes;
}

inline Token MintToken() {
  auto token = Token::Mint();
  EXPECT_TRUE(token.ok()) << token.status();
  return *token;
}

inline Hello HelloWith(const Token& token) {
  Hello hello;
  hello.token = token;
  hello.limits.max_fds_per_call = 16;
  hello.limits.window = 64;
  return hello;
}

inline std::string HelloBytes(const Hello& hello) {
  std::array<char, kHelloSize> bytes;
  EncodeHello(hello, &bytes);
  return std::string(bytes.data(), bytes.size());
}

struct Answer {
  std::string bytes;
  std::vector<UniqueFd> fds;
  absl::StatusOr<HelloReply> reply = absl::UnknownError("none came");

  HelloStatus status() const { return reply.ok() ? reply->status : HelloStatus::kRefused; }
};

// Reads a whole hello reply.
inline Answer ReadAnswer(BorrowedFd fd) {
  Answer answer;
  char buffer[kHelloReplySize];
  while (answer.bytes.size() < kHelloReplySize && WaitReadable(fd)) {
    ReceivedMessage message;
    const IoResult io = ReceiveMessage(fd, buffer, kHelloReplySize - answer.bytes.size(), &message);
    if (!io.ok() || message.size == 0) break;
    answer.bytes.append(buffer, message.size);
    for (UniqueFd& received : message.fds) answer.fds.push_back(std::move(received));
  }
  answer.reply = DecodeHelloReply(Bytes(answer.bytes));
  return answer;
}

// Says hello as told and reads the answer.
inline Answer SayHello(const SocketAddress& address, const Hello& hello) {
  const UniqueFd connection = Connect(address);
  if (!connection.valid()) return Answer();
  WriteAll(connection, HelloBytes(hello));
  return ReadAnswer(connection);
}

// A server with one listener. Stopped and gone with the object.
class TestServer {
 public:
  struct HandedOn {
    UniqueFd connection;
    std::string first_bytes;
  };

  explicit TestServer(const std::string& path, const ServerLimits& limits = {},
                      const BindOptions& bind = {})
      : address_(Address(path)) {
    FdServerOptions options;
    options.limits = limits;
    auto core = ServerCore::Create(options);
    EXPECT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
    auto socket = BoundSocket::Bind(address_, bind);
    EXPECT_TRUE(socket.ok()) << socket.status();
    auto listener = Listener::Create(
        core_, *std::move(socket), {},
        [this](UniqueFd connection, std::string first_bytes, FdVector) {
          MutexLock lock(&mutex_);
          handed_on_.push_back(HandedOn{std::move(connection), std::move(first_bytes)});
          changed_.NotifyAll();
        });
    EXPECT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  ~TestServer() {
    listener_->Stop();
    core_->ShutDown();
  }

  void Start() {
    const absl::Status started = listener_->Start();
    EXPECT_TRUE(started.ok()) << started;
  }

  const SocketAddress& address() const { return address_; }
  ServerCore& core() { return *core_; }
  Listener& listener() { return *listener_; }

  // The next connection that was handed on; an invalid one if none comes.
  HandedOn NextHandedOn() {
    const absl::Time deadline = absl::Now() + kPatience;
    MutexLock lock(&mutex_);
    while (handed_on_.empty()) {
      if (!changed_.WaitUntil(&mutex_, deadline)) return HandedOn();
    }
    HandedOn next = std::move(handed_on_.front());
    handed_on_.erase(handed_on_.begin());
    return next;
  }
  size_t handed_on() {
    MutexLock lock(&mutex_);
    return handed_on_.size();
  }

  // What the interceptor does with the metadata of an RPC.
  std::unique_ptr<ServerCall> Serve(const CallMetadata& metadata, ServerCall::Config config = {}) {
    auto session = core_->FindSession(metadata.token, metadata.session_id);
    EXPECT_TRUE(session.ok()) << session.status();
    if (!session.ok()) return nullptr;
    config.key = metadata.key();
    config.announced = metadata.count;
    config.holes = metadata.holes;
    return std::make_unique<ServerCall>(*std::move(session), config);
  }

 private:
  const SocketAddress address_;
  std::shared_ptr<ServerCore> core_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<HandedOn> handed_on_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Listener> listener_;
};

// A future with patience.
template <typename T>
class Told {
 public:
  void Set(T value) {
    MutexLock lock(&mutex_);
    values_.push_back(std::move(value));
    changed_.NotifyAll();
  }
  // The n-th value, from 0; default-constructed if it never comes.
  T Wait(size_t n = 0) {
    const absl::Time deadline = absl::Now() + kPatience;
    MutexLock lock(&mutex_);
    while (values_.size() <= n) {
      if (!changed_.WaitUntil(&mutex_, deadline)) return T();
    }
    return values_[n];
  }
  size_t count() {
    MutexLock lock(&mutex_);
    return values_.size();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<T> values_ ABSL_GUARDED_BY(mutex_);
};

// The outcome of StartAsync, and how often it was told.
class Outcome {
 public:
  ClientCall::StartCallback Callback() {
    return [state = state_](const absl::StatusOr<CallMetadata>& said) {
      MutexLock lock(&state->mutex);
      ++state->count;
      state->status = said.status();
      state->changed.NotifyAll();
    };
  }
  absl::Status Wait() {
    const absl::Time deadline = absl::Now() + kPatience;
    MutexLock lock(&state_->mutex);
    while (state_->count == 0) {
      if (!state_->changed.WaitUntil(&state_->mutex, deadline)) {
        return absl::UnknownError("the callback was not called");
      }
    }
    return state_->status;
  }
  int count() const {
    MutexLock lock(&state_->mutex);
    return state_->count;
  }

 private:
  struct State {
    Mutex mutex;
    CondVar changed;
    int count ABSL_GUARDED_BY(mutex) = 0;
    absl::Status status ABSL_GUARDED_BY(mutex);
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

// What the client interceptor does to start a call: at once if there is a session, else by way of
// the poller.
inline absl::Status StartCall(ChannelCore& channel, const std::shared_ptr<ClientCall>& call,
                              ClientCall::Start start = {}, bool wait_for_ready = false) {
  if (start.deadline == absl::InfiniteFuture()) start.deadline = absl::Now() + kPatience;
  start.limits = channel.options().limits;
  absl::Status status = call->BeginStart(start);
  absl::StatusOr<CallMetadata> said;
  if (status.ok() && TryStart(channel, call.get(), &said)) {
    status = said.status();
  } else if (status.ok()) {
    Outcome outcome;
    StartAsync(channel.shared_from_this(), call, wait_for_ready, outcome.Callback());
    status = outcome.Wait();
    EXPECT_EQ(outcome.count(), 1);
  }
  if (!status.ok()) call->FailStart(status);
  return status;
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SERVER_SERVER_TEST_UTIL_H_
