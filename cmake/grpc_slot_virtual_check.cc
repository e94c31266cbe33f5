// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Compiles if and only if grpc::CallCredentials can be implemented: ApplyToCall is virtual, and
// public. Configured by GrpcDialects.cmake; not part of the library.

#include <grpcpp/security/credentials.h>

namespace {

class Credentials : public grpc::CallCredentials {
 public:
  bool ApplyToCall(grpc_call*) override { return true; }

 private:
  grpc::SecureCallCredentials* AsSecureCredentials() override { return nullptr; }
};

}  // namespace

bool Use() {
  Credentials derived;
  grpc::CallCredentials& base = derived;
  return base.ApplyToCall(nullptr);
}
