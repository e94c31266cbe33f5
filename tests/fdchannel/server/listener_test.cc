// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerCore and Listener: which connections get a session, which are handed on, and what start and
// stop do to them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>

#include "fdchannel/server/listener.h"
#include "fdchannel/server/server_core.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/fdchannel/server/listener_test_util.h"
#include "tests/fdchannel/session/lingering_socket.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// --- Hello ---

TEST_F(ListenerTest, HelloGetsASession) {
  TestServer& server = Serve();
  const Token token = MintToken();
  Answer answer = SayHello(server.address(), HelloWith(token));
  ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_EQ(answer.reply->status, HelloStatus::kOk);
  EXPECT_EQ(answer.reply->version, 2);
  EXPECT_NE(answer.reply->session_id, 0u);
  EXPECT_EQ(answer.reply->limits.max_fds_per_call, 16u);
  EXPECT_EQ(answer.reply->limits.window, 64u);
  ASSERT_THAT(answer.fds, SizeIs(1));
  int type = 0;
  socklen_t size = sizeof(type);
  ASSERT_EQ(::getsockopt(answer.fds[0].get(), SOL_SOCKET, SO_TYPE, &type, &size), 0);
  EXPECT_EQ(type, SOCK_SEQPACKET);
  EXPECT_TRUE(server.core().FindSession(token, answer.reply->session_id).ok());
  EXPECT_EQ(server.handed_on(), 0u);
}

TEST_F(ListenerTest, HighestCommonVersionIsChosen) {
  TestServer& server = Serve();
  Hello hello = HelloWith(MintToken());
  hello.max_version = 9;
  EXPECT_EQ(SayHello(server.address(), hello).reply->version, 2);
  hello.token = MintToken();
  hello.max_version = 1;
  EXPECT_EQ(SayHello(server.address(), hello).reply->version, 1);
  hello.min_version = 3;
  hello.max_version = 9;
  const Answer answer = SayHello(server.address(), hello);
  EXPECT_EQ(answer.status(), HelloStatus::kUnsupportedVersion);
  EXPECT_EQ(answer.reply->version, 2) << "the highest that the server speaks";
  EXPECT_THAT(answer.fds, IsEmpty());
}

TEST_F(ListenerTest, MalformedHelloIsAnsweredAndCut) {
  TestServer& server = Serve();
  const std::string good = HelloBytes(HelloWith(MintToken()));
  std::vector<std::pair<const char*, std::string>> hellos;
  hellos.emplace_back("zero token", good);
  hellos.back().second.replace(16, 16, 16, '\0');
  hellos.emplace_back("version 0", good);
  hellos.back().second.replace(10, 2, 2, '\0');
  hellos.emplace_back("reserved byte", good);
  hellos.back().second[63] = 1;
  hellos.emplace_back("no window", good);
  hellos.back().second.replace(36, 4, 4, '\0');
  hellos.emplace_back("wrong size", good);
  hellos.back().second[8] = 65;
  hellos.emplace_back("magic only", good.substr(0, 8) + std::string(56, '\xff'));
  for (const auto& [name, bytes] : hellos) {
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, bytes);
    const Answer answer = ReadAnswer(connection);
    EXPECT_EQ(answer.status(), HelloStatus::kMalformed) << name << ": " << answer.reply.status();
    EXPECT_THAT(answer.fds, IsEmpty()) << name;
    EXPECT_TRUE(IsCut(connection)) << name;
  }
  EXPECT_EQ(server.core().session_count(), 0u);
  EXPECT_EQ(server.handed_on(), 0u);
}

TEST_F(ListenerTest, HelloMayComeInAnyTwoPieces) {
  TestServer& server = Serve();
  for (size_t split = 1; split < kHelloSize; ++split) {
    const std::string hello = HelloBytes(HelloWith(MintToken()));
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, hello.substr(0, split));
    ASSERT_TRUE(Eventually([&] { return AllRead(connection); })) << split;
    WriteAll(connection, hello.substr(split));
    EXPECT_EQ(ReadAnswer(connection).status(), HelloStatus::kOk) << split;
  }
}

