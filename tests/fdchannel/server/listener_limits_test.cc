// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerCore and Listener: what they do about connections that cost too much, and without
// descriptors of their own.
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

// --- Descriptors where none belong ---

// Sends bytes with the write end of a pipe; the read end tells when all copies are closed.
UniqueFd SendPipe(BorrowedFd socket, const std::string& bytes) {
  int ends[2] = {-1, -1};
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  const int number = write_end.get();
  const IoResult io = SendMessage(socket, Bytes(bytes), absl::MakeConstSpan(&number, 1));
  EXPECT_TRUE(io.ok());
  return read_end;
}

bool HungUp(BorrowedFd read_end) {
  pollfd polled = {read_end.get(), POLLIN, 0};
  return ::poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) == 1 &&
         (polled.revents & POLLHUP) != 0;
}

// How a kernel without SO_PASSRIGHTS has it.
BindOptions OldKernel() {
  BindOptions bind;
  bind.pass_rights = PassRights::kLeave;
  return bind;
}

bool KernelRefusesDescriptors() {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return SetPassRights(probe, PassRights::kOff);
}

TEST_F(ListenerTest, DescriptorsBeforeTheSessionAreClosedAndTheSenderIsCut) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  server.Start();
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  for (const std::string& bytes : {hello, hello.substr(0, 10), std::string("P")}) {
    const UniqueFd client = Connect(server.address());
    const UniqueFd pipe = SendPipe(client, bytes);
    EXPECT_TRUE(HungUp(pipe));
    EXPECT_TRUE(IsCut(client));
  }
  EXPECT_EQ(server.handed_on(), 0u);
  EXPECT_EQ(server.core().session_count(), 0u);
  EXPECT_EQ(server.core().stats().early_fds_closed, 3u);
}

TEST_F(ListenerTest, WhereTheKernelCanDescriptorsAreRefusedBeforeTheSession) {
  TestServer& server = Serve();
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  const UniqueFd client = Connect(server.address());
  const UniqueFd file = MakeFile("x");
  const int number = file.get();
  const IoResult sent = SendMessage(client, Bytes(hello), absl::MakeConstSpan(&number, 1));
  if (KernelRefusesDescriptors()) {
    EXPECT_EQ(sent.error, EPERM);
    EXPECT_TRUE(SendMessage(client, Bytes(hello), {}).ok());
    EXPECT_EQ(ReadAnswer(client).status(), HelloStatus::kOk);
    EXPECT_EQ(server.core().stats().early_fds_closed, 0u);
  } else {
    EXPECT_TRUE(sent.ok());
    EXPECT_TRUE(IsCut(client));
    EXPECT_EQ(server.core().stats().early_fds_closed, 1u);
  }
}

// What is still in the socket of a connection that is cut goes with its last close.
TEST_F(ListenerTest, DescriptorsThatNobodyReadsAreClosedToo) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  const UniqueFd client = Connect(server.address());
  const UniqueFd first = SendPipe(client, "P");
  const UniqueFd second = SendPipe(client, "Q");  // Not read any more.
  server.Start();
  EXPECT_TRUE(HungUp(first));
  EXPECT_TRUE(HungUp(second));
}

// close(2) of a descriptor can block for as long as its sender likes. That is not to hold up other
// clients.
TEST_F(ListenerTest, DescriptorThatIsSlowToCloseHoldsNobodyUp) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  LingeringSocket slow;
  const UniqueFd client = Connect(server.address());
  const int number = slow.socket.get();
  ASSERT_TRUE(SendMessage(client, Bytes("P"), absl::MakeConstSpan(&number, 1)).ok());
  // Not the last reference, so this does not linger. That one is in flight, and the server's as
  // soon as it reads.
  slow.socket.Reset();
  server.Start();
  const absl::Time before = absl::Now();
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
  EXPECT_LT(absl::Now() - before, absl::Seconds(15));
  slow.peer.Reset();  // Lets the close go on.
}

