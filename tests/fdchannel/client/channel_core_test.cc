// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdChannel, ClientCall and ServerCall against a listener, and against servers that are none.
#include "fdchannel/client/channel_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <thread>

#include "fdchannel/fds/core_access.h"
#include "fdchannel/session/frame_socket.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "grpcfd/testing/inode_holders.h"
#include "grpcfd/testing/same_file.h"
#include "tests/fdchannel/close_recorder.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::shared_ptr<FdChannel> MakeChannel(const std::string& path,
                                       const FdChannelOptions& options = {}) {
  auto channel = FdChannel::Create("unix:" + path, options);
  EXPECT_TRUE(channel.ok()) << channel.status();
  return *std::move(channel);
}

DevIno DevInoOf(BorrowedFd fd) {
  auto dev_ino = FdToDevIno(fd);
  EXPECT_TRUE(dev_ino.ok()) << dev_ino.status();
  return *dev_ino;
}

// How many descriptors of this process are open on the file, but for those in flight.
size_t Holders(const DevIno& dev_ino) {
  auto count = CountHolders(dev_ino, {::getpid()});
  EXPECT_TRUE(count.ok()) << count.status();
  return *count;
}

class ChannelTest : public ::testing::Test {
 protected:
  ChannelTest() : path_(dir_.File("s")) {}

  // A server that does not accept yet, with a full backlog.
  std::vector<UniqueFd> ServeWithFullBacklog() {
    BindOptions bind;
    bind.backlog = 1;
    server_ = std::make_unique<TestServer>(path_, ServerLimits(), bind);
    std::vector<UniqueFd> waiting;
    for (;;) {
      UniqueFd next = Connect(server_->address(), SOCK_NONBLOCK);
      if (!next.valid()) return waiting;
      waiting.push_back(std::move(next));
    }
  }
  TestServer& Serve(const ServerLimits& limits = {}) {
    server_.reset();
    server_ = std::make_unique<TestServer>(path_, limits);
    server_->Start();
    return *server_;
  }

  // A call with one descriptor of this content, there and back. OK if the handler got just that.
  absl::Status RoundTrip(ChannelCore& channel, TestServer& server, const std::string& content) {
    auto call = std::make_shared<ClientCall>();
    auto url = call->SendFd(MakeFile(content));
    if (!url.ok()) return url.status();
    absl::Status status = StartCall(channel, call);
    if (!status.ok()) return status;
    auto served = server.Serve(call->metadata());
    if (served == nullptr) return absl::InternalError("no session");
    auto fd = served->RecvFd(*url);
    if (!fd.ok()) return fd.status();
    if (Content(*fd) != content) return absl::DataLossError(Content(*fd));
    auto back = served->SendFd(MakeFile("back " + content));
    if (!back.ok()) return back.status();
    auto returned = call->RecvFd(*back);
    if (!returned.ok()) return returned.status();
    if (Content(*returned) != "back " + content) return absl::DataLossError(Content(*returned));
    return absl::OkStatus();
  }

  const TempDir dir_;
  const std::string path_;
  std::unique_ptr<TestServer> server_;
};

// --- One session ---

TEST_F(ChannelTest, ConnectsWithTheFirstCallThatNeedsIt) {
  server_ = std::make_unique<TestServer>(path_);
  auto channel = MakeChannel(path_);
  EXPECT_EQ(channel->target(), "unix:" + path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(call->SendFd(MakeFile("x")).ok());
  server_->Start();
  // A later client was served: nothing of this channel's was in front of it.
  EXPECT_NE(SayHello(server_->address(), HelloWith(MintToken())).reply->session_id, 0u);
  EXPECT_EQ(channel->session_id(), 0u);
  EXPECT_EQ(channel->Stats().sessions_opened, 0u);
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  EXPECT_NE(channel->session_id(), 0u);
}

TEST_F(ChannelTest, OneSessionServesAllCallsAndThreads) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) {
        const absl::Status status =
            RoundTrip(*CoreOf(*channel), server, absl::StrCat("thread ", i, " round ", round));
        EXPECT_TRUE(status.ok()) << status;
        if (status.ok()) good.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good.load(), 16 * 20);
  EXPECT_EQ(server.core().session_count(), 1u);
  EXPECT_EQ(channel->Stats().sessions_opened, 1u) << "and there never was another one";
}

TEST_F(ChannelTest, NewSessionAfterAServerRestart) {
  Serve();
  auto channel = MakeChannel(path_);
  for (int restart = 0; restart < 20; ++restart) {
    // At once: the channel may not have noticed.
    EXPECT_EQ(RoundTrip(*CoreOf(*channel), *server_, "x"), absl::OkStatus()) << restart;
    Serve();
  }
}

