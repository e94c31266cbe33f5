// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Forwarding where one of the two calls, or both, go by the in-band wire:
// client -> relay -> the last server.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace testing_internal {
namespace {

using ::testing::HasSubstr;

// What a message names, for the next hop. With `named` unset, as a forwarder of fdchannels has it.
template <typename Message>
ForwardOptions OptionsFor(const Message& message, const ForwardOptions& base, bool named) {
  ForwardOptions options = base;
  if (named) options.urls.emplace(message.urls().begin(), message.urls().end());
  return options;
}

// Passes all calls on, with what their messages name.
void Relay(FunctionService* service, test::TestService::Stub* stub, const ForwardOptions& base,
           bool named) {
  service->exchange = [=](grpc::ServerContext* context, const test::ExchangeRequest* request,
                          test::ExchangeReply* reply) {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    absl::Status there = ForwardFds(context, next.get(), OptionsFor(*request, base, named));
    if (!there.ok()) return ToGrpcStatus(there);
    grpc::Status status = stub->Exchange(next.get(), *request, reply);
    absl::Status back = ForwardFds(next.get(), context, OptionsFor(*reply, base, named));
    return back.ok() ? status : ToGrpcStatus(back);
  };
  service->upload = [=](grpc::ServerContext* context,
                        grpc::ServerReader<test::ExchangeRequest>* reader,
                        test::ExchangeReply* reply) {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    FromContext(next.get());
    const auto writer = stub->Upload(next.get(), reply);
    absl::Status status;
    test::ExchangeRequest request;
    while (status.ok() && reader->Read(&request)) {
      status = ForwardFds(context, next.get(), OptionsFor(request, base, named));
      if (status.ok()) writer->Write(request);
    }
    writer->WritesDone();
    grpc::Status end = writer->Finish();
    if (status.ok()) status = ForwardFds(next.get(), context, OptionsFor(*reply, base, named));
    return status.ok() ? end : ToGrpcStatus(status);
  };
  service->download = [=](grpc::ServerContext* context, const test::ExchangeRequest* request,
                          grpc::ServerWriter<test::ExchangeReply>* writer) {
    const auto next = grpc::ClientContext::FromServerContext(*context);
    absl::Status status = ForwardFds(context, next.get(), OptionsFor(*request, base, named));
    if (!status.ok()) return ToGrpcStatus(status);
    const auto reader = stub->Download(next.get(), *request);
    test::ExchangeReply reply;
    while (reader->Read(&reply)) {
      if (status.ok()) status = ForwardFds(next.get(), context, OptionsFor(reply, base, named));
      if (status.ok()) writer->Write(reply);
    }
    grpc::Status end = reader->Finish();
    return status.ok() ? end : ToGrpcStatus(status);
  };
  // One message there, one back, in turns.
  service->chat =
      [=](grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        const auto next = grpc::ClientContext::FromServerContext(*context);
        FromContext(next.get());
        const auto onward = stub->Chat(next.get());
        absl::Status status;
        test::ExchangeRequest request;
        test::ExchangeReply reply;
        while (status.ok() && stream->Read(&request)) {
          status = ForwardFds(context, next.get(), OptionsFor(request, base, named));
          if (!status.ok() || !onward->Write(request) || !onward->Read(&reply)) break;
          status = ForwardFds(next.get(), context, OptionsFor(reply, base, named));
          if (status.ok()) stream->Write(reply);
        }
        onward->WritesDone();
        while (onward->Read(&reply)) {
        }
        grpc::Status end = onward->Finish();
        return status.ok() ? end : ToGrpcStatus(status);
      };
}

// Answers each message of a chat.
void Chat(FunctionService* service) {
  service->chat = [](grpc::ServerContext* context,
                     grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
    test::ExchangeRequest request;
    while (stream->Read(&request)) {
      test::ExchangeReply reply;
      grpc::Status status = Answer(context, request, &reply);
      if (!status.ok()) return status;
      stream->Write(reply);
    }
    return grpc::Status::OK;
  };
}

// The wires of the first and of the second hop.
class InBandForwardTest : public ::testing::Test {
 protected:
  void Start(Wire first, Wire second, const ForwardOptions& base = {}, bool named = true) {
    const auto listen = [](Wire wire) {
      return [wire](grpc::ServerBuilder*, ListenOptions* options) {
        options->wire = wire == Wire::kInBand ? PortWire::kInBand : PortWire::kFdChannel;
      };
    };
    const auto connect = [](const TestServer& server, Wire wire) {
      ChannelOptions options;
      options.wire = wire;
      return test::TestService::NewStub(server.Channel(options));
    };
    last_ = std::make_unique<TestServer>(listen(second));
    AnswerAll(&last_->service);
    onward_ = connect(*last_, second);
    relay_ = std::make_unique<TestServer>(listen(first));
    Relay(&relay_->service, onward_.get(), base, named);
    stub_ = connect(*relay_, first);
  }

