// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the README promises of a call with descriptors, one test each: never the wrong descriptor,
// never a call without its descriptors in silence, never a hang, never a leak.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "grpcfd/testing/same_file.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;
using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;

// Takes each URL of the request in the order of the message and lets `check` look at the
// descriptors.
auto TakeAll(std::function<std::string(std::vector<UniqueFd>)> check) {
  return [check](grpc::ServerContext* context, const test::ExchangeRequest* request,
                 test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    std::vector<UniqueFd> taken;
    for (const std::string& url : request->urls()) {
      auto fd = fds->RecvFd(url);
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      taken.push_back(*std::move(fd));
    }
    reply->set_status_text(check(std::move(taken)));
    return grpc::Status::OK;
  };
}

// Answers with what happens to a RecvFd of the request's first URL.
grpc::Status ReportRecv(grpc::ServerContext* context, const test::ExchangeRequest* request,
                        test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  const absl::Status status = fds->RecvFd(request->urls(0)).status();
  reply->set_status_code(static_cast<int>(status.code()));
  reply->set_status_text(std::string(status.message()));
  return grpc::Status::OK;
}

grpc::Status PlainOk(grpc::ServerContext*, const test::ExchangeRequest*, test::ExchangeReply*) {
  return grpc::Status::OK;
}

// Calls Exchange with a 10 s deadline.
grpc::Status Call(test::TestService::Stub* stub, grpc::ClientContext* context,
                  const test::ExchangeRequest& request, test::ExchangeReply* reply) {
  SetDeadline(context, 10);
  return stub->Exchange(context, request, reply);
}

