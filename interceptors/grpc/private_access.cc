// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/grpc/private_access.h"

namespace grpcfd {
namespace internal {
namespace {

// Instantiating Expose<Tag, &Class::member> defines the friend that Tag declares, which hands out
// the pointer to member.
template <typename Tag, typename Tag::Member Pointer>
struct Expose {
  friend constexpr typename Tag::Member Get(Tag) { return Pointer; }
};

struct InterceptorCreatorsTag {
  using Member = ServerInterceptorCreators grpc::ServerBuilder::*;
  friend constexpr Member Get(InterceptorCreatorsTag);
};
template struct Expose<InterceptorCreatorsTag, &grpc::ServerBuilder::interceptor_creators_>;

struct ServerCreatorsTag {
  using Member = ServerInterceptorCreators grpc::Server::*;
  friend constexpr Member Get(ServerCreatorsTag);
};
template struct Expose<ServerCreatorsTag, &grpc::Server::interceptor_creators_>;

struct ChannelCreatorsTag {
  using Member = ClientInterceptorCreators grpc::Channel::*;
  friend constexpr Member Get(ChannelCreatorsTag);
};
template struct Expose<ChannelCreatorsTag, &grpc::Channel::interceptor_creators_>;

struct SendInitialMetadataTag {
  using Member = std::multimap<std::string, std::string> grpc::ClientContext::*;
  friend constexpr Member Get(SendInitialMetadataTag);
};
template struct Expose<SendInitialMetadataTag, &grpc::ClientContext::send_initial_metadata_>;

struct WaitForReadyTag {
  using Member = bool grpc::ClientContext::*;
  friend constexpr Member Get(WaitForReadyTag);
};
template struct Expose<WaitForReadyTag, &grpc::ClientContext::wait_for_ready_>;

struct MethodsTag {
  using Member = std::vector<std::unique_ptr<grpc::internal::RpcServiceMethod>> grpc::Service::*;
  friend constexpr Member Get(MethodsTag);
};
template struct Expose<MethodsTag, &grpc::Service::methods_>;

#if GRPCFD_GRPC_SLOT_BY_PLUGIN
struct CoreCredentialsTag {
  using Member = grpc_call_credentials* grpc::CallCredentials::*;
  friend constexpr Member Get(CoreCredentialsTag);
};
template struct Expose<CoreCredentialsTag, &grpc::CallCredentials::c_creds_>;
#endif

}  // namespace

ServerInterceptorCreators& InterceptorCreators(grpc::ServerBuilder* builder) {
  return builder->*Get(InterceptorCreatorsTag());
}

const ServerInterceptorCreators& InterceptorCreators(const grpc::Server& server) {
  return server.*Get(ServerCreatorsTag());
}

const ClientInterceptorCreators& InterceptorCreators(const grpc::Channel& channel) {
  return channel.*Get(ChannelCreatorsTag());
}

std::multimap<std::string, std::string>& MetadataToSend(grpc::ClientContext* context) {
  return context->*Get(SendInitialMetadataTag());
}

bool WaitsForReady(const grpc::ClientContext* context) { return context->*Get(WaitForReadyTag()); }

const std::vector<std::unique_ptr<grpc::internal::RpcServiceMethod>>& Methods(
    const grpc::Service* service) {
  return service->*Get(MethodsTag());
}

#if GRPCFD_GRPC_SLOT_BY_PLUGIN
grpc_call_credentials* CoreCredentials(const grpc::CallCredentials* credentials) {
  return credentials->*Get(CoreCredentialsTag());
}
#endif

}  // namespace internal
}  // namespace grpcfd
