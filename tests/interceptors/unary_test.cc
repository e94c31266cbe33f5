// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::Content;
using testing_internal::FunctionService;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

TEST(UnaryTest, ADescriptorEachWay) {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds.ok()) return ToGrpcStatus(fds.status());
    auto fd = (*fds)->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    reply->set_payload(Content(*fd));
    auto url = (*fds)->SendFd(MemoryFile("from the server"));
    if (!url.ok()) return ToGrpcStatus(url.status());
    reply->add_urls(url->ToString());
    return grpc::Status::OK;
  };
  auto stub = server.Stub();
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 10);
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    auto fds = FromContext(&context);
    const std::string content = "from the client " + std::to_string(i);
    auto url = fds->SendFd(MemoryFile(content));
    ASSERT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_code() << " " << status.error_message();
    EXPECT_EQ(content, reply.payload());
    auto fd = fds->RecvFd(reply.urls(0));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ("from the server", Content(*fd));
  }
}

}  // namespace
}  // namespace grpcfd
