// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The private members of gRPC classes that grpcfd reads, behind functions: six, and a seventh where
// CallCredentials are no interface (slot_credentials.h).
//
// gRPC has no public way to append a server interceptor, to find those that a server or a channel
// has, to see what metadata a ClientContext will send before its call exists, to know whether it
// waits for ready, or whether a method is served synchronously. Explicit instantiation may name
// private members ([temp.spec.general]/6: access checking does not apply there), so this is legal
// C++; that the members are there is checked when the build is configured
// (cmake/grpc_private_access_check.cc). docs/decisions/0004 weighs it.
//
// This is the only file that knows. Everything here must keep working when gRPC makes these things
// public, and can go then.
#ifndef GRPCFD_INTERCEPTORS_GRPC_PRIVATE_ACCESS_H_
#define GRPCFD_INTERCEPTORS_GRPC_PRIVATE_ACCESS_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/client_interceptor.h>
#include <grpcpp/support/server_interceptor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace grpcfd {
namespace internal {

using ServerInterceptorCreators =
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>;

// What ServerBuilder::experimental().SetInterceptorCreators set.
ServerInterceptorCreators& InterceptorCreators(grpc::ServerBuilder* builder);

// The factories of a server that was built.
const ServerInterceptorCreators& InterceptorCreators(const grpc::Server& server);

using ClientInterceptorCreators =
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>;

// The factories that a channel was made with.
const ClientInterceptorCreators& InterceptorCreators(const grpc::Channel& channel);

// What ClientContext::AddMetadata added.
std::multimap<std::string, std::string>& MetadataToSend(grpc::ClientContext* context);

// What ClientContext::set_wait_for_ready set.
bool WaitsForReady(const grpc::ClientContext* context);

// The methods of a service and how each is served.
const std::vector<std::unique_ptr<grpc::internal::RpcServiceMethod>>& Methods(
    const grpc::Service* service);

#if GRPCFD_GRPC_SLOT_BY_PLUGIN
// What `credentials` hold of gRPC's core, which stays theirs.
grpc_call_credentials* CoreCredentials(const grpc::CallCredentials* credentials);
#endif

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_PRIVATE_ACCESS_H_
