// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The server side: listening ports whose calls carry descriptors.
//
//   absl::Status bound;
//   grpcfd::ListenOptions options;
//   options.bind_status = &bound;
//   grpc::ServerBuilder builder;
//   grpcfd::AddListeningPort(&builder, "unix:/run/app.sock", grpc::InsecureServerCredentials(),
//                            options);
//   builder.RegisterService(&service);
//   std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
//   if (server == nullptr) return bound;  // Why it cannot listen.
//
//   grpc::Status Attach(grpc::ServerContext* context, const AttachRequest* request,
//                       AttachReply* reply) {
//     auto fds = grpcfd::FromContext(context);
//     GRPCFD_ASSIGN_OR_RETURN(grpcfd::UniqueFd memory, grpcfd::Take(*fds, request->memory()));
//     GRPCFD_ASSIGN_OR_RETURN(*reply->mutable_event(), grpcfd::Attach(*fds, event));
//     return grpc::Status::OK;
//   }
//
// Descriptors that a handler does not take are closed when the handler has returned and the call is
// closed, whatever its outcome; what it takes is its own.
#ifndef GRPCFD_SERVER_H_
#define GRPCFD_SERVER_H_

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_interceptor.h>
#include <sys/types.h>

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_server.h"
#include "grpcfd/fd_session.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/in_band.h"
#include "grpcfd/peer_credentials.h"

namespace grpcfd {

// The descriptors of the call that `context` belongs to. Call it in the handler; the handle may be
// used on any thread and be kept, though not its descriptors beyond the call. While a synchronous
// handler waits in RecvFd on the thread that called this, cancellation of the call releases it.
// Never null. For a call that cannot carry descriptors, status() and every method say why:
//   FAILED_PRECONDITION  it came over TCP, from a channel without grpcfd, or to a server without it
//   INVALID_ARGUMENT     the call's grpcfd metadata cannot be read
//   PERMISSION_DENIED    FdServerOptions::authorize_call refused the call's descriptors
//   UNAVAILABLE          the session that the call names is gone
std::shared_ptr<FdTransceiver> FromContext(grpc::ServerContextBase* context);

// The session of the call that `context` belongs to, and who is at its other end: the process that
// connected, at the time of its connect(2) (SO_PEERCRED, unix(7)), with a pidfd of the caller's own
// where the kernel has it (SO_PEERPIDFD, Linux 6.5). The pid is also of that time: the process may
// have ended, and another one may have its number. So check the pidfd (HasExited()) after reading
// anything under /proc/<pid>. SessionFromContext answers only for calls that the client made with
// grpcfd::FromContext, with descriptors or without. PeerFromContext answers for all calls of a
// client whose connections have names (ChannelOptions::name_connections): for those without a
// session it asks the connection, which costs some system calls. That holds if all unix sockets of
// the server are grpcfd's (SECURITY.md). Both answer for calls that authorize_call refused, too.
//   FAILED_PRECONDITION  as FromContext; PeerFromContext: also if the connection has no name, or
//                        several have the same one
//   INVALID_ARGUMENT     as FromContext
//   UNAVAILABLE          the session, or the connection, is gone
//   RESOURCE_EXHAUSTED  PeerFromContext: this process is at RLIMIT_NOFILE
absl::StatusOr<std::shared_ptr<FdSession>> SessionFromContext(grpc::ServerContextBase* context);
absl::StatusOr<PeerCredentials> PeerFromContext(grpc::ServerContextBase* context);

// The URLs that the client put into the call's metadata: at most the first 16, none if it sent no
// descriptors or is told not to name them there. They are the client's word; RecvFd looks at the
// descriptor. INVALID_ARGUMENT if the entry cannot be read.
absl::StatusOr<std::vector<InodeUrl>> UrlsFromContext(const grpc::ServerContextBase* context);

struct ListenOptions {
  // Where the sessions live. Unset: one FdServer, shared by all ports of the builder that have none
  // set.
  std::shared_ptr<FdServer> fd_server;
  // For the FdServer that is made if `fd_server` is unset. Set them for the builder's first port: a
  // later port with different ones cannot listen (INVALID_ARGUMENT).
  FdServerOptions fd_server_options;

  // Mode of the socket file, whatever the umask, before anybody can connect: the file never has
  // more, and has all of it when the server begins to listen. Unset: 0777 less the umask, as with
  // gRPC itself.
  std::optional<mode_t> mode;
  // Whether abstract names (`unix-abstract:name`) may be used. They have no mode: every process of
  // the network namespace may connect.
  bool allow_abstract = false;
  // Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn, gRPC's own
  // choice.
  int backlog = std::numeric_limits<int>::max();
  // A unix stream socket that is bound and listening already, from socket activation say. The
  // address is for messages only then. AddListeningPort duplicates it, so the options may be used
  // again; close yours, or clients that connect after the server's end wait in vain.
  std::optional<BorrowedFd> listen_fd;

  // How the clients' descriptors come. With kInBand and kBoth, FromContext answers for every
  // call of the port, also for clients that send none. All unix sockets that such a server listens
  // on should be grpcfd's: see docs/guides/go.md, "Who is who".
  PortWire wire = PortWire::kFdChannel;
  // For the connections that are relayed.
  InBandOptions in_band;

  // Where to put the reason when BuildAndStart() returns null because of this port; like gRPC's
  // `selected_port`, it must live until then. The reason is logged as well (grpcfd/log.h).
  absl::Status* bind_status = nullptr;
};

// Adds a port to `builder` that takes gRPC connections, with any credentials, and descriptors
// beside them. The program need do nothing else: listening begins in BuildAndStart() (which
// returns null if it fails; clients that connect a little earlier wait), ends with Shutdown(), and
// everything is gone with the Server. gRPC's own interceptors and those of the program stay;
// grpcfd's is appended, unless the program has put one of MakeServerInterceptorFactory into its
// vector.
//
// At bind: ALREADY_EXISTS if a server listens there; a socket file that nobody listens on is
// removed; PERMISSION_DENIED if it is another user's and cannot be tried or removed;
// FAILED_PRECONDITION for an abstract name without allow_abstract, or for an address that is not a
// unix socket; others as bind(2) and FdServer::Create say.
void AddListeningPort(grpc::ServerBuilder* builder, const std::string& address,
                      const std::shared_ptr<grpc::ServerCredentials>& credentials,
                      const ListenOptions& options = {});

// The factory that ties calls to the sessions of `fd_server`, for programs that set server
// interceptors of their own and want to say where it stands. Give the same FdServer to
// AddListeningPort. Put it last: hooks for what is received run from the last interceptor to the
// first, and only those that run after grpcfd's find the call's state in the context. Calls without
// descriptors cost nothing: it makes no interceptor for them. Only at a server that has an in-band
// port it makes one for every call, since nothing says beforehand which of them have descriptors.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerInterceptorFactory(
    std::shared_ptr<FdServer> fd_server);

// The FdServer of a server with a port of AddListeningPort, with AddFdServer or with a factory of
// MakeServerInterceptorFactory: for Stats(), say. Null if there is none; the first one's if there
// are several.
std::shared_ptr<FdServer> GetFdServer(const grpc::Server& server);

}  // namespace grpcfd

#endif  // GRPCFD_SERVER_H_
