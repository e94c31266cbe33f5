// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Forwarding over real calls: client -> one or two relays -> the last server. samples/relay.sh does
// the same with a process for each.
#include "grpcfd/forward.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcfd/message.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"
#include "typed.grpc.pb.h"

namespace grpcfd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_internal::AnswerAll;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::FunctionService;
using testing_internal::Kind;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

using Stub = test::TestService::Stub;

// Makes `service` pass all calls on, their messages unread, as a program would write it.
void Relay(FunctionService* service, Stub* stub, const ForwardOptions& options = {}) {
  service->exchange = [stub, options](grpc::ServerContext* context,
                                      const test::ExchangeRequest* request,
                                      test::ExchangeReply* reply) {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    absl::Status there = ForwardFds(context, next.get(), options);
    if (!there.ok()) return ToGrpcStatus(there);
    grpc::Status status = stub->Exchange(next.get(), *request, reply);
    absl::Status back = ForwardFds(next.get(), context, options);
    return back.ok() ? status : ToGrpcStatus(back);
  };
  service->upload = [stub, options](grpc::ServerContext* context,
                                    grpc::ServerReader<test::ExchangeRequest>* reader,
                                    test::ExchangeReply* reply) {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    absl::Status status = ForwardFds(context, next.get(), options);
    const auto writer = stub->Upload(next.get(), reply);
    test::ExchangeRequest request;
    while (status.ok() && reader->Read(&request)) {
      status = ForwardFds(context, next.get(), options);
      if (status.ok()) writer->Write(request);
    }
    writer->WritesDone();
    grpc::Status end = writer->Finish();
    if (status.ok()) status = ForwardFds(next.get(), context, options);
    return status.ok() ? end : ToGrpcStatus(status);
  };
  service->download = [stub, options](grpc::ServerContext* context,
                                      const test::ExchangeRequest* request,
                                      grpc::ServerWriter<test::ExchangeReply>* writer) {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    absl::Status status = ForwardFds(context, next.get(), options);
    if (!status.ok()) return ToGrpcStatus(status);
    const auto reader = stub->Download(next.get(), *request);
    test::ExchangeReply reply;
    while (reader->Read(&reply)) {
      if (status.ok()) status = ForwardFds(next.get(), context, options);
      if (status.ok()) writer->Write(reply);
    }
    grpc::Status end = reader->Finish();
    return status.ok() ? end : ToGrpcStatus(status);
  };
  service->chat =
      [stub, options](
          grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        const auto next = grpc::ClientContext::FromServerContext(*context);
        absl::Status up = ForwardFds(context, next.get(), options);
        if (!up.ok()) return ToGrpcStatus(up);
        const auto onward = stub->Chat(next.get());
        absl::Status down;
        std::thread replies([&] {
          test::ExchangeReply reply;
          while (onward->Read(&reply)) {
            if (down.ok()) down = ForwardFds(next.get(), context, options);
            if (down.ok()) stream->Write(reply);
          }
        });
        test::ExchangeRequest request;
        while (up.ok() && stream->Read(&request)) {
          up = ForwardFds(context, next.get(), options);
          if (up.ok()) onward->Write(request);
        }
        onward->WritesDone();
        replies.join();
        grpc::Status end = onward->Finish();
        if (up.ok()) up = down;
        return up.ok() ? end : ToGrpcStatus(up);
      };
}

// The last server answers (call_kinds.h); the relay before it passes on.
class ForwardTest : public ::testing::Test {
 protected:
  ForwardTest() {
    AnswerAll(&last_.service);
    Relay(&relay_.service, onward_.get());
  }

  // Sends these contents in a call of `kind`, and returns its status.
  grpc::Status Send(Kind kind, const std::vector<std::string>& contents, const std::string& command,
                    test::ExchangeReply* reply) {
    context_ = std::make_unique<grpc::ClientContext>();
    SetDeadline(context_.get(), 20);
    fds_ = FromContext(context_.get());
    request_.Clear();
    for (const std::string& content : contents) {
      request_.add_urls(fds_->SendFd(MemoryFile(content))->ToString());
    }
    request_.set_command(command);
    return Call(kind, stub_.get(), context_.get(), request_, reply);
  }

  TestServer last_;
  TestServer relay_;
  std::unique_ptr<Stub> onward_ = last_.Stub();
  std::unique_ptr<Stub> stub_ = relay_.Stub();
  std::unique_ptr<grpc::ClientContext> context_;
  std::shared_ptr<FdTransceiver> fds_;
  test::ExchangeRequest request_;
};

