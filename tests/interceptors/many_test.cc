// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Many descriptors in one call, and many calls at once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::AnswerAll;
using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

// Room for what the tests have open, at both ends of the calls: the soft limit may be 1024.
void RaiseDescriptorLimit() {
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 16384));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

SessionLimits Raised() {
  SessionLimits limits;
  limits.max_fds_per_call = 1000;
  limits.session_window = 1000;
  return limits;
}

void RaiseServer(grpc::ServerBuilder*, ListenOptions* options) {
  RaiseDescriptorLimit();
  ServerLimits limits;
  limits.session = Raised();
  limits.max_fds_per_uid = 1500;
  limits.max_fds_total = 3000;
  FdServerOptions server_options;
  server_options.limits = limits;
  auto fd_server = FdServer::Create(server_options);
  ASSERT_TRUE(fd_server.ok()) << fd_server.status();
  options->fd_server = *fd_server;
}

class ManyDescriptorsTest : public ::testing::TestWithParam<int> {
 protected:
  ManyDescriptorsTest() : server_(RaiseServer) {
    ChannelOptions options;
    options.fd_channel_options.limits = Raised();
    stub_ = test::TestService::NewStub(server_.Channel(options));
  }

  TestServer server_;
  std::unique_ptr<test::TestService::Stub> stub_;
};

// 254 is the first that does not go in one frame; two, three and four frames.
INSTANTIATE_TEST_SUITE_P(Counts, ManyDescriptorsTest, ::testing::Values(254, 600, 1000),
                         ::testing::PrintToStringParamName());

TEST_P(ManyDescriptorsTest, ThereAndBackInOrder) {
  const int count = GetParam();
  // Takes each, checks it by its content, and answers it with another one.
  server_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    const auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    for (int i = 0; i < request->urls_size(); ++i) {
      const auto fd = fds->RecvFd(request->urls(i));
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      if (Content(*fd) != absl::StrCat("there ", i)) {
        return grpc::Status(grpc::StatusCode::DATA_LOSS, Content(*fd));
      }
      const auto url = fds->SendFd(MemoryFile(absl::StrCat("back ", i)));
      if (!url.ok()) return ToGrpcStatus(url.status());
      reply->add_urls(url->ToString());
    }
    return grpc::Status::OK;
  };
  // Twice: the first call finds no session, the second one does.
  for (int round = 0; round < 2; ++round) {
    grpc::ClientContext context;
    SetDeadline(&context, 60);
    const auto fds = FromContext(&context);
    test::ExchangeRequest request;
    for (int i = 0; i < count; ++i) {
      const auto url = fds->SendFd(MemoryFile(absl::StrCat("there ", i)));
      ASSERT_TRUE(url.ok()) << url.status();
      request.add_urls(url->ToString());
    }
    test::ExchangeReply reply;
    const grpc::Status status = stub_->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(reply.urls_size(), count);
    for (int i = 0; i < count; ++i) {
      const auto fd = fds->RecvFd(reply.urls(i));
      ASSERT_TRUE(fd.ok()) << i << ": " << fd.status();
      ASSERT_EQ(Content(*fd), absl::StrCat("back ", i));
    }
  }
}

TEST(ManyDescriptorsLimitTest, OneMoreThanTheLimitIsRefusedBeforeAnythingIsSent) {
  TestServer server(RaiseServer);
  std::atomic<int> handled{0};
  server.service.exchange = [&](grpc::ServerContext*, const test::ExchangeRequest*,
                                test::ExchangeReply*) {
    ++handled;
    return grpc::Status::OK;
  };
  ChannelOptions options;
  options.fd_channel_options.limits = Raised();
  const auto stub = test::TestService::NewStub(server.Channel(options));
  grpc::ClientContext context;
  SetDeadline(&context, 60);
  const auto fds = FromContext(&context);
  const UniqueFd file = MemoryFile("x");
  for (int i = 0; i < 1001; ++i) ASSERT_TRUE(fds->SendFd(file).ok());
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, {}, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_EQ(handled, 0);
}

// --- Many calls ---

struct AsyncCall {
  grpc::ClientContext context;
  std::shared_ptr<FdTransceiver> fds;
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  grpc::Status status;
  std::string expected;
};

// 1,000 calls with 2 descriptors each are started before any is waited for, on a session that takes
// `window` at a time.
void ThousandCalls(uint32_t window) {
  RaiseDescriptorLimit();
  constexpr int kThreads = 16;
  constexpr int kCalls = 1000;
  TestServer server([window](grpc::ServerBuilder*, ListenOptions* options) {
    ServerLimits limits;
    limits.session.session_window = window;
    limits.session.max_fds_per_call = std::min<uint32_t>(window, 16);
    FdServerOptions server_options;
    server_options.limits = limits;
    auto fd_server = FdServer::Create(server_options);
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    options->fd_server = *fd_server;
  });
  AnswerAll(&server.service);
  const auto stub = server.Stub();
  std::vector<AsyncCall> calls(kCalls);
  absl::BlockingCounter pending(kCalls);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < kCalls; i += kThreads) {
        AsyncCall& call = calls[i];
        SetDeadline(&call.context, 60);
        call.fds = FromContext(&call.context);
        for (const char* which : {"a", "b"}) {
          const std::string content = absl::StrCat(i, which);
          const auto url = call.fds->SendFd(MemoryFile(content));
          EXPECT_TRUE(url.ok()) << url.status();
          if (url.ok()) call.request.add_urls(url->ToString());
          absl::StrAppend(&call.expected, content, "|");
        }
        call.request.set_command("reply");
        call.request.set_payload(absl::StrCat(i));
        stub->async()->Exchange(
            &call.context, &call.request, &call.reply, [&call, &pending](grpc::Status status) {
              call.status = std::move(status);
              // Taken here, so that the replies' window has room for others.
              if (call.status.ok()) {
                call.fds->RecvFdAsync(
                    call.reply.urls(0), [&call, &pending](absl::StatusOr<UniqueFd> fd) {
                      call.expected += fd.ok() ? "+" + Content(*fd) : fd.status().ToString();
                      pending.DecrementCount();
                    });
              } else {
                pending.DecrementCount();
              }
            });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  pending.Wait();
  for (int i = 0; i < kCalls; ++i) {
    ASSERT_TRUE(calls[i].status.ok()) << i << ": " << calls[i].status.error_message();
    ASSERT_EQ(absl::StrCat(calls[i].reply.payload(), "+reply to ", i), calls[i].expected);
  }
}

TEST(ManyCallsTest, AThousandInFlightWithTheDefaultWindow) { ThousandCalls(64); }

TEST(ManyCallsTest, AThousandInFlightWithTheNarrowestWindow) { ThousandCalls(2); }

}  // namespace
}  // namespace grpcfd
