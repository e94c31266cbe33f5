// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerFactory: ties the calls of a server to the sessions of its FdServer, and owns the listening
// ports.
//
// Where a handler's FromContext finds the call's state: in the context's received metadata, under a
// key whose *address* is a static array of this library. No header of the wire can have that
// address, so no client can forge the entry; and its value is an empty string that merely points to
// the state, so a handler that forwards all metadata forwards nothing.
//
// The state ends with the interceptor, which gRPC destroys when the handler has returned and the
// call is closed, whichever is later. No hook reports that: POST_RECV_CLOSE comes while callback
// handlers still run, and a synchronous handler that never asks IsCancelled() gets none in time.
#ifndef GRPCFD_INTERCEPTORS_SERVER_INTERCEPTOR_H_
#define GRPCFD_INTERCEPTORS_SERVER_INTERCEPTOR_H_

#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "fdchannel/calls/server_call.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/server/server_core.h"
#include "fdchannel/wire/call_metadata.h"
#include "grpcfd/fd_server.h"
#include "grpcfd/fd_session.h"
#include "grpcfd/fd_transceiver.h"

namespace grpcfd {
namespace internal {

class InBandPeer;
class ServerPort;

class ServerFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  using ApiType = grpc::internal::RpcServiceMethod::ApiType;

  explicit ServerFactory(std::shared_ptr<FdServer> fd_server) : fd_server_(std::move(fd_server)) {}
  // Closes the ports. The server is down by now.
  ~ServerFactory() override;

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

  const std::shared_ptr<FdServer>& fd_server() const { return fd_server_; }

  // Before the server starts: how its methods are served, and ports to close with it.
  void SetMethods(absl::flat_hash_map<std::string, ApiType> methods) {
    methods_ = std::move(methods);
  }
  void OwnPort(std::shared_ptr<ServerPort> port);

  // What a call's handler gets, and why it gets nothing.
  struct Served {
    absl::StatusOr<std::shared_ptr<ServerCall>> call;
    std::shared_ptr<FdSession> session;
  };
  // Ties a call that says this to its session.
  Served Serve(ServerCore::Entry entry, const CallMetadata& said,
               grpc::experimental::ServerRpcInfo* info) const;
  bool IsSynchronous(const grpc::experimental::ServerRpcInfo& info) const;

  // The id of the connection that gRPC calls `peer`, if it is one of this server's. Zero if not.
  ConnectionId ConnectionOf(const std::string& peer) const;
  // The relayed connection that gRPC calls `peer`; null if there is none.
  std::shared_ptr<InBandPeer> FindPeer(const std::string& peer) const;

 private:
  const std::shared_ptr<FdServer> fd_server_;
  absl::flat_hash_map<std::string, ApiType> methods_;
  std::vector<std::shared_ptr<ServerPort>> ports_;
  bool in_band_ = false;  // One of the ports is.
};

// Whether the client said that the call may have descriptors. One that said so of a call that has
// no session (CallMetadata::bound) can neither send nor get any.
bool MayHaveFds(grpc::ServerContextBase* context);

// What FromContext returns, or why the call cannot carry descriptors.
absl::StatusOr<std::shared_ptr<FdTransceiver>> FindFds(grpc::ServerContextBase* context);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_SERVER_INTERCEPTOR_H_
