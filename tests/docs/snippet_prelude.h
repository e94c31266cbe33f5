// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the snippets of kind `body` in README.md and docs/ may take for granted. Snippets are
// compiled, never linked, so what is declared here exists nowhere.
#ifndef GRPCFD_TESTS_DOCS_SNIPPET_PRELUDE_H_
#define GRPCFD_TESTS_DOCS_SNIPPET_PRELUDE_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "device.grpc.pb.h"
#include "grpcfd/grpcfd.h"

// The reader's own.
extern std::unique_ptr<app::Device::Stub> stub;
extern app::AttachRequest request;
extern app::AttachReply reply;
extern app::Device::Service service;
extern grpcfd::UniqueFd memory;
extern grpcfd::UniqueFd event;

class MyTracing : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override;
};

class MyServerTracing : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;
};

std::shared_ptr<grpc::CallCredentials> MyCredentials();

#endif  // GRPCFD_TESTS_DOCS_SNIPPET_PRELUDE_H_