// Nothing of honest clients may wait for it either, not even in the same user's lane: a
// number that is lost for each hello would be the end of the server.
TEST_F(ListenerTest, HonestHellosLeaveNothingBehindACloseThatBlocks) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  LingeringSocket slow;
  {
    const UniqueFd client = Connect(server.address());
    const int number = slow.socket.get();
    ASSERT_TRUE(SendMessage(client, Bytes("P"), absl::MakeConstSpan(&number, 1)).ok());
    slow.socket.Reset();  // Before the server can, whose close is to be the last.
    server.Start();
    ASSERT_TRUE(IsCut(client));
  }
  const auto hello_and_away = [&server] {
    EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
    EXPECT_TRUE(Eventually([&server] { return server.core().session_count() == 0; }));
  };
  hello_and_away();  // What is opened once is open.
  const auto quiet = [&server] { return server.core().ledger()->sessions() == 0; };
  EXPECT_TRUE(Eventually(quiet));
  const size_t before = OpenFdCount();
  for (int i = 0; i < 200; ++i) hello_and_away();
  EXPECT_TRUE(Eventually(quiet));
  EXPECT_TRUE(Eventually([before] { return OpenFdCount() <= before; })) << OpenFdCount() - before;
  slow.peer.Reset();
}

// --- Those who say nothing ---

TEST_F(ListenerTest, SilenceIsCutWhenTheTimeIsUp) {
  ServerLimits limits;
  limits.hello_timeout = absl::Milliseconds(200);
  TestServer& server = Serve(limits);
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  const absl::Time before = absl::Now();
  std::vector<UniqueFd> clients;
  for (const size_t length : {size_t{0}, size_t{1}, kMagicSize, kHelloSize - 1}) {
    clients.push_back(Connect(server.address()));
    if (length != 0) WriteAll(clients.back(), hello.substr(0, length));
  }
  for (const UniqueFd& client : clients) EXPECT_TRUE(IsCut(client));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(199));
  EXPECT_EQ(server.handed_on(), 0u);
}

// One byte and a stall: with a peek instead of a read this would be a busy loop.
TEST_F(ListenerTest, StalledConnectionsCostNothing) {
  TestServer& server = Serve();
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(Connect(server.address()));
    WriteAll(clients.back(), "\x8e");
    ASSERT_TRUE(Eventually([&] { return AllRead(clients.back()); }));
  }
  IdleCost cost("grpcfd-server");
  cost.Measure(absl::Milliseconds(300));
  EXPECT_LE(cost.wake_ups(), 5);
  EXPECT_LT(cost.share(), 0.05);
}

TEST_F(ListenerTest, WhenTooManyAreHalfOpenTheOldestGoes) {
  ServerLimits limits;
  limits.max_half_open = 8;
  TestServer& server = Serve(limits);
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(Connect(server.address()));
  for (size_t i = 0; i < silent.size(); ++i) {
    // Each newcomer costs the oldest its place, and is served itself.
    EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk) << i;
    EXPECT_TRUE(IsCut(silent[i])) << i;
    for (size_t k = i + 1; k < silent.size(); ++k) {
      EXPECT_FALSE(WaitReadable(silent[k], absl::ZeroDuration())) << i << ", " << k;
    }
    silent.push_back(Connect(server.address()));
    if (silent.size() == 16) break;
  }
}

TEST_F(ListenerTest, ConnectionsOfOneUserAreLimited) {
  ServerLimits limits;
  limits.max_connections_per_uid = 2;
  TestServer& server = Serve(limits);
  std::vector<TestServer::HandedOn> kept;
  for (int i = 0; i < 2; ++i) {
    WriteAll(Connect(server.address()), "P");
    kept.push_back(server.NextHandedOn());
    ASSERT_TRUE(kept.back().connection.valid());
  }
  {
    const UniqueFd refused = Connect(server.address());
    WriteAll(refused, "P");
    EXPECT_TRUE(IsCut(refused));
  }
  EXPECT_EQ(server.handed_on(), 0u);
  EXPECT_EQ(server.core().stats().connections_refused, 1u);
  EXPECT_EQ(server.core().stats().handed_on, 2u);
  // Sessions are not concerned.
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
  // One that is closed makes room.
  kept.pop_back();
  EXPECT_TRUE(Eventually([&server] {
    const UniqueFd again = Connect(server.address());
    WriteAll(again, "P");
    return server.core().stats().handed_on == 3;
  }));
}

// A flood does not crowd out a client whose hello is there when its connection is accepted.
TEST_F(ListenerTest, FloodDoesNotKeepClientsOut) {
  ServerLimits limits;
  limits.max_half_open = 2;
  BindOptions bind;
  bind.backlog = 300;
  server_ = std::make_unique<TestServer>(path_, limits, bind);
  std::vector<UniqueFd> flood;
  const auto connect_many = [&] {
    for (int i = 0; i < 100; ++i) flood.push_back(Connect(server_->address()));
  };
  connect_many();
  const UniqueFd client = Connect(server_->address());
  WriteAll(client, HelloBytes(HelloWith(MintToken())));
  connect_many();
  server_->Start();
  EXPECT_EQ(ReadAnswer(client).status(), HelloStatus::kOk);
}

