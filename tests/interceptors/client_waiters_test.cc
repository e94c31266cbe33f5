// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A wait at the client for a descriptor of a stream ends when there is nothing to wait for
// any more: the call was cancelled, or the server has ended it. No deadline is near in these tests.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

constexpr std::chrono::seconds kSoon(30);
constexpr int kFarAway = 600;

// The URL of a file that nobody sends; with and without an index.
std::string NeverSent(bool index) {
  const UniqueFd file = MemoryFile("never sent");
  const std::string url = FdToUrl(file)->ToString();
  return index ? url + "?fd=7" : url;
}

struct Waiter {
  Waiter(FdReceiver* fds, const std::string& url) : outcome(promise.get_future()) {
    fds->RecvFdAsync(url, [this](absl::StatusOr<UniqueFd> fd) { promise.set_value(fd.status()); });
  }
  absl::StatusCode Code() {
    if (outcome.wait_for(kSoon) != std::future_status::ready) return absl::StatusCode::kOk;
    return outcome.get().code();
  }
  std::promise<absl::Status> promise;
  std::future<absl::Status> outcome;
};

// How the call is made: each way has another interceptor that watches it, or another kind of
// waiter.
enum class Way { kOnce, kPerAttempt, kInBand };

class ClientWaitersTest : public ::testing::TestWithParam<Way> {
 protected:
  static bool in_band() { return GetParam() == Way::kInBand; }
  static TestServer::Setup Listen() {
    return [](grpc::ServerBuilder*, ListenOptions* options) {
      if (in_band()) options->wire = PortWire::kInBand;
    };
  }
  std::shared_ptr<grpc::Channel> Channel() {
    ChannelOptions options;
    if (in_band()) options.wire = Wire::kInBand;
    return server_.Channel(options);
  }
  std::unique_ptr<test::TestService::Stub> Stub() { return test::TestService::NewStub(Channel()); }
  void Prepare(grpc::ClientContext* context) {
    SetDeadline(context, kFarAway);
    context->set_wait_for_ready(GetParam() == Way::kPerAttempt);
  }
  // The handler sends `last` at its very end, named to nobody, when the client is done writing.
  void ServeUntilWritesDone() {
    server_.service.chat = [this](grpc::ServerContext* context, auto* stream) {
      auto fds = FromContext(context);
      if (!fds->status().ok()) return ToGrpcStatus(fds->status());
      test::ExchangeRequest request;
      stream->Write(test::ExchangeReply());
      while (stream->Read(&request)) {
      }
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
      return ToGrpcStatus(fds->SendFd(last_).status());
    };
  }

  const UniqueFd last_ = MemoryFile("sent at the end");
  TestServer server_{Listen()};
};

INSTANTIATE_TEST_SUITE_P(Ways, ClientWaitersTest,
                         ::testing::Values(Way::kOnce, Way::kPerAttempt, Way::kInBand));