class ForwardKindsTest : public ForwardTest, public ::testing::WithParamInterface<Kind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, ForwardKindsTest,
                         ::testing::Values(Kind::kUnary, Kind::kUpload, Kind::kDownload,
                                           Kind::kChat),
                         ::testing::PrintToStringParamName());

TEST_P(ForwardKindsTest, BothWays) {
  test::ExchangeReply reply;
  const grpc::Status status = Send(GetParam(), {"a", "b", "c"}, "reply", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "a|b|c|");
  ASSERT_EQ(reply.urls_size(), 1);
  const auto fd = fds_->RecvFd(reply.urls(0));
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Content(*fd), "reply to ");
}

TEST_P(ForwardKindsTest, TwoRelaysThatFilter) {
  // The first drops "b", the second "d": the last server finds two holes, and the rest in place.
  const auto without = [](const std::string& content) {
    ForwardOptions options;
    options.filter = [content](const InodeUrl&, BorrowedFd fd) {
      return Content(*fd.Dup()) != content;
    };
    return options;
  };
  TestServer first;
  const auto to_relay = relay_.Stub();
  Relay(&first.service, to_relay.get(), without("b"));
  Relay(&relay_.service, onward_.get(), without("d"));
  stub_ = first.Stub();

  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto fds = FromContext(&context);
  test::ExchangeRequest request;
  for (const char* content : {"a", "b", "c", "d", "e"}) {
    const std::string url = fds->SendFd(MemoryFile(content))->ToString();
    if (*content != 'b' && *content != 'd') request.add_urls(url);
  }
  test::ExchangeReply reply;
  const grpc::Status status = Call(GetParam(), stub_.get(), &context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "a|c|e|");
}

TEST_P(ForwardKindsTest, WhatTheFilterLeftOutIsNotFoundAtOnce) {
  ForwardOptions options;
  options.filter = [](const InodeUrl& url, BorrowedFd) { return *url.index() != 1; };
  Relay(&relay_.service, onward_.get(), options);
  const absl::Time begin = absl::Now();
  test::ExchangeReply reply;
  const grpc::Status status = Send(GetParam(), {"a", "b", "c"}, "", &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("?fd=1 was not sent"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));  // recv_timeout; the deadline is 20 s.
}

TEST_P(ForwardKindsTest, PlainCallsPassToPlainServers) {
  last_.service.exchange = nullptr;
  FunctionService plain_service;
  AnswerAll(&plain_service);
  testing_internal::TempDir dir;
  const std::string address = "unix:" + dir.File("plain");
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&plain_service);
  const auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  onward_ = test::TestService::NewStub(
      grpcfd::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  Relay(&relay_.service, onward_.get());

  // Without FromContext, with it, and with a descriptor: only the last cannot be done.
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  grpc::Status status = Call(GetParam(), stub_.get(), &context, request, &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
  status = Send(GetParam(), {}, "", &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
  status = Send(GetParam(), {"a"}, "", &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION) << status.error_message();
}

TEST_P(ForwardKindsTest, AClientWithoutASessionPassesToo) {
  // FromContext over a channel that reaches the relay, but has no grpcfd factory.
  const auto channel = grpc::CreateChannel(relay_.address(), grpc::InsecureChannelCredentials());
  stub_ = test::TestService::NewStub(channel);
  test::ExchangeReply reply;
  const grpc::Status status = Send(GetParam(), {}, "", &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ForwardTest, FilesOfOneInodeKeepTheirPlaces) {
  // Both ends of a pipe have one inode: only the index tells them apart.
  int ends[2];
  ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  last_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                              test::ExchangeReply* reply) {
    for (const std::string& url : request->urls()) {
      const auto fd = FromContext(context)->RecvFd(url);
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      const bool reads = (fcntl(fd->get(), F_GETFL) & O_ACCMODE) == O_RDONLY;
      reply->set_payload(reply->payload() + (reads ? "r" : "w"));
    }
    return grpc::Status::OK;
  };
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto fds = FromContext(&context);
  test::ExchangeRequest request;
  for (const UniqueFd* end : {&read_end, &write_end, &write_end, &read_end}) {
    request.add_urls(fds->SendFd(*end)->ToString());
  }
  test::ExchangeReply reply;
  const grpc::Status status = stub_->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "rwwr");
}

TEST_F(ForwardTest, WhatTheHandlerTookStaysAndWhatTheFilterRefusedIsClosed) {
  std::string taken, refused;
  UniqueFd c;
  relay_.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    const auto fds = FromContext(context);
    taken = Content(*fds->RecvFd(request->urls(0)));
    const auto next = grpc::ClientContext::FromServerContext(*context);
    ForwardOptions options;
    options.filter = [&](const InodeUrl& url, BorrowedFd fd) {
      EXPECT_NE(*url.index(), 0u);
      if (*url.index() != 2) return true;
      c = *fd.Dup();
      return false;
    };
    absl::Status status = ForwardFds(context, next.get(), options);
    if (!status.ok()) return ToGrpcStatus(status);
    refused = Content(c);
    for (int i = 1; i < 4; ++i) {
      EXPECT_EQ(fds->RecvFd(request->urls(i)).status().code(),
                absl::StatusCode::kFailedPrecondition);
    }
    test::ExchangeRequest rest;
    rest.add_urls(request->urls(1));
    rest.add_urls(request->urls(3));
    return onward_->Exchange(next.get(), rest, reply);
  };
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {"a", "b", "c", "d"}, "", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(taken, "a");
  EXPECT_EQ(refused, "c");
  EXPECT_EQ(reply.payload(), "b|d|");
}

