// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// PortCredentials: the base of server credentials that bind something else than a port of gRPC's.
#ifndef GRPCFD_INTERCEPTORS_GRPC_PORT_CREDENTIALS_H_
#define GRPCFD_INTERCEPTORS_GRPC_PORT_CREDENTIALS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

namespace grpcfd {
namespace internal {

class PortCredentials : public grpc::ServerCredentials {
 public:
#if GRPCFD_GRPC_PORT_WRAPS_CORE
  // gRPC asks its core's credentials for nothing but what is overridden here.
  PortCredentials() : grpc::ServerCredentials(nullptr) {}
#else
  PortCredentials() = default;
#endif
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) final {}

 private:
  // The server is being built. Returns a number that is not 0 if that worked.
  virtual int Bind(grpc_server* server) = 0;
  int AddPortToServer(const std::string& /*address*/, grpc_server* server) final {
    return Bind(server);
  }
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_PORT_CREDENTIALS_H_
