// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Calls that gRPC makes again by a retry policy. The attempt that runs finds the call's
// descriptors, whatever became of those of the attempts before. Each handler takes the descriptors,
// and looks at what is in them.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpc/grpc_security_constants.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/retry_test_util.h"
#include "tests/interceptors/test_service.h"
#include "tests/interceptors/tls_test_keys.h"

namespace grpcfd {
namespace {

using ::testing::ElementsAre;
using testing_internal::Answer;
using testing_internal::AnswerAllBy;
using testing_internal::Arguments;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::Entry;
using testing_internal::FailingFirst;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::Log;
using testing_internal::MemoryFile;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::StubOf;
using testing_internal::TestServer;
using testing_internal::Text;
using testing_internal::Unavailable;

enum class Security { kInsecure, kLocal, kTls };

std::shared_ptr<grpc::ServerCredentials> ServerSide(Security security) {
  switch (security) {
    case Security::kInsecure:
      return grpc::InsecureServerCredentials();
    case Security::kLocal:
      return grpc::experimental::LocalServerCredentials(UDS);
    case Security::kTls: {
      grpc::SslServerCredentialsOptions options;
      options.pem_key_cert_pairs.push_back(
          {testing_internal::kTlsTestKey, testing_internal::kTlsTestCertificate});
      return grpc::SslServerCredentials(options);
    }
  }
  return nullptr;
}

std::shared_ptr<grpc::ChannelCredentials> ClientSide(Security security) {
  switch (security) {
    case Security::kInsecure:
      return grpc::InsecureChannelCredentials();
    case Security::kLocal:
      return grpc::experimental::LocalCredentials(UDS);
    case Security::kTls: {
      grpc::SslCredentialsOptions options;
      options.pem_root_certs = testing_internal::kTlsTestCertificate;
      return grpc::SslCredentials(options);
    }
  }
  return nullptr;
}

enum class Own { kNone, kOfTheCall, kOfTheChannel };

class RetriedTest : public ::testing::TestWithParam<std::tuple<Kind, Security, Own>> {};

TEST_P(RetriedTest, EachAttemptFindsAllDescriptors) {
  const auto [kind, security, own] = GetParam();
  TestServer server({}, ServerSide(security));
  Log log;
  AnswerAllBy(&server, FailingFirst(2, &log));
  auto credentials = ClientSide(security);
  if (own == Own::kOfTheChannel) {
    credentials = grpc::CompositeChannelCredentials(credentials, Entry("x-channel"));
  }
  grpc::ChannelArguments arguments = Arguments(3);
  if (security == Security::kTls) {
    arguments.SetSslTargetNameOverride(testing_internal::kTlsTestName);
  }
  auto stub = test::TestService::NewStub(
      grpcfd::CreateCustomChannel(server.address(), credentials, arguments));
  // The first call finds no session yet, the second does.
  for (int round = 1; round <= 2; ++round) {
    log.Add("round");  // Counts as an attempt that fails.
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    if (own == Own::kOfTheCall) context.set_credentials(Entry("x-call"));
    test::ExchangeRequest request = RequestWith(&context, {"a", "b"});
    request.set_command("reply");
    request.set_payload("c");
    test::ExchangeReply reply;
    if (round == 2) AnswerAllBy(&server, FailingFirst(6, &log));
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ("a|b|", reply.payload());
    // Asked again for each attempt, as on a stock channel.
    EXPECT_EQ(own == Own::kNone        ? ""
              : own == Own::kOfTheCall ? (round == 1 ? "x-call=2;" : "x-call=3;")
                                       : (round == 1 ? "x-channel=2;" : "x-channel=5;"),
              reply.status_text());
    // What failed attempts sent back is gone; the last one's is there.
    ASSERT_EQ(1, reply.urls_size());
    auto back = FromContext(&context)->RecvFd(reply.urls(0));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ("reply to c", Content(*back));
  }
  EXPECT_THAT(log.lines(), ElementsAre("round", "a|b|", "a|b|", "round", "a|b|", "a|b|", "a|b|"));
}

std::string NameOf(Security security) {
  switch (security) {
    case Security::kInsecure:
      return "Insecure";
    case Security::kLocal:
      return "Local";
    case Security::kTls:
      return "Tls";
  }
  return "";
}

INSTANTIATE_TEST_SUITE_P(
    Everywhere, RetriedTest,
    ::testing::Combine(::testing::ValuesIn(kAllKinds),
                       ::testing::Values(Security::kInsecure, Security::kLocal, Security::kTls),
                       ::testing::Values(Own::kNone, Own::kOfTheCall)),
    [](const auto& info) {
      return ::testing::PrintToString(std::get<0>(info.param)) + NameOf(std::get<1>(info.param)) +
             (std::get<2>(info.param) == Own::kNone ? "" : "WithCallCredentials");
    });
// gRPC does not combine channel credentials that are insecure with call credentials.
INSTANTIATE_TEST_SUITE_P(ChannelCredentials, RetriedTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds),
                                            ::testing::Values(Security::kLocal, Security::kTls),
                                            ::testing::Values(Own::kOfTheChannel)),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  NameOf(std::get<1>(info.param));
                         });

