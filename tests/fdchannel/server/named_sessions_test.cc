// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sessions for connections of gRPC's that have names: when a server grants them, and when they end.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/wire/frame.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

// A client's connection, as gRPC would make it.
struct Connection {
  ConnectionId id = MintToken();
  UniqueFd client_end;
  TestServer::HandedOn server_end;

  explicit Connection(TestServer* server) {
    client_end = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_TRUE(NameSocket(client_end, id));
    sockaddr_un sockaddr;
    const socklen_t length = server->address().ToSockaddr(&sockaddr);
    EXPECT_EQ(
        ::connect(client_end.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length),
        0);
    WriteAll(client_end, "PRI");
    server_end = server->NextHandedOn();
    EXPECT_TRUE(server_end.connection.valid());
  }
  void Close() {
    client_end.Reset();
    server_end.connection.Reset();
  }
};

Hello HelloFor(const ConnectionId& id, const Token& token = MintToken()) {
  Hello hello = HelloWith(token);
  hello.connection = id;
  return hello;
}

// The code of the CLOSE that `answer`'s session is cut with; none if it is not cut.
std::optional<CloseCode> CloseOf(const Answer& answer) {
  if (answer.fds.size() != 1 || !WaitReadable(answer.fds[0])) return std::nullopt;
  FrameBuffer bytes;
  const ssize_t got = ::recv(answer.fds[0].get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  Frame frame;
  if (got != static_cast<ssize_t>(kFrameSize) || !DecodeFrame(bytes, &frame).ok()) {
    return std::nullopt;
  }
  return frame.type == FrameType::kClose ? std::optional(frame.close_code) : std::nullopt;
}

class NamedSessionsTest : public ::testing::Test {
 protected:
  TempDir dir_;
  const std::string path_ = dir_.File("s");
};

TEST_F(NamedSessionsTest, EndWithTheirConnection) {
  TestServer server(path_);
  server.Start();
  Connection connection(&server);
  const Answer answer = SayHello(server.address(), HelloFor(connection.id));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  const Answer unnamed = SayHello(server.address(), HelloWith(MintToken()));
  ASSERT_EQ(unnamed.status(), HelloStatus::kOk);
  server.core().EndOrphans();
  EXPECT_EQ(server.core().session_count(), 2u);
  connection.Close();
  server.core().EndOrphans();
  EXPECT_EQ(CloseOf(answer), CloseCode::kConnectionEnded);
  EXPECT_EQ(server.core().session_count(), 1u) << "nobody knows whose the unnamed one is";
}

TEST_F(NamedSessionsTest, StayWhileACallHasDescriptorsInThem) {
  ServerLimits limits;
  limits.early_timeout = absl::Seconds(300);
  TestServer server(path_, limits);
  server.Start();
  Connection connection(&server);
  const Token token = MintToken();
  const Answer answer = SayHello(server.address(), HelloFor(connection.id, token));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  FrameBuffer bytes;
  EncodeData(CallKey{7, 0}, /*first_index=*/0, /*fd_count=*/1, &bytes);
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int number = file.get();
  ASSERT_TRUE(SendMessage(answer.fds[0], bytes, absl::MakeConstSpan(&number, 1)).ok());
  connection.Close();
  server.core().EndOrphans();  // It reads what is there before it decides.
  EXPECT_EQ(server.core().session_count(), 1u);
  CallMetadata metadata;
  metadata.token = token;
  metadata.session_id = answer.reply->session_id;
  metadata.call_id = 7;
  metadata.count = 1;
  server.Serve(metadata).reset();
  server.core().EndOrphans();
  EXPECT_EQ(server.core().session_count(), 0u);
}

TEST_F(NamedSessionsTest, OfConnectionsThatHaveEndedUseUpNoLimit) {
  ServerLimits limits;
  limits.max_sessions = 1;
  limits.max_sessions_per_uid = 1;
  TestServer server(path_, limits);
  server.Start();
  Connection first(&server), second(&server);
  const Answer answer = SayHello(server.address(), HelloFor(first.id));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  EXPECT_EQ(SayHello(server.address(), HelloFor(second.id)).status(),
            HelloStatus::kTooManySessions);
  first.Close();
  const Answer next = SayHello(server.address(), HelloFor(second.id));
  EXPECT_EQ(next.status(), HelloStatus::kOk);
  EXPECT_EQ(CloseOf(answer), CloseCode::kConnectionEnded);
}

// --- A listener that takes no new clients ---

class DrainTest : public NamedSessionsTest {
 protected:
  // Begins to drain, and waits until the path is free.
  void Drain(TestServer* server) {
    handle_ = UniqueFd(::open(path_.c_str(), O_PATH | O_CLOEXEC));
    ASSERT_TRUE(handle_.valid());
    server->listener().StopAsync();
    ASSERT_TRUE(Eventually([this] { return ::access(path_.c_str(), F_OK) != 0; }));
  }
  // The file that the path named before.
  SocketAddress Behind() const { return Address(absl::StrCat("/proc/self/fd/", handle_.get())); }
  bool NobodyListens() const {
    return Eventually([this] { return !Connect(Behind()).valid() && errno == ECONNREFUSED; });
  }

  UniqueFd handle_;
};

TEST_F(DrainTest, WithoutClientsIsOverAtOnce) {
  TestServer server(path_);
  server.Start();
  const Answer answer = SayHello(server.address(), HelloWith(MintToken()));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  Drain(&server);
  EXPECT_TRUE(NobodyListens());
}

TEST_F(DrainTest, GrantsTheSessionsOfConnectionsThatItHas) {
  ServerLimits limits;
  limits.hello_timeout = absl::Seconds(300);
  TestServer server(path_, limits);
  server.Start();
  Connection one(&server), other(&server);
  Drain(&server);
  const Answer answer = SayHello(Behind(), HelloFor(one.id));
  EXPECT_EQ(answer.status(), HelloStatus::kOk);
  EXPECT_EQ(SayHello(Behind(), HelloFor(MintToken())).status(), HelloStatus::kElsewhere);
  EXPECT_EQ(SayHello(Behind(), HelloWith(MintToken())).status(), HelloStatus::kShuttingDown);
  const UniqueFd stock = Connect(Behind());
  WriteAll(stock, "PRI * HTTP/2.0");
  EXPECT_TRUE(IsCut(stock)) << "gRPC would not take it any more";
  EXPECT_EQ(server.handed_on(), 0u);
  const Answer last = SayHello(Behind(), HelloFor(other.id));
  EXPECT_EQ(last.status(), HelloStatus::kOk);
  EXPECT_TRUE(NobodyListens()) << "each connection has its session";
  EXPECT_EQ(server.core().session_count(), 2u);
}

TEST_F(DrainTest, LeavesThePathToTheNextServer) {
  ServerLimits limits;
  limits.hello_timeout = absl::Seconds(300);
  TestServer old(path_, limits);
  old.Start();
  Connection connection(&old);
  Drain(&old);
  TestServer next(path_);
  next.Start();
  EXPECT_EQ(SayHello(next.address(), HelloFor(connection.id)).status(), HelloStatus::kElsewhere);
  const Answer answer = SayHello(Behind(), HelloFor(connection.id));
  EXPECT_EQ(answer.status(), HelloStatus::kOk);
  EXPECT_TRUE(NobodyListens());
  EXPECT_EQ(SayHello(next.address(), HelloWith(MintToken())).status(), HelloStatus::kOk)
      << "the end of the drain must not remove the next one's file";
}

TEST_F(DrainTest, EndsAtItsTimeOut) {
  ServerLimits limits;
  limits.hello_timeout = absl::Milliseconds(50);
  TestServer server(path_, limits);
  server.Start();
  const Connection connection(&server);
  Drain(&server);
  EXPECT_TRUE(NobodyListens());
}

TEST_F(DrainTest, IsCutShortByStop) {
  ServerLimits limits;
  limits.hello_timeout = absl::Seconds(300);
  TestServer server(path_, limits);
  server.Start();
  const Connection connection(&server);
  Drain(&server);
  server.listener().Stop();
  EXPECT_FALSE(Connect(Behind()).valid());
  EXPECT_EQ(errno, ECONNREFUSED);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