// The server has gone and the channel's own thread, kept busy here, cannot have noticed: the call
// finds out when it sends.
TEST_F(ChannelTest, CallThatMeetsADeadSessionGetsTheNextOne) {
  Serve();
  auto channel = MakeChannel(path_);
  ClientCall::Start start;
  start.limits = CoreOf(*channel)->options().limits;
  start.deadline = absl::Now() + kPatience;
  auto first = std::make_shared<ClientCall>();
  auto second = std::make_shared<ClientCall>();
  auto url = second->SendFd(MakeFile("y"));
  ASSERT_TRUE(first->BeginStart(start).ok());
  ASSERT_TRUE(second->BeginStart(start).ok());
  std::promise<void> here, restarted;
  Outcome outcome;
  StartAsync(CoreOf(*channel), first, /*wait_for_ready=*/false,
             [&](const absl::StatusOr<CallMetadata>& said) {
               EXPECT_EQ(said.status(), absl::OkStatus());
               here.set_value();
               restarted.get_future().wait();
               EXPECT_NE(channel->session_id(), 0u) << "not noticed yet";
               StartAsync(CoreOf(*channel), second, /*wait_for_ready=*/false, outcome.Callback());
             });
  here.get_future().wait();
  Serve();
  restarted.set_value();
  ASSERT_EQ(outcome.Wait(), absl::OkStatus());
  EXPECT_EQ(outcome.count(), 1);
  auto fd = server_->Serve(second->metadata())->RecvFd(*url);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Content(*fd), "y");
}

TEST_F(ChannelTest, SessionIdIsZeroOnceTheServerHasGone) {
  Serve();
  auto channel = MakeChannel(path_);
  ASSERT_EQ(RoundTrip(*CoreOf(*channel), *server_, "x"), absl::OkStatus());
  EXPECT_NE(channel->session_id(), 0u);
  server_.reset();
  EXPECT_TRUE(Eventually([&] { return channel->session_id() == 0; }));
}

TEST_F(ChannelTest, CallsOutliveTheChannel) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  auto url = call->SendFd(MakeFile("there"));
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  channel.reset();
  auto served = server.Serve(call->metadata());
  auto fd = served->RecvFd(*url);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Content(*fd), "there");
  auto back = served->SendFd(MakeFile("and back"));
  auto returned = call->RecvFd(*back);
  ASSERT_TRUE(returned.ok()) << returned.status();
  EXPECT_EQ(Content(*returned), "and back");
}

// --- Nobody there ---

struct AsyncCall {
  std::shared_ptr<ClientCall> call = std::make_shared<ClientCall>();
  absl::StatusOr<InodeUrl> url;
  Outcome outcome;

  void Start(ChannelCore& channel, bool wait_for_ready, absl::Duration patience = kPatience) {
    url = call->SendFd(MakeFile("async"));
    ClientCall::Start start;
    start.limits = channel.options().limits;
    start.deadline = absl::Now() + patience;
    ASSERT_TRUE(call->BeginStart(start).ok());
    StartAsync(channel.shared_from_this(), call, wait_for_ready, outcome.Callback());
  }
};

TEST_F(ChannelTest, WithoutAServerCallsFailAtOnce) {
  auto channel = MakeChannel(path_);
  for (int i = 0; i < 3; ++i) {
    AsyncCall call;
    call.Start(*CoreOf(*channel), /*wait_for_ready=*/false);
    const absl::Status status = call.outcome.Wait();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
  }
}

TEST_F(ChannelTest, WaitForReadyWaitsForTheServer) {
  auto channel = MakeChannel(path_);
  AsyncCall call;
  call.Start(*CoreOf(*channel), /*wait_for_ready=*/true);
  // A call that does not wait fails meanwhile: by then an attempt has failed, and it does not wait
  // for the next.
  for (int i = 0; i < 10; ++i) {
    AsyncCall impatient;
    const absl::Time before = absl::Now();
    impatient.Start(*CoreOf(*channel), /*wait_for_ready=*/false);
    EXPECT_EQ(impatient.outcome.Wait().code(), absl::StatusCode::kUnavailable);
    EXPECT_LT(absl::Now() - before, absl::Milliseconds(500)) << i;
  }
  EXPECT_EQ(call.outcome.count(), 0);
  TestServer& server = Serve();
  EXPECT_EQ(call.outcome.Wait(), absl::OkStatus());
  auto fd = server.Serve(call.call->metadata())->RecvFd(*call.url);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Content(*fd), "async");
  EXPECT_EQ(call.outcome.count(), 1);
}

TEST_F(ChannelTest, WaitForReadyEndsAtTheDeadline) {
  auto channel = MakeChannel(path_);
  AsyncCall call;
  const absl::Time before = absl::Now();
  call.Start(*CoreOf(*channel), /*wait_for_ready=*/true, absl::Milliseconds(200));
  const absl::Status status = call.outcome.Wait();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(199));
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
}