TEST(RetryTest, ExhaustedAttemptsEndWithTheLastStatus) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, FailingFirst(1000, &log));
  auto stub = StubOf(server.address(), 3);
  for (const Kind kind : kAllKinds) {
    const size_t before = log.lines().size();
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto handle = FromContext(&context);
    const auto request = RequestWith(&context, {"a", "b"});
    test::ExchangeReply reply;
    EXPECT_EQ("14 attempt " + std::to_string(before + 3),
              Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ(before + 3, log.lines().size()) << kind;
    EXPECT_EQ("a|b|", log.lines().back());
  }
}

TEST(RetryTest, WhatIsNotRetriedIsMadeOnce) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, [&log](grpc::ServerContext* context, const test::ExchangeRequest& request,
                              test::ExchangeReply* reply) {
    const grpc::Status status = Answer(context, request, reply);
    log.Add(status.ok() ? std::string(reply->payload()) : Text(status));
    return grpc::Status(grpc::StatusCode::ABORTED, "no");
  });
  auto stub = StubOf(server.address(), 3);
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"a"});
    test::ExchangeReply reply;
    EXPECT_EQ("10 no", Text(Call(kind, stub.get(), &context, request, &reply)));
  }
  EXPECT_THAT(log.lines(), ElementsAre("a|", "a|", "a|", "a|"));
}

// The other API: what runs on gRPC's own threads.
TEST(RetryTest, CallbackCalls) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, FailingFirst(2, &log));
  auto stub = StubOf(server.address(), 4);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto request = RequestWith(&context, {"a"});
  test::ExchangeReply reply;
  std::promise<grpc::Status> done;
  stub->async()->Exchange(&context, &request, &reply,
                          [&done](grpc::Status status) { done.set_value(std::move(status)); });
  EXPECT_EQ("OK", Text(done.get_future().get()));
  EXPECT_THAT(log.lines(), ElementsAre("a|", "a|", "a|"));
}

// A pipe's reader waits for the end of every writer. The one that is kept for another attempt must
// not stay open once there can be none, though the context is still there.
TEST(RetryTest, WhatIsKeptIsClosedWhenTheResponseIsThere) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, FailingFirst(1, &log));
  auto stub = StubOf(server.address(), 3);
  int ends[2];
  ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  ASSERT_EQ(1, write(writer.get(), "x", 1));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  test::ExchangeRequest request;
  {
    auto url = handle->SendFd(std::move(writer));
    ASSERT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
  }
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(stub->Exchange(&context, request, &reply)));
  char byte;
  EXPECT_EQ(1, read(reader.get(), &byte, 1));
  EXPECT_EQ(0, read(reader.get(), &byte, 1));
}

// A receive that waits when its attempt fails gets what the next one sends.
TEST(RetryTest, AWaiterOutlivesItsAttempt) {
  TestServer server;
  const UniqueFd file = MemoryFile("from the server");
  const auto dev_ino = FdToDevIno(file);
  ASSERT_TRUE(dev_ino.ok());
  const InodeUrl url(*dev_ino);
  std::atomic<int> attempts{0};
  std::promise<absl::StatusOr<UniqueFd>> received;
  std::promise<absl::StatusOr<UniqueFd>> blocked;
  std::thread waiter;
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  server.service.exchange = [&](grpc::ServerContext* server_context, const test::ExchangeRequest*,
                                test::ExchangeReply*) {
    if (++attempts == 1) {
      handle->RecvFdAsync(url, absl::Now() + absl::Seconds(20),
                          [&](absl::StatusOr<UniqueFd> fd) { received.set_value(std::move(fd)); });
      waiter = std::thread([&] { blocked.set_value(handle->RecvFd(url)); });
      return Unavailable("first");
    }
    auto fds = FromContext(server_context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    for (int i = 0; i < 2; ++i) {
      const auto sent = fds->SendFd(file);
      if (!sent.ok()) return ToGrpcStatus(sent.status());
    }
    return grpc::Status::OK;
  };
  auto stub = StubOf(server.address(), 3);
  test::ExchangeReply reply;
  EXPECT_EQ("OK", Text(stub->Exchange(&context, {}, &reply)));
  auto fd = received.get_future().get();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ("from the server", Content(*fd));
  waiter.join();
  fd = blocked.get_future().get();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ("from the server", Content(*fd));
}

// The server goes away in the middle of an attempt, and another process takes its place.
TEST(RestartTest, ARetryFindsItsDescriptorsAtTheNextServer) {
  TestServer server;
  Log log;
  std::promise<void> runs;
  server.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    const grpc::Status status = Answer(context, *request, reply);
    if (log.Add(status.ok() ? std::string(reply->payload()) : Text(status)) > 1) return status;
    runs.set_value();
    while (!context->IsCancelled()) poll(nullptr, 0, 1);
    return Unavailable("shut down");
  };
  auto stub = StubOf(server.address(), 5);
  grpc::ClientContext context;
  SetDeadline(&context, 30);
  context.set_wait_for_ready(true);
  const auto request = RequestWith(&context, {"a", "b"});
  test::ExchangeReply reply;
  auto status =
      std::async(std::launch::async, [&] { return stub->Exchange(&context, request, &reply); });
  runs.get_future().wait();
  server.server()->Shutdown(std::chrono::system_clock::now());
  server.Stop();
  server.Start();
  EXPECT_EQ("OK", Text(status.get()));
  EXPECT_THAT(log.lines(), ElementsAre("a|b|", "a|b|"));
}

}  // namespace
}  // namespace grpcfd
