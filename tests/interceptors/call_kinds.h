// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// One call of each of gRPC's four kinds behind one function, a service that answers all four alike,
// and channels in the long form.
//
// The factories are asked once for each kind of call, but the operations that start a call come in
// other batches: test all kinds.
#ifndef GRPCFD_TESTS_INTERCEPTORS_CALL_KINDS_H_
#define GRPCFD_TESTS_INTERCEPTORS_CALL_KINDS_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace testing_internal {

enum class Kind { kUnary, kUpload, kDownload, kChat };

inline constexpr Kind kAllKinds[] = {Kind::kUnary, Kind::kUpload, Kind::kDownload, Kind::kChat};

inline std::ostream& operator<<(std::ostream& out, Kind kind) {
  static const char* const kNames[] = {"Unary", "Upload", "Download", "Chat"};
  return out << kNames[static_cast<int>(kind)];
}

// Queues a file for each of `contents`, and names them.
inline test::ExchangeRequest RequestWith(grpc::ClientContext* context,
                                         const std::vector<std::string>& contents) {
  test::ExchangeRequest request;
  for (const std::string& content : contents) {
    auto url = FromContext(context)->SendFd(MemoryFile(content));
    EXPECT_TRUE(url.ok()) << url.status();
    if (url.ok()) request.add_urls(url->ToString());
  }
  return request;
}

// Makes one call of `kind` with one request, and reads one reply.
inline grpc::Status Call(Kind kind, test::TestService::Stub* stub, grpc::ClientContext* context,
                         const test::ExchangeRequest& request, test::ExchangeReply* reply) {
  switch (kind) {
    case Kind::kUnary:
      return stub->Exchange(context, request, reply);
    case Kind::kUpload: {
      auto writer = stub->Upload(context, reply);
      writer->Write(request);
      writer->WritesDone();
      return writer->Finish();
    }
    case Kind::kDownload: {
      auto reader = stub->Download(context, request);
      reader->Read(reply);
      return reader->Finish();
    }
    case Kind::kChat: {
      auto stream = stub->Chat(context);
      stream->Write(request);
      stream->WritesDone();
      stream->Read(reply);
      return stream->Finish();
    }
  }
  return grpc::Status(grpc::StatusCode::INTERNAL, "no such kind");
}

// Answers a request: the payload is the contents of the descriptors it names, each followed by '|';
// status_text is the client's metadata that begins with "x-", as "key=value;" in the order of keys,
// and of arrival within one; number counts the metadata entries of the key "x-default". The command
// "reply" asks for a descriptor back.
inline grpc::Status Answer(grpc::ServerContext* context, const test::ExchangeRequest& request,
                           test::ExchangeReply* reply) {
  for (const auto& [key, value] : context->client_metadata()) {
    if (!key.starts_with("x-")) continue;
    reply->set_status_text(reply->status_text() + std::string(key.data(), key.size()) + "=" +
                           std::string(value.data(), value.size()) + ";");
  }
  reply->set_number(context->client_metadata().count("x-default"));
  if (request.urls().empty() && request.command() != "reply") return grpc::Status::OK;
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  for (const std::string& url : request.urls()) {
    auto fd = fds->RecvFd(url);
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    reply->set_payload(reply->payload() + Content(*fd) + "|");
  }
  if (request.command() == "reply") {
    auto url = fds->SendFd(MemoryFile("reply to " + std::string(request.payload())));
    if (!url.ok()) return ToGrpcStatus(url.status());
    reply->add_urls(url->ToString());
  }
  return grpc::Status::OK;
}

// Makes Answer the handler of all four kinds.
inline void AnswerAll(FunctionService* service) {
  service->exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                         test::ExchangeReply* reply) { return Answer(context, *request, reply); };
  service->upload = [](grpc::ServerContext* context,
                       grpc::ServerReader<test::ExchangeRequest>* reader,
                       test::ExchangeReply* reply) {
    test::ExchangeRequest request;
    if (!reader->Read(&request)) return grpc::Status(grpc::StatusCode::ABORTED, "no request");
    return Answer(context, request, reply);
  };
  service->download = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                         grpc::ServerWriter<test::ExchangeReply>* writer) {
    test::ExchangeReply reply;
    grpc::Status status = Answer(context, *request, &reply);
    if (status.ok()) writer->Write(reply);
    return status;
  };
  service->chat = [](grpc::ServerContext* context,
                     grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
    test::ExchangeRequest request;
    if (!stream->Read(&request)) return grpc::Status(grpc::StatusCode::ABORTED, "no request");
    test::ExchangeReply reply;
    grpc::Status status = Answer(context, request, &reply);
    if (status.ok()) stream->Write(reply);
    return status;
  };
}

// The vector that gRPC takes, from factories in their order.
using Creators =
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>;

template <typename... Factory>
Creators CreatorsOf(Factory... factory) {
  Creators creators;
  (creators.push_back(std::move(factory)), ...);
  return creators;
}

// A channel in the long form: exactly these factories, none of grpcfd's besides.
inline std::shared_ptr<grpc::Channel> LongFormChannel(
    const std::string& target, Creators creators,
    const std::shared_ptr<grpc::ChannelCredentials>& credentials =
        grpc::InsecureChannelCredentials()) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::experimental::CreateCustomChannelWithInterceptors(target, credentials, arguments,
                                                                 std::move(creators));
}

// grpcfd's own factory for `target`, with an FdChannel of its own.
inline std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> OurFactory(
    const std::string& target, const ClientInterceptorOptions& options = {}) {
  auto fd_channel = FdChannel::Create(target);
  EXPECT_TRUE(fd_channel.ok()) << fd_channel.status();
  return MakeClientInterceptorFactory(fd_channel.ok() ? *fd_channel : nullptr, options);
}

inline std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> OurFactory(
    const TestServer& server) {
  return OurFactory(server.address());
}

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_CALL_KINDS_H_