TEST(NeverConfusedTest, TwoEventfdsOfOneInode) {
  TestServer server;
  server.service.exchange = TakeAll([](std::vector<UniqueFd> fds) {
    for (size_t i = 0; i < fds.size(); ++i) {
      const uint64_t value = 100 + i;
      if (write(fds[i].get(), &value, sizeof(value)) != sizeof(value)) return "write failed";
    }
    return "ok";
  });
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  std::vector<UniqueFd> events;
  test::ExchangeRequest request;
  for (int i = 0; i < 4; ++i) {
    events.emplace_back(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    request.add_urls(fds->SendFd(events.back())->ToString());
  }
  // One inode for all, so only the index tells them apart; the handler asks in reverse.
  std::reverse(request.mutable_urls()->begin(), request.mutable_urls()->end());
  test::ExchangeReply reply;
  const grpc::Status status = Call(stub.get(), &context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ("ok", reply.status_text());
  for (int i = 0; i < 4; ++i) {
    uint64_t value = 0;
    ASSERT_EQ(static_cast<ssize_t>(sizeof(value)), read(events[i].get(), &value, sizeof(value)));
    EXPECT_EQ(100u + (3 - i), value);
  }
}

TEST(NeverConfusedTest, BothEndsOfAPipe) {
  TestServer server;
  server.service.exchange = TakeAll([](std::vector<UniqueFd> fds) -> std::string {
    if ((fcntl(fds[0].get(), F_GETFL) & O_ACCMODE) != O_RDONLY) return "first is no read end";
    if ((fcntl(fds[1].get(), F_GETFL) & O_ACCMODE) != O_WRONLY) return "second is no write end";
    return "ok";
  });
  const auto stub = server.Stub();
  int ends[2];
  ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFd(UniqueFd(ends[0]))->ToString());
  request.add_urls(fds->SendFd(UniqueFd(ends[1]))->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = Call(stub.get(), &context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ("ok", reply.status_text());
}

TEST(NeverConfusedTest, ReadOnlyAndReadWriteOpensOfOneFile) {
  TestServer server;
  server.service.exchange = TakeAll([](std::vector<UniqueFd> fds) -> std::string {
    if (write(fds[0].get(), "x", 1) != -1 || errno != EBADF) return "the read-only one writes";
    if (write(fds[1].get(), "x", 1) != 1) return "the read-write one does not write";
    return "ok";
  });
  const auto stub = server.Stub();
  TempDir dir;
  const std::string path = dir.File("file");
  UniqueFd(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFilename(path, O_RDONLY)->ToString());
  request.add_urls(fds->SendFilename(path, O_RDWR)->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = Call(stub.get(), &context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ("ok", reply.status_text());
}

TEST(SendTest, AClosedNumberOrAMissingFileIsAnErrorAtOnceAndNothingIsSent) {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                               test::ExchangeReply* reply) {
    reply->set_number(UrlsFromContext(context)->size());
    return grpc::Status::OK;
  };
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, fds->SendFd(BorrowedFd(-1)).status().code());
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, fds->SendFd(BorrowedFd(987654)).status().code());
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, fds->SendFd(UniqueFd()).status().code());
  EXPECT_EQ(absl::StatusCode::kNotFound, fds->SendFilename("/nonexistent/file").status().code());
  test::ExchangeReply reply;
  const grpc::Status status = Call(stub.get(), &context, test::ExchangeRequest(), &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(0u, reply.number());
}

TEST(RecvTest, AnIndexBeyondTheAnnouncedCountIsNotFoundAtOnce) {
  TestServer server;
  server.service.exchange = ReportRecv;
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  const InodeUrl sent = *fds->SendFd(MemoryFile("one"));
  test::ExchangeRequest request;
  request.add_urls(InodeUrl(sent.dev_ino(), 1).ToString());
  test::ExchangeReply reply;
  const absl::Time start = absl::Now();
  ASSERT_TRUE(Call(stub.get(), &context, request, &reply).ok());
  EXPECT_EQ(static_cast<int>(absl::StatusCode::kNotFound), reply.status_code());
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST(RecvTest, AnUrlWithoutIndexThatNobodySentIsNotFoundAtOnce) {
  TestServer server;
  server.service.exchange = ReportRecv;
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  ASSERT_TRUE(fds->SendFd(MemoryFile("one")).ok());
  test::ExchangeRequest request;
  request.add_urls("inode://1/2");
  test::ExchangeReply reply;
  ASSERT_TRUE(Call(stub.get(), &context, request, &reply).ok());
  EXPECT_EQ(static_cast<int>(absl::StatusCode::kNotFound), reply.status_code());
}

TEST(RecvTest, AMalformedUrlIsInvalidArgumentAtOnce) {
  TestServer server;
  server.service.exchange = ReportRecv;
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  ASSERT_TRUE(fds->SendFd(MemoryFile("one")).ok());
  test::ExchangeRequest request;
  request.add_urls("file:///etc/passwd");
  test::ExchangeReply reply;
  ASSERT_TRUE(Call(stub.get(), &context, request, &reply).ok());
  EXPECT_EQ(static_cast<int>(absl::StatusCode::kInvalidArgument), reply.status_code());
}

TEST(RecvTest, TheClientWaitsForWhatNobodySendsUntilItsDeadline) {
  TestServer server;
  server.service.exchange = PlainOk;
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  test::ExchangeReply reply;
  ASSERT_TRUE(Call(stub.get(), &context, test::ExchangeRequest(), &reply).ok());
  const absl::Time deadline = absl::Now() + absl::Milliseconds(100);
  EXPECT_EQ(absl::StatusCode::kDeadlineExceeded,
            fds->RecvFd("inode://1/2?fd=0", deadline).status().code());
  EXPECT_GE(absl::Now(), deadline);
}

TEST(RecvTest, TheEndOfTheSessionReleasesAWaiterAtOnce) {
  auto server = std::make_unique<TestServer>();
  server->service.exchange = PlainOk;
  const auto stub = server->Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  test::ExchangeReply reply;
  ASSERT_TRUE(Call(stub.get(), &context, test::ExchangeRequest(), &reply).ok());
  auto waiting = std::async(std::launch::async, [&fds] {
    return fds->RecvFd("inode://1/2?fd=0", absl::Now() + absl::Seconds(60)).status();
  });
  const absl::Time start = absl::Now();
  server.reset();
  EXPECT_EQ(absl::StatusCode::kUnavailable, waiting.get().code());
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST(RecvTest, ACancelledCallReleasesItsHandler) {
  TestServer server;
  std::promise<void> waiting;
  std::promise<absl::Status> released;
  server.service.chat = [&](grpc::ServerContext* context,
                            grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>*) {
    auto fds = FromContext(context);
    EXPECT_TRUE(fds->status().ok()) << fds->status();
    waiting.set_value();
    released.set_value(fds->RecvFd("inode://1/2?fd=7").status());
    return grpc::Status::OK;
  };
  const auto stub = server.Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 60);
  auto fds = FromContext(&context);
  ASSERT_TRUE(fds->SendFd(MemoryFile("one")).ok());
  auto stream = stub->Chat(&context);
  waiting.get_future().wait();
  const absl::Time start = absl::Now();
  context.TryCancel();
  EXPECT_EQ(absl::StatusCode::kCancelled, released.get_future().get().code());
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
  EXPECT_EQ(grpc::StatusCode::CANCELLED, stream->Finish().error_code());
}

TEST(RecvTest, ADescriptorIsTakenOnce) {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    auto copy = fds->DupFd(request->urls(0));
    auto taken = fds->RecvFd(request->urls(0));
    EXPECT_TRUE(copy.ok() && taken.ok()) << copy.status() << taken.status();
    EXPECT_TRUE(*SameOpenFile(*copy, *taken));
    reply->set_status_code(static_cast<int>(fds->RecvFd(request->urls(0)).status().code()));
    return grpc::Status::OK;
  };
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFd(MemoryFile("one"))->ToString());
  test::ExchangeReply reply;
  ASSERT_TRUE(Call(stub.get(), &context, request, &reply).ok());
  EXPECT_EQ(static_cast<int>(absl::StatusCode::kFailedPrecondition), reply.status_code());
}

TEST(RecvTest, DescriptorsAreCloseOnExecAndTheCallersAlone) {
  TestServer server;
  server.service.exchange = TakeAll([](std::vector<UniqueFd> fds) {
    return (fcntl(fds[0].get(), F_GETFD) & FD_CLOEXEC) != 0 ? "cloexec" : "inherited";
  });
  const auto stub = server.Stub();
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFd(MemoryFile("one"))->ToString());
  test::ExchangeReply reply;
  ASSERT_TRUE(Call(stub.get(), &context, request, &reply).ok());
  EXPECT_EQ("cloexec", reply.status_text());
}

