// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Calls that may be made again use the context's slot for credentials. So do a program's own
// interceptors, and PerRpcCredentials, which may go to several targets.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/grpcfd.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/retry_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;
using testing_internal::AnswerAll;
using testing_internal::AnswerAllBy;
using testing_internal::AttemptFactory;
using testing_internal::Call;
using testing_internal::CreatorsOf;
using testing_internal::Entry;
using testing_internal::FailingFirst;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::Log;
using testing_internal::LongFormChannel;
using testing_internal::MemoryFile;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::StubOf;
using testing_internal::TestServer;
using testing_internal::Text;

// A program's factory that comes after grpcfd's and sets credentials, instead of chaining them.
class SlotFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    info->client_context()->set_credentials(Entry("x-call"));
    return nullptr;
  }
};

TEST(AttemptCredentialsTest, ReplacedByALaterFactoryTheCallIsRefused) {
  TestServer server;
  AnswerAll(&server.service);
  auto stub = test::TestService::NewStub(LongFormChannel(
      server.address(),
      CreatorsOf(AttemptFactory(server.address()), std::make_unique<SlotFactory>())));
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"a"});
    test::ExchangeReply reply;
    const grpc::Status status = Call(kind, stub.get(), &context, request, &reply);
    EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
    EXPECT_THAT(status.error_message(), HasSubstr("replaced"));
  }
}

// A program's interceptor that chains credentials when the call exists already: gRPC applies all of
// them a second time.
class ChainingInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit ChainingInterceptor(grpc::ClientContext* context) : context_(context) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      context_->set_credentials(ChainCallCredentials(context_->credentials(), Entry("x-call")));
    }
    methods->Proceed();
  }

 private:
  grpc::ClientContext* const context_;
};
class ChainingFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    return new ChainingInterceptor(info->client_context());
  }
};

TEST(AttemptCredentialsTest, ChainedByAnInterceptorTheCallsAreStillFreed) {
  TestServer server;
  AnswerAll(&server.service);
  const size_t before = CountOpenFds();
  {
    auto stub = test::TestService::NewStub(LongFormChannel(
        server.address(),
        CreatorsOf(AttemptFactory(server.address()), std::make_unique<ChainingFactory>())));
    for (int i = 0; i < 10; ++i) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      const auto request = RequestWith(&context, {"a"});
      test::ExchangeReply reply;
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      EXPECT_TRUE(status.ok()) << Text(status);
    }
  }
  // A call that somebody holds on to keeps the connection.
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (CountOpenFds() > before && absl::Now() < limit) poll(nullptr, 0, 1);
  EXPECT_LE(CountOpenFds(), before);
}

// --- One PerRpcCredentials object, several targets ---

class TargetsTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr int kTargets = 4;

  TargetsTest() {
    for (int i = 0; i < kTargets; ++i) {
      servers_.push_back(std::make_unique<TestServer>());
      logs_.push_back(std::make_unique<Log>());
      AnswerAllBy(servers_.back().get(), FailingFirst(GetParam() ? 1 : 0, logs_.back().get()));
      stubs_.push_back(StubOf(servers_.back()->address(), GetParam() ? 3 : 1));
    }
    for (const char* content : {"a", "b", "c"}) {
      auto url = FromPerRpcCredentials(credentials_)->SendFd(MemoryFile(content));
      EXPECT_TRUE(url.ok()) << url.status();
      request_.add_urls(url->ToString());
    }
  }
  std::string CallTarget(int target, Kind kind) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(credentials_);
    test::ExchangeReply reply;
    const grpc::Status status =
        Call(kind, stubs_[static_cast<size_t>(target)].get(), &context, request_, &reply);
    return status.ok() ? std::string(reply.payload()) : Text(status);
  }

  const std::shared_ptr<grpc::CallCredentials> credentials_ = PerRpcCredentials();
  std::vector<std::unique_ptr<TestServer>> servers_;
  std::vector<std::unique_ptr<Log>> logs_;
  std::vector<std::unique_ptr<test::TestService::Stub>> stubs_;
  test::ExchangeRequest request_;
};

TEST_P(TargetsTest, InTurnEachGetsTheFullSet) {
  for (int round = 0; round < 2; ++round) {
    for (int target = 0; target < kTargets; ++target) {
      for (const Kind kind : kAllKinds) EXPECT_EQ("a|b|c|", CallTarget(target, kind));
    }
  }
}

TEST_P(TargetsTest, AtOnceEachGetsTheFullSet) {
  std::vector<std::thread> threads;
  for (int target = 0; target < kTargets; ++target) {
    threads.emplace_back([this, target] {
      for (int i = 0; i < 8; ++i) EXPECT_EQ("a|b|c|", CallTarget(target, kAllKinds[i % 4]));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Everywhere, TargetsTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Retried" : "MadeOnce"; });

}  // namespace
}  // namespace grpcfd
