// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Programs that are compiled with -fno-rtti: grpcfd meets their objects, and must not ask them for
// type information.
#include "tests/interceptors/no_rtti.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

TEST(NoRttiTest, ACallMeetsTheObjectsOfSuchAProgram) {
  testing_internal::TestServer server([](grpc::ServerBuilder* builder, ListenOptions*) {
    builder->SetOption(testing_internal::NoRttiOption());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(testing_internal::NoRttiServerFactory());
    builder->experimental().SetInterceptorCreators(std::move(creators));
  });
  testing_internal::AnswerAll(&server.service);
  const auto stub = server.Stub();
  grpc::ClientContext context;
  testing_internal::SetDeadline(&context, 20);
#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
  context.set_credentials(testing_internal::NoRttiCredentials());
#endif
  auto url = FromContext(&context)->SendFd(testing_internal::MemoryFile("content"));
  ASSERT_TRUE(url.ok()) << url.status();
  test::ExchangeRequest request;
  request.add_urls(url->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "content|");
  EXPECT_EQ(GetFdServer(*server.server()).get(), server.fd_server());
}

}  // namespace
}  // namespace grpcfd