TEST_F(ForwardTest, KeepingServesASecondAttempt) {
  TestServer broken;
  broken.service.exchange = [](grpc::ServerContext*, const test::ExchangeRequest*,
                               test::ExchangeReply*) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken");
  };
  const auto to_broken = broken.Stub();
  std::string own;
  relay_.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    ForwardOptions options;
    options.keep = true;
    grpc::Status status;
    for (Stub* stub : {to_broken.get(), onward_.get()}) {
      const auto next = grpc::ClientContext::FromServerContext(*context);
      absl::Status there = ForwardFds(context, next.get(), options);
      if (!there.ok()) return ToGrpcStatus(there);
      status = stub->Exchange(next.get(), *request, reply);
      if (status.ok()) break;
    }
    own = Content(*FromContext(context)->RecvFd(request->urls(1)));
    return status;
  };
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {"a", "b"}, "", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "a|b|");
  EXPECT_EQ(own, "b");
}

TEST_F(ForwardTest, OwnDescriptorsGoAfterTheForwardedOnes) {
  relay_.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    // First the wrong way: the index is taken.
    grpc::ClientContext wrong;
    EXPECT_TRUE(FromContext(&wrong)->SendFd(MemoryFile("own")).ok());
    ForwardOptions options;
    options.keep = true;
    absl::Status status = ForwardFds(context, &wrong, options);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(status.message(), HasSubstr("Forward before SendFd"));

    const auto next = grpc::ClientContext::FromServerContext(*context);
    status = ForwardFds(context, next.get());
    if (!status.ok()) return ToGrpcStatus(status);
    test::ExchangeRequest more = *request;
    const auto url = FromContext(next.get())->SendFd(MemoryFile("own"));
    EXPECT_EQ(url->index(), 2u);
    more.add_urls(url->ToString());
    return onward_->Exchange(next.get(), more, reply);
  };
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {"a", "b"}, "", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "a|b|own|");
}

TEST_F(ForwardTest, RepliesWithHolesAndTheRelaysOwn) {
  last_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                              test::ExchangeReply* reply) {
    for (const char* content : {"x", "y", "z"}) {
      reply->add_urls(FromContext(context)->SendFd(MemoryFile(content))->ToString());
    }
    return grpc::Status::OK;
  };
  relay_.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    absl::Status status = ForwardFds(context, next.get());
    if (!status.ok()) return ToGrpcStatus(status);
    const grpc::Status end = onward_->Exchange(next.get(), *request, reply);
    ForwardOptions options;
    EXPECT_EQ(Content(*FromContext(next.get())->RecvFd(reply->urls(1))), "y");
    options.filter = [](const InodeUrl& url, BorrowedFd) { return *url.index() != 2; };
    status = ForwardFds(next.get(), context, options);
    if (!status.ok()) return ToGrpcStatus(status);
    reply->set_urls(1, FromContext(context)->SendFd(MemoryFile("own"))->ToString());
    reply->mutable_urls()->RemoveLast();
    return end;
  };
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {}, "", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::vector<std::string> contents;
  for (const std::string& url : reply.urls()) contents.push_back(Content(*fds_->RecvFd(url)));
  EXPECT_THAT(contents, ElementsAre("x", "own"));
}

