// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Lets a program see the sockets of a channel's connections before gRPC connects them.
//
// ChannelArguments::SetSocketMutator is public; what it takes is not declared in a public header.
// Its layout and the functions that make one are the same in gRPC 1.51 and 1.83, and exported by
// both; cmake/grpc_socket_mutator_check.cc looks for them.
#ifndef GRPCFD_INTERCEPTORS_GRPC_SOCKET_MUTATOR_H_
#define GRPCFD_INTERCEPTORS_GRPC_SOCKET_MUTATOR_H_

#include <grpcpp/support/channel_arguments.h>

#include <functional>

namespace grpcfd {
namespace internal {

// Has `on_socket` called with the socket of each connection that a channel with these arguments
// makes, before connect(2), on gRPC's threads. A mutator that the program has set is called first,
// and decides whether gRPC connects. Does nothing if this gRPC has no mutators.
//
// Channels with such arguments share connections only with copies of themselves.
void OnEachSocket(grpc::ChannelArguments* arguments, std::function<void(int)> on_socket);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_SOCKET_MUTATOR_H_