TEST_P(ClientWaitersTest, CancellationReleasesThem) {
  ServeUntilWritesDone();
  auto stub = Stub();
  grpc::ClientContext context;
  Prepare(&context);
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  test::ExchangeReply reply;
  ASSERT_TRUE(stream->Read(&reply));
  Waiter by_index(fds.get(), NeverSent(true));
  Waiter by_inode(fds.get(), NeverSent(false));
  std::promise<absl::StatusCode> blocked;
  std::thread thread([&] { blocked.set_value(fds->RecvFd(NeverSent(true)).status().code()); });
  context.TryCancel();
  EXPECT_EQ(by_index.Code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(by_inode.Code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(blocked.get_future().get(), absl::StatusCode::kCancelled);
  thread.join();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(fds->RecvFd(NeverSent(true)).status().code(), absl::StatusCode::kCancelled);
}

TEST_P(ClientWaitersTest, TheEndOfTheCallReleasesThem) {
  ServeUntilWritesDone();
  auto stub = Stub();
  grpc::ClientContext context;
  Prepare(&context);
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  test::ExchangeReply reply;
  ASSERT_TRUE(stream->Read(&reply));
  Waiter by_index(fds.get(), NeverSent(true));
  Waiter by_inode(fds.get(), NeverSent(false));
  std::promise<absl::StatusCode> blocked;
  std::thread thread([&] { blocked.set_value(fds->RecvFd(NeverSent(true)).status().code()); });
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(by_index.Code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(by_inode.Code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(blocked.get_future().get(), absl::StatusCode::kNotFound);
  thread.join();

  // Those who ask later are told the same at once, and what did come is theirs to take.
  EXPECT_EQ(fds->RecvFd(NeverSent(true)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fds->RecvFd(NeverSent(false)).status().code(), absl::StatusCode::kNotFound);
  const std::string url = FdToUrl(last_)->ToString();
  auto fd = fds->RecvFd(url);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Content(*fd), "sent at the end");
  if (!in_band()) {  // Where each look makes a duplicate.
    EXPECT_EQ(fds->RecvFd(url).status().code(), absl::StatusCode::kFailedPrecondition);
  }
}

// Not a look at the socket before the status: the descriptor that comes with the very end arrives.
TEST_P(ClientWaitersTest, WhatIsSentLastIsNotMissed) {
  ServeUntilWritesDone();
  auto stub = Stub();
  for (int i = 0; i < 200; ++i) {
    grpc::ClientContext context;
    Prepare(&context);
    auto fds = FromContext(&context);
    auto stream = stub->Chat(&context);
    test::ExchangeReply reply;
    ASSERT_TRUE(stream->Read(&reply));
    std::promise<std::string> content;
    fds->RecvFdAsync(FdToUrl(last_)->ToString(), [&](absl::StatusOr<UniqueFd> fd) {
      content.set_value(fd.ok() ? Content(*fd) : fd.status().ToString());
    });
    Waiter never(fds.get(), NeverSent(true));
    stream->WritesDone();
    ASSERT_TRUE(stream->Finish().ok());
    ASSERT_EQ(content.get_future().get(), "sent at the end");
    ASSERT_EQ(never.Code(), absl::StatusCode::kNotFound);
  }
}

TEST_P(ClientWaitersTest, AnErrorOfTheServerReleasesThem) {
  server_.service.download = [](grpc::ServerContext*, const auto*, auto*) {
    return grpc::Status(grpc::StatusCode::ABORTED, "no");
  };
  auto stub = Stub();
  grpc::ClientContext context;
  Prepare(&context);
  auto fds = FromContext(&context);
  auto reader = stub->Download(&context, test::ExchangeRequest());
  test::ExchangeReply reply;
  EXPECT_FALSE(reader->Read(&reply));
  Waiter waiter(fds.get(), NeverSent(true));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(waiter.Code(), absl::StatusCode::kNotFound);
}

class InBandWaitersTest : public ClientWaitersTest {};

INSTANTIATE_TEST_SUITE_P(Ways, InBandWaitersTest, ::testing::Values(Way::kInBand));

// There is no server to connect to.
TEST_P(InBandWaitersTest, CancellationReleasesThemBeforeTheCallHasReachedAServer) {
  server_.Stop();
  const auto channel = Channel();
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, kFarAway);
  context.set_wait_for_ready(true);
  auto fds = FromContext(&context);
  ASSERT_TRUE(fds->SendFd(MemoryFile("never sent")).ok());
  std::promise<absl::StatusCode> blocked;
  auto outcome = blocked.get_future();
  std::promise<void> made;
  std::thread thread([&] {
    made.get_future().wait();
    blocked.set_value(fds->RecvFd(NeverSent(true)).status().code());
  });
  // What makes the call returns before it has reached a server only in this form.
  grpc::CompletionQueue queue;
  auto stream = stub->PrepareAsyncChat(&context, &queue);
  stream->StartCall(nullptr);
  made.set_value();
  context.TryCancel();
  const bool released = outcome.wait_for(kSoon) == std::future_status::ready;
  EXPECT_TRUE(released);
  grpc::Status status;
  stream->Finish(&status, nullptr);
  queue.Shutdown();
  void* tag;
  bool ok;
  while (queue.Next(&tag, &ok)) {
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  thread.join();
  EXPECT_EQ(outcome.get(), absl::StatusCode::kCancelled);
  // A channel that goes while it connects leaves its socket behind for a while.
  const auto soon = std::chrono::system_clock::now() + kSoon;
  grpc_connectivity_state state;
  while ((state = channel->GetState(false)) != GRPC_CHANNEL_TRANSIENT_FAILURE) {
    ASSERT_TRUE(channel->WaitForStateChange(state, soon));
  }
}

TEST_P(InBandWaitersTest, ACallThatNeverReachedAServerSaysSo) {
  server_.Stop();
  auto stub = Stub();
  grpc::ClientContext context;
  SetDeadline(&context, kFarAway);
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(fds->RecvFd(NeverSent(true)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(fds->SendFd(MemoryFile("too late")).status().code(), absl::StatusCode::kUnavailable);
}

// On the in-band wire what is sent after the call would go with the next one's bytes.
TEST_P(InBandWaitersTest, NothingIsSentAfterTheEnd) {
  ServeUntilWritesDone();
  auto stub = Stub();
  for (const bool cancel : {false, true}) {
    grpc::ClientContext context;
    Prepare(&context);
    auto fds = FromContext(&context);
    auto stream = stub->Chat(&context);
    test::ExchangeReply reply;
    ASSERT_TRUE(stream->Read(&reply));
    EXPECT_TRUE(fds->SendFd(MemoryFile("in time")).ok());
    if (cancel) context.TryCancel();
    stream->WritesDone();
    EXPECT_EQ(stream->Finish().ok(), !cancel);
    EXPECT_EQ(fds->SendFd(MemoryFile("too late")).status().code(),
              cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kFailedPrecondition);
  }
}

}  // namespace
}  // namespace grpcfd
