// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Compiles if and only if grpc::CallCredentials wrap credentials of gRPC's core, can be derived
// from, and hold them in c_creds_, which is private (see grpc_private_access_check.cc). Configured
// by GrpcDialects.cmake; not part of the library.

#include <grpc/grpc_security.h>
#include <grpcpp/security/credentials.h>

#include <type_traits>

namespace {

template <typename Tag, typename Tag::Member kMember>
struct Expose {
  friend typename Tag::Member Get(Tag) { return kMember; }
};

struct CoreCredentials {
  using Member = grpc_call_credentials* grpc::CallCredentials::*;
  friend Member Get(CoreCredentials);
};
template struct Expose<CoreCredentials, &grpc::CallCredentials::c_creds_>;

class Credentials : public grpc::CallCredentials {
 public:
  explicit Credentials(const grpc_metadata_credentials_plugin& plugin)
      : grpc::CallCredentials(
            grpc_metadata_credentials_create_from_plugin(plugin, GRPC_SECURITY_NONE, nullptr)) {}
};

}  // namespace

// Otherwise one kind of them could not be told from another.
static_assert(std::is_polymorphic<grpc::CallCredentials>::value, "");

bool Use(const grpc_metadata_credentials_plugin& plugin) {
  const Credentials derived(plugin);
  return derived.*Get(CoreCredentials()) != nullptr;
}