  // Sends these contents in a call of `kind`.
  grpc::Status Send(Kind kind, const std::vector<std::string>& contents, const std::string& command,
                    test::ExchangeReply* reply) {
    test::ExchangeRequest request;
    NewCall();
    for (const std::string& content : contents) {
      request.add_urls(fds_->SendFd(MemoryFile(content))->ToString());
    }
    request.set_command(command);
    return Call(kind, stub_.get(), context_.get(), request, reply);
  }
  void NewCall() {
    context_ = std::make_unique<grpc::ClientContext>();
    SetDeadline(context_.get(), 20);
    fds_ = FromContext(context_.get());
  }

  std::unique_ptr<TestServer> last_;
  std::unique_ptr<test::TestService::Stub> onward_;
  std::unique_ptr<TestServer> relay_;
  std::unique_ptr<test::TestService::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::shared_ptr<FdTransceiver> fds_;
};

using Wires = std::tuple<Wire, Wire>;

class InBandForwardWiresTest : public InBandForwardTest,
                               public ::testing::WithParamInterface<std::tuple<Wires, Kind>> {
 protected:
  InBandForwardWiresTest() {
    const Wires& wires = std::get<0>(GetParam());
    Start(std::get<0>(wires), std::get<1>(wires));
    kind_ = std::get<1>(GetParam());
  }
  Kind kind_;
};

std::string NameOfCase(const ::testing::TestParamInfo<std::tuple<Wires, Kind>>& info) {
  const auto name = [](Wire wire) { return wire == Wire::kInBand ? "InBand" : "FdChannel"; };
  const Wires& wires = std::get<0>(info.param);
  return absl::StrCat(name(std::get<0>(wires)), "To", name(std::get<1>(wires)),
                      ::testing::PrintToString(std::get<1>(info.param)));
}

INSTANTIATE_TEST_SUITE_P(
    Wires, InBandForwardWiresTest,
    ::testing::Combine(::testing::Values(Wires(Wire::kInBand, Wire::kInBand),
                                         Wires(Wire::kInBand, Wire::kFdChannel),
                                         Wires(Wire::kFdChannel, Wire::kInBand),
                                         Wires(Wire::kFdChannel, Wire::kFdChannel)),
                       ::testing::Values(Kind::kUnary, Kind::kUpload, Kind::kDownload,
                                         Kind::kChat)),
    NameOfCase);

TEST_P(InBandForwardWiresTest, BothWays) {
  for (int call = 0; call < 3; ++call) {
    test::ExchangeReply reply;
    const std::string content = absl::StrCat("call ", call);
    const grpc::Status status = Send(kind_, {content, "b", "c"}, "reply", &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(reply.payload(), content + "|b|c|");
    ASSERT_EQ(reply.urls_size(), 1);
    const auto fd = fds_->RecvFd(reply.urls(0));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), "reply to ");
  }
}

