// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdServer: the server's end of the companion channel; the sessions of all clients, and what may be
// held for them.
//
// grpcfd owns the listening socket: it keeps the connections that open with its own magic bytes and
// hands all others to gRPC, whatever credentials those use. grpcfd::AddListeningPort makes an
// FdServer for a builder by itself. Programs that set server interceptors of their own make it
// first and give it to both MakeServerInterceptorFactory and AddListeningPort. One FdServer serves
// all ports of a server, since descriptors are the process's; its limits are proved against
// RLIMIT_NOFILE when it is made.
#ifndef GRPCFD_FD_SERVER_H_
#define GRPCFD_FD_SERVER_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/fd_session.h"
#include "grpcfd/limits.h"
#include "grpcfd/peer_credentials.h"
#include "grpcfd/receive_policy.h"
#include "grpcfd/stats.h"

namespace grpcfd {

namespace internal {
class ServerCore;
struct CoreAccess;
}  // namespace internal

// A call that may bring descriptors, for FdServerOptions::authorize_call. `peer` is valid while
// that runs.
struct CallDescription {
  std::string method;                     // "/package.Service/Method"
  const PeerCredentials* peer = nullptr;  // The process that connected the session. Never null.
  uint32_t fd_count = 0;  // Descriptors sent before the call; streams may send more.
};
using CallAuthorizer = std::function<absl::Status(const CallDescription& call)>;

// The functions may be unset. None is called under a lock of grpcfd's. They must not block, since
// everybody's sessions wait for the thread that they run on, and must not destroy the grpc::Server,
// whose destructor waits for that thread. They may destroy the FdServer. An exception ends in
// grpcfd: an authorizer that throws refuses, with the exception's text, and what on_session and
// on_session_end throw is dropped.
struct FdServerOptions {
  ServerLimits limits;

  // Which descriptors calls may bring. The default accepts all.
  ReceivePolicy receive_policy;
  // In place of it, not besides, for calls of single methods, by the name that gRPC has for them:
  // "/package.Service/Method". A misspelt name matches no method, and the policy of the server then
  // applies to the one that was meant: make that policy the strict one.
  std::map<std::string, ReceivePolicy> method_policies;
  // Asked before a session is made; what is not OK refuses it. The client's calls with descriptors
  // fail with PERMISSION_DENIED then, plain ones are served. On the thread `grpcfd-server`.
  SessionAuthorizer authorize_session;

  // Asked for each call that names a session, before its handler can see a descriptor; what is not
  // OK closes the call's descriptors, those that a stream sends later included. The call itself is
  // served: its FromContext says PERMISSION_DENIED with the status's text. On the gRPC thread that
  // starts the call.
  //
  // In-band calls name no session and no descriptors. They are asked for in FromContext, on the
  // handler's thread, with an fd_count of 0; and again in each FromContext after one was refused.
  CallAuthorizer authorize_call;

  // A session was made. Runs before the client learns of it, so before any call of the session. On
  // the thread `grpcfd-server`.
  SessionCallback on_session;
  // It has ended: for each session that on_session was called for, once, on the same thread (on
  // that of the FdServer's destructor if it outlived the thread). What calls had received and not
  // taken may still be taken.
  SessionCallback on_session_end;
};

// Thread-safe.
class FdServer {
 public:
  //   FAILED_PRECONDITION  the limits together exceed RLIMIT_NOFILE; the text spells the sum out
  //   INVALID_ARGUMENT     a limit makes no sense, or a name in method_policies is not a method's
  static absl::StatusOr<std::shared_ptr<FdServer>> Create(const FdServerOptions& options = {});

  // Cuts all sessions. Descriptors that handlers have taken stay theirs.
  ~FdServer();
  FdServer(const FdServer&) = delete;
  FdServer& operator=(const FdServer&) = delete;

  // Living sessions, and the descriptors held in all of them that were not taken yet.
  size_t session_count() const;
  size_t held_fds() const;

  // What this server has passed on, refused and dropped since it was made, ended sessions included.
  FdServerStats Stats() const;

 private:
  friend struct internal::CoreAccess;
  explicit FdServer(std::shared_ptr<internal::ServerCore> core) : core_(std::move(core)) {}

  const std::shared_ptr<internal::ServerCore> core_;
};

}  // namespace grpcfd

#endif  // GRPCFD_FD_SERVER_H_
