// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The client's end of the relay: the test is gRPC on one side and the server on the other.
#include "inband/dialer.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "tests/fdchannel/session/lingering_socket.h"
#include "tests/inband/relay_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

class DialerTest : public ::testing::Test {
 protected:
  void Listen(int backlog = 16) {
    BindOptions options;
    options.backlog = backlog;
    options.pass_rights = PassRights::kOn;
    auto socket = BoundSocket::Bind(Address(path_), options);
    ASSERT_TRUE(socket.ok()) << socket.status();
    server_ = std::make_unique<BoundSocket>(*std::move(socket));
  }
  UniqueFd Accept() {
    EXPECT_TRUE(WaitReadable(server_->fd()));
    return UniqueFd(::accept4(server_->fd().get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  std::shared_ptr<Dialer> Start(absl::Duration connect_timeout = kPatience) {
    auto dialer = Dialer::Start(Address(path_), connect_timeout, {});
    EXPECT_TRUE(dialer.ok()) << dialer.status();
    return *std::move(dialer);
  }
  static UniqueFd Dial(const Dialer& dialer) {
    return Connect(*SocketAddress::Parse(dialer.address()));
  }

  TempDir dir_;
  const std::string path_ = dir_.File("socket");
  std::unique_ptr<BoundSocket> server_;
};

TEST_F(DialerTest, ConnectsForEachConnection) {
  Listen();
  auto dialer = Start();
  EXPECT_EQ(nullptr, dialer->current());
  for (int i = 0; i < 3; ++i) {
    const UniqueFd grpc = Dial(*dialer);
    const UniqueFd peer = Accept();
    WriteAll(grpc, "hello");
    EXPECT_EQ("hello", ReadSome(peer, 5));
    const auto in_band = dialer->current();
    ASSERT_NE(nullptr, in_band);
    NamedFds fds;
    UniqueFd file = MakeFile("sent");
    const DevIno file_name = NameOf(file);
    fds.push_back(NamedFd{file_name, std::move(file)});
    FdVector closing;
    ASSERT_TRUE(in_band->queue.Push(std::move(fds), SendQueue::Checked(), &closing).ok());
    WriteAll(grpc, "x");
    EXPECT_EQ(1u, ReadOnce(peer).fds.size());
    WriteAll(peer, "bye");
    EXPECT_EQ("bye", ReadSome(grpc, 3));
  }
  EXPECT_TRUE(Eventually([&] { return dialer->current() == nullptr; }));
}

TEST_F(DialerTest, ATargetThatIsNotThereEndsTheConnection) {
  auto dialer = Start();
  EXPECT_TRUE(IsCut(Dial(*dialer)));
  Listen();
  const UniqueFd grpc = Dial(*dialer);
  EXPECT_TRUE(Accept().valid());
}

TEST_F(DialerTest, AFullBacklogIsWaitedFor) {
  Listen(/*backlog=*/0);
  std::vector<UniqueFd> crowd;
  for (;;) {
    UniqueFd one = Connect(Address(path_), SOCK_NONBLOCK);
    if (!one.valid()) break;
    crowd.push_back(std::move(one));
  }
  auto dialer = Start();
  const UniqueFd grpc = Dial(*dialer);
  WriteAll(grpc, "patience");
  std::vector<UniqueFd> accepted;
  for (size_t i = 0; i < crowd.size(); ++i) accepted.push_back(Accept());
  const UniqueFd peer = Accept();
  EXPECT_EQ("patience", ReadSome(peer, 8));
}

TEST_F(DialerTest, AFullBacklogIsWaitedForNoLongerThanSaid) {
  Listen(/*backlog=*/0);
  std::vector<UniqueFd> crowd;
  for (;;) {
    UniqueFd one = Connect(Address(path_), SOCK_NONBLOCK);
    if (!one.valid()) break;
    crowd.push_back(std::move(one));
  }
  auto dialer = Start(absl::Milliseconds(50));
  EXPECT_TRUE(IsCut(Dial(*dialer)));
}

TEST_F(DialerTest, OtherProcessesAreTurnedAway) {
  Listen();
  auto dialer = Start();
  auto address = SocketAddress::Parse(dialer->address());
  ASSERT_TRUE(address.ok());
  sockaddr_un sockaddr;
  const socklen_t length = address->ToSockaddr(&sockaddr);
  const pid_t child = ::fork();
  if (child == 0) {
    // Only what is safe after fork().
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char byte;
    if (::connect(fd, reinterpret_cast<const struct sockaddr*>(&sockaddr), length) != 0) _exit(2);
    _exit(::read(fd, &byte, 1) == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(child, ::waitpid(child, &status, 0));
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(0, WEXITSTATUS(status));
  EXPECT_EQ(nullptr, dialer->current());
  // The target has not seen a client.
  EXPECT_LT(::accept4(server_->fd().get(), nullptr, nullptr, SOCK_CLOEXEC), 0);
}

// A kernel before Linux 6.16 lets anybody send descriptors to the dialer's address. What is unread
// there goes with the connection, and closing that can block for as long as its sender likes.
TEST_F(DialerTest, ADescriptorOfAnotherProcessThatIsSlowToCloseHoldsNobodyUp) {
  LingeringSocket slow;
  Listen();
  auto started = Dialer::Start(Address(path_), kPatience, {}, PassRights::kLeave);
  ASSERT_TRUE(started.ok()) << started.status();
  auto dialer = *std::move(started);
  auto address = SocketAddress::Parse(dialer->address());
  ASSERT_TRUE(address.ok());
  sockaddr_un sockaddr;
  const socklen_t length = address->ToSockaddr(&sockaddr);
  const UniqueFd grpc = Dial(*dialer);
  const UniqueFd peer = Accept();
  WriteAll(grpc, "hello");
  EXPECT_EQ("hello", ReadSome(peer, 5));
  // The dialer's thread has something else to do until the descriptor is on its way and nobody has
  // it any more.
  const auto in_band = dialer->current();
  ASSERT_NE(nullptr, in_band);
  const UniqueFd file = MakeFile("x");
  ReceivedFds::Caller caller;
  std::promise<void> busy;
  std::promise<void> go_on;
  in_band->ReceiveAsync(NameOf(file), &caller, absl::InfiniteFuture(),
                        [&](const absl::StatusOr<UniqueFd>&) {
                          busy.set_value();
                          go_on.get_future().wait();
                        });
  SendWithFd(peer, 'x', file);
  busy.get_future().wait();
  const pid_t child = ::fork();
  if (child == 0) {
    // Only what is safe after fork().
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const char byte = 'x';
    const int number = slow.socket.get();
    if (::connect(fd, reinterpret_cast<const struct sockaddr*>(&sockaddr), length) != 0) _exit(2);
    const IoResult sent =
        SendMessage(BorrowedFd(fd), absl::MakeConstSpan(&byte, 1), absl::MakeConstSpan(&number, 1));
    _exit(sent.ok() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(child, ::waitpid(child, &status, 0));
  EXPECT_EQ(0, status);
  slow.socket.Reset();  // Not the last reference: that one is in flight.
  go_on.set_value();
  // The next client is served.
  const UniqueFd next = Dial(*dialer);
  const UniqueFd next_peer = Accept();
  WriteAll(next, "fine");
  EXPECT_EQ("fine", ReadSome(next_peer, 4));
  slow.peer.Reset();  // Lets the close go on.
}

// Stop() does not wait for the dialer's thread then, which may be in the middle of an accept: a
// number that was closed under its hands could be another file's.
TEST_F(DialerTest, StoppedOnAThreadOfGrpcfdsItLeavesItsSocketToItsOwnThread) {
  Listen();
  auto dialer = Start();
  const UniqueFd grpc = Dial(*dialer);
  const UniqueFd peer = Accept();
  WriteAll(grpc, "hello");
  EXPECT_EQ("hello", ReadSome(peer, 5));
  const auto in_band = dialer->current();
  ASSERT_NE(nullptr, in_band);
  const UniqueFd file = MakeFile("x");
  ReceivedFds::Caller caller;
  std::promise<void> busy;
  std::promise<void> go_on;
  in_band->ReceiveAsync(NameOf(file), &caller, absl::InfiniteFuture(),
                        [&](const absl::StatusOr<UniqueFd>&) {
                          busy.set_value();
                          go_on.get_future().wait();
                        });
  SendWithFd(peer, 'x', file);
  busy.get_future().wait();
  auto other = Poller::Start("test");
  ASSERT_TRUE(other.ok()) << other.status();
  std::promise<void> stopped;
  (*other)->Post([&] {
    dialer->Stop();
    stopped.set_value();
  });
  stopped.get_future().wait();
  const auto listens = [&] {
    sockaddr_un address;
    const socklen_t length = SocketAddress::Parse(dialer->address())->ToSockaddr(&address);
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return ::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0;
  };
  EXPECT_TRUE(listens()) << "the dialer's thread is busy";
  go_on.set_value();
  EXPECT_TRUE(Eventually([&] { return !listens(); }));
}

TEST_F(DialerTest, StoppedItLeavesNothing) {
  Listen();
  for (int i = 0; i < 20; ++i) {
    auto dialer = Start();
    const UniqueFd grpc = Dial(*dialer);
    UniqueFd peer;
    if (i % 2 == 0) peer = Accept();
    dialer->Stop();
    EXPECT_TRUE(IsCut(grpc));
    EXPECT_EQ(nullptr, dialer->current());
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
