// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A call's descriptors land in the server that the call lands in. landing_styles_test.cc has what
// restarts and shared sockets do to clients of each API style.
#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/interceptors/landing_test_util.h"
#include "tests/interceptors/test_service.h"
#include "tests/pipe.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing_internal::Content;
using testing_internal::Exchange;
using testing_internal::IsGrpcsOwn;
using testing_internal::LandingTest;
using testing_internal::ListeningSocket;
using testing_internal::MakeChannel;
using testing_internal::MemoryFile;
using testing_internal::Pipe;
using testing_internal::PlainCall;
using testing_internal::Process;
using testing_internal::SetDeadline;
using testing_internal::Text;

// What a client keeps until it knows where a call has landed must not keep a pipe open.
TEST_F(LandingTest, AReaderInTheHandlerSeesTheEndOfAPipeThatWasGivenAway) {
  Process process("only", address_);
  process.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    auto reader = fds->RecvFd(request->urls(0));
    auto writer = fds->RecvFd(request->urls(1));
    if (!reader.ok() || !writer.ok()) return ToGrpcStatus(reader.status());
    EXPECT_EQ(write(writer->get(), "all", 3), 3);
    writer->Reset();
    char buffer[16];
    ssize_t got;
    std::string all;
    while ((got = read(reader->get(), buffer, sizeof(buffer))) > 0) {
      all.append(buffer, static_cast<size_t>(got));
    }
    reply->set_payload(all);
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(MakeChannel(address_));
  grpc::ClientContext context;
  SetDeadline(&context, 10);
  Pipe pipe;
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  request.add_urls(fds->SendFd(std::move(pipe.read))->ToString());
  request.add_urls(fds->SendFd(std::move(pipe.write))->ToString());
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << Text(status);
  EXPECT_EQ(reply.payload(), "all");
}

