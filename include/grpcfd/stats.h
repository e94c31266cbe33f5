// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Stats: what grpcfd has passed on, and what it has refused, dropped, expired or lost, in numbers.
//
// A single refusal is a status in one call; a flood of them is a rate, which shows here.
//
// Counters count from the moment when the object that is asked (the FdServer, the FdChannel, the
// session) was made. They never go down and are never reset: take two snapshots and subtract.
// Levels are marked as such. A snapshot is not one moment: each number is right, but two of them
// may be microseconds apart.
//
// Cost: one relaxed atomic addition for each event, on a line of memory that only its session
// touches.
#ifndef GRPCFD_STATS_H_
#define GRPCFD_STATS_H_

#include <stdint.h>

namespace grpcfd {

// Descriptors and frames of one session, or summed over all sessions, ended ones included, of an
// FdServer or FdChannel.
//
// Every descriptor that came ends in exactly one of: fds_taken, fds_registered, the fds_refused_*,
// fds_unclaimed, fds_expired, fds_late, and fds_discarded; until then it is held.
struct SessionStats {
  // --- Counters: sending ---
  uint64_t fds_sent = 0;                 // Given to the kernel for the peer.
  uint64_t sends_refused_limit = 0;      // Sets larger than the peer takes: INVALID_ARGUMENT.
  uint64_t sends_refused_window = 0;     // The peer did not take enough until the deadline.
  uint64_t sends_refused_in_flight = 0;  // All peers together did not read enough until then.
  uint64_t sends_failed = 0;  // sendmsg(2) failed: the peer has gone, ETOOMANYREFS, no memory.

  // --- Counters: receiving ---
  uint64_t fds_received = 0;        // Installed in this process.
  uint64_t fds_taken = 0;           // By RecvFd and its forms. DupFd leaves the descriptor.
  uint64_t fds_registered = 0;      // Session-scoped: held until withdrawn, or the session ends.
  uint64_t fds_refused_policy = 0;  // Closed: the receive policy.
  uint64_t fds_refused_call = 0;    // Closed with their call: max_fds_per_call, or MSG_CTRUNC.
  uint64_t fds_refused_window = 0;  // Closed: the session held session_window already.
  uint64_t fds_refused_quota = 0;   // Closed: max_fds_per_uid or max_fds_total.
  uint64_t fds_unclaimed = 0;       // Closed: their call, or the session, ended and nobody had
                                    // taken them.
  uint64_t fds_expired = 0;         // Closed: their RPC did not come within early_timeout.
  uint64_t fds_discarded = 0;       // Closed: the peer gave their call up before its RPC (DISCARD),
                                    // or the session was cut with them.
  uint64_t fds_late = 0;            // Closed: they came when their call had ended.
  uint64_t fds_truncated = 0;       // Lost in recvmsg(2), MSG_CTRUNC: this process was at its
                                    // RLIMIT_NOFILE, or a security module refused one.
  uint64_t frames_received = 0;     // Messages on the session's socket, whatever they held.
  uint64_t frames_refused = 0;      // Of those, what broke the protocol. Each costs its session.
};

// The relayed connections of a server's ports that speak the in-band wire (Wire::kInBand, kBoth),
// ended ones included. Their descriptors are in no SessionStats.
//
// Every descriptor that came is kept until its connection and the calls of it are gone, unless it
// is in fds_repeated or fds_pushed_out.
struct InBandStats {
  uint64_t connections_now = 0;  // A level.

  // --- Counters: connections ---
  uint64_t connections = 0;
  uint64_t cut_flood = 0;       // Beyond max_fds_burst.
  uint64_t cut_truncated = 0;   // A descriptor was lost in recvmsg(2), MSG_CTRUNC: RLIMIT_NOFILE.
  uint64_t cut_unsendable = 0;  // The kernel refused a descriptor for the peer, or did not take
                                // it within InBandOptions::linger.

  // --- Counters: descriptors ---
  uint64_t fds_received = 0;    // Installed in this process.
  uint64_t fds_repeated = 0;    // Closed: not the first of their inode on the connection.
  uint64_t fds_pushed_out = 0;  // Closed: max_fds_per_connection or max_fds_total.
  uint64_t fds_sent = 0;        // Given to the kernel for the peer.
  uint64_t fds_unsent = 0;      // Queued when their connection ended.
  uint64_t sends_refused = 0;   // ALREADY_EXISTS, or max_queued_fds; or the connection had ended.
  uint64_t asks_refused_policy = 0;  // A call asked for one that its receive policy refuses.
};

// An FdServer.
struct FdServerStats {
  SessionStats sessions;
  InBandStats in_band;

  // --- Levels ---
  uint64_t sessions_now = 0;
  uint64_t fds_held_now = 0;       // Received, and neither taken nor closed.
  uint64_t fds_in_flight_now = 0;  // Sent, and not read by the peers. Asks the kernel about each
                                   // session: a fraction of a microsecond.
  uint64_t half_open_now = 0;      // Connections that have not said what they are.

  // --- Counters: connections ---
  uint64_t accepted = 0;
  uint64_t handed_on = 0;            // To gRPC: they were not hellos.
  uint64_t connections_refused = 0;  // Cut instead: max_connections_per_uid.
  uint64_t half_open_evicted = 0;    // Cut to make room: max_half_open.
  uint64_t half_open_expired = 0;    // Cut: silent for hello_timeout.
  uint64_t half_open_gone = 0;       // The client left before it said what it was.
  uint64_t credentials_failed = 0;   // Cut: the kernel did not say who connected.
  uint64_t early_fds_closed = 0;     // Descriptors sent where none belong, with or before a hello.
  uint64_t accept_pauses = 0;        // accept(2) failed (EMFILE, say), and was left alone a while.
  uint64_t accept_rejected = 0;      // At EMFILE: accepted with the reserve descriptor, and cut.

  // --- Counters: sessions ---
  uint64_t sessions_opened = 0;
  // Hellos that were refused, by reason.
  uint64_t hellos_malformed = 0;
  uint64_t hellos_unsupported_version = 0;
  uint64_t hellos_token_in_use = 0;
  uint64_t hellos_too_many_sessions = 0;
  uint64_t hellos_refused = 0;  // By the program, or for want of credentials.
  uint64_t hellos_shutting_down = 0;
  uint64_t hellos_out_of_descriptors = 0;
  // Sessions that ended, by reason.
  uint64_t sessions_closed_by_peer = 0;  // It hung up, or said CLOSE.
  uint64_t sessions_cut_protocol = 0;    // The peer broke the protocol.
  uint64_t sessions_cut_here = 0;        // Shut down, or cut by the program.
  uint64_t sessions_broken = 0;          // recvmsg(2) failed.

  // --- Counters: calls ---
  uint64_t calls_ignored = 0;  // Descriptors came with them, and their handlers never called
                               // FromContext.
};

// An FdChannel.
struct FdChannelStats {
  SessionStats sessions;

  // --- Levels ---
  uint64_t fds_held_now = 0;
  uint64_t fds_in_flight_now = 0;

  // --- Counters ---
  uint64_t connect_attempts = 0;
  uint64_t connect_failures = 0;  // Of those; the reasons are in the calls' statuses.
  uint64_t sessions_opened = 0;
};

}  // namespace grpcfd

#endif  // GRPCFD_STATS_H_
