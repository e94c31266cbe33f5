// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Compiles if and only if grpc::ServerCredentials can be implemented without credentials of gRPC's
// core. Configured by GrpcDialects.cmake; not part of the library.

#include <grpcpp/security/server_credentials.h>

namespace {

class Credentials : public grpc::ServerCredentials {
 public:
  Credentials() = default;
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string&, grpc_server*) override { return 0; }
};

}  // namespace

// `= default` alone would be deleted in silence.
void Use() { Credentials derived; }
