// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A sender that waits for room is released when its call is over. A window that the peer leaves
// full does not delay a thread of a cancelled call, a shutdown, or another call. No deadline is
// near in these tests.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

constexpr std::chrono::seconds kSoon(30);
constexpr int kFarAway = 600;

// Both ends take `window` descriptors, and a call as many.
TestServer::Setup SmallServer(uint32_t window) {
  return [window](grpc::ServerBuilder*, ListenOptions* options) {
    FdServerOptions small;
    small.limits.session.max_fds_per_call = window;
    small.limits.session.session_window = window;
    small.limits.session.recv_timeout = absl::Seconds(kFarAway);
    auto fd_server = FdServer::Create(small);
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    options->fd_server = *fd_server;
  };
}
ChannelOptions SmallChannel(uint32_t window) {
  ChannelOptions options;
  options.fd_channel_options.limits.max_fds_per_call = window;
  options.fd_channel_options.limits.session_window = window;
  options.fd_channel_options.limits.recv_timeout = absl::Seconds(kFarAway);
  return options;
}

// Ends the test if it never comes: the test would wait for the thread that sets it.
template <typename T>
T Soon(std::future<T>* future) {
  if (future->wait_for(kSoon) != std::future_status::ready) {
    ADD_FAILURE() << "nothing came";
    std::abort();
  }
  return future->get();
}

// --- Handlers ---

// The client has left the first reply's descriptor untaken; the handler of a second call waits.
class BlockedHandlerTest : public ::testing::Test {
 protected:
  BlockedHandlerTest() : server_(SmallServer(1)) {
    server_.service.exchange = [this](grpc::ServerContext* context, const test::ExchangeRequest*,
                                      test::ExchangeReply*) {
      auto fds = FromContext(context);
      if (!fds->status().ok()) return ToGrpcStatus(fds->status());
      const bool second = calls_++ != 0;
      if (second) inside_.set_value();
      const absl::Status sent = fds->SendFd(file_).status();
      if (second) sent_.set_value(sent);
      return ToGrpcStatus(sent);
    };
    stub_ = test::TestService::NewStub(server_.Channel(SmallChannel(1)));
    SetDeadline(&first_, kFarAway);
    SetDeadline(&second_, kFarAway);
  }
  void Block() {
    auto fds = FromContext(&first_);
    test::ExchangeReply reply;
    const grpc::Status status = stub_->Exchange(&first_, test::ExchangeRequest(), &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    fds_ = FromContext(&second_);
    status_ = std::async(std::launch::async, [this] {
      test::ExchangeReply ignored;
      return stub_->Exchange(&second_, test::ExchangeRequest(), &ignored);
    });
    auto inside = inside_.get_future();
    Soon(&inside);
  }
  void ExpectReleased() {
    auto sent = sent_.get_future();
    EXPECT_EQ(absl::StatusCode::kCancelled, Soon(&sent).code());
    EXPECT_FALSE(Soon(&status_).ok());
  }

  const UniqueFd file_ = MemoryFile("x");
  std::atomic<int> calls_{0};
  std::promise<void> inside_;
  std::promise<absl::Status> sent_;
  TestServer server_;
  std::unique_ptr<test::TestService::Stub> stub_;
  grpc::ClientContext first_, second_;
  std::shared_ptr<FdTransceiver> fds_;
  std::future<grpc::Status> status_;
};

TEST_F(BlockedHandlerTest, IsReleasedByACancellation) {
  Block();
  second_.TryCancel();
  ExpectReleased();
}

TEST_F(BlockedHandlerTest, IsReleasedByAShutdown) {
  Block();
  auto shut_down = std::async(std::launch::async, [this] {
    server_.server()->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
    return true;
  });
  EXPECT_TRUE(Soon(&shut_down));
  ExpectReleased();
}

// --- Clients ---

// Whether the call is sent for each attempt.
class BlockedClientTest : public ::testing::TestWithParam<bool> {};

TEST_P(BlockedClientTest, AStreamIsReleasedByACancellation) {
  TestServer server(SmallServer(1));
  std::promise<void> served, over;
  server.service.exchange = [&](auto*, auto*, auto*) {
    served.set_value();
    over.get_future().wait();  // It has a descriptor, and does not take it.
    return grpc::Status::OK;
  };
  server.service.chat = [](grpc::ServerContext*, auto* stream) {
    stream->Write(test::ExchangeReply());
    test::ExchangeRequest request;
    while (stream->Read(&request)) {
    }
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(server.Channel(SmallChannel(1)));
  const UniqueFd file = MemoryFile("x");
  auto full = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    SetDeadline(&context, kFarAway);
    EXPECT_TRUE(FromContext(&context)->SendFd(file).ok());
    test::ExchangeReply reply;
    return stub->Exchange(&context, test::ExchangeRequest(), &reply);
  });
  auto in_handler = served.get_future();
  Soon(&in_handler);
  grpc::ClientContext context;
  SetDeadline(&context, kFarAway);
  context.set_wait_for_ready(GetParam());
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  test::ExchangeReply reply;
  ASSERT_TRUE(stream->Read(&reply));
  std::promise<void> inside;
  auto sent = std::async(std::launch::async, [&] {
    inside.set_value();
    return fds->SendFd(file).status();
  });
  inside.get_future().wait();
  context.TryCancel();
  EXPECT_EQ(absl::StatusCode::kCancelled, Soon(&sent).code());
  EXPECT_EQ(grpc::StatusCode::CANCELLED, stream->Finish().error_code());
  over.set_value();
  EXPECT_TRUE(Soon(&full).ok());
}

