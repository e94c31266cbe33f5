// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The numbers of a server and of a channel, over the life of a few sessions.
#include "grpcfd/stats.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

TEST(StatsTest, AServerAndAChannelCountTheSame) {
  const TempDir dir;
  TestServer server(dir.File("socket"));
  server.Start();
  FdChannelOptions options;
  auto channel = std::make_shared<ChannelCore>(server.address(), MintToken(), options);
  auto call = std::make_shared<ClientCall>();
  const auto url = call->SendFd(MakeFile("one"));
  ASSERT_TRUE(url.ok());
  ASSERT_TRUE(call->SendFd(MakeFile("two")).ok());
  ASSERT_EQ(StartCall(*channel, call), absl::OkStatus());
  auto served = server.Serve(call->metadata());
  ASSERT_NE(served, nullptr);
  ASSERT_TRUE(served->RecvFd(*url).ok());
  const auto back = served->SendFd(MakeFile("three"));
  ASSERT_TRUE(back.ok());
  ASSERT_TRUE(call->RecvFd(*back).ok());

  FdChannelStats client = channel->stats();
  EXPECT_EQ(client.connect_attempts, 1u);
  EXPECT_EQ(client.connect_failures, 0u);
  EXPECT_EQ(client.sessions_opened, 1u);
  EXPECT_EQ(client.sessions.fds_sent, 2u);
  EXPECT_EQ(client.sessions.fds_taken, 1u);
  FdServerStats stats = server.core().stats();
  EXPECT_EQ(stats.sessions_now, 1u);
  EXPECT_EQ(stats.sessions_opened, 1u);
  EXPECT_EQ(stats.accepted, 1u);
  // The hello's connection is closed after its answer has gone.
  EXPECT_TRUE(Eventually([&server] { return server.core().stats().half_open_now == 0; }));
  EXPECT_EQ(stats.fds_held_now, 1u);
  EXPECT_EQ(stats.sessions.fds_received, 2u);
  EXPECT_EQ(stats.sessions.fds_taken, 1u);
  EXPECT_EQ(stats.sessions.fds_sent, 1u);

  served.reset();
  EXPECT_EQ(server.core().stats().sessions.fds_unclaimed, 1u);
  // What the session has counted outlives it.
  channel.reset();
  call.reset();
  EXPECT_TRUE(Eventually([&server] { return server.core().stats().sessions_closed_by_peer == 1; }));
  EXPECT_TRUE(Eventually([&server] { return server.core().stats().sessions_now == 0; }));
  stats = server.core().stats();
  EXPECT_EQ(stats.sessions.fds_received, 2u);
  EXPECT_EQ(stats.sessions_cut_protocol, 0u);
}

TEST(StatsTest, ConnectionsAndHellosAreCountedByWhatBecameOfThem) {
  const TempDir dir;
  ServerLimits limits;
  limits.hello_timeout = absl::Milliseconds(50);
  limits.max_sessions_per_uid = 1;
  TestServer server(dir.File("socket"), limits);
  server.Start();
  const auto stats = [&server] { return server.core().stats(); };
  { const UniqueFd leaves = Connect(server.address()); }
  EXPECT_TRUE(Eventually([&] { return stats().half_open_gone == 1; }));
  const UniqueFd silent = Connect(server.address());
  EXPECT_TRUE(Eventually([&] { return stats().half_open_expired == 1; }));
  const UniqueFd http = Connect(server.address());
  WriteAll(http, "PRI");
  EXPECT_TRUE(server.NextHandedOn().connection.valid());
  EXPECT_EQ(stats().handed_on, 1u);

  const Hello hello = HelloWith(MintToken());
  const Answer first = SayHello(server.address(), hello);
  EXPECT_EQ(first.status(), HelloStatus::kOk);
  EXPECT_EQ(SayHello(server.address(), hello).status(), HelloStatus::kTokenInUse);
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(),
            HelloStatus::kTooManySessions);
  Hello future = HelloWith(MintToken());
  future.min_version = future.max_version = 99;
  EXPECT_EQ(SayHello(server.address(), future).status(), HelloStatus::kUnsupportedVersion);
  EXPECT_EQ(stats().sessions_opened, 1u);
  EXPECT_EQ(stats().hellos_token_in_use, 1u);
  EXPECT_EQ(stats().hellos_too_many_sessions, 1u);
  EXPECT_EQ(stats().hellos_unsupported_version, 1u);
  server.core().ShutDown();
  EXPECT_EQ(stats().sessions_cut_here, 1u);
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(),
            HelloStatus::kShuttingDown);
  EXPECT_EQ(stats().hellos_shutting_down, 1u);
}

// A hello that promises to hold everything: what is sent to it is bounded all the same.
TEST(StatsTest, AClientCannotWidenWhatTheServerSends) {
  const TempDir dir;
  ServerLimits limits;
  limits.session.max_fds_per_call = 4;
  limits.session.session_window = 8;
  TestServer server(dir.File("socket"), limits);
  server.Start();
  Hello hello = HelloWith(MintToken());
  hello.limits.max_fds_per_call = hello.limits.window = 0xffffffff;
  const Answer answer = SayHello(server.address(), hello);
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  auto session = server.core().FindSession(hello.token, answer.reply->session_id);
  ASSERT_TRUE(session.ok());
  EXPECT_EQ((*session)->remote_limits().max_fds_per_call, 4u);
  EXPECT_EQ((*session)->remote_limits().window, 8u);
  const UniqueFd file = MakeFile("x");
  const std::vector<int> five(5, file.get());
  absl::Status status;
  EXPECT_TRUE((*session)->TrySend({1, 0}, 0, five, &status));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(server.core().stats().sessions.sends_refused_limit, 1u);
  for (uint64_t call = 1; call <= 8; ++call) {
    EXPECT_TRUE((*session)->TrySend({call, 0}, 0, {file.get()}, &status));
    EXPECT_EQ(status, absl::OkStatus());
  }
  EXPECT_FALSE((*session)->TrySend({9, 0}, 0, {file.get()}, &status));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