// --- Where descriptors cannot go: plain calls work, calls with descriptors say why ---

class WrongPlaceTest : public ::testing::Test {
 protected:
  // A plain call works, one with FromContext but nothing queued too, and one with a descriptor
  // fails with `code` and `text`.
  void Expect(test::TestService::Stub* stub, grpc::StatusCode code, const std::string& text) {
    test::ExchangeReply reply;
    {
      grpc::ClientContext context;
      const grpc::Status status = Call(stub, &context, test::ExchangeRequest(), &reply);
      EXPECT_TRUE(status.ok()) << status.error_message();
    }
    {
      grpc::ClientContext context;
      auto fds = FromContext(&context);
      const grpc::Status status = Call(stub, &context, test::ExchangeRequest(), &reply);
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_FALSE(fds->RecvFd("inode://1/2").ok());
    }
    grpc::ClientContext context;
    auto fds = FromContext(&context);
    ASSERT_TRUE(fds->SendFd(MemoryFile("lost")).ok());
    const int before = handled_.load();
    const grpc::Status status = Call(stub, &context, test::ExchangeRequest(), &reply);
    EXPECT_EQ(code, status.error_code());
    EXPECT_THAT(status.error_message(), HasSubstr(text));
    EXPECT_EQ(before, handled_.load()) << "the handler ran without the descriptors";
    EXPECT_FALSE(fds->RecvFd("inode://1/2").ok());
  }

  auto Handler() {
    return
        [this](grpc::ServerContext* context, const test::ExchangeRequest*, test::ExchangeReply*) {
          ++handled_;
          EXPECT_EQ(absl::StatusCode::kFailedPrecondition, FromContext(context)->status().code());
          return grpc::Status::OK;
        };
  }

  std::atomic<int> handled_{0};
};

TEST_F(WrongPlaceTest, Tcp) {
  testing_internal::FunctionService service;
  service.exchange = Handler();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  ASSERT_NE(nullptr, server);
  {
    const auto stub = test::TestService::NewStub(grpcfd::CreateChannel(
        "127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
    Expect(stub.get(), grpc::StatusCode::FAILED_PRECONDITION, "host");
  }
  server->Shutdown();
}

TEST_F(WrongPlaceTest, AServerWithoutGrpcfd) {
  TempDir dir;
  testing_internal::FunctionService service;
  service.exchange = Handler();
  const std::string address = "unix:" + dir.File("socket");
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  ASSERT_NE(nullptr, server);
  {
    const auto stub = test::TestService::NewStub(
        grpcfd::CreateChannel(address, grpc::InsecureChannelCredentials()));
    Expect(stub.get(), grpc::StatusCode::FAILED_PRECONDITION, "not a grpcfd server");
  }
  server->Shutdown();
}

TEST_F(WrongPlaceTest, AChannelWithoutTheFactory) {
  TestServer server;
  server.service.exchange = Handler();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = test::TestService::NewStub(
      grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), arguments));
#if GRPCFD_GRPC_SLOT_BY_PLUGIN
  // Nobody but the call's credentials can refuse it, and gRPC makes this of all that they say.
  constexpr grpc::StatusCode kCode = grpc::StatusCode::UNAVAILABLE;
#else
  constexpr grpc::StatusCode kCode = grpc::StatusCode::FAILED_PRECONDITION;
#endif
  Expect(stub.get(), kCode, "channel cannot carry them");
}

