// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Wire, PortWire, InBandOptions: how descriptors travel, and the limits of the in-band wire.
//
// Go's grpcfd sends descriptors on the HTTP/2 connection itself, each on one byte of it. Endpoints
// in C++ that talk to such peers choose that wire, in ListenOptions and ChannelOptions. A relay
// between the socket and gRPC then puts descriptors in and takes them out; calls use the same
// FromContext. inband/PROTOCOL.md has the wire.
//
// Between two C++ endpoints use kFdChannel. The in-band wire knows connections but no calls, and
// names but no identities, so it can do less:
//  * A descriptor is kept, by (dev, ino), until its connection closes or newer ones push it out.
//    Any call of the connection that knows its name may ask for it, any number of times.
//  * The second of two descriptors with one (dev, ino) is dropped by the receiver. All eventfds
//    have the same, and so have both ends of a pipe. SendFd refuses it with ALREADY_EXISTS.
//  * All bytes of all calls take one more step through this process.
#ifndef GRPCFD_IN_BAND_H_
#define GRPCFD_IN_BAND_H_

#include <stddef.h>
#include <stdint.h>

#include "absl/time/time.h"

namespace grpcfd {

// Of a client.
enum class Wire {
  // A connection of grpcfd's own beside gRPC's. Both ends use grpcfd for C++.
  kFdChannel,
  // gRPC's own connection, as Go's grpcfd has it.
  kInBand,
};

// Of a port.
enum class PortWire {
  kFdChannel,
  kInBand,
  // Clients of both kinds at one address. Connections that open as an fdchannel are one, all others
  // are relayed.
  kBoth,
};

// Limits of each relayed connection, or, where it says so, of a port or channel. A value out of
// range (0 where at least 1 is needed) is INVALID_ARGUMENT: the port cannot listen, and calls with
// descriptors fail.
struct InBandOptions {
  // Descriptors that are kept of one connection, in each direction: those that came, until it
  // closes; and those that were sent, to tell a second file of the same inode from the first. The
  // least recently used are closed first.
  uint32_t max_fds_per_connection = 64;

  // The same for all connections of the port or channel together, in each direction; each has its
  // share when there are many. 0: an eighth of RLIMIT_NOFILE.
  uint32_t max_fds_total = 0;

  // Descriptors that wait for bytes to leave with; SendFd says RESOURCE_EXHAUSTED when there are
  // more.
  uint32_t max_queued_fds = 256;

  // A peer that sends more than this many descriptors beyond one for each 8 bytes of its stream is
  // flooding, and its connection is cut. Whatever a message names takes more bytes than that:
  // "inode://" alone has 8.
  uint32_t max_fds_burst = 256;

  // Threads that move bytes, shared by the connections of the port or channel.
  uint32_t relay_threads = 1;

  // Bytes that are read at once. A connection holds back at most as many in each direction; beyond
  // that it is not read until the other side has taken them.
  size_t buffer_size = size_t{64} * 1024;

  // How long the last bytes of a connection that one side has closed may take to reach the other.
  absl::Duration linger = absl::Seconds(5);
};

}  // namespace grpcfd

#endif  // GRPCFD_IN_BAND_H_
