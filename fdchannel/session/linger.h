// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Linger: the rest of a session that ended before its peer had read all that it was sent.
//
// Why it exists: descriptors in flight stay charged to this process's user until the peer reads
// them or closes its end of the socket. A peer that breaks the protocol loses its session, but not
// what waits in its socket; if that were forgotten, it could come back and be sent as much again,
// without end. Only the session's own end can tell (SIOCOUTQ), so it is kept open and asked now and
// then. What it counted for goes on counting: descriptors in flight, and one session of its
// user.
//
// An honest peer has read everything, or is dead, and nothing lingers.
#ifndef GRPCFD_FDCHANNEL_SESSION_LINGER_H_
#define GRPCFD_FDCHANNEL_SESSION_LINGER_H_

#include <memory>

#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/in_flight.h"

namespace grpcfd {
namespace internal {

struct Lingering {
  // What is held until the socket is closed, such as the session's account: so it goes last.
  std::shared_ptr<void> account;
  std::shared_ptr<FrameSocket> socket;
  std::shared_ptr<InFlight> in_flight;
  std::shared_ptr<Reaper> reaper;
};

// Holds `what`, whose socket is shut down, until its peer has read everything, or `poller` stops,
// or is null or gone; then closes it: on the reaper's thread if anything in it is unread.
// Thread-safe.
void Linger(const std::shared_ptr<Poller>& poller, Lingering what);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_LINGER_H_