TEST_F(ListenerTest, TheUserWithMostHalfOpenConnectionsLosesOne) {
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
  ServerLimits limits;
  limits.max_half_open = 4;
  BindOptions bind;
  bind.mode = 0666;
  TestServer& server = Serve(limits, bind);
  // The oldest of all is another user's only one. (Where this process may not change its user it
  // has all of them itself, and loses the oldest.)
  bool as_other = false;
  const UniqueFd lonely = ConnectAs(kOtherUid, server.address(), &as_other);
  ASSERT_TRUE(lonely.valid());
  std::vector<UniqueFd> many;
  for (int i = 0; i < 3; ++i) many.push_back(Connect(server.address()));
  many.push_back(Connect(server.address()));
  if (as_other && ::geteuid() != kOtherUid) {
    EXPECT_TRUE(IsCut(many[0]));
    EXPECT_FALSE(WaitReadable(lonely, absl::ZeroDuration()));
    WriteAll(lonely, HelloBytes(HelloWith(MintToken())));
    EXPECT_EQ(ReadAnswer(lonely).status(), HelloStatus::kOk);
  } else {
    EXPECT_TRUE(IsCut(lonely));
    EXPECT_FALSE(WaitReadable(many[0], absl::ZeroDuration()));
  }
}

// --- Limits ---

TEST_F(ListenerTest, SessionsOfOneUserAreLimited) {
  ServerLimits limits;
  limits.max_sessions = 8;
  limits.max_sessions_per_uid = 2;
  TestServer& server = Serve(limits);
  Answer first = SayHello(server.address(), HelloWith(MintToken()));
  const Answer second = SayHello(server.address(), HelloWith(MintToken()));
  EXPECT_EQ(first.status(), HelloStatus::kOk);
  EXPECT_EQ(second.status(), HelloStatus::kOk);
  const Answer third = SayHello(server.address(), HelloWith(MintToken()));
  EXPECT_EQ(third.status(), HelloStatus::kTooManySessions);
  EXPECT_THAT(third.fds, IsEmpty());
  first.fds.clear();
  EXPECT_TRUE(Eventually([&] {
    return SayHello(server.address(), HelloWith(MintToken())).status() == HelloStatus::kOk;
  })) << "there is room again";
}

TEST_F(ListenerTest, SessionsInTotalAreLimited) {
  ServerLimits limits;
  limits.max_sessions = 2;
  limits.max_sessions_per_uid = 8;
  TestServer& server = Serve(limits);
  const Answer first = SayHello(server.address(), HelloWith(MintToken()));
  const Answer second = SayHello(server.address(), HelloWith(MintToken()));
  EXPECT_EQ(first.status(), HelloStatus::kOk);
  EXPECT_EQ(second.status(), HelloStatus::kOk);
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(),
            HelloStatus::kTooManySessions);
  EXPECT_EQ(server.core().session_count(), 2u);
}

