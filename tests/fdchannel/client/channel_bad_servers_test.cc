// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdChannel against servers that are none, or bad ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <thread>

#include "fdchannel/client/channel_core.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/session/frame_socket.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "grpcfd/testing/same_file.h"
#include "tests/fdchannel/client/channel_test_util.h"
#include "tests/fdchannel/close_recorder.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

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

}  // namespace
}  // namespace internal
}  // namespace grpcfd
