// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Limits: what a process is prepared to hold on behalf of its peers.
//
// Every descriptor that a peer sends occupies a slot of this process's RLIMIT_NOFILE until it is
// taken or closed. Without limits one client could take a server down by sending descriptors and
// making no calls. Every limit here is enforced, and each refusal names it. A server proves at
// start that all of its limits together fit into RLIMIT_NOFILE.
#ifndef GRPCFD_LIMITS_H_
#define GRPCFD_LIMITS_H_

#include <stdint.h>

#include "absl/time/time.h"

namespace grpcfd {

// Limits of one session; both ends have their own and tell each other in the hello. A sender obeys
// the lower ones, so a peer that claims to hold more does not get more.
struct SessionLimits {
  // Descriptors of a call, in one direction, taken or not: the 17th is INVALID_ARGUMENT with the
  // default. Of a call whose messages are a stream in that direction, those sent at once.
  uint32_t max_fds_per_call = 16;

  // Descriptors that a session may hold and that were not taken, in one direction. A sender at this
  // window waits until its deadline, then gets RESOURCE_EXHAUSTED. It also bounds what the peer has
  // not even read, by the kernel's count (SIOCOUTQ), whatever the peer says.
  uint32_t session_window = 64;

  // Session-scoped descriptors (FdSession::Register, FdChannel::Register) that one side may have
  // registered with the other at a time. They stay until withdrawn, so they have a limit of their
  // own beside the window; at a server they count for the limits of user and total too. 0: none are
  // taken.
  uint32_t max_session_fds = 16;

  // How long a RecvFd waits at most on a call that has no deadline.
  absl::Duration recv_timeout = absl::Seconds(10);

  friend bool operator==(const SessionLimits& a, const SessionLimits& b) {
    return a.max_fds_per_call == b.max_fds_per_call && a.session_window == b.session_window &&
           a.max_session_fds == b.max_session_fds && a.recv_timeout == b.recv_timeout;
  }
};

// Limits of a server. 0 means "computed from RLIMIT_NOFILE when the server starts", as said at
// each.
struct ServerLimits {
  SessionLimits session;

  // Descriptors held for all clients together; 0: a quarter of RLIMIT_NOFILE.
  uint32_t max_fds_total = 0;
  // Descriptors held for all sessions of one user; at most half of the total is given to one, so
  // that another is still served.
  uint32_t max_fds_per_uid = 256;
  // Descriptors sent to all clients together that they have not read. The kernel charges them to
  // this process's user, and at RLIMIT_NOFILE refuses more to all its processes (unix(7),
  // ETOOMANYREFS; not with CAP_SYS_RESOURCE). A third is divided by max_sessions: each session has
  // so much for certain. Of the rest one user's clients get at most three quarters of what the
  // others leave; a session its window, scaled down by how much of that part is used. 0: three
  // quarters of RLIMIT_NOFILE, less if max_sessions need more than the rest.
  uint32_t max_fds_in_flight = 0;
  // Sessions; each costs up to three descriptors (socket, pidfd, wake-up). 0: an eighth of
  // RLIMIT_NOFILE.
  uint32_t max_sessions = 0;
  // Sessions of one user; 0: half of max_sessions.
  uint32_t max_sessions_per_uid = 0;
  // Connections that have not said yet what they are. At the limit the user who has most of them
  // loses the oldest.
  uint32_t max_half_open = 64;
  // Connections of one user that are gRPC's: all that were no hellos, and are open. Of what the
  // others leave of five fourths of it, one user gets at most four fifths. Above it the newest is
  // closed. On a port with the in-band wire each counts as four, since it takes so many
  // descriptors. 0: two fifths of RLIMIT_NOFILE.
  uint32_t max_connections_per_uid = 0;
  // How long a connection may take to say what it is.
  absl::Duration hello_timeout = absl::Seconds(5);
  // How long descriptors are kept if their RPC does not come.
  absl::Duration early_timeout = absl::Seconds(10);

  friend bool operator==(const ServerLimits& a, const ServerLimits& b) {
    return a.session == b.session && a.max_fds_total == b.max_fds_total &&
           a.max_fds_per_uid == b.max_fds_per_uid && a.max_fds_in_flight == b.max_fds_in_flight &&
           a.max_sessions == b.max_sessions && a.max_sessions_per_uid == b.max_sessions_per_uid &&
           a.max_half_open == b.max_half_open &&
           a.max_connections_per_uid == b.max_connections_per_uid &&
           a.hello_timeout == b.hello_timeout && a.early_timeout == b.early_timeout;
  }
};

}  // namespace grpcfd

#endif  // GRPCFD_LIMITS_H_