TEST(ServerCoreTest, LimitsMustFitIntoTheDescriptorsOfTheProcess) {
  rlimit nofile;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &nofile), 0);
  FdServerOptions options;
  options.limits.max_sessions = 10;
  options.limits.max_half_open = 5;
  // 3 descriptors for each session, 8 for the server: the largest total that still fits, and one
  // more.
  const auto room = static_cast<uint32_t>(nofile.rlim_cur - 3 * 10 - 5 - 8);
  options.limits.max_fds_total = room;
  EXPECT_TRUE(ServerCore::Create(options).ok());
  options.limits.max_fds_total = room + 1;
  const auto refused = ServerCore::Create(options);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              ::testing::AllOf(HasSubstr(absl::StrCat(nofile.rlim_cur + 1)),
                               HasSubstr("max_fds_total"), HasSubstr("RLIMIT_NOFILE")));
  options = FdServerOptions();
  options.limits.max_half_open = 0;
  EXPECT_EQ(ServerCore::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

// --- Out of descriptors ---

TEST_F(ListenerTest, WithoutDescriptorsItWaitsQuietlyAndGoesOn) {
  TestServer& server = Serve();
  // Both are connected before there is no room: they wait to be accepted.
  const UniqueFd first(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd second(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  IdleCost cost("grpcfd-server");
  sockaddr_un sockaddr;
  const socklen_t length = server.address().ToSockaddr(&sockaddr);
  {
    const ScopedFdRoom room(0);
    for (const UniqueFd* client : {&first, &second}) {
      ASSERT_EQ(
          ::connect(client->get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length), 0);
      WriteAll(*client, HelloBytes(HelloWith(MintToken())));
    }
    cost.Measure(absl::Seconds(1));
    EXPECT_LE(cost.wake_ups(), 20);
    EXPECT_GE(cost.wake_ups(), 2) << "it does try again";
    EXPECT_LT(cost.share(), 0.05);
  }
  const absl::Time before = absl::Now();
  EXPECT_EQ(ReadAnswer(first).status(), HelloStatus::kOk);
  EXPECT_EQ(ReadAnswer(second).status(), HelloStatus::kOk);
  EXPECT_LT(absl::Now() - before, absl::Seconds(1));
}

// A lack that lasts: the reserve descriptor lets clients be told instead of hanging.
TEST_F(ListenerTest, WithoutDescriptorsForLongClientsAreTold) {
  for (const PassRights pass_rights : {PassRights::kOff, PassRights::kLeave}) {
    ServerLimits limits;
    limits.hello_timeout = absl::Milliseconds(200);
    BindOptions bind;
    bind.pass_rights = pass_rights;
    server_ = std::make_unique<TestServer>(path_, limits, bind);
    TestServer& server = *server_;
    server.Start();
    const UniqueFd hello(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const UniqueFd other(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un sockaddr;
    const socklen_t length = server.address().ToSockaddr(&sockaddr);
    {
      const ScopedFdRoom room(0);
      for (const UniqueFd* client : {&hello, &other}) {
        ASSERT_EQ(
            ::connect(client->get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length),
            0);
      }
      WriteAll(hello, HelloBytes(HelloWith(MintToken())));
      WriteAll(other, "PRI * HTTP/2.0");
      EXPECT_EQ(ReadAnswer(hello).status(), HelloStatus::kOutOfDescriptors);
      EXPECT_TRUE(IsCut(other));
    }
    EXPECT_EQ(server.handed_on(), 0u);
    const FdServerStats stats = server.core().stats();
    EXPECT_EQ(stats.accept_rejected, 2u);
    EXPECT_EQ(stats.hellos_out_of_descriptors, 1u);
    // It answers first, and counts its pause then.
    EXPECT_TRUE(Eventually([&] { return server.core().stats().accept_pauses >= 2; }));
    // And goes on as before. One that comes while the server still rejects may be told once more.
    HelloStatus answer = SayHello(server.address(), HelloWith(MintToken())).status();
    if (answer == HelloStatus::kOutOfDescriptors) {
      answer = SayHello(server.address(), HelloWith(MintToken())).status();
    }
    EXPECT_EQ(answer, HelloStatus::kOk);
    server_.reset();
  }
}

// Room to accept, but not for what a session needs.
TEST_F(ListenerTest, WithoutDescriptorsForASessionTheClientIsTold) {
  TestServer& server = Serve();
  const size_t idle = OpenFdCount();
  for (int room = 1; room <= 3; ++room) {
    // Both ends share one table: what the server has yet to close would become room later.
    ASSERT_TRUE(Eventually([idle] { return OpenFdCount() == idle; }));
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un sockaddr;
    const socklen_t length = server.address().ToSockaddr(&sockaddr);
    const ScopedFdRoom scoped(room);
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length),
              0);
    WriteAll(client, HelloBytes(HelloWith(MintToken())));
    EXPECT_EQ(ReadAnswer(client).status(), HelloStatus::kOutOfDescriptors) << room;
  }
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
}

// Another holder of an adopted socket may shut it down. Then accept(2) has nothing for ever, and
// epoll(7) reports the hang-up for ever.
TEST_F(ListenerTest, ListeningSocketThatWasShutDownIsNoBusyLoop) {
  auto bound = BoundSocket::Bind(Address(path_), {});
  ASSERT_TRUE(bound.ok()) << bound.status();
  auto adopted = BoundSocket::Adopt(UniqueFd(::fcntl(bound->fd().get(), F_DUPFD_CLOEXEC, 3)));
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  auto core = ServerCore::Create({});
  ASSERT_TRUE(core.ok()) << core.status();
  auto listener =
      Listener::Create(*core, *std::move(adopted), {}, [](UniqueFd, std::string, FdVector) {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  ASSERT_TRUE((*listener)->Start().ok());
  IdleCost cost("grpcfd-server");
  ASSERT_EQ(::shutdown(bound->fd().get(), SHUT_RDWR), 0);
  cost.Measure(absl::Milliseconds(300));
  EXPECT_LE(cost.wake_ups(), 10);
  EXPECT_LT(cost.share(), 0.05);
  (*listener)->Stop();
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
