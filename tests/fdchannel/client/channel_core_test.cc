// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdChannel against a listener: its session, and what calls get while nobody listens.
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

}  // namespace
}  // namespace internal
}  // namespace grpcfd
