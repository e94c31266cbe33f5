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
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    auto fd = fds->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    reply->set_payload(Content(*fd));
    auto url = fds->SendFd(MemoryFile("from the server"));
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

TEST(UnaryTest, ADescriptorThatNoCallCanTakeIsRefused) {
  auto context = std::make_unique<grpc::ClientContext>();
  auto fds = FromContext(context.get());
  EXPECT_TRUE(fds->SendFd(MemoryFile("queued")).ok());
  context.reset();
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, fds->SendFd(MemoryFile("late")).status().code());
  grpc::ClientContext other;
  fds = FromContext(&other);
  other.set_credentials(grpc::AccessTokenCredentials("token"));  // Takes the place of the call's.
  const UniqueFd file = MemoryFile("late");
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, fds->SendFd(file).status().code());
  fds = FromContext(&other);
  EXPECT_TRUE(fds->SendFd(file).ok());
}

// A proxy that copies what it is shown must not send a second entry of grpcfd's, and a log of
// metadata must not have the token.
TEST(UnaryTest, AHandlerIsNotShownTheEntryThatBindsTheCall) {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                               test::ExchangeReply* reply) {
    for (const auto& [key, value] : context->client_metadata()) {
      EXPECT_NE("grpcfd-bin", std::string(key.data(), key.size()));
      EXPECT_LT(value.size(), 100u);
    }
    reply->set_number(context->client_metadata().count("x-own"));
    // Found all the same, and more than once.
    for (const std::string& url : request->urls()) {
      auto fds = FromContext(context);
      if (!fds->status().ok()) return ToGrpcStatus(fds->status());
      auto fd = fds->RecvFd(url);
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      reply->set_payload(reply->payload() + Content(*fd));
    }
    return grpc::Status::OK;
  };
  auto stub = server.Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 10);
  context.AddMetadata("x-own", "1");
  context.AddMetadata("a-first-one", "2");
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  auto fds = FromContext(&context);
  for (const char* content : {"one", "two"}) {
    auto url = fds->SendFd(MemoryFile(content));
    ASSERT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
  }
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ("onetwo", reply.payload());
  EXPECT_EQ(1, reply.number());
}

}  // namespace
}  // namespace grpcfd
