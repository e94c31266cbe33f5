// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// How a program reaches the FdServer and the FdChannel that AddListeningPort and CreateChannel
// made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "grpcfd/grpcfd.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;
using testing_internal::FunctionService;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TempDir;

class ReachTest : public ::testing::Test {
 protected:
  std::string Address(const std::string& name) const { return "unix:" + dir_.File(name); }

  TempDir dir_;
  FunctionService service_;
};

TEST_F(ReachTest, TheStatsOfThePlainFormsCanBeReached) {
  service_.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                         test::ExchangeReply*) {
    return ToGrpcStatus(FromContext(context)->RecvFd(request->urls(0)).status());
  };
  grpc::ServerBuilder builder;
  AddListeningPort(&builder, Address("socket"), grpc::InsecureServerCredentials());
  builder.RegisterService(&service_);
  auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  auto channel = grpcfd::CreateChannel(Address("socket"), grpc::InsecureChannelCredentials());
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeRequest request;
  request.add_urls(FromContext(&context)->SendFd(MemoryFile("x"))->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();

  const std::shared_ptr<FdChannel> fd_channel = GetFdChannel(*channel);
  ASSERT_NE(fd_channel, nullptr);
  EXPECT_EQ(fd_channel->Stats().sessions.fds_sent, 1u);
  const std::shared_ptr<FdServer> fd_server = GetFdServer(*server);
  ASSERT_NE(fd_server, nullptr);
  EXPECT_EQ(fd_server->Stats().sessions.fds_taken, 1u);
}

TEST_F(ReachTest, TheProgramsOwnAreFoundToo) {
  auto fd_server = FdServer::Create();
  ASSERT_TRUE(fd_server.ok()) << fd_server.status();
  grpc::ServerBuilder builder;
  AddFdServer(&builder, *fd_server);
  builder.RegisterService(&service_);
  auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  EXPECT_EQ(GetFdServer(*server), *fd_server);

  auto fd_channel = FdChannel::CreateInProcess(*fd_server);
  ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
  ChannelOptions options;
  options.fd_channel = *fd_channel;
  auto channel = InProcessChannel(server.get(), *fd_server, grpc::ChannelArguments(), {}, options);
  EXPECT_EQ(GetFdChannel(*channel), *fd_channel);
}

TEST_F(ReachTest, WhereThereIsNoneTheAnswerIsNull) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(Address("plain"), grpc::InsecureServerCredentials());
  builder.RegisterService(&service_);
  auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  EXPECT_EQ(GetFdServer(*server), nullptr);
  EXPECT_EQ(
      GetFdChannel(*grpc::CreateChannel(Address("plain"), grpc::InsecureChannelCredentials())),
      nullptr);
  EXPECT_EQ(
      GetFdChannel(*grpcfd::CreateChannel("dns:localhost:1", grpc::InsecureChannelCredentials())),
      nullptr);
}

// --- Options of a second port ---

class SecondPortTest : public ReachTest {
 protected:
  // Whether both ports of a builder can listen.
  absl::Status Build(const ListenOptions& first, ListenOptions second) {
    absl::Status bound;
    second.bind_status = &bound;
    grpc::ServerBuilder builder;
    AddListeningPort(&builder, Address("first"), grpc::InsecureServerCredentials(), first);
    AddListeningPort(&builder, Address("second"), grpc::InsecureServerCredentials(), second);
    builder.RegisterService(&service_);
    const bool built = builder.BuildAndStart() != nullptr;
    EXPECT_EQ(built, bound.ok());
    return bound;
  }
};

TEST_F(SecondPortTest, DifferentFdServerOptionsAreAnError) {
  ListenOptions limits;
  limits.fd_server_options.limits.session.max_fds_per_call = 2;
  ListenOptions policy;
  policy.fd_server_options.receive_policy = ReceivePolicy::Strict();
  ListenOptions method;
  method.fd_server_options.method_policies["/a.B/C"] = ReceivePolicy::Strict();
  ListenOptions function;
  function.fd_server_options.authorize_session = [](const PeerCredentials&) {
    return absl::OkStatus();
  };
  for (const ListenOptions& second : {limits, policy, method, function}) {
    const absl::Status bound = Build(ListenOptions(), second);
    EXPECT_EQ(bound.code(), absl::StatusCode::kInvalidArgument) << bound;
    EXPECT_THAT(std::string(bound.message()), HasSubstr("fd_server_options"));
  }
}

TEST_F(SecondPortTest, TheSameOptionsOrNoneAreFine) {
  ListenOptions options;
  options.fd_server_options.limits.session.max_fds_per_call = 2;
  options.fd_server_options.on_session = [](const std::shared_ptr<FdSession>&) {};
  EXPECT_EQ(Build(options, options), absl::OkStatus());
  EXPECT_EQ(Build(options, ListenOptions()), absl::OkStatus());
  ListenOptions own;
  own.fd_server = *FdServer::Create();
  EXPECT_EQ(Build(options, own), absl::OkStatus());
}

}  // namespace
}  // namespace grpcfd