TEST_F(ForwardTest, MoreRepliesThanTheCallerTakes) {
  last_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                              test::ExchangeReply* reply) {
    for (int i = 0; i < 3; ++i) {
      reply->add_urls(FromContext(context)->SendFd(MemoryFile("x"))->ToString());
    }
    return grpc::Status::OK;
  };
  ChannelOptions options;
  options.fd_channel_options.limits.max_fds_per_call = 2;
  stub_ = test::TestService::NewStub(relay_.Channel(options));
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {}, "", &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("max_fds_per_call"));
}

TEST_F(ForwardTest, AStreamOfManyInBothDirections) {
  // 200 in each direction, many times the window: moved on, they do not stay at the relay.
  last_.service.chat =
      [](grpc::ServerContext* context,
         grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        const auto fds = FromContext(context);
        if (!fds->status().ok()) return ToGrpcStatus(fds->status());
        test::ExchangeRequest request;
        while (stream->Read(&request)) {
          auto fd = fds->RecvFd(request.urls(0));
          if (!fd.ok()) return ToGrpcStatus(fd.status());
          auto url = fds->SendFd(MemoryFile("re " + Content(*fd)));
          if (!url.ok()) return ToGrpcStatus(url.status());
          test::ExchangeReply reply;
          reply.add_urls(url->ToString());
          stream->Write(reply);
        }
        return grpc::Status::OK;
      };
  constexpr int kMessages = 200;
  grpc::ClientContext context;
  SetDeadline(&context, 60);
  const auto fds = FromContext(&context);
  const auto stream = stub_->Chat(&context);
  std::thread writer([&] {
    for (int i = 0; i < kMessages; ++i) {
      test::ExchangeRequest request;
      const auto url = fds->SendFd(MemoryFile(absl::StrCat("file ", i)));
      ASSERT_TRUE(url.ok()) << url.status();
      request.add_urls(url->ToString());
      stream->Write(request);
    }
    stream->WritesDone();
  });
  int read = 0;
  test::ExchangeReply reply;
  while (stream->Read(&reply)) {
    const auto fd = fds->RecvFd(reply.urls(0));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("re file ", read));
    ++read;
  }
  writer.join();
  const grpc::Status status = stream->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(read, kMessages);
}

TEST_F(ForwardTest, DescriptorsFarAheadOfTheirMessages) {
  // All descriptors that the first window takes come before the first message: at the relay they
  // fill the second window, and what makes room there is the message in the relay's hands.
  ForwardOptions even;
  even.filter = [](const InodeUrl& url, BorrowedFd) { return *url.index() % 2 == 0; };
  Relay(&relay_.service, onward_.get(), even);
  last_.service.upload = [](grpc::ServerContext* context,
                            grpc::ServerReader<test::ExchangeRequest>* reader,
                            test::ExchangeReply* reply) {
    const auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    test::ExchangeRequest request;
    while (reader->Read(&request)) {
      for (const std::string& url : request.urls()) {
        const auto fd = fds->RecvFd(url);
        if (!fd.ok()) return ToGrpcStatus(fd.status());
        reply->set_payload(reply->payload() + Content(*fd) + "|");
      }
    }
    return grpc::Status::OK;
  };
  grpc::ClientContext context;
  SetDeadline(&context, 60);
  const auto fds = FromContext(&context);
  test::ExchangeReply reply;
  const auto writer = stub_->Upload(&context, &reply);
  std::string expected;
  for (int round = 0; round < 4; ++round) {
    std::vector<std::string> urls;
    for (int i = 0; i < 60; ++i) {
      const auto url = fds->SendFd(MemoryFile(absl::StrCat(round, ".", i)));
      ASSERT_TRUE(url.ok()) << url.status();
      if (i % 2 == 0) {
        urls.push_back(url->ToString());
        absl::StrAppend(&expected, round, ".", i, "|");
      }
    }
    for (const std::string& url : urls) {
      test::ExchangeRequest request;
      request.add_urls(url);
      ASSERT_TRUE(writer->Write(request));
    }
  }
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), expected);
}

