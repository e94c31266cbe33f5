// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Failures of the session, not of the call: the status of a call with descriptors when its session
// cannot be had.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <future>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/retry_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;
using testing_internal::AnswerAll;
using testing_internal::Arguments;
using testing_internal::AttemptFactory;
using testing_internal::Call;
using testing_internal::CreatorsOf;
using testing_internal::Entry;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::ListenAt;
using testing_internal::RequestWith;
using testing_internal::StubOf;
using testing_internal::TempDir;
using testing_internal::TestServer;
using testing_internal::Text;

// The FdChannel of a call leads to `path`, gRPC to `server`.
std::shared_ptr<grpc::Channel> ChannelWithSessionAt(const std::string& path,
                                                    const std::string& server, int attempts) {
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      server, grpc::InsecureChannelCredentials(), Arguments(attempts),
      CreatorsOf(AttemptFactory("unix:" + path)));
}

std::unique_ptr<test::TestService::Stub> StubWithSessionAt(const std::string& path,
                                                           const std::string& server,
                                                           int attempts) {
  return test::TestService::NewStub(ChannelWithSessionAt(path, server, attempts));
}

class NoSessionTest : public ::testing::TestWithParam<std::tuple<Kind, bool>> {
 protected:
  Kind kind() const { return std::get<0>(GetParam()); }
  // A call with two descriptors, with call credentials of its own or without.
  grpc::Status CallWith(test::TestService::Stub* stub, bool wait_for_ready, int count = 2) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + (wait_for_ready
                                                                 ? std::chrono::milliseconds(300)
                                                                 : std::chrono::seconds(20)));
    context.set_wait_for_ready(wait_for_ready);
    if (std::get<1>(GetParam())) context.set_credentials(Entry("x-call"));
    const auto request =
        RequestWith(&context, std::vector<std::string>(static_cast<size_t>(count), "a"));
    test::ExchangeReply reply;
    return Call(kind(), stub, &context, request, &reply);
  }

  TempDir dir_;
};

TEST_P(NoSessionTest, NobodyListens) {
  TestServer server;
  AnswerAll(&server.service);
  auto stub = StubWithSessionAt(dir_.File("nobody"), server.address(), 1);
  grpc::Status status = CallWith(stub.get(), false);
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), HasSubstr("cannot connect"));
  status = CallWith(stub.get(), true);
  EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED, status.error_code()) << Text(status);
  // A call that brings nothing is made all the same.
  EXPECT_EQ("OK", Text(CallWith(stub.get(), false, 0)));
}

TEST_P(NoSessionTest, WhatAnswersIsNoGrpcfdServer) {
  TestServer server;
  AnswerAll(&server.service);
  grpc::ServerBuilder builder;
  const std::string path = dir_.File("stock");
  builder.AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
  testing_internal::FunctionService service;
  builder.RegisterService(&service);
  auto stock = builder.BuildAndStart();
  ASSERT_NE(nullptr, stock);
  // Exactly this status, which nobody retries.
  auto stub = StubWithSessionAt(path, server.address(), 3);
  const grpc::Status status = CallWith(stub.get(), false);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), HasSubstr("is not a grpcfd server"));
  EXPECT_THAT(status.error_message(), ::testing::Not(HasSubstr("plugin")));
  stock->Shutdown(std::chrono::system_clock::now());
}

TEST_P(NoSessionTest, MoreThanTheServerTakes) {
  TestServer server([](grpc::ServerBuilder*, ListenOptions* options) {
    FdServerOptions small;
    small.limits.session.max_fds_per_call = 4;
    auto fd_server = FdServer::Create(small);
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    options->fd_server = *fd_server;
  });
  AnswerAll(&server.service);
  auto stub = StubOf(server.address(), 3);
  const grpc::Status status = CallWith(stub.get(), false, 5);
  EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code()) << Text(status);
  EXPECT_EQ("OK", Text(CallWith(stub.get(), false, 4)));
}

INSTANTIATE_TEST_SUITE_P(Everywhere, NoSessionTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds), ::testing::Bool()),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "WithCallCredentials" : "");
                         });

class NoSessionCancelTest : public ::testing::TestWithParam<bool> {};

TEST_P(NoSessionCancelTest, CancellingReleasesACallWhoseAttemptWaits) {
  TestServer server;
  AnswerAll(&server.service);
  // Takes a connection, and never answers the hello.
  TempDir dir;
  const UniqueFd listener = ListenAt(dir.File("silent"));
  auto channel = ChannelWithSessionAt(dir.File("silent"), server.address(), 1);
  // gRPC 1.51.1 leaks the socket of a channel that goes while it connects.
  ASSERT_TRUE(
      channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20)));
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  if (GetParam()) context.set_credentials(Entry("x-call"));
  const auto request = RequestWith(&context, {"a"});
  test::ExchangeReply reply;
  auto status =
      std::async(std::launch::async, [&] { return stub->Exchange(&context, request, &reply); });
  const UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(connection.valid());
  context.TryCancel();
  EXPECT_EQ(grpc::StatusCode::CANCELLED, status.get().error_code());
}

INSTANTIATE_TEST_SUITE_P(Everywhere, NoSessionCancelTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "WithCallCredentials" : "Plain";
});

}  // namespace
}  // namespace grpcfd
