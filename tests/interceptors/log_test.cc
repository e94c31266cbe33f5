// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What goes to the log, and how often.
#include "grpcfd/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "grpcfd/grpcfd.h"
#include "interceptors/log.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using internal::Log;
using internal::LogReason;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

// Collects the lines while it lives.
class LogTest : public ::testing::Test {
 protected:
  LogTest() {
    SetLogSink([this](LogLevel level, const std::string& text) {
      const std::lock_guard<std::mutex> lock(mutex_);
      lines_.push_back((level == LogLevel::kError ? "E " : "W ") + text);
    });
  }
  ~LogTest() override { SetLogSink(nullptr); }

  std::vector<std::string> Lines() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> lines_;
};

TEST_F(LogTest, AReasonIsLoggedOnceASecond) {
  Log(LogReason::kCannotListen, LogLevel::kError, "first");
  Log(LogReason::kCannotListen, LogLevel::kError, "second");
  Log(LogReason::kIgnoredDescriptors, LogLevel::kWarning, "other");
  EXPECT_THAT(Lines(), ElementsAre("E first", "W other"));
}

TEST_F(LogTest, ALineSaysHowManyWereLeftOut) {
  Log(LogReason::kCannotListen, LogLevel::kError, "first");
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  size_t asked = 0;
  while (Lines().size() < 2 && absl::Now() < limit) {
    Log(LogReason::kCannotListen, LogLevel::kError, "again");
    ++asked;
  }
  ASSERT_EQ(Lines().size(), 2u);
  EXPECT_EQ(Lines()[1], "E again (and " + std::to_string(asked - 1) + " like it before)");
}

TEST_F(LogTest, APortThatCannotListenSaysWhy) {
  absl::Status bound;
  ListenOptions options;
  options.bind_status = &bound;
  testing_internal::FunctionService service;
  grpc::ServerBuilder builder;
  AddListeningPort(&builder, "dns:localhost:1", grpc::InsecureServerCredentials(), options);
  builder.RegisterService(&service);  // Without one gRPC does not get as far as the port.
  EXPECT_EQ(builder.BuildAndStart(), nullptr);
  EXPECT_FALSE(bound.ok());
  EXPECT_THAT(Lines(), ElementsAre(AllOf(HasSubstr("E cannot listen on dns:localhost:1: "),
                                         HasSubstr(std::string(bound.message())))));
}

class IgnoredCallsTest : public LogTest {
 protected:
  // A call with `count` descriptors, whose handler runs `handler`.
  void Call(size_t count, const std::function<void(grpc::ServerContext*)>& handler) {
    server_.service.exchange = [&](grpc::ServerContext* context, auto*, auto*) {
      handler(context);
      return grpc::Status::OK;
    };
    auto stub = server_.Stub();
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    for (size_t i = 0; i < count; ++i) ASSERT_TRUE(fds->SendFd(MemoryFile("x")).ok());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  // The call ends a little after the client has its answer.
  uint64_t IgnoredAtTheEnd() {
    const auto fd_server = GetFdServer(*server_.server());
    server_.Stop();
    return fd_server->Stats().calls_ignored;
  }

  TestServer server_;
};

TEST_F(IgnoredCallsTest, DescriptorsThatNobodyAskedForAreCountedAndLogged) {
  Call(2, [](grpc::ServerContext*) {});
  EXPECT_EQ(IgnoredAtTheEnd(), 1u);
  EXPECT_THAT(Lines(), ElementsAre(AllOf(HasSubstr("W the handler of /grpcfd.test.TestService/"),
                                         HasSubstr("2 descriptors"), HasSubstr("FromContext"))));
}

TEST_F(IgnoredCallsTest, AHandlerThatAsksIgnoresNothing) {
  Call(1, [](grpc::ServerContext* context) { EXPECT_TRUE(FromContext(context)->status().ok()); });
  EXPECT_EQ(IgnoredAtTheEnd(), 0u);
  EXPECT_THAT(Lines(), IsEmpty());
}

TEST_F(IgnoredCallsTest, ACallWithoutDescriptorsIsNotCounted) {
  Call(0, [](grpc::ServerContext*) {});
  EXPECT_EQ(IgnoredAtTheEnd(), 0u);
  EXPECT_THAT(Lines(), IsEmpty());
}

}  // namespace
}  // namespace grpcfd
