// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A descriptor whose last close blocks for as long as the test likes: what a hostile peer sends to
// stop the thread that closes it.
#ifndef GRPCFD_TESTS_FDCHANNEL_SESSION_LINGERING_SOCKET_H_
#define GRPCFD_TESTS_FDCHANNEL_SESSION_LINGERING_SOCKET_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// A TCP connection whose peer does not read, and that lingers: the last close of `socket` waits
// until `peer` is closed, three times as long as tests have patience. So `peer` must be closed
// before whatever joins the thread that closes `socket`.
struct LingeringSocket {
  LingeringSocket() {
    const UniqueFd acceptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(acceptor.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(acceptor.get(), 1), 0);
    EXPECT_EQ(::getsockname(acceptor.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    socket = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    peer = UniqueFd(::accept4(acceptor.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(peer.valid());
    const std::string bulk(1 << 20, 'x');
    while (::send(socket.get(), bulk.data(), bulk.size(), MSG_DONTWAIT) > 0) {
    }
    const linger long_enough = {1, 60};
    EXPECT_EQ(::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &long_enough, sizeof(long_enough)),
              0);
  }

  UniqueFd socket;
  UniqueFd peer;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SESSION_LINGERING_SOCKET_H_