// A stream that began before the restart goes on by its session; what it brings later arrives.
TEST_F(LandingTest, AStreamOfTheOldServerBringsMoreWhileItDrains) {
  auto old = std::make_unique<Process>("old", address_);
  old->service.chat = [](grpc::ServerContext* context, auto* stream) {
    auto fds = FromContext(context);
    test::ExchangeRequest request;
    while (stream->Read(&request)) {
      test::ExchangeReply reply;
      auto fd = fds->RecvFd(request.urls(0));
      reply.set_payload(fd.ok() ? Content(*fd) : fd.status().ToString());
      stream->Write(reply);
    }
    return grpc::Status::OK;
  };
  auto channel = MakeChannel(address_);
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  const auto say = [&](const std::string& content) {
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    auto url = fds->SendFd(MemoryFile(content));
    if (!url.ok()) return url.status().ToString();
    request.add_urls(url->ToString());
    EXPECT_TRUE(stream->Write(request));
    EXPECT_TRUE(stream->Read(&reply));
    return reply.payload();
  };
  EXPECT_EQ(say("before"), "before");
  const auto next = TakeThePath();
  old->Drain();
  for (int i = 0; i < 50; ++i) {
    const std::string wrong = Exchange(stub.get(), absl::StrCat("file ", i), false);
    ASSERT_TRUE(wrong.empty() || IsGrpcsOwn(wrong)) << wrong;
    ASSERT_EQ(say(absl::StrCat("late ", i)), absl::StrCat("late ", i));
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

// Session-scoped descriptors are in each session, under one URL.
TEST_F(LandingTest, WhatIsRegisteredIsThereAtEachServer) {
  const UniqueFd socket = ListeningSocket(path_);
  ListenOptions options;
  options.listen_fd = socket;
  std::vector<std::unique_ptr<Process>> processes;
  for (int i = 0; i < 2; ++i) {
    processes.push_back(std::make_unique<Process>(absl::StrCat("number ", i), address_, options));
    processes.back()->service.exchange = [](grpc::ServerContext* context,
                                            const test::ExchangeRequest* request,
                                            test::ExchangeReply* reply) {
      auto fd = FromContext(context)->RecvFd(request->urls(0));
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      reply->set_payload(Content(*fd));
      return grpc::Status::OK;
    };
  }
  for (int i = 0; i < 20; ++i) {
    auto channel = MakeChannel(address_);
    auto pool = GetFdChannel(*channel)->Register(MemoryFile("pool"));
    ASSERT_TRUE(pool.ok()) << pool.status();
    auto stub = test::TestService::NewStub(channel);
    for (int n = 0; n < 5; ++n) {
      grpc::ClientContext context;
      SetDeadline(&context, 10);
      FromContext(&context);
      test::ExchangeRequest request;
      test::ExchangeReply reply;
      request.add_urls(pool->url().ToString());
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      ASSERT_TRUE(status.ok()) << Text(status);
      EXPECT_EQ(reply.payload(), "pool");
    }
  }
}

// A call waits in gRPC for longer than its descriptors may wait at the server.
TEST_F(LandingTest, ACallThatWaitsInGrpcForLongFindsItsDescriptors) {
  ListenOptions options;
  options.fd_server_options.limits.early_timeout = absl::Milliseconds(100);
  Process process("only", address_, options, /*credentials=*/grpc::InsecureServerCredentials(),
                  /*streams=*/1);
  auto channel = MakeChannel(address_);
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  auto stream = stub->Chat(&context);  // Takes the only place.
  test::ExchangeReply reply;
  ASSERT_TRUE(stream->Write(test::ExchangeRequest()));
  ASSERT_TRUE(stream->Read(&reply));
  std::string wrong = "not called";
  std::thread caller([&] { wrong = Exchange(stub.get(), "late", false); });
  // Until the server has closed them.
  const auto expired = [&] { return GetFdServer(*process.server())->Stats().sessions.fds_expired; };
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (expired() == 0 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_EQ(expired(), 1u);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  caller.join();
  EXPECT_EQ(wrong, "");
}

// --- Who is who ---

class PeerTest : public LandingTest {
 protected:
  // What the handler of a plain call is told.
  absl::StatusOr<PeerCredentials> Ask(const std::shared_ptr<grpc::Channel>& channel) {
    absl::StatusOr<PeerCredentials> peer = absl::UnknownError("no call");
    process_.service.exchange = [&](grpc::ServerContext* context, auto*, auto*) {
      peer = PeerFromContext(context);
      name_ = context->peer();
      return grpc::Status::OK;
    };
    EXPECT_EQ(PlainCall(test::TestService::NewStub(channel).get(), false), "");
    return peer;
  }

  std::string name_;
  Process process_{"only", address_};
};

TEST_F(PeerTest, IsKnownForCallsWithoutDescriptors) {
  const auto peer = Ask(MakeChannel(address_));
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
  EXPECT_THAT(name_, StartsWith("unix-abstract:grpcfd-"));
}

TEST_F(PeerTest, OfAStockClientIsNotKnownAndSaysWhy) {
  const auto peer = Ask(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  EXPECT_EQ(peer.status().code(), absl::StatusCode::kFailedPrecondition) << peer.status();
  EXPECT_THAT(std::string(peer.status().message()), HasSubstr("has no name of grpcfd's"));
  EXPECT_EQ(name_, "unix:");
}

TEST_F(PeerTest, NamesCanBeSwitchedOff) {
  ChannelOptions options;
  options.name_connections = false;
  auto channel = MakeChannel(address_, options);
  EXPECT_FALSE(Ask(channel).ok());
  EXPECT_EQ(name_, "unix:");
  process_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                 test::ExchangeReply* reply) {
    auto fd = FromContext(context)->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    auto back = FromContext(context)->SendFd(MemoryFile("only got " + Content(*fd)));
    reply->add_urls(back->ToString());
    reply->set_payload("only");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Exchange(test::TestService::NewStub(channel).get(), "file", false), "");
}

}  // namespace
}  // namespace grpcfd
