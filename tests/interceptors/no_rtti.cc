// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/interceptors/no_rtti.h"

#include <string>
#include <vector>

// Compiled by other rules than the files around it.
#ifdef __cpp_rtti
#error "expected -fno-rtti"
#endif

namespace grpcfd {
namespace testing_internal {
namespace {

class ServerFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* /*info*/) override {
    return nullptr;
  }
};

class Option final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(
      std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* /*plugins*/) override {}
};

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
class Credentials final : public grpc::CallCredentials {
 public:
  bool ApplyToCall(grpc_call* /*call*/) override { return true; }

 private:
  grpc::SecureCallCredentials* AsSecureCredentials() override { return nullptr; }
};
#endif

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NoRttiServerFactory() {
  return std::make_unique<ServerFactory>();
}

std::unique_ptr<grpc::ServerBuilderOption> NoRttiOption() { return std::make_unique<Option>(); }

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
std::shared_ptr<grpc::CallCredentials> NoRttiCredentials() {
  return std::make_shared<Credentials>();
}
#endif

}  // namespace testing_internal
}  // namespace grpcfd
