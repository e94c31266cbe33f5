// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A relayed connection whose two ends the test plays: the peer's, with descriptors, and gRPC's.
#ifndef GRPCFD_TESTS_INBAND_RELAY_TEST_UTIL_H_
#define GRPCFD_TESTS_INBAND_RELAY_TEST_UTIL_H_

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fdchannel/os/cmsg.h"
#include "grpcfd/inode_url.h"
#include "inband/relay.h"
#include "tests/fdchannel/fd_test_util.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {

inline std::pair<UniqueFd, UniqueFd> StreamPair() {
  int ends[2];
  EXPECT_EQ(0, ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

inline std::shared_ptr<Relay> StartRelay(
    const InBandOptions& options = {},
    const std::shared_ptr<InBandCounters>& counters = std::make_shared<InBandCounters>()) {
  auto relay = Relay::Start(options, counters);
  EXPECT_TRUE(relay.ok()) << relay.status();
  return *std::move(relay);
}

// What one read of the peer brought.
struct Read {
  std::string bytes;
  FdVector fds;  // The last byte's.
};

// Sends `byte` and one descriptor, as a peer of this wire does.
inline void SendWithFd(BorrowedFd socket, char byte, BorrowedFd fd) {
  const int number = fd.get();
  pollfd polled = {socket.get(), POLLOUT, 0};
  ::poll(&polled, 1, -1);
  const IoResult io =
      SendMessage(socket, absl::MakeConstSpan(&byte, 1), absl::MakeConstSpan(&number, 1));
  ASSERT_TRUE(io.ok()) << io.error;
}

// One recvmsg(2), waited for.
inline Read ReadOnce(BorrowedFd socket, size_t size = 4096) {
  Read read;
  if (!WaitReadable(socket)) {
    ADD_FAILURE() << "nothing came";
    return read;
  }
  read.bytes.resize(size);
  ReceivedMessage message;
  const IoResult io = ReceiveMessage(socket, &read.bytes[0], size, &message);
  read.bytes.resize(io.ok() ? message.size : 0);
  read.fds = std::move(message.fds);
  return read;
}

inline DevIno NameOf(BorrowedFd fd) {
  auto name = FdToDevIno(fd);
  EXPECT_TRUE(name.ok()) << name.status();
  return name.ok() ? *name : DevIno();
}

inline std::string ContentOf(const absl::StatusOr<UniqueFd>& fd) {
  if (!fd.ok()) return fd.status().ToString();
  char buffer[256];
  const ssize_t got = ::pread(fd->get(), buffer, sizeof(buffer), 0);
  return got < 0 ? "unreadable" : std::string(buffer, static_cast<size_t>(got));
}

class RelayedConnection {
 public:
  explicit RelayedConnection(const std::shared_ptr<Relay>& relay) {
    auto inner = MakeInnerPair();
    EXPECT_TRUE(inner.ok()) << inner.status();
    auto outer = StreamPair();
    peer = std::move(outer.first);
    grpc = std::move(inner->grpc_end);
    name = inner->name;
    in_band =
        relay->Add({name, {std::move(outer.second), std::move(inner->relay_end)}, {}, {}, {}, {}});
  }

  // Without waiting.
  absl::StatusOr<UniqueFd> Ask(const DevIno& dev_ino) {
    return in_band->received.Receive(dev_ino, &caller, absl::InfinitePast(), nullptr);
  }
  absl::Status Push(UniqueFd fd) {
    NamedFds fds;
    const DevIno dev_ino = NameOf(fd);
    fds.push_back(NamedFd{dev_ino, std::move(fd)});
    FdVector closing;
    return in_band->queue.Push(std::move(fds), SendQueue::Checked(), &closing);
  }

  UniqueFd peer;
  UniqueFd grpc;
  std::string name;
  std::shared_ptr<InBandPeer> in_band;
  ReceivedFds::Caller caller;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INBAND_RELAY_TEST_UTIL_H_
