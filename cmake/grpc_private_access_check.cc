// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Compiles if and only if gRPC has the six private members that grpcfd reads in every version;
// explicit instantiation may name them ([temp.spec.general]/6: access is not checked there).
// Configured by GrpcDialects.cmake; not part of the library.

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/client_interceptor.h>
#include <grpcpp/support/server_interceptor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

template <typename Tag, typename Tag::Member kMember>
struct Expose {
  friend typename Tag::Member Get(Tag) { return kMember; }
};

struct InterceptorCreators {
  using Member = std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
      grpc::ServerBuilder::*;
  friend Member Get(InterceptorCreators);
};
template struct Expose<InterceptorCreators, &grpc::ServerBuilder::interceptor_creators_>;

struct ServerCreators {
  using Member = std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
      grpc::Server::*;
  friend Member Get(ServerCreators);
};
template struct Expose<ServerCreators, &grpc::Server::interceptor_creators_>;

struct ChannelCreators {
  using Member = std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>
      grpc::Channel::*;
  friend Member Get(ChannelCreators);
};
template struct Expose<ChannelCreators, &grpc::Channel::interceptor_creators_>;

struct SendInitialMetadata {
  using Member = std::multimap<std::string, std::string> grpc::ClientContext::*;
  friend Member Get(SendInitialMetadata);
};
template struct Expose<SendInitialMetadata, &grpc::ClientContext::send_initial_metadata_>;

struct WaitForReady {
  using Member = bool grpc::ClientContext::*;
  friend Member Get(WaitForReady);
};
template struct Expose<WaitForReady, &grpc::ClientContext::wait_for_ready_>;

struct ServiceMethods {
  using Member = std::vector<std::unique_ptr<grpc::internal::RpcServiceMethod>> grpc::Service::*;
  friend Member Get(ServiceMethods);
};
template struct Expose<ServiceMethods, &grpc::Service::methods_>;

}  // namespace

bool Use(grpc::ServerBuilder* builder, grpc::ClientContext* context, grpc::Service* service,
         const grpc::Server& server, const grpc::Channel& channel) {
  return (builder->*Get(InterceptorCreators())).empty() &&
         (server.*Get(ServerCreators())).empty() && (channel.*Get(ChannelCreators())).empty() &&
         (context->*Get(SendInitialMetadata())).empty() && !(context->*Get(WaitForReady())) &&
         (service->*Get(ServiceMethods())).empty();
}