TEST_F(ForwardTest, NothingIsForwardedTwiceOrTooLate) {
  relay_.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    ForwardOptions keep;
    keep.keep = true;
    const auto next = grpc::ClientContext::FromServerContext(*context);
    EXPECT_EQ(ForwardFds(context, next.get(), keep), absl::OkStatus());
    // What is kept is there still, and knows that it was forwarded.
    EXPECT_EQ(ForwardFds(context, next.get(), keep), absl::OkStatus());
    grpc::Status end = onward_->Exchange(next.get(), *request, reply);
    // The request is sent: too late for more.
    absl::Status status = ForwardFds(context, next.get());
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(status.message(), HasSubstr("has sent its request"));
    return end;
  };
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {"a"}, "", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "a|");
}

TEST_F(ForwardTest, BackFromACallThatWasNotMade) {
  relay_.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest*,
                                test::ExchangeReply*) {
    grpc::ClientContext never;
    EXPECT_EQ(ForwardFds(&never, context), absl::OkStatus());  // Has nothing to do with grpcfd.
    FromContext(&never);
    EXPECT_EQ(ForwardFds(&never, context).code(), absl::StatusCode::kFailedPrecondition);
    return grpc::Status::OK;
  };
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {"a"}, "", &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ForwardTest, ManyCallsAtOnceEachWithItsOwn) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 50; ++i) {
        grpc::ClientContext context;
        SetDeadline(&context, 60);
        const auto fds = FromContext(&context);
        test::ExchangeRequest request;
        std::string expected;
        for (int k = 0; k < 4; ++k) {
          const std::string content = absl::StrCat(t, ".", i, ".", k);
          request.add_urls(fds->SendFd(MemoryFile(content))->ToString());
          absl::StrAppend(&expected, content, "|");
        }
        test::ExchangeReply reply;
        const grpc::Status status = stub_->Exchange(&context, request, &reply);
        ASSERT_TRUE(status.ok()) << status.error_message();
        ASSERT_EQ(reply.payload(), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// --- Typed descriptors: the relay knows nothing of them ---

class TypedLast final : public test::TypedService::Service {
  grpc::Status Import(grpc::ServerContext* context, const test::Image* request,
                      test::Image* reply) override {
    const auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    absl::StatusOr<TakenFds> taken = TakeAll(*fds, *request);
    if (!taken.ok()) return ToGrpcStatus(taken.status());
    for (const test::Plane& plane : request->planes()) {
      const std::string content = Content(*taken->Take(plane.memory()));
      const absl::Status attached =
          Attach(*fds, MemoryFile(content + content), reply->add_planes()->mutable_memory());
      if (!attached.ok()) return ToGrpcStatus(attached);
    }
    return grpc::Status::OK;
  }
};

class TypedRelay final : public test::TypedService::Service {
 public:
  std::unique_ptr<test::TypedService::Stub> onward;

 private:
  grpc::Status Import(grpc::ServerContext* context, const test::Image* request,
                      test::Image* reply) override {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    const absl::Status there = ForwardFds(context, next.get());
    if (!there.ok()) return ToGrpcStatus(there);
    grpc::Status status = onward->Import(next.get(), *request, reply);
    const absl::Status back = ForwardFds(next.get(), context);
    return back.ok() ? status : ToGrpcStatus(back);
  }
};

TEST(ForwardTypedTest, MessagesPassUntouched) {
  TypedLast last_service;
  TypedRelay relay_service;
  TestServer last([&](grpc::ServerBuilder* builder, ListenOptions*) {
    builder->RegisterService(&last_service);
  });
  TestServer relay([&](grpc::ServerBuilder* builder, ListenOptions*) {
    builder->RegisterService(&relay_service);
  });
  relay_service.onward = test::TypedService::NewStub(last.Channel());
  const auto stub = test::TypedService::NewStub(relay.Channel());
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto fds = FromContext(&context);
  test::Image request;
  test::Image reply;
  for (const char* content : {"a", "b"}) {
    ASSERT_TRUE(Attach(*fds, MemoryFile(content), request.add_planes()->mutable_memory()).ok());
  }
  const grpc::Status status = stub->Import(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  absl::StatusOr<TakenFds> taken = TakeAll(*fds, reply);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(Content(*taken->Take("planes[0].memory")), "aa");
  EXPECT_EQ(Content(*taken->Take("planes[1].memory")), "bb");
}

}  // namespace
}  // namespace grpcfd