TEST_F(WrongPlaceTest, SetCredentialsOverOurState) {
  TestServer server;
  server.service.exchange = Handler();
  const auto stub = server.Stub();
  for (const auto& over :
       {std::shared_ptr<grpc::CallCredentials>(), grpc::AccessTokenCredentials("x")}) {
    grpc::ClientContext context;
    auto fds = FromContext(&context);
    ASSERT_TRUE(fds->SendFd(MemoryFile("lost")).ok());
    context.set_credentials(over);
    test::ExchangeReply reply;
    const grpc::Status status = Call(stub.get(), &context, test::ExchangeRequest(), &reply);
    EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code());
    EXPECT_THAT(status.error_message(), HasSubstr("set_credentials"));
    EXPECT_EQ(0, handled_.load());
  }
}

TEST_F(WrongPlaceTest, NoServerAtAll) {
  TempDir dir;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = test::TestService::NewStub(grpcfd::CreateCustomChannel(
      "unix:" + dir.File("socket"), grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  ASSERT_TRUE(fds->SendFd(MemoryFile("lost")).ok());
  test::ExchangeReply reply;
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE,
            Call(stub.get(), &context, test::ExchangeRequest(), &reply).error_code());
}

// --- Limits ---

TEST(LimitsTest, UpToSixteenDescriptorsArriveInOrderAndMoreAreRefusedBeforeAnyIsSent) {
  TestServer server;
  std::atomic<int> handled{0};
  server.service.exchange = TakeAll([&handled](std::vector<UniqueFd> fds) {
    ++handled;
    std::string all;
    for (const UniqueFd& fd : fds) all += Content(fd) + ";";
    return all;
  });
  const auto stub = server.Stub();
  for (int count : {0, 1, 2, 15, 16, 17, 40}) {
    grpc::ClientContext context;
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    std::string expected;
    for (int i = 0; i < count; ++i) {
      request.add_urls(fds->SendFd(MemoryFile(std::to_string(i)))->ToString());
      expected += std::to_string(i) + ";";
    }
    const int before = handled.load();
    test::ExchangeReply reply;
    const grpc::Status status = Call(stub.get(), &context, request, &reply);
    if (count <= 16) {
      ASSERT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(expected, reply.status_text());
    } else {
      EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code());
      EXPECT_THAT(status.error_message(), HasSubstr("max_fds_per_call"));
      EXPECT_EQ(before, handled.load());
    }
  }
}

TEST(LimitsTest, AServerRepliesWithUpToSixteen) {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    for (uint64_t i = 0; i < request->number(); ++i) {
      auto url = fds->SendFd(MemoryFile(std::to_string(i)));
      if (!url.ok()) return ToGrpcStatus(url.status());
      reply->add_urls(url->ToString());
    }
    return grpc::Status::OK;
  };
  const auto stub = server.Stub();
  for (int count : {0, 1, 16, 17}) {
    grpc::ClientContext context;
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    request.set_number(count);
    test::ExchangeReply reply;
    const grpc::Status status = Call(stub.get(), &context, request, &reply);
    if (count > 16) {
      EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code());
      continue;
    }
    ASSERT_TRUE(status.ok()) << status.error_message();
    for (int i = 0; i < count; ++i) {
      auto fd = fds->RecvFd(reply.urls(i));
      ASSERT_TRUE(fd.ok()) << fd.status();
      EXPECT_EQ(std::to_string(i), Content(*fd));
    }
  }
}

TEST(LifetimeTest, WhatNobodyTakesIsClosedAtBothEnds) {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                               test::ExchangeReply*) {
    auto fds = FromContext(context);
    EXPECT_TRUE(fds->SendFd(MemoryFile("unwanted")).ok());
    return grpc::Status::OK;
  };
  const auto stub = server.Stub();
  // Far more than the windows hold: what is not closed would stop this.
  for (int i = 0; i < 500; ++i) {
    grpc::ClientContext context;
    auto fds = FromContext(&context);
    ASSERT_TRUE(fds->SendFd(MemoryFile("ignored")).ok());
    test::ExchangeReply reply;
    const grpc::Status status = Call(stub.get(), &context, test::ExchangeRequest(), &reply);
    ASSERT_TRUE(status.ok()) << i << ": " << status.error_message();
  }
}

TEST(RestartTest, ACallAfterARestartOfTheServerSucceeds) {
  TestServer server;
  server.service.exchange = TakeAll([](std::vector<UniqueFd> fds) { return Content(fds[0]); });
  const auto stub = server.Stub();
  for (int round = 0; round < 5; ++round) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    const std::string content = "round " + std::to_string(round);
    request.add_urls(fds->SendFd(MemoryFile(content))->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = Call(stub.get(), &context, request, &reply);
    ASSERT_TRUE(status.ok()) << round << ": " << status.error_message();
    EXPECT_EQ(content, reply.status_text());
    server.Stop();
    server.Start();
  }
}

}  // namespace
}  // namespace grpcfd
