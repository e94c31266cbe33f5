// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What gRPC's library exports for socket mutators and its public headers do not declare. Included
// by socket_mutator.cc, and by the check of the configuration, only.
#ifndef GRPCFD_INTERCEPTORS_GRPC_SOCKET_MUTATOR_TYPES_H_
#define GRPCFD_INTERCEPTORS_GRPC_SOCKET_MUTATOR_TYPES_H_

#include <grpc/grpc.h>
#include <grpc/support/sync.h>

enum grpc_fd_usage { GRPC_FD_CLIENT_CONNECTION_USAGE };

// The names count: they are part of the functions' symbols.
struct grpc_socket_mutator_vtable {
  bool (*mutate_fd)(int fd, grpc_socket_mutator* mutator);
  int (*compare)(grpc_socket_mutator* a, grpc_socket_mutator* b);
  void (*destroy)(grpc_socket_mutator* mutator);
  // Called instead of mutate_fd, with more about the socket, if it is not null.
  bool (*mutate_fd_2)(const void* info, grpc_socket_mutator* mutator);
};

struct grpc_socket_mutator {
  const grpc_socket_mutator_vtable* vtable;
  gpr_refcount refcount;
};

void grpc_socket_mutator_init(grpc_socket_mutator* mutator,
                              const grpc_socket_mutator_vtable* vtable);
grpc_socket_mutator* grpc_socket_mutator_ref(grpc_socket_mutator* mutator);
void grpc_socket_mutator_unref(grpc_socket_mutator* mutator);
bool grpc_socket_mutator_mutate_fd(grpc_socket_mutator* mutator, int fd, grpc_fd_usage usage);

#endif  // GRPCFD_INTERCEPTORS_GRPC_SOCKET_MUTATOR_TYPES_H_