TEST_F(ListenerTest, HelloMayComeByteByByte) {
  TestServer& server = Serve();
  const UniqueFd connection = Connect(server.address());
  for (const char byte : HelloBytes(HelloWith(MintToken()))) {
    WriteAll(connection, std::string(1, byte));
    ASSERT_TRUE(Eventually([&] { return AllRead(connection); }));
  }
  EXPECT_EQ(ReadAnswer(connection).status(), HelloStatus::kOk);
}

TEST_F(ListenerTest, TokenOfALivingSessionIsRefused) {
  TestServer& server = Serve();
  const Token token = MintToken();
  Answer first = SayHello(server.address(), HelloWith(token));
  ASSERT_EQ(first.status(), HelloStatus::kOk);
  const Answer second = SayHello(server.address(), HelloWith(token));
  EXPECT_EQ(second.status(), HelloStatus::kTokenInUse);
  EXPECT_THAT(second.fds, IsEmpty());
  EXPECT_TRUE(server.core().FindSession(token, first.reply->session_id).ok());

  // Its hang-up is in the socket now, whether the server has looked or not.
  first.fds.clear();
  const Answer third = SayHello(server.address(), HelloWith(token));
  EXPECT_EQ(third.status(), HelloStatus::kOk);
  EXPECT_NE(third.reply->session_id, first.reply->session_id);
  const auto old = server.core().FindSession(token, first.reply->session_id);
  EXPECT_EQ(old.status().code(), absl::StatusCode::kUnavailable) << old.status();
  EXPECT_TRUE(server.core().FindSession(token, third.reply->session_id).ok());
}

