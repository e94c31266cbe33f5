// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Waits for a descriptor, in every API style, at both ends: a late descriptor ends them, and so
// does whatever makes waiting pointless.
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/server/server_core.h"
#include "tests/interceptors/styles/drivers.h"
#include "tests/interceptors/styles/script.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace styles {
namespace {

using testing_internal::TempDir;

constexpr char kMissing[] = "inode://1/1?fd=9";

// A bidirectional stream that is under way in both directions: the handler waits to be released.
class UnderWay {
 public:
  UnderWay(Style style, Ending ending, absl::Duration deadline = absl::Seconds(60))
      : stage_(ending, std::move(b2_.write)),
        address_("unix:" + dir_.File("socket")),
        server_(StartServer(style, address_, &stage_)),
        context_(std::make_unique<grpc::ClientContext>()) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpcfd::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments);
    context_->set_deadline(absl::ToChronoTime(absl::Now() + deadline));
    script_ = std::make_unique<ClientScript>(Shape::kBidi, context_.get(), std::move(a2_.write));
    call_ = StartCall(style, channel_, script_.get());
    reached_ = stage_.AwaitReached([this] { return script_->done(); });
    if (reached_) at_server_ = stage_.TakeHandle();
  }
  ~UnderWay() { End(); }

  bool reached() const { return reached_; }
  Stage* stage() { return &stage_; }
  StyleServer* server() { return server_.get(); }
  grpc::ClientContext* context() { return context_.get(); }
  FdTransceiver* at_server() { return at_server_.get(); }
  FdTransceiver* at_client() { return script_->fds().get(); }
  grpc::Status AwaitDone() { return script_->AwaitDone(); }

  // Ends the call at the client: the context and all handles go.
  void End() {
    if (script_ == nullptr) return;
    stage_.Release();
    context_->TryCancel();
    script_->AwaitDone();
    call_.reset();
    script_.reset();
    context_.reset();
  }
  void StopServer() { server_->server()->Shutdown(std::chrono::system_clock::now()); }
  void DestroyServer() { server_.reset(); }

 private:
  const TempDir dir_;
  Pipe a2_;
  Pipe b2_;
  Stage stage_;
  const std::string address_;
  std::unique_ptr<StyleServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<ClientScript> script_;
  std::unique_ptr<StyleCall> call_;
  bool reached_ = false;
  std::shared_ptr<FdTransceiver> at_server_;
};

// An asynchronous waiter, and what becomes of it.
class Waiter {
 public:
  Waiter(FdReceiver* fds, const std::string& url, absl::Time deadline = absl::InfiniteFuture()) {
    outcome_ = promise_->get_future();
    fds->RecvFdAsync(url, deadline, [promise = promise_](absl::StatusOr<UniqueFd> fd) {
      promise->set_value(std::move(fd));
    });
  }
  bool waits() { return outcome_.wait_for(std::chrono::seconds(0)) == std::future_status::timeout; }
  absl::StatusOr<UniqueFd> Get() {
    if (outcome_.wait_for(std::chrono::seconds(20)) != std::future_status::ready) {
      return absl::UnknownError("it is not released");
    }
    return outcome_.get();
  }
  absl::StatusCode Code() { return Get().status().code(); }

 private:
  using Promise = std::promise<absl::StatusOr<UniqueFd>>;
  const std::shared_ptr<Promise> promise_ = std::make_shared<Promise>();
  std::future<absl::StatusOr<UniqueFd>> outcome_;
};

class WaitersTest : public ::testing::TestWithParam<Style> {};

INSTANTIATE_TEST_SUITE_P(Styles, WaitersTest, ::testing::ValuesIn(kStyles),
                         [](const ::testing::TestParamInfo<Style>& info) {
                           return std::string(Name(info.param));
                         });

// The handler asks, as its style does, for what the client sends later.
TEST_P(WaitersTest, ALateDescriptorWakesTheHandler) {
  const TempDir dir;
  const std::string address = "unix:" + dir.File("socket");
  Pipe a2;
  Pipe b2;
  Stage stage(Ending::kOk, std::move(b2.write));
  const auto server = StartServer(GetParam(), address, &stage);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpcfd::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  grpc::ClientContext context;
  ClientScript script(Shape::kBidi, &context, std::move(a2.write));
  script.NameA3BeforeItIsSent();
  const auto call = StartCall(GetParam(), channel, &script);
  ASSERT_TRUE(stage.AwaitAsked());
  script.SendA3();
  ASSERT_TRUE(stage.AwaitReached([&] { return script.done(); }));
  EXPECT_EQ("a3", stage.report().read.back());
  stage.Release();
  EXPECT_TRUE(script.AwaitDone().ok());
}

// Both ends ask with RecvFdAsync for what the other sends later.
TEST_P(WaitersTest, ALateDescriptorWakesACallback) {
  UnderWay call(GetParam(), Ending::kOk);
  ASSERT_TRUE(call.reached());
  UniqueFd to_server = MakeFile("to the server");
  UniqueFd to_client = MakeFile("to the client");
  Waiter at_server(call.at_server(), FdToUrl(to_server)->ToString());
  Waiter at_client(call.at_client(), FdToUrl(to_client)->ToString());
  EXPECT_TRUE(at_server.waits());
  EXPECT_TRUE(at_client.waits());
  EXPECT_TRUE(call.at_client()->SendFd(std::move(to_server)).ok());
  EXPECT_TRUE(call.at_server()->SendFd(std::move(to_client)).ok());
  EXPECT_EQ("to the server", ContentOf(at_server.Get()));
  EXPECT_EQ("to the client", ContentOf(at_client.Get()));
}

