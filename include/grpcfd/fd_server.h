// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdServer: the server's end of the companion channel; the sessions of all clients, and what may be
// held for them.
//
// Why it exists: gRPC gives no hook on its sockets, so grpcfd owns the listening one. It keeps the
// connections that open with its own magic bytes and hands all others to gRPC, whatever credentials
// those use. grpcfd::AddListeningPort makes an FdServer for a builder by itself. Programs that set
// server interceptors of their own make it first and give it to both MakeServerInterceptorFactory
// and AddListeningPort.
//
// How people get it wrong: limits for each listening socket. Descriptors are the process's; so one
// FdServer serves all ports of a server, and its limits are proved against RLIMIT_NOFILE when it is
// made.
#ifndef GRPCFD_FD_SERVER_H_
#define GRPCFD_FD_SERVER_H_

#include <stddef.h>

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcfd/limits.h"

namespace grpcfd {

namespace internal {
class ServerCore;
}  // namespace internal

struct FdServerOptions {
  ServerLimits limits;
};

// Thread-safe.
class FdServer {
 public:
  //   FAILED_PRECONDITION  the limits together exceed RLIMIT_NOFILE; the text spells the sum out
  //   INVALID_ARGUMENT     a limit makes no sense
  static absl::StatusOr<std::shared_ptr<FdServer>> Create(const FdServerOptions& options = {});

  // Cuts all sessions. Descriptors that handlers have taken are theirs.
  ~FdServer();
  FdServer(const FdServer&) = delete;
  FdServer& operator=(const FdServer&) = delete;

  // Living sessions, and the descriptors held in all of them that nobody has taken yet.
  size_t session_count() const;
  size_t held_fds() const;

  // For grpcfd's own parts.
  const std::shared_ptr<internal::ServerCore>& core() const { return core_; }

 private:
  explicit FdServer(std::shared_ptr<internal::ServerCore> core) : core_(std::move(core)) {}

  const std::shared_ptr<internal::ServerCore> core_;
};

}  // namespace grpcfd

#endif  // GRPCFD_FD_SERVER_H_