// A call that is held back, at the head of the line, and cancelled. The next one then has room.
TEST_P(BlockedClientTest, ACancelledCallLeavesTheLine) {
  TestServer server(SmallServer(4));
  std::promise<void> served, over;
  std::atomic<int> calls{0};
  server.service.exchange = [&](auto*, auto*, auto*) {
    if (calls++ == 0) {
      served.set_value();
      over.get_future().wait();
    }
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(server.Channel(SmallChannel(4)));
  const UniqueFd file = MemoryFile("x");
  auto two_of_four = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    SetDeadline(&context, kFarAway);
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(FromContext(&context)->SendFd(file).ok());
    test::ExchangeReply reply;
    return stub->Exchange(&context, test::ExchangeRequest(), &reply);
  });
  auto in_handler = served.get_future();
  Soon(&in_handler);

  int ends[2];
  ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  {
    grpc::ClientContext context;
    SetDeadline(&context, 3600);
    context.set_wait_for_ready(GetParam());
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(FromContext(&context)->SendFd(write_end).ok());
    write_end.Reset();
    std::promise<grpc::Status> done;
    // It is in the line when this returns; sent per attempt, soon after.
    stub->async()->Exchange(&context, &request, &reply,
                            [&done](grpc::Status status) { done.set_value(std::move(status)); });
    context.TryCancel();
    auto status = done.get_future();
    EXPECT_EQ(grpc::StatusCode::CANCELLED, Soon(&status).error_code());
  }
  pollfd closed = {read_end.get(), 0, 0};
  EXPECT_EQ(1, poll(&closed, 1, 20000)) << "its descriptors are still open";

  grpc::ClientContext context;
  SetDeadline(&context, 20);
  ASSERT_TRUE(FromContext(&context)->SendFd(file).ok());
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  EXPECT_TRUE(status.ok()) << status.error_code() << " " << status.error_message();
  over.set_value();
  EXPECT_TRUE(Soon(&two_of_four).ok());
}

// A call that is sent per attempt waits inside gRPC's core, which knows of the parent.
TEST(BlockedRelayTest, TheEndOfTheParentEndsAnAttemptThatWaits) {
  TestServer backend(SmallServer(1)), relay;
  std::promise<void> served, over, inside;
  std::promise<grpc::Status> relayed;
  backend.service.exchange = [&](auto*, auto*, auto*) {
    served.set_value();
    over.get_future().wait();  // It has a descriptor, and does not take it.
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(backend.Channel(SmallChannel(1)));
  const UniqueFd file = MemoryFile("x");
  relay.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                               test::ExchangeReply* reply) {
    auto next = grpc::ClientContext::FromServerContext(*context);
    next->set_wait_for_ready(true);
    EXPECT_TRUE(FromContext(next.get())->SendFd(file).ok());
    inside.set_value();
    const grpc::Status status = stub->Exchange(next.get(), *request, reply);
    relayed.set_value(status);
    return status;
  };
  auto full = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    SetDeadline(&context, kFarAway);
    EXPECT_TRUE(FromContext(&context)->SendFd(file).ok());
    test::ExchangeReply reply;
    return stub->Exchange(&context, test::ExchangeRequest(), &reply);
  });
  auto in_backend = served.get_future();
  Soon(&in_backend);

  auto parents = relay.Stub();
  grpc::ClientContext parent;
  SetDeadline(&parent, kFarAway);
  auto status = std::async(std::launch::async, [&] {
    test::ExchangeReply reply;
    return parents->Exchange(&parent, test::ExchangeRequest(), &reply);
  });
  auto in_relay = inside.get_future();
  Soon(&in_relay);
  parent.TryCancel();
  EXPECT_FALSE(Soon(&status).ok());
  auto ended = relayed.get_future();
  EXPECT_EQ(grpc::StatusCode::CANCELLED, Soon(&ended).error_code());
  over.set_value();
  EXPECT_TRUE(Soon(&full).ok());
}

INSTANTIATE_TEST_SUITE_P(PerAttempt, BlockedClientTest, ::testing::Bool());

}  // namespace
}  // namespace grpcfd
