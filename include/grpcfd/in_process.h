// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Channels to a server of the same process, whose calls carry descriptors.
//
//   auto fd_server = grpcfd::FdServer::Create();
//   grpc::ServerBuilder builder;
//   grpcfd::AddFdServer(&builder, *fd_server);
//   builder.RegisterService(&service);
//   auto server = builder.BuildAndStart();
//   auto channel = grpcfd::InProcessChannel(server.get(), *fd_server, grpc::ChannelArguments());
//
// For tests, and for programs that serve themselves, without a socket file. What crosses is the
// same: the receiver gets a duplicate, which the kernel made for it, under the same limits, and
// policies, authorizers and on_session see a session of this process with itself.
//
// grpc::Server::InProcessChannel has no interceptors: a call of it that was made with FromContext
// and has descriptors fails with FAILED_PRECONDITION.
#ifndef GRPCFD_IN_PROCESS_H_
#define GRPCFD_IN_PROCESS_H_

#include <grpcpp/channel.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/client_interceptor.h>

#include <memory>
#include <vector>

#include "grpcfd/client.h"
#include "grpcfd/fd_server.h"

namespace grpcfd {

// Ties the calls of `builder`'s server to the sessions of `fd_server`, without a port: for a server
// that is reached by InProcessChannel only. With AddListeningPort and the same FdServer
// (ListenOptions::fd_server), or with MakeServerInterceptorFactory, it is not needed. `fd_server`
// may not be null.
void AddFdServer(grpc::ServerBuilder* builder, std::shared_ptr<FdServer> fd_server);

// As grpc::Server::InProcessChannel, with descriptors. `fd_server` is the server's, by one of the
// three ways above; with another one, calls with descriptors do not find their session, and
// FromContext in the handler says UNAVAILABLE. `interceptor_creators` are the program's own, in
// their order; grpcfd's comes after them. `server` must outlive the channel, as with gRPC's; the
// channel does not keep `fd_server`. Call credentials are not asked for their metadata on such a
// channel; that is gRPC's way. ChannelOptions::wire and in_band are ignored: there is no connection
// whose bytes could carry descriptors.
std::shared_ptr<grpc::Channel> InProcessChannel(
    grpc::Server* server, const std::shared_ptr<FdServer>& fd_server,
    const grpc::ChannelArguments& arguments,
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>
        interceptor_creators = {},
    const ChannelOptions& options = {});

}  // namespace grpcfd

#endif  // GRPCFD_IN_PROCESS_H_
