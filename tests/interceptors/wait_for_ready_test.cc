// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Calls that wait for ready keep what they bring until the server comes, or until they end.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/retry_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::AnswerAll;
using testing_internal::Arguments;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::MemoryFile;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::StubOf;
using testing_internal::TempDir;
using testing_internal::TestServer;
using testing_internal::Text;

// Waits until gRPC has found that nobody listens.
void AwaitFailure(grpc::Channel* channel) {
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(20);
  for (auto state = channel->GetState(true); state != GRPC_CHANNEL_TRANSIENT_FAILURE;
       state = channel->GetState(true)) {
    ASSERT_TRUE(channel->WaitForStateChange(state, deadline)) << state;
  }
}

class WaitForReadyTest : public ::testing::TestWithParam<std::tuple<Kind, bool>> {};

TEST_P(WaitForReadyTest, FindsItsDescriptorsWhenTheServerComes) {
  // Not a structured binding: C++17 lets no lambda capture one.
  const auto kind = std::get<0>(GetParam());
  const bool had_session = std::get<1>(GetParam());
  TestServer server;
  AnswerAll(&server.service);
  auto channel = grpcfd::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(),
                                             Arguments(1));
  auto stub = test::TestService::NewStub(channel);
  if (had_session) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"early"});
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
  }
  server.Stop();
  AwaitFailure(channel.get());

  grpc::ClientContext context;
  SetDeadline(&context, 30);
  context.set_wait_for_ready(true);
  auto request = RequestWith(&context, {"a", "b"});
  request.set_command("reply");
  request.set_payload("c");
  test::ExchangeReply reply;
  auto status = std::async(std::launch::async,
                           [&] { return Call(kind, stub.get(), &context, request, &reply); });
  // It may or may not have begun to wait: both must work.
  server.Start();
  ASSERT_EQ("OK", Text(status.get()));
  EXPECT_EQ("a|b|", reply.payload());
  ASSERT_EQ(1, reply.urls_size());
  auto back = FromContext(&context)->RecvFd(reply.urls(0));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ("reply to c", Content(*back));
}

INSTANTIATE_TEST_SUITE_P(Everywhere, WaitForReadyTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds), ::testing::Bool()),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "Restarted" : "Late");
                         });

TEST(WaitForReadyStreamTest, WhatIsSentWhileItWaitsGoesAlong) {
  TestServer server;
  AnswerAll(&server.service);
  auto channel = grpcfd::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(),
                                             Arguments(1));
  server.Stop();
  AwaitFailure(channel.get());
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, 30);
  context.set_wait_for_ready(true);
  context.set_initial_metadata_corked(true);  // Or Chat() would wait.
  auto handle = FromContext(&context);
  auto stream = stub->Chat(&context);
  const auto request = RequestWith(&context, {"a", "b"});
  server.Start();
  EXPECT_TRUE(stream->Write(request));
  EXPECT_TRUE(stream->WritesDone());
  test::ExchangeReply reply;
  ASSERT_TRUE(stream->Read(&reply));
  EXPECT_EQ("a|b|", reply.payload());
  EXPECT_EQ("OK", Text(stream->Finish()));
}

TEST(WaitForReadyStreamTest, HoldsNoMoreThanACallMayHave) {
  TempDir dir;
  auto stub = StubOf("unix:" + dir.File("nobody"), 1);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_initial_metadata_corked(true);  // Or Chat() would wait.
  auto handle = FromContext(&context);
  auto stream = stub->Chat(&context);
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(handle->SendFd(MemoryFile("x")).ok());
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, handle->SendFd(MemoryFile("x")).status().code());
  context.TryCancel();
  EXPECT_EQ(grpc::StatusCode::CANCELLED, stream->Finish().error_code());
}

TEST(WaitForReadyEndTest, ADeadlineEndsTheWaitAndClosesWhatWasQueued) {
  TempDir dir;
  auto stub = StubOf("unix:" + dir.File("nobody"), 1);
  for (const Kind kind : kAllKinds) {
    int ends[2];
    ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    context.set_wait_for_ready(true);
    auto handle = FromContext(&context);
    test::ExchangeRequest request;
    request.add_urls(handle->SendFd(std::move(writer))->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = Call(kind, stub.get(), &context, request, &reply);
    EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED, status.error_code()) << Text(status);
    // The context and the handle are still there.
    char byte;
    EXPECT_EQ(0, read(reader.get(), &byte, 1)) << kind;
    EXPECT_EQ(absl::StatusCode::kUnavailable, handle->RecvFd(request.urls(0)).status().code());
  }
}

}  // namespace
}  // namespace grpcfd
