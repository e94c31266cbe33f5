// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ConnectionId: the name by which both ends of a gRPC connection know it.
//
// Why it exists: a client's gRPC connection and its session may reach two different processes. So
// the client binds the socket of each gRPC connection to an abstract name with 128 random bits
// before it connects. The server sees that name in getpeername(2) at accept, and in gRPC's peer()
// in the handler.
//
// A name tells connections apart. It proves nothing: whoever shares the client's network namespace
// can read it in /proc/net/unix, and in another namespace the same name is free (unix(7),
// "Abstract sockets", and network_namespaces(7)). The token proves whose session it is.
#ifndef GRPCFD_FDCHANNEL_OS_CONNECTION_ID_H_
#define GRPCFD_FDCHANNEL_OS_CONNECTION_ID_H_

#include <string>

#include "absl/strings/string_view.h"
#include "fdchannel/os/token.h"
#include "grpcfd/borrowed_fd.h"

namespace grpcfd {
namespace internal {

// All zero: no name.
using ConnectionId = Token;

// Binds `socket`, which is not connected, to the name of `id`. False if it is no unix stream
// socket, has a name already, or the kernel refuses.
bool NameSocket(BorrowedFd socket, const ConnectionId& id);

// The id that `socket` itself, or its peer, is named by. Zero if it has no such name.
ConnectionId IdOfSocket(BorrowedFd socket);
ConnectionId IdOfPeer(BorrowedFd socket);

// The id in what gRPC's peer() says: "unix-abstract:grpcfd-0011...". Zero if there is none.
ConnectionId IdInPeerName(absl::string_view peer);

// For messages, and for what peer() says.
std::string NameOf(const ConnectionId& id);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_CONNECTION_ID_H_