TEST_P(WaitersTest, TheDeadlineOfTheRequestReleases) {
  UnderWay call(GetParam(), Ending::kOk);
  ASSERT_TRUE(call.reached());
  const absl::Time deadline = absl::Now() + absl::Milliseconds(20);
  Waiter at_server(call.at_server(), kMissing, deadline);
  Waiter at_client(call.at_client(), kMissing, deadline);
  EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, at_server.Code());
  EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, at_client.Code());
  EXPECT_GE(absl::Now(), deadline);
}

TEST_P(WaitersTest, TheDeadlineOfTheCallReleases) {
  for (absl::Duration deadline = absl::Milliseconds(100); deadline < absl::Seconds(30);
       deadline *= 4) {
    UnderWay call(GetParam(), Ending::kDeadline, deadline);
    if (!call.reached()) continue;  // Too short for this machine.
    Waiter at_server(call.at_server(), kMissing);
    Waiter at_client(call.at_client(), kMissing);
    const absl::StatusCode code = at_server.Code();
    EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, at_client.Code());
    // The call may have ended between the two lines, and on a slow machine before them.
    EXPECT_TRUE(code == absl::StatusCode::kDeadlineExceeded ||
                code == absl::StatusCode::kCancelled ||
                code == absl::StatusCode::kFailedPrecondition)
        << code;
    EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED, call.AwaitDone().error_code());
    return;
  }
  ADD_FAILURE() << "the call never got as far as its handler";
}

// A synchronous server is told of a cancellation when somebody asks: here the handler does, which
// itself waits in RecvFd.
TEST_P(WaitersTest, CancellationReleases) {
  UnderWay call(GetParam(), Ending::kCancel);
  ASSERT_TRUE(call.reached());
  Waiter at_server(call.at_server(), kMissing);
  Waiter at_client(call.at_client(), kMissing);
  EXPECT_TRUE(at_server.waits());
  EXPECT_TRUE(at_client.waits());
  call.context()->TryCancel();
  EXPECT_EQ(absl::StatusCode::kCancelled, at_server.Code());
  EXPECT_EQ(absl::StatusCode::kCancelled, at_client.Code());
}

TEST_P(WaitersTest, TheEndOfTheCallReleases) {
  UnderWay call(GetParam(), Ending::kOk);
  ASSERT_TRUE(call.reached());
  Waiter at_server(call.at_server(), kMissing);
  Waiter at_client(call.at_client(), kMissing);
  call.stage()->Release();
  EXPECT_TRUE(call.AwaitDone().ok());
  // A handle that is kept does not keep the call. A waiter learns of the end, or before that of the
  // closed stream, which gRPC reports alike whether or not it was cancelled.
  const absl::StatusCode code = at_server.Code();
  EXPECT_TRUE(code == absl::StatusCode::kFailedPrecondition || code == absl::StatusCode::kCancelled)
      << code;
  EXPECT_EQ(absl::StatusCode::kNotFound, at_client.Code());
}

// gRPC's own connection lives on: the call ends as it would have.
TEST_P(WaitersTest, TheLossOfTheSessionReleases) {
  UnderWay call(GetParam(), Ending::kOk);
  ASSERT_TRUE(call.reached());
  Waiter at_server(call.at_server(), kMissing);
  Waiter at_client(call.at_client(), kMissing);
  internal::CoreOf(*call.server()->fd_server())->ShutDown();
  EXPECT_EQ(absl::StatusCode::kUnavailable, at_server.Code());
  EXPECT_EQ(absl::StatusCode::kUnavailable, at_client.Code());
  EXPECT_EQ(absl::StatusCode::kUnavailable, Waiter(call.at_server(), kMissing).Code());
  EXPECT_EQ(absl::StatusCode::kUnavailable, Waiter(call.at_client(), kMissing).Code());
  call.stage()->Release();
  EXPECT_TRUE(call.AwaitDone().ok());
}

TEST_P(WaitersTest, ShutdownReleases) {
  UnderWay call(GetParam(), Ending::kCancel);  // The handler itself waits too.
  ASSERT_TRUE(call.reached());
  Waiter at_server(call.at_server(), kMissing);
  Waiter at_client(call.at_client(), kMissing);
  // Returns when the handler has: Shutdown() with a deadline that has passed cancels all calls.
  call.StopServer();
  EXPECT_EQ(absl::StatusCode::kCancelled, at_server.Code());
  call.AwaitDone();
  EXPECT_EQ(absl::StatusCode::kNotFound, at_client.Code());
  call.DestroyServer();
  EXPECT_EQ(absl::StatusCode::kUnavailable, Waiter(call.at_client(), kMissing).Code());
}

}  // namespace
}  // namespace styles
}  // namespace grpcfd
