// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Objects of classes that are compiled with -fno-rtti and -fno-exceptions, as some programs are.
#ifndef GRPCFD_TESTS_INTERCEPTORS_NO_RTTI_H_
#define GRPCFD_TESTS_INTERCEPTORS_NO_RTTI_H_

#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>

namespace grpcfd {
namespace testing_internal {

// Makes no interceptors.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NoRttiServerFactory();

// Changes nothing.
std::unique_ptr<grpc::ServerBuilderOption> NoRttiOption();

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
// Adds nothing to a call.
std::shared_ptr<grpc::CallCredentials> NoRttiCredentials();
#endif

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_NO_RTTI_H_