// Calls that gave up leave nothing behind that the next would inherit.
TEST_F(ChannelTest, NextCallAfterOneThatGaveUpConnects) {
  auto channel = MakeChannel(path_);
  for (int i = 0; i < 5; ++i) {
    AsyncCall call;
    call.Start(*CoreOf(*channel), /*wait_for_ready=*/true, absl::Milliseconds(20));
    EXPECT_EQ(call.outcome.Wait().code(), absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_EQ(RoundTrip(*CoreOf(*channel), Serve(), "x"), absl::OkStatus());
}

// --- Servers that are none, or bad ones ---

// Accepts connections and does with each, on a thread of its own, what it is told.
class FakeServer {
 public:
  using Behaviour = std::function<void(const UniqueFd& connection)>;

  FakeServer(const std::string& path, Behaviour behaviour) {
    auto socket = BoundSocket::Bind(Address(path), {});
    EXPECT_TRUE(socket.ok()) << socket.status();
    socket_ = std::make_unique<BoundSocket>(*std::move(socket));
    EXPECT_EQ(::pipe2(stop_, O_CLOEXEC), 0);
    thread_ = std::thread([this, behaviour = std::move(behaviour)] {
      for (;;) {
        pollfd polled[2] = {{socket_->fd().get(), POLLIN, 0}, {stop_[0], POLLIN, 0}};
        if (::poll(polled, 2, -1) < 0 || polled[1].revents != 0) return;
        const UniqueFd connection(::accept4(socket_->fd().get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!connection.valid()) continue;
        accepted_.fetch_add(1);
        behaviour(connection);
      }
    });
  }
  ~FakeServer() {
    ::close(stop_[1]);
    thread_.join();
    ::close(stop_[0]);
  }

  int accepted() const { return accepted_.load(); }

 private:
  std::unique_ptr<BoundSocket> socket_;
  int stop_[2] = {-1, -1};
  std::atomic<int> accepted_{0};
  std::thread thread_;
};

std::string ReplyBytes(const HelloReply& reply) {
  std::array<char, kHelloReplySize> bytes;
  EncodeHelloReply(reply, &bytes);
  return std::string(bytes.data(), bytes.size());
}

HelloReply GoodReply() {
  HelloReply reply;
  reply.session_id = 7;
  reply.limits.max_fds_per_call = 16;
  reply.limits.window = 64;
  return reply;
}

void Reply(const UniqueFd& connection, const std::string& bytes, const std::vector<int>& fds) {
  EXPECT_TRUE(SendMessage(connection, Bytes(bytes), fds).ok());
}

// What the first call of a channel gets from a server that does this.
absl::Status FirstCall(const std::string& path, FakeServer::Behaviour behaviour,
                       absl::Duration connect_timeout = absl::Seconds(10)) {
  const FakeServer server(path, std::move(behaviour));
  FdChannelOptions options;
  options.connect_timeout = connect_timeout;
  auto channel = MakeChannel(path, options);
  auto call = std::make_shared<ClientCall>();
  EXPECT_TRUE(call->SendFd(MakeFile("x")).ok());
  const absl::Status status = StartCall(*CoreOf(*channel), call);
  EXPECT_EQ(channel->session_id(), status.ok() ? 7u : 0u);
  return status;
}

TEST_F(ChannelTest, ServerWithoutGrpcfdThatAnswers) {
  const absl::Status status = FirstCall(path_, [](const UniqueFd& connection) {
    ReadSome(connection, kHelloSize);
    WriteAll(connection, "HTTP/1.1 400 Bad Request\r\n\r\n");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not a grpcfd server"));
}

TEST_F(ChannelTest, ServerWithoutGrpcfdThatHangsUp) {
  absl::Status status =
      FirstCall(path_, [](const UniqueFd& connection) { ReadSome(connection, kHelloSize); });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no grpcfd server"));
  // With the hello unread the kernel makes a reset of it.
  status = FirstCall(path_, [](const UniqueFd&) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  // In the middle of a reply.
  status = FirstCall(path_, [](const UniqueFd& connection) {
    ReadSome(connection, kHelloSize);
    WriteAll(connection, ReplyBytes(GoodReply()).substr(0, 63));
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_F(ChannelTest, ServerThatStaysSilent) {
  const absl::Time before = absl::Now();
  const absl::Status status = FirstCall(
      path_, [](const UniqueFd& connection) { ReadSome(connection, kHelloSize + 1); },
      absl::Milliseconds(200));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("did not answer"));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(199));
}

// A session that is dead when the channel gets it is an attempt that failed: no call goes round
// and round between the two.
TEST_F(ChannelTest, ServerThatClosesEachSessionAtOnce) {
  const FakeServer server(path_, [](const UniqueFd& connection) {
    auto ends = MakeSessionSockets();
    ASSERT_TRUE(ends.ok()) << ends.status();
    ends->first.Reset();
    Reply(connection, ReplyBytes(GoodReply()), {ends->second.get()});
  });
  for (const bool per_attempt : {false, true}) {
    SCOPED_TRACE(per_attempt);
    auto channel = MakeChannel(path_);
    const auto start_one = [&](bool wait_for_ready, absl::Time deadline) {
      auto call = std::make_shared<ClientCall>();
      EXPECT_TRUE(call->SendFd(MakeFile("x")).ok());
      ClientCall::Start start;
      start.limits = CoreOf(*channel)->options().limits;
      start.deadline = deadline;
      start.per_attempt = per_attempt;
      EXPECT_EQ(call->BeginStart(start), absl::OkStatus());
      Outcome outcome;
      StartAsync(CoreOf(*channel), call, wait_for_ready, outcome.Callback());
      return outcome.Wait().code();
    };
    int before = server.accepted();
    EXPECT_EQ(start_one(/*wait_for_ready=*/false, absl::InfiniteFuture()),
              absl::StatusCode::kUnavailable);
    EXPECT_LE(server.accepted(), before + 2);
    EXPECT_EQ(start_one(/*wait_for_ready=*/false, absl::InfiniteFuture()),
              absl::StatusCode::kUnavailable);
    EXPECT_LE(server.accepted(), before + 4);

    before = server.accepted();
    EXPECT_EQ(start_one(/*wait_for_ready=*/true, absl::Now() + absl::Seconds(1)),
              absl::StatusCode::kDeadlineExceeded);
    EXPECT_GE(server.accepted(), before + 2);
    EXPECT_LT(server.accepted(), before + 20);
  }
}

// What a server sends along with half an answer may block on close.
TEST_F(ChannelTest, WhatAnUnfinishedHelloBroughtIsClosedByTheReaper) {
  UniqueFd file = MakeFile("x");
  const DevIno dev_ino = DevInoOf(file);
  std::atomic<bool> sent{false};
  FakeServer server(path_, [&](const UniqueFd& connection) {
    ReadSome(connection, kHelloSize);
    Reply(connection, ReplyBytes(GoodReply()).substr(0, 63), {file.get()});
    file.Reset();
    sent = true;
    ReadSome(connection, 1);  // Until the channel closes it.
  });
  auto channel = MakeChannel(path_);
  AsyncCall call;
  call.Start(*CoreOf(*channel), /*wait_for_ready=*/false);
  ASSERT_TRUE(Eventually([&] { return sent && Holders(dev_ino) == 1; })) << "it was received";
  AllCloses().Record(dev_ino);
  channel.reset();
  EXPECT_EQ(call.outcome.Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(AllCloses().Wait(1), ::testing::ElementsAre("grpcfd-reaper"));
}

TEST_F(ChannelTest, StatusesOfTheHelloReply) {
  const std::vector<std::pair<HelloStatus, absl::StatusCode>> codes = {
      {HelloStatus::kUnsupportedVersion, absl::StatusCode::kFailedPrecondition},
      {HelloStatus::kTooManySessions, absl::StatusCode::kResourceExhausted},
      {HelloStatus::kRefused, absl::StatusCode::kPermissionDenied},
      {HelloStatus::kMalformed, absl::StatusCode::kInternal},
      {HelloStatus::kShuttingDown, absl::StatusCode::kUnavailable},
      {HelloStatus::kOutOfDescriptors, absl::StatusCode::kResourceExhausted},
  };
  for (const auto& [hello_status, code] : codes) {
    HelloReply reply;
    reply.status = hello_status;
    const absl::Status status = FirstCall(path_, [&](const UniqueFd& connection) {
      ReadSome(connection, kHelloSize);
      Reply(connection, ReplyBytes(reply), {});
    });
    EXPECT_EQ(status.code(), code) << status;
  }
}

TEST_F(ChannelTest, TokenInUseIsTriedAgainUntilTheAttemptsTimeIsUp) {
  HelloReply reply;
  reply.status = HelloStatus::kTokenInUse;
  std::atomic<int> hellos{0};
  const absl::Status status = FirstCall(
      path_,
      [&](const UniqueFd& connection) {
        ReadSome(connection, kHelloSize);
        hellos.fetch_add(1);
        Reply(connection, ReplyBytes(reply), {});
      },
      absl::Milliseconds(100));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("token")) << "the reason, not the time-out";
  EXPECT_GT(hellos.load(), 1);
}

TEST_F(ChannelTest, RepliesWithTheWrongDescriptors) {
  auto sockets = MakeSessionSockets();
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  const int good = sockets->first.get();
  const UniqueFd file = MakeFile("no socket");
  const SocketPair stream = MakePair(SOCK_STREAM);
  const std::vector<UniqueFd> many = MakeFiles(253);
  std::vector<std::pair<const char*, std::vector<int>>> sets = {
      {"none", {}},
      {"two", {good, good}},
      {"a file", {file.get()}},
      {"a stream socket", {stream.a.get()}},
      {"as many as fit", Numbers(many)},
  };
  for (const auto& [name, fds] : sets) {
    const absl::Status status = FirstCall(path_, [&, &set = fds](const UniqueFd& connection) {
      ReadSome(connection, kHelloSize);
      Reply(connection, ReplyBytes(GoodReply()), set);
    });
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << name << ": " << status;
  }
  // One too many with a part of the reply, and no rest: known at once.
  const absl::Status status = FirstCall(path_, [&](const UniqueFd& connection) {
    ReadSome(connection, kHelloSize);
    Reply(connection, ReplyBytes(GoodReply()).substr(0, 1), {good});
    Reply(connection, ReplyBytes(GoodReply()).substr(1, 1), {good});
    ReadSome(connection, 1);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
}

TEST_F(ChannelTest, RepliesThatAreMalformed) {
  auto sockets = MakeSessionSockets();
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  const int good = sockets->first.get();
  std::vector<std::string> replies(4, ReplyBytes(GoodReply()));
  replies[0][10] = 3;   // A version that was not offered.
  replies[1][16] = 0;   // Session 0.
  replies[2][63] = 1;   // Reserved.
  replies[3][12] = 99;  // Status.
  for (const std::string& bytes : replies) {
    const absl::Status status = FirstCall(path_, [&](const UniqueFd& connection) {
      ReadSome(connection, kHelloSize);
      Reply(connection, bytes, {good});
    });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
}

TEST_F(ChannelTest, ReplyInPiecesAndReplyThatIsTooLong) {
  auto sockets = MakeSessionSockets();
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  const int client_end = sockets->first.get();
  const std::string bytes = ReplyBytes(GoodReply());
  absl::Status status = FirstCall(path_, [&](const UniqueFd& connection) {
    ReadSome(connection, kHelloSize);
    Reply(connection, bytes.substr(0, 1), {});
    Reply(connection, bytes.substr(1, 62), {client_end});
    Reply(connection, bytes.substr(63), {});
  });
  EXPECT_EQ(status, absl::OkStatus());
  // What follows belongs to nothing. It is not read, and the session is good. (The first session's
  // end has shut its socket down.)
  auto others = MakeSessionSockets();
  ASSERT_TRUE(others.ok()) << others.status();
  status = FirstCall(path_, [&](const UniqueFd& connection) {
    ReadSome(connection, kHelloSize);
    Reply(connection, bytes + "and more", {others->first.get()});
  });
  EXPECT_EQ(status, absl::OkStatus());
}

// MSG_CTRUNC: this process is at its limit, so the session's socket is lost.
TEST_F(ChannelTest, NoDescriptorLeftForTheSession) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  std::atomic<int> refused{0};
  for (int room = 0; room < 9; ++room) {
    AsyncCall call;
    call.url = call.call->SendFd(MakeFile("x"));
    ClientCall::Start start;
    start.limits = CoreOf(*channel)->options().limits;
    start.deadline = absl::Now() + kPatience;
    ASSERT_TRUE(call.call->BeginStart(start).ok());
    absl::Status status;
    {
      const ScopedFdRoom scoped(room);
      StartAsync(CoreOf(*channel), call.call, /*wait_for_ready=*/false, call.outcome.Callback());
      status = call.outcome.Wait();
    }
    if (!status.ok()) {
      // Whichever of the two ends, which share one table here, ran out of room first.
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << room << ": " << status;
      refused.fetch_add(1);
    } else {
      break;
    }
  }
  EXPECT_GT(refused.load(), 0);
  EXPECT_EQ(RoundTrip(*CoreOf(*channel), server, "now there is room"), absl::OkStatus());
}

TEST_F(ChannelTest, FullBacklogDoesNotBlock) {
  const std::vector<UniqueFd> waiting = ServeWithFullBacklog();
  auto channel = MakeChannel(path_);
  AsyncCall call;
  call.Start(*CoreOf(*channel), /*wait_for_ready=*/false);  // Would hang here.
  EXPECT_EQ(call.outcome.count(), 0);
  server_->Start();
  EXPECT_EQ(call.outcome.Wait(), absl::OkStatus());
}

// In a storm room is taken again at once: who asks seldom never finds any.
TEST_F(ChannelTest, AFullBacklogIsAskedAgainAtShortIntervals) {
  const std::vector<UniqueFd> waiting = ServeWithFullBacklog();
  auto channel = MakeChannel(path_);
  AsyncCall call;
  call.Start(*CoreOf(*channel), /*wait_for_ready=*/false);
  // More often than an interval that doubles would allow within the time to connect.
  EXPECT_TRUE(Eventually([&] { return channel->Stats().connect_attempts >= 30; }));
  EXPECT_EQ(call.outcome.count(), 0);
  server_->Start();
  EXPECT_EQ(call.outcome.Wait(), absl::OkStatus());
}

TEST_F(ChannelTest, BacklogThatStaysFullIsUnavailable) {
  const std::vector<UniqueFd> waiting = ServeWithFullBacklog();
  FdChannelOptions options;
  options.connect_timeout = absl::Milliseconds(100);
  auto channel = MakeChannel(path_, options);
  AsyncCall call;
  call.Start(*CoreOf(*channel), /*wait_for_ready=*/false);
  EXPECT_EQ(call.outcome.Wait().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ChannelTest, DestructionCompletesWhatIsPendingExactlyOnce) {
  // Silent, refusing, or answering just now.
  for (int round = 0; round < 60; ++round) {
    std::unique_ptr<FakeServer> silent;
    if (round % 3 == 1) {
      silent = std::make_unique<FakeServer>(
          path_, [](const UniqueFd& connection) { ReadSome(connection, kHelloSize + 1); });
    } else if (round % 3 == 2) {
      Serve();
    }
    auto channel = MakeChannel(path_);
    std::vector<AsyncCall> calls(4);
    for (AsyncCall& call : calls) call.Start(*CoreOf(*channel), /*wait_for_ready=*/true);
    if (silent != nullptr) {
      EXPECT_TRUE(Eventually([&] { return silent->accepted() > 0; }));
    }
    channel.reset();
    for (AsyncCall& call : calls) {
      const absl::Status status = call.outcome.Wait();
      EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
      if (round % 3 != 2) {
        EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
      }
      if (!status.ok()) call.call->FailStart(status);
      EXPECT_EQ(call.outcome.count(), 1);
    }
    server_.reset();
  }
}

TEST_F(ChannelTest, ManyThreadsStartWhileServersComeAndGo) {
  auto channel = MakeChannel(path_);
  std::atomic<bool> over{false};
  std::atomic<int> started{0};
  std::vector<std::thread> threads;
  std::vector<std::vector<AsyncCall>> calls(3);
  for (auto& mine : calls) {
    threads.emplace_back([&] {
      while (!over.load() && mine.size() < 300) {
        mine.emplace_back();
        mine.back().Start(*CoreOf(*channel), mine.size() % 2 == 0);
        if (mine.back().outcome.Wait().ok()) started.fetch_add(1);
      }
    });
  }
  for (int i = 0; i < 30; ++i) {
    const int before = started.load();
    Serve();
    EXPECT_TRUE(Eventually([&] { return started.load() > before || over.load(); }));
    server_.reset();
    if (started.load() > 600) break;
  }
  Serve();
  over.store(true);
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : calls) {
    for (const AsyncCall& call : mine) EXPECT_EQ(call.outcome.count(), 1);
  }
}

TEST_F(ChannelTest, OptionsAndTargetsAreChecked) {
  EXPECT_EQ(FdChannel::Create("dns:///localhost:1").status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(FdChannel::Create("unix:").status().code(), absl::StatusCode::kInvalidArgument);
  FdChannelOptions options;
  options.limits.max_fds_per_call = 65;
  EXPECT_EQ(FdChannel::Create("unix:/x", options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.limits.max_fds_per_call = 0;
  EXPECT_EQ(FdChannel::Create("unix:/x", options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// --- ClientCall ---

TEST_F(ChannelTest, MoreThanTheChannelsLimitIsRefusedAtStart) {
  auto call = std::make_shared<ClientCall>();
  for (int i = 0; i < 17; ++i) ASSERT_TRUE(call->SendFd(MakeFile("x")).ok());
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  const absl::Status status = StartCall(*CoreOf(*channel), call);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_fds_per_call"));
  EXPECT_EQ(server.core().session_count(), 0u) << "nothing was even connected";
  EXPECT_EQ(call->RecvFd("inode://1/2").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ChannelTest, MoreThanTheServersLimitIsRefusedAtStart) {
  ServerLimits limits;
  limits.session.max_fds_per_call = 3;
  TestServer& server = Serve(limits);
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(call->SendFd(MakeFile("x")).ok());
  const absl::Status status = StartCall(*CoreOf(*channel), call);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  // As many as are allowed go.
  auto next = std::make_shared<ClientCall>();
  std::vector<InodeUrl> urls;
  for (int i = 0; i < 3; ++i) urls.push_back(*next->SendFd(MakeFile(absl::StrCat("file ", i))));
  ASSERT_TRUE(StartCall(*CoreOf(*channel), next).ok());
  EXPECT_EQ(next->metadata().count, 3u);
  auto served = server.Serve(next->metadata());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Content(*served->RecvFd(urls[static_cast<size_t>(i)])), absl::StrCat("file ", i));
  }
}

TEST_F(ChannelTest, BadDescriptorsAreRefusedAtOnceAndNothingIsQueued) {
  auto call = std::make_shared<ClientCall>();
  const int closed = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)).get();  // Closed by now.
  EXPECT_EQ(call->SendFd(BorrowedFd(-1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(call->SendFd(BorrowedFd(closed)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(call->SendFd(UniqueFd()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(call->SendFilename(dir_.File("missing")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(call->has_queued());
  // The next one has index 0: none was used up.
  auto url = call->SendFd(MakeFile("x"));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->index(), 0u);

  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  EXPECT_EQ(call->metadata().count, 1u);
  auto served = server.Serve(call->metadata());
  const int closed_later = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)).get();
  EXPECT_EQ(served->SendFd(BorrowedFd(-1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(served->SendFd(BorrowedFd(closed_later)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(served->SendFilename(dir_.File("missing")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(served->SendFd(MakeFile("back"))->index(), 0u);
}

TEST_F(ChannelTest, QueueOwnsDuplicates) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  UniqueFd original = MakeFile("the right one");
  const int number = original.get();
  const UniqueFd same(::fcntl(number, F_DUPFD_CLOEXEC, 3));
  auto url = call->SendFd(BorrowedFd(original));
  ASSERT_TRUE(url.ok()) << url.status();
  // The caller closes it and its number goes to another file, before the call starts.
  const UniqueFd wrong = MakeFile("the wrong one");
  ASSERT_EQ(::dup3(wrong.get(), number, O_CLOEXEC), number);
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto fd = server.Serve(call->metadata())->RecvFd(*url);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Content(*fd), "the right one");
  auto identical = SameOpenFile(*fd, same);
  ASSERT_TRUE(identical.ok()) << identical.status();
  EXPECT_TRUE(*identical);
}

TEST_F(ChannelTest, BorrowedStayOpenAndAdoptedAreClosedOnceTheServerHasTheCall) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  CoreOf(*channel)->AddConnector([] { return false; });  // Its calls may land elsewhere.
  auto call = std::make_shared<ClientCall>();
  const UniqueFd borrowed = MakeFile("borrowed");
  UniqueFd adopted = MakeFile("adopted");
  const DevIno first = DevInoOf(borrowed), second = DevInoOf(adopted);
  auto first_url = call->SendFd(BorrowedFd(borrowed));
  auto second_url = call->SendFd(std::move(adopted));
  EXPECT_EQ(Holders(first), 2u);
  EXPECT_EQ(Holders(second), 1u) << "no duplicate is made";
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  EXPECT_EQ(Holders(first), 2u) << "the server may ask for it again";
  EXPECT_EQ(Holders(second), 1u);
  auto served = server.Serve(call->metadata());
  EXPECT_TRUE(Eventually([&] { return Holders(first) == 1 && Holders(second) == 0; }))
      << "in flight only";
  EXPECT_EQ(Content(*served->RecvFd(*first_url)), "borrowed");
  EXPECT_EQ(Content(*served->RecvFd(*second_url)), "adopted");

  // The server's sends: the same.
  UniqueFd back = MakeFile("back");
  const DevIno third = DevInoOf(back);
  auto back_url = served->SendFd(std::move(back));
  EXPECT_EQ(Holders(third), 0u);
  EXPECT_EQ(Content(*call->RecvFd(*back_url)), "back");
}

TEST_F(ChannelTest, CallThatNeverStartsClosesWhatIsQueued) {
  UniqueFd file = MakeFile("x");
  const DevIno dev_ino = DevInoOf(file);
  {
    auto call = std::make_shared<ClientCall>();
    ASSERT_TRUE(call->SendFd(std::move(file)).ok());
    EXPECT_EQ(Holders(dev_ino), 1u);
  }
  EXPECT_EQ(Holders(dev_ino), 0u);

  file = MakeFile("y");
  const DevIno other = DevInoOf(file);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(call->SendFd(std::move(file)).ok());
  call->FailStart(absl::FailedPreconditionError("no channel"));
  EXPECT_EQ(Holders(other), 0u);
  EXPECT_EQ(call->SendFd(MakeFile("z")).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(call->RecvFd("inode://1/2").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ChannelTest, EndOfTheCallClosesWhatCameBackUnclaimed) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto served = server.Serve(call->metadata());
  UniqueFd taken = MakeFile("taken"), unclaimed = MakeFile("unclaimed"),
           unread = MakeFile("unread");
  const DevIno first = DevInoOf(unclaimed), second = DevInoOf(unread);
  ASSERT_TRUE(served->SendFd(std::move(unclaimed)).ok());
  auto url = served->SendFd(std::move(taken));
  ASSERT_TRUE(call->RecvFd(*url).ok());
  EXPECT_EQ(Holders(first), 1u) << "read along with the one that was taken";
  ASSERT_TRUE(served->SendFd(std::move(unread)).ok());
  served.reset();
  call.reset();
  EXPECT_TRUE(Eventually([&] { return Holders(first) == 0; }));
  // Read with the next call's descriptors, and closed.
  ASSERT_EQ(RoundTrip(*CoreOf(*channel), server, "next"), absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return Holders(second) == 0; }));
  EXPECT_EQ(server.core().ledger()->held_total(), 0u);
}

TEST_F(ChannelTest, ACallStartsOnce) {
  Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  EXPECT_EQ(call->RecvFd("inode://1/2").status().code(), absl::StatusCode::kFailedPrecondition)
      << "nothing can have come back before the start";
  ASSERT_TRUE(call->SendFd(MakeFile("x")).ok());
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  EXPECT_EQ(call->BeginStart({}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(call->SendFd(MakeFile("late")).status().code(), absl::StatusCode::kFailedPrecondition)
      << "the request is out";
}

TEST_F(ChannelTest, StreamsOfRequestsSendMoreLater) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  auto early = call->SendFd(MakeFile("early"));
  ClientCall::Start start;
  start.client_streams = true;
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call, start).ok());
  EXPECT_EQ(call->metadata().count, 1u);
  ServerCall::Config config;
  config.client_streams = true;
  auto served = server.Serve(call->metadata(), config);
  // More in all than a call may have at once, each taken before the next.
  for (int i = 0; i < 100; ++i) {
    auto url = call->SendFd(MakeFile(absl::StrCat("late ", i)));
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(url->index(), static_cast<uint32_t>(i + 1));
    auto fd = served->RecvFd(*url);
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("late ", i));
  }
  EXPECT_EQ(Content(*served->RecvFd(*early)), "early");
}

// --- ServerCall ---

TEST_F(ChannelTest, UnaryReplyHasTheClientsLimit) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto served = server.Serve(call->metadata());
  std::vector<InodeUrl> urls;
  for (int i = 0; i < 16; ++i) {
    auto url = served->SendFd(MakeFile(absl::StrCat("file ", i)));
    ASSERT_TRUE(url.ok()) << url.status();
    urls.push_back(*url);
  }
  const auto refused = served->SendFd(MakeFile("one too many"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
  for (size_t i = 16; i-- > 0;) {  // In any order.
    EXPECT_EQ(Content(*call->RecvFd(urls[i])), absl::StrCat("file ", i));
  }
}

TEST_F(ChannelTest, StreamsOfRepliesSendAsManyAsAreTaken) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  ServerCall::Config config;
  config.server_streams = true;
  config.never_block = true;
  auto served = server.Serve(call->metadata(), config);
  for (int i = 0; i < 200; ++i) {
    auto url = served->SendFd(MakeFile(absl::StrCat("file ", i)));
    ASSERT_TRUE(url.ok()) << i << ": " << url.status();
    auto fd = call->RecvFd(*url);
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i));
  }
}

TEST_F(ChannelTest, AFullWindowIsRefusedAtOnceIfItMustNotBlock) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  ServerCall::Config config;
  config.server_streams = true;
  config.never_block = true;
  auto served = server.Serve(call->metadata(), config);
  int sent = 0;
  absl::Status status;
  while (status.ok() && sent < 1000) {
    status = served->SendFd(MakeFile("x")).status();
    if (status.ok()) ++sent;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(sent, 64) << "session_window";
}

TEST_F(ChannelTest, AReceiveThatMustNotBlockSaysWhatToCallInstead) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ClientCall::Start start;
  start.client_streams = true;
  start.limits = CoreOf(*channel)->options().limits;
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call, start).ok());
  ServerCall::Config config;
  config.client_streams = true;
  config.never_block = true;
  auto served = server.Serve(call->metadata(), config);
  for (const bool dup : {false, true}) {
    const absl::Status status = dup ? served->DupFd("inode://1/2?fd=0").status()
                                    : served->RecvFd("inode://1/2?fd=0").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("RecvFdAsync"));
  }
  // With a deadline of its own it waits.
  EXPECT_EQ(served->RecvFd("inode://1/2?fd=0", absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  // What is there needs no wait.
  const auto url = call->SendFd(MakeFile("x"));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(Content(*served->RecvFd(*url)), "x");
}

TEST_F(ChannelTest, HandleMayOutliveItsCallButDoesNothingThen) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  UniqueFd file = MakeFile("never taken");
  const DevIno dev_ino = DevInoOf(file);
  auto url = call->SendFd(std::move(file));
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto served = server.Serve(call->metadata());
  served->End();
  served->End();
  constexpr absl::StatusCode kEnded = absl::StatusCode::kFailedPrecondition;
  EXPECT_EQ(served->RecvFd(*url).status().code(), kEnded);
  EXPECT_EQ(served->DupFd(*url).status().code(), kEnded);
  EXPECT_EQ(served->SendFd(MakeFile("late")).status().code(), kEnded);
  EXPECT_EQ(served->SendFilename("/dev/null").status().code(), kEnded);
  absl::Status async;
  served->RecvFdAsync(*url, [&](absl::StatusOr<UniqueFd> fd) { async = fd.status(); });
  EXPECT_EQ(async.code(), kEnded);
  EXPECT_TRUE(Eventually([&] { return Holders(dev_ino) == 0; })) << "what nobody took is closed";
  EXPECT_TRUE(Eventually([&] { return server.core().ledger()->held_total() == 0; }));
}

// One who waits is released, whichever way the call comes to its end.
TEST_F(ChannelTest, EndAndCancelReleaseWaiters) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  for (const bool cancel : {false, true}) {
    auto call = std::make_shared<ClientCall>();
    ClientCall::Start start;
    start.client_streams = true;
    ASSERT_TRUE(StartCall(*CoreOf(*channel), call, start).ok());
    ServerCall::Config config;
    config.client_streams = true;
    auto served = server.Serve(call->metadata(), config);
    absl::Status status;
    std::thread waiter([&] { status = served->RecvFd("inode://1/2?fd=0").status(); });
    if (cancel) {
      served->Cancel();
    } else {
      served->End();
    }
    waiter.join();
    EXPECT_EQ(status.code(),
              cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kFailedPrecondition)
        << status;
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
