// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/grpc/socket_mutator.h"

#if GRPCFD_GRPC_SOCKET_MUTATOR
#include <string.h>

#include <utility>

#include "interceptors/grpc/socket_mutator_types.h"

namespace grpcfd {
namespace internal {
namespace {

// First of all what gRPC knows it as.
struct Mutator : grpc_socket_mutator {
  std::function<void(int)> on_socket;
  grpc_socket_mutator* programs = nullptr;  // The program's own; may be null.
};

bool Mutate(int fd, grpc_socket_mutator* base) {
  auto* const mutator = static_cast<Mutator*>(base);
  if (mutator->programs != nullptr &&
      !grpc_socket_mutator_mutate_fd(mutator->programs, fd, GRPC_FD_CLIENT_CONNECTION_USAGE)) {
    return false;
  }
  mutator->on_socket(fd);
  return true;  // False would fail the connection.
}

int Compare(grpc_socket_mutator* a, grpc_socket_mutator* b) { return a == b ? 0 : a < b ? -1 : 1; }

void Destroy(grpc_socket_mutator* base) {
  auto* const mutator = static_cast<Mutator*>(base);
  if (mutator->programs != nullptr) grpc_socket_mutator_unref(mutator->programs);
  delete mutator;
}

constexpr grpc_socket_mutator_vtable kTable = {&Mutate, &Compare, &Destroy, nullptr};

grpc_socket_mutator* MutatorOf(const grpc::ChannelArguments& arguments) {
  const grpc_channel_args all = arguments.c_channel_args();
  for (size_t i = 0; i < all.num_args; ++i) {
    const grpc_arg& one = all.args[i];
    if (one.type == GRPC_ARG_POINTER && strcmp(one.key, GRPC_ARG_SOCKET_MUTATOR) == 0) {
      return static_cast<grpc_socket_mutator*>(one.value.pointer.p);
    }
  }
  return nullptr;
}

}  // namespace

void OnEachSocket(grpc::ChannelArguments* arguments, std::function<void(int)> on_socket) {
  auto* const mutator = new Mutator;
  grpc_socket_mutator_init(mutator, &kTable);
  mutator->on_socket = std::move(on_socket);
  mutator->programs = MutatorOf(*arguments);
  if (mutator->programs != nullptr) grpc_socket_mutator_ref(mutator->programs);
  arguments->SetSocketMutator(mutator);  // Takes it over, and lets go of the program's.
}

}  // namespace internal
}  // namespace grpcfd
#else
namespace grpcfd {
namespace internal {

void OnEachSocket(grpc::ChannelArguments*, std::function<void(int)>) {}

}  // namespace internal
}  // namespace grpcfd
#endif