TEST_F(ListenerTest, SessionsAreFoundByTokenAndId) {
  TestServer& server = Serve();
  const Token token = MintToken();
  const Answer answer = SayHello(server.address(), HelloWith(token));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  const uint64_t id = answer.reply->session_id;
  EXPECT_TRUE(server.core().FindSession(token, id).ok());
  EXPECT_EQ(server.core().FindSession(token, id + 1).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.core().FindSession(MintToken(), id).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(ListenerTest, SessionIdsAreUnique) {
  TestServer& server = Serve();
  std::set<uint64_t> ids;
  for (int i = 0; i < 50; ++i) {
    const Answer answer = SayHello(server.address(), HelloWith(MintToken()));
    ASSERT_EQ(answer.status(), HelloStatus::kOk);
    ids.insert(answer.reply->session_id);
  }
  EXPECT_THAT(ids, SizeIs(50));
}

TEST_F(ListenerTest, ClientThatVanishesAfterItsHelloLeavesNoSession) {
  TestServer& server = Serve();
  for (int i = 0; i < 20; ++i) {
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, HelloBytes(HelloWith(MintToken())));
  }
  // Served after those above, so all of them have been seen.
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
  EXPECT_TRUE(Eventually([&] { return server.core().session_count() == 0; }));
}

// Guards against keeping them for early_timeout: a client that was killed between its descriptors
// and its call cannot make that call any more.
TEST_F(ListenerTest, WhatADeadClientLeftIsClosedSoon) {
  ServerLimits limits;
  limits.early_timeout = absl::Hours(1);
  TestServer& server = Serve(limits);
  Answer answer = SayHello(server.address(), HelloWith(MintToken()));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  ASSERT_THAT(answer.fds, SizeIs(1));
  Frame frame;
  frame.type = FrameType::kData;
  frame.call.id = 1;
  frame.fd_count = 1;
  FrameBuffer bytes;
  EncodeFrame(frame, &bytes);
  const UniqueFd file = MakeFile("left");
  const int number = file.get();
  ASSERT_TRUE(SendMessage(answer.fds[0], bytes, absl::MakeConstSpan(&number, 1)).ok());
  ASSERT_TRUE(Eventually([&] { return server.core().ledger()->held_total() == 1; }));
  answer.fds.clear();
  EXPECT_TRUE(Eventually([&] { return server.core().ledger()->held_total() == 0; }));
}

TEST_F(ListenerTest, SessionsKnowTheirPeer) {
  TestServer& server = Serve();
  const Token token = MintToken();
  // Made before the fork: the child must not allocate more than it has to.
  const std::string hello = HelloBytes(HelloWith(token));
  int done[2], keep[2];
  ASSERT_EQ(::pipe2(done, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(keep, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(keep[1]);
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, hello);
    const Answer answer = ReadAnswer(connection);
    const uint64_t id = answer.reply.ok() ? answer.reply->session_id : 0;
    if (::write(done[1], &id, sizeof(id)) != sizeof(id)) ::_exit(1);
    char byte;
    const ssize_t got = ::read(keep[0], &byte, 1);
    ::_exit(got == 0 ? 0 : 1);
  }
  uint64_t id = 0;
  EXPECT_EQ(::read(done[0], &id, sizeof(id)), static_cast<ssize_t>(sizeof(id)));
  auto session = server.core().FindSession(token, id);
  EXPECT_TRUE(session.ok()) << session.status();
  if (session.ok()) {
    EXPECT_EQ((*session)->peer(), absl::StrCat("pid ", child, ", uid ", ::geteuid()));
  }
  for (const int fd : {done[0], done[1], keep[0], keep[1]}) ::close(fd);
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// --- Everything else is handed on ---

TEST_F(ListenerTest, EveryOtherFirstByteIsHandedOnAtOnce) {
  TestServer& server = Serve();
  for (int value = 0; value < 256; ++value) {
    if (value == kHelloMagic[0]) continue;
    const std::string byte(1, static_cast<char>(value));
    const UniqueFd client = Connect(server.address());
    WriteAll(client, byte);
    const TestServer::HandedOn handed_on = server.NextHandedOn();
    ASSERT_TRUE(handed_on.connection.valid()) << value;
    EXPECT_EQ(handed_on.first_bytes, byte);
    EXPECT_TRUE(IsCloseOnExec(handed_on.connection));
    EXPECT_NE(::fcntl(handed_on.connection.get(), F_GETFL) & O_NONBLOCK, 0);
    // The connection goes on from there, both ways.
    WriteAll(client, "more");
    EXPECT_EQ(ReadSome(handed_on.connection, 4), "more");
    WriteAll(handed_on.connection, "back");
    EXPECT_EQ(ReadSome(client, 4), "back");
  }
}

TEST_F(ListenerTest, NothingIsLostOfWhatCameAtOnce) {
  TestServer& server = Serve();
  std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  std::string tls = "\x16\x03\x01";
  for (int i = 0; i < 300; ++i) {
    preface += static_cast<char>(i);
    tls += static_cast<char>(i * 7);
  }
  for (const std::string& bytes : {preface, tls}) {
    const UniqueFd client = Connect(server.address());
    WriteAll(client, bytes);
    const TestServer::HandedOn handed_on = server.NextHandedOn();
    EXPECT_THAT(handed_on.first_bytes, ::testing::Not(IsEmpty()));
    EXPECT_EQ(handed_on.first_bytes +
                  ReadSome(handed_on.connection, bytes.size() - handed_on.first_bytes.size()),
              bytes);
  }
}

TEST_F(ListenerTest, PartOfTheMagicAndThenSomethingElseIsHandedOn) {
  TestServer& server = Serve();
  const std::string magic = HelloBytes(HelloWith(MintToken())).substr(0, kMagicSize);
  for (size_t length = 1; length < kMagicSize; ++length) {
    for (const bool at_once : {true, false}) {
      const std::string start = magic.substr(0, length);
      const std::string garbage = std::string(1, static_cast<char>(~magic[length])) + "garbage";
      const UniqueFd client = Connect(server.address());
      if (at_once) {
        WriteAll(client, start + garbage);
      } else {
        WriteAll(client, start);
        ASSERT_TRUE(Eventually([&] { return AllRead(client); }));
        EXPECT_EQ(server.handed_on(), 0u) << "not before it is certain";
        WriteAll(client, garbage);
      }
      EXPECT_EQ(server.NextHandedOn().first_bytes, start + garbage) << length;
    }
  }
  EXPECT_EQ(server.core().session_count(), 0u);
}

TEST_F(ListenerTest, ConnectionsThatEndBeforeTheyAreKnownAreClosed) {
  TestServer& server = Serve();
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  for (const size_t length : {size_t{0}, size_t{1}, kMagicSize - 1, kMagicSize, kHelloSize - 1}) {
    const UniqueFd client = Connect(server.address());
    if (length != 0) WriteAll(client, hello.substr(0, length));
    ASSERT_EQ(::shutdown(client.get(), SHUT_WR), 0);
    EXPECT_TRUE(IsCut(client)) << length;
  }
  EXPECT_EQ(server.handed_on(), 0u);
  EXPECT_EQ(server.core().session_count(), 0u);
}

// --- Start and stop ---

TEST_F(ListenerTest, ConnectionsBeforeStartWait) {
  server_ = std::make_unique<TestServer>(path_);
  const UniqueFd hello = Connect(server_->address());
  WriteAll(hello, HelloBytes(HelloWith(MintToken())));
  const UniqueFd other = Connect(server_->address());
  WriteAll(other, "PRI");
  EXPECT_FALSE(WaitReadable(hello, absl::Milliseconds(50)));
  EXPECT_EQ(server_->handed_on(), 0u);
  server_->Start();
  EXPECT_EQ(ReadAnswer(hello).status(), HelloStatus::kOk);
  EXPECT_EQ(server_->NextHandedOn().first_bytes, "PRI");
}

TEST_F(ListenerTest, StopCutsAllThatHaveNotSaidWhatTheyAre) {
  for (const bool async : {false, true}) {
    TestServer& server = Serve();
    const Token token = MintToken();
    const std::string hello = HelloBytes(HelloWith(MintToken()));
    Answer session = SayHello(server.address(), HelloWith(token));
    ASSERT_EQ(session.status(), HelloStatus::kOk);
    const UniqueFd silent = Connect(server.address());
    const UniqueFd magic = Connect(server.address());
    WriteAll(magic, hello.substr(0, 3));
    const UniqueFd partial = Connect(server.address());
    WriteAll(partial, hello.substr(0, 40));
    const UniqueFd other = Connect(server.address());
    WriteAll(other, "P");
    const TestServer::HandedOn handed_on = server.NextHandedOn();

    if (async) {
      server.listener().StopAsync();
    } else {
      server.listener().Stop();
      EXPECT_FALSE(Connect(server.address()).valid());
      EXPECT_THAT(dir_.List(), IsEmpty());
    }
    EXPECT_TRUE(IsCut(silent));
    EXPECT_TRUE(IsCut(magic));
    EXPECT_TRUE(IsCut(partial));
    // What was handed on belongs to its new owner, and sessions go on.
    WriteAll(other, "more");
    EXPECT_EQ(ReadSome(handed_on.connection, 4), "more");
    EXPECT_TRUE(server.core().FindSession(token, session.reply->session_id).ok());
    EXPECT_FALSE(WaitReadable(session.fds[0], absl::ZeroDuration()));
    EXPECT_TRUE(Eventually([&] { return !Connect(server.address()).valid(); }));

    EXPECT_EQ(server.listener().Start().code(), absl::StatusCode::kFailedPrecondition);
    server.listener().Stop();  // Again.
    server_.reset();
    // The core is gone, and says so.
    ASSERT_TRUE(WaitReadable(session.fds[0]));
    char frame[kFrameSize];
    EXPECT_EQ(::recv(session.fds[0].get(), frame, sizeof(frame), MSG_DONTWAIT),
              static_cast<ssize_t>(kFrameSize));
    EXPECT_EQ(frame[0], 4) << "CLOSE";
  }
}

TEST_F(ListenerTest, ConnectionsInTheBacklogAreCutByStop) {
  server_ = std::make_unique<TestServer>(path_);
  const UniqueFd waiting = Connect(server_->address());
  server_->listener().Stop();
  EXPECT_TRUE(IsCut(waiting));
  EXPECT_EQ(server_->listener().Start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ListenerTest, NeitherStartedNorStopped) {
  server_ = std::make_unique<TestServer>(path_);
  auto socket = BoundSocket::Bind(Address(dir_.File("t")), {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  auto core = ServerCore::Create({});
  ASSERT_TRUE(core.ok()) << core.status();
  auto listener =
      Listener::Create(*core, *std::move(socket), {}, [](UniqueFd, std::string, FdVector) {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  listener->reset();
  EXPECT_THAT(dir_.List(), ::testing::ElementsAre("s"));
}

TEST_F(ListenerTest, ServerThatIsShutDownOpensNoSessions) {
  TestServer& server = Serve();
  const Token token = MintToken();
  const Answer before = SayHello(server.address(), HelloWith(token));
  ASSERT_EQ(before.status(), HelloStatus::kOk);
  server.core().ShutDown();
  EXPECT_EQ(server.core().session_count(), 0u);
  EXPECT_EQ(server.core().FindSession(token, before.reply->session_id).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(WaitReadable(before.fds[0])) << "told, and cut";
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(),
            HelloStatus::kShuttingDown);
}

// The handler is called on the poller's thread and may stop the listener from there.
TEST_F(ListenerTest, HandlerMayStopTheListener) {
  auto core = ServerCore::Create({});
  ASSERT_TRUE(core.ok()) << core.status();
  auto socket = BoundSocket::Bind(Address(path_), {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  std::weak_ptr<Listener> weak;
  std::atomic<int> calls{0};
  auto listener =
      Listener::Create(*core, *std::move(socket), {}, [&](UniqueFd, std::string, FdVector) {
        calls.fetch_add(1);
        if (auto self = weak.lock()) self->StopAsync();
      });
  ASSERT_TRUE(listener.ok()) << listener.status();
  weak = *listener;
  // All wait in the backlog, and would be accepted in one go.
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(Connect(Address(path_)));
    WriteAll(clients.back(), "P");
  }
  ASSERT_TRUE((*listener)->Start().ok());
  for (const UniqueFd& client : clients) EXPECT_TRUE(IsCut(client));
  (*listener)->Stop();
  EXPECT_GE(calls.load(), 1);
  EXPECT_FALSE(Connect(Address(path_)).valid());
}

TEST_F(ListenerTest, CyclesOfStartStormAndStopLeaveNothing) {
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  const FdLeakChecker leaks;
  for (int cycle = 0; cycle < 300; ++cycle) {
    std::atomic<bool> over{false};
    std::vector<std::thread> storm;
    for (int i = 0; i < 2; ++i) {
      storm.emplace_back([&, i] {
        for (int n = i; !over.load(); ++n) {
          const UniqueFd client = Connect(Address(path_));
          if (!client.valid()) continue;
          const std::string bytes = n % 4 == 0   ? hello.substr(0, 20)
                                    : n % 4 == 1 ? HelloBytes(HelloWith(MintToken()))
                                                 : std::string("P");
          if (n % 4 == 3) continue;
          (void)::send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        }
      });
    }
    {
      TestServer server(path_);
      if (cycle % 3 != 0) server.Start();
      if (cycle % 3 == 1) server.NextHandedOn();
      if (cycle % 2 == 0) server.listener().StopAsync();
    }
    over.store(true);
    for (std::thread& thread : storm) thread.join();
    ASSERT_THAT(dir_.List(), IsEmpty());
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