TEST_P(InBandForwardWiresTest, CallsWithoutDescriptorsPassBeforeAndAfterOthers) {
  for (const bool with : {false, true, false}) {
    test::ExchangeReply reply;
    const grpc::Status status =
        Send(kind_, with ? std::vector<std::string>{"x"} : std::vector<std::string>{}, "", &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(reply.payload(), with ? "x|" : "");
  }
}

// Go's URLs have no index.
TEST_P(InBandForwardWiresTest, UrlsWithoutAnIndex) {
  if (kind_ == Kind::kUpload) kind_ = Kind::kChat;  // Two are enough of those that stream.
  NewCall();
  test::ExchangeRequest request;
  for (const char* content : {"a", "b"}) {
    const std::string url = fds_->SendFd(MemoryFile(content))->ToString();
    request.add_urls(url.substr(0, url.find('?')));
  }
  test::ExchangeReply reply;
  const grpc::Status status = Call(kind_, stub_.get(), context_.get(), request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "a|b|");
}

TEST_F(InBandForwardTest, AStreamOfManyMessagesInBothDirections) {
  for (const auto& [first, second] :
       {Wires(Wire::kInBand, Wire::kInBand), Wires(Wire::kInBand, Wire::kFdChannel),
        Wires(Wire::kFdChannel, Wire::kInBand)}) {
    Start(first, second);
    Chat(&last_->service);
    NewCall();
    auto stream = stub_->Chat(context_.get());
    for (int i = 0; i < 40; ++i) {
      const std::string content = absl::StrCat("message ", i);
      test::ExchangeRequest request;
      request.add_urls(fds_->SendFd(MemoryFile(content))->ToString());
      request.set_payload(absl::StrCat(i));
      request.set_command("reply");
      ASSERT_TRUE(stream->Write(request));
      test::ExchangeReply reply;
      ASSERT_TRUE(stream->Read(&reply)) << i;
      EXPECT_EQ(reply.payload(), content + "|");
      const auto fd = fds_->RecvFd(reply.urls(0));
      ASSERT_TRUE(fd.ok()) << fd.status();
      EXPECT_EQ(Content(*fd), absl::StrCat("reply to ", i));
    }
    stream->WritesDone();
    const grpc::Status end = stream->Finish();
    EXPECT_TRUE(end.ok()) << end.error_message();
  }
}

// --- What is said instead of forwarding ---

TEST_F(InBandForwardTest, WithoutUrlsNobodyKnowsWhich) {
  Start(Wire::kInBand, Wire::kInBand, {}, /*named=*/false);
  test::ExchangeReply reply;
  grpc::Status status = Send(Kind::kUnary, {}, "", &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();  // Nothing ever came.
  status = Send(Kind::kUnary, {"x"}, "", &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("ForwardOptions::urls"));
}

TEST_F(InBandForwardTest, WithoutUrlsOnTheWayBack) {
  Start(Wire::kFdChannel, Wire::kInBand, {}, /*named=*/false);
  test::ExchangeReply reply;
  grpc::Status status = Send(Kind::kUnary, {"x"}, "", &reply);  // There, the call knows.
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "x|");
  status = Send(Kind::kUnary, {"x"}, "reply", &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("ForwardOptions::urls"));
}

TEST_F(InBandForwardTest, WhatNeverComesIsWaitedForUntilTheDeadline) {
  Start(Wire::kInBand, Wire::kFdChannel);
  relay_->service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                                test::ExchangeReply*) {
    grpc::ClientContext next;
    ForwardOptions options;
    options.urls = {"inode://1/2"};
    return ToGrpcStatus(ForwardFds(context, &next, options));
  };
  NewCall();
  context_->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  test::ExchangeReply reply;
  const grpc::Status status = stub_->Exchange(context_.get(), test::ExchangeRequest(), &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
}

TEST_F(InBandForwardTest, UrlsThatAreNoneAndIndicesThatNobodyUsed) {
  Start(Wire::kInBand, Wire::kFdChannel);
  NewCall();
  const std::string url = fds_->SendFd(MemoryFile("x"))->ToString();
  const std::string name = url.substr(0, url.find('?'));
  for (const std::vector<std::string>& urls : {std::vector<std::string>{"file:///etc/passwd"},
                                               {name + "?fd=4294967294"},
                                               {name + "?fd=0", "inode://1/2?fd=0"}}) {
    test::ExchangeRequest request;
    for (const std::string& one : urls) request.add_urls(one);
    test::ExchangeReply reply;
    const grpc::Status status = stub_->Exchange(context_.get(), request, &reply);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    NewCall();
  }
}

TEST_F(InBandForwardTest, WhatTheFilterLeftOutIsNotFoundAtTheNextFdChannel) {
  ForwardOptions options;
  options.filter = [](const InodeUrl&, BorrowedFd fd) { return Content(*fd.Dup()) != "b"; };
  Start(Wire::kInBand, Wire::kFdChannel, options);
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {"a", "b", "c"}, "", &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("?fd=1 was not sent"));
}

TEST_F(InBandForwardTest, TwoFilesOfAnInodeDoNotPassAnInBandHop) {
  Start(Wire::kFdChannel, Wire::kInBand);
  NewCall();
  test::ExchangeRequest request;
  for (int i = 0; i < 2; ++i) {
    request.add_urls(fds_->SendFd(UniqueFd(::eventfd(0, EFD_CLOEXEC)))->ToString());
  }
  test::ExchangeReply reply;
  const grpc::Status status = stub_->Exchange(context_.get(), request, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS) << status.error_message();
}

TEST_F(InBandForwardTest, TheForwarderKeepsWhatCameInBand) {
  Start(Wire::kInBand, Wire::kInBand);
  std::string seen;
  relay_->service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                 test::ExchangeReply* reply) {
    for (int attempt = 0; attempt < 2; ++attempt) {  // A second server, say.
      const auto next = grpc::ClientContext::FromServerContext(*context);
      absl::Status there = ForwardFds(context, next.get(), OptionsFor(*request, {}, true));
      if (!there.ok()) return ToGrpcStatus(there);
      reply->Clear();
      grpc::Status status = onward_->Exchange(next.get(), *request, reply);
      if (!status.ok()) return status;
    }
    auto fd = FromContext(context)->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    seen = Content(*fd);
    return grpc::Status::OK;
  };
  test::ExchangeReply reply;
  const grpc::Status status = Send(Kind::kUnary, {"kept"}, "", &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "kept|");
  EXPECT_EQ(seen, "kept");
}

}  // namespace
}  // namespace testing_internal
}  // namespace grpcfd
