// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Links if and only if gRPC exports what interceptors/grpc/socket_mutator.cc uses. Configured by
// GrpcDialects.cmake; not part of the library.

#include <grpcpp/support/channel_arguments.h>

#include "../interceptors/grpc/socket_mutator_types.h"

int main(int argc, char**) {
  static grpc_socket_mutator_vtable table = {};
  static grpc_socket_mutator mutator = {};
  if (argc > 1) {  // Linking is the check; nothing is run.
    grpc_socket_mutator_init(&mutator, &table);
    grpc::ChannelArguments().SetSocketMutator(grpc_socket_mutator_ref(&mutator));
    grpc_socket_mutator_mutate_fd(&mutator, 0, GRPC_FD_CLIENT_CONNECTION_USAGE);
    grpc_socket_mutator_unref(&mutator);
  }
  return 0;
}
