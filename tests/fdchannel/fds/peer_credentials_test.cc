// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/peer_credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "tests/fdchannel/fd_test_util.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

// Whether the running kernel knows SO_PEERPIDFD, asked without the code under test.
bool KernelHasPeerPidfd() {
  const SocketPair pair = MakePair(SOCK_STREAM);
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (::getsockopt(pair.a.get(), SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) != 0) return false;
  ::close(pidfd);
  return true;
}

TEST(PeerCredentialsTest, OfASocketPair) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const SocketPair pair = MakePair(type);
    const absl::StatusOr<PeerCredentials> peer = GetPeerCredentials(pair.a, PidfdMode::kNone);
    ASSERT_TRUE(peer.ok()) << peer.status();
    EXPECT_EQ(peer->uid, ::geteuid());
    EXPECT_EQ(peer->gid, ::getegid());
    EXPECT_EQ(peer->pid, ::getpid());
    EXPECT_FALSE(peer->pidfd.valid());
    EXPECT_FALSE(peer->HasExited());
  }
}

TEST(PeerCredentialsTest, PidfdWhereTheKernelHasIt) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const absl::StatusOr<PeerCredentials> peer = GetPeerCredentials(pair.a, PidfdMode::kWanted);
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, ::getpid());
  EXPECT_EQ(peer->pidfd.valid(), KernelHasPeerPidfd());
  if (peer->pidfd.valid()) {
    EXPECT_TRUE(IsCloseOnExec(peer->pidfd));
  }
  EXPECT_FALSE(peer->HasExited());
}

// A child connects, so that the identity is not this process's own; then it ends.
TEST(PeerCredentialsTest, OfAnotherProcessAndItsEnd) {
  const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  // Autobind: the kernel picks a free abstract name (unix(7)).
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);
  ASSERT_EQ(::listen(server.get(), 1), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::getsockname(server.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketPair gate = MakePair(SOCK_STREAM);

  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    char byte;
    gate.a.Reset();
    if (::connect(client.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) ::_exit(1);
    ::_exit(::read(gate.b.get(), &byte, 1) == 0 ? 0 : 2);  // Until the parent hangs up.
  }
  const UniqueFd accepted(::accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  const absl::StatusOr<PeerCredentials> peer = GetPeerCredentials(accepted, PidfdMode::kWanted);
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, child);
  EXPECT_FALSE(peer->HasExited());

  gate.a.Reset();
  int wait_status = -1;
  ASSERT_EQ(::waitpid(child, &wait_status, 0), child);
  EXPECT_EQ(wait_status, 0);
  EXPECT_EQ(peer->HasExited(), peer->pidfd.valid());

  // Reaped: uid and gid stay known, and the pid no longer names a process.
  const absl::StatusOr<PeerCredentials> late = GetPeerCredentials(accepted, PidfdMode::kWanted);
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_EQ(late->uid, ::geteuid());
  EXPECT_EQ(late->HasExited(), late->pidfd.valid());
}

TEST(PeerCredentialsTest, RefusesWhatIsNoConnectedUnixSocket) {
  const UniqueFd file = MakeFile("no socket");
  const UniqueFd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd fresh(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_EQ(::bind(listening.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);
  ASSERT_EQ(::listen(listening.get(), 1), 0);
  const std::pair<int, std::string> cases[] = {
      {-1, "SO_DOMAIN"},
      {file.get(), "SO_DOMAIN"},
      {tcp.get(), "address family 2"},
      {fresh.get(), "getpeername"},
      {listening.get(), "getpeername"},  // SO_PEERCRED alone would name this very process.
  };
  for (const auto& c : cases) {
    for (const PidfdMode mode : {PidfdMode::kNone, PidfdMode::kWanted}) {
      const absl::Status status = GetPeerCredentials(BorrowedFd(c.first), mode).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(c.second));
    }
  }
}

TEST(PeerCredentialsTest, RefusesAConnectedDatagramSocket) {
  const UniqueFd server(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::getsockname(server.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const UniqueFd client(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  const absl::Status status = GetPeerCredentials(client, PidfdMode::kWanted).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

// A look-up that fails for want of a descriptor must not be ignored.
TEST(PeerCredentialsTest, NoRoomForAPidfdIsAnError) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const bool has_pidfd = KernelHasPeerPidfd();
  absl::Status status;
  {
    const ScopedFdRoom room(0);
    status = GetPeerCredentials(pair.a, PidfdMode::kWanted).status();
  }
  EXPECT_EQ(status.code(), has_pidfd ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kOk)
      << status;
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
