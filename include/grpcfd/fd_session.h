// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdSession: one client process and one server process that pass each other descriptors, seen from
// either end. What on_session of FdServerOptions and FdChannelOptions, and SessionFromContext in a
// handler, hand out.
//
// Why it exists: most programs think in calls and never see a session. It matters to those that ask
// who is at the other end, or that keep something for each client for as long as that client is
// there.
//
// How people get it wrong: they take a session for a client. One client process has a session for
// each of its channels, and after a broken connection a new one, with another id. Who the client is
// says peer().
#ifndef GRPCFD_FD_SESSION_H_
#define GRPCFD_FD_SESSION_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "grpcfd/peer_credentials.h"

namespace grpcfd {

// Thread-safe. Holding one keeps nothing alive: when the session ends, alive() turns false and the
// methods that need it say UNAVAILABLE. Abstract, so that tests of callbacks can make their own.
class FdSession {
 public:
  virtual ~FdSession() = default;

  // Unique in the server's process; both ends know the session by it. Never 0.
  virtual uint64_t id() const = 0;

  // Who is at the other end, as the kernel says. At the server, who connected: the process at the
  // time of its connect(2), whatever it has become or passed the socket on to since. At the client,
  // who called listen(2) on the socket path, with socket activation the service manager.
  virtual const PeerCredentials& peer() const = 0;

  virtual bool alive() const = 0;

  // Cuts the session. What it still holds is closed at both ends, whoever waits for a descriptor
  // gets UNAVAILABLE with `reason`, of which the peer sees the first 40 bytes. The gRPC connection
  // lives on; the client's next call with descriptors makes a new session, unless authorize_session
  // refuses it.
  virtual void Close(const std::string& reason) = 0;
};

using SessionCallback = std::function<void(const std::shared_ptr<FdSession>& session)>;
// What is not OK refuses; its text stays in this process.
using SessionAuthorizer = std::function<absl::Status(const PeerCredentials& peer)>;

}  // namespace grpcfd

#endif  // GRPCFD_FD_SESSION_H_
