// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Authorizers: a session, or the descriptors of one call, refused before anybody sees them. What
// was refused is closed at both ends, and nobody else notices.
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/interceptors/session_log.h"
#include "tests/interceptors/test_service.h"
#include "tests/pipe.h"

namespace grpcfd {
namespace {

using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::Pipe;
using testing_internal::SessionLog;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

TestServer::Setup WithOptions(const FdServerOptions& options,
                              std::weak_ptr<FdServer>* made = nullptr) {
  return [options, made](grpc::ServerBuilder*, ListenOptions* listen) {
    auto fd_server = FdServer::Create(options);
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    listen->fd_server = *fd_server;
    if (made != nullptr) *made = *fd_server;
  };
}

grpc::Status TakeAndAnswer(grpc::ServerContext* context, const test::ExchangeRequest* request,
                           test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  auto fd = fds->RecvFd(request->urls(0));
  if (!fd.ok()) return ToGrpcStatus(fd.status());
  reply->set_payload(Content(*fd));
  return grpc::Status::OK;
}

grpc::Status CallWith(test::TestService::Stub* stub, std::vector<BorrowedFd> fds,
                      test::ExchangeReply* reply) {
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeRequest request;
  auto sender = FromContext(&context);
  for (const BorrowedFd fd : fds) {
    auto url = sender->SendFd(fd);
    EXPECT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
  }
  return stub->Exchange(&context, request, reply);
}

TEST(AuthorizerTest, ASessionThatIsRefusedDoesNotExist) {
  std::atomic<bool> refuse{true};
  std::atomic<pid_t> asked_pid{0};
  SessionLog log;
  std::weak_ptr<FdServer> fd_server;
  FdServerOptions options;
  options.authorize_session = [&](const PeerCredentials& peer) {
    asked_pid = peer.pid;
    return refuse ? absl::UnauthenticatedError("a secret reason") : absl::OkStatus();
  };
  options.on_session = log.OnSession();
  options.on_session_end = log.OnSessionEnd();
  TestServer server(WithOptions(options, &fd_server));
  server.service.exchange = TakeAndAnswer;

  // A client that was let in before, and stays.
  refuse = false;
  auto friendly = server.Stub();
  test::ExchangeReply reply;
  const UniqueFd file = MemoryFile("let in");
  ASSERT_TRUE(CallWith(friendly.get(), {file}, &reply).ok());
  EXPECT_EQ(asked_pid, getpid());
  refuse = true;

  auto stub = server.Stub();
  Pipe pipe;
  const grpc::Status status = CallWith(stub.get(), {pipe.write}, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << status.error_message();
  EXPECT_EQ(status.error_message().find("secret"), std::string::npos) << status.error_message();
  EXPECT_TRUE(pipe.WriteEndsAreClosed());
  EXPECT_EQ(log.begun().size(), 1u);
  EXPECT_EQ(fd_server.lock()->session_count(), 1u);

  // Calls without descriptors are served, and say so if they are asked for some.
  server.service.exchange = [](auto* context, auto*, auto* reply) {
    reply->set_payload(std::string(FromContext(context)->status().message()));
    return grpc::Status::OK;
  };
  grpc::ClientContext plain;
  SetDeadline(&plain, 20);
  EXPECT_TRUE(stub->Exchange(&plain, test::ExchangeRequest(), &reply).ok());
  grpc::ClientContext empty;
  SetDeadline(&empty, 20);
  auto fds = FromContext(&empty);
  EXPECT_TRUE(stub->Exchange(&empty, test::ExchangeRequest(), &reply).ok());
  EXPECT_EQ(fds->RecvFd("inode://1/1?fd=0").status().code(), absl::StatusCode::kPermissionDenied);

  // The other session never noticed; and a client that is let in later needs no new channel.
  server.service.exchange = TakeAndAnswer;
  ASSERT_TRUE(CallWith(friendly.get(), {file}, &reply).ok());
  EXPECT_EQ(reply.payload(), "let in");
  refuse = false;
  ASSERT_TRUE(CallWith(stub.get(), {file}, &reply).ok());
  EXPECT_EQ(reply.payload(), "let in");
  EXPECT_EQ(log.begun().size(), 2u);
}

TEST(AuthorizerTest, TheDescriptorsOfACallThatIsRefusedAreClosed) {
  std::atomic<bool> refuse{true};
  std::string method;
  uint32_t count = 0;
  pid_t pid = 0;
  std::weak_ptr<FdServer> fd_server;
  FdServerOptions options;
  options.authorize_call = [&](const CallDescription& call) {
    method = call.method;
    count = call.fd_count;
    pid = call.peer->pid;
    return refuse ? absl::FailedPreconditionError("no pipes here") : absl::OkStatus();
  };
  TestServer server(WithOptions(options, &fd_server));
  absl::Status from_context;
  absl::StatusOr<PeerCredentials> peer = absl::UnknownError("not asked");
  server.service.exchange = [&](grpc::ServerContext* context, auto* request, auto* reply) {
    from_context = FromContext(context)->status();
    peer = PeerFromContext(context);
    return TakeAndAnswer(context, request, reply);
  };
  auto stub = server.Stub();
  Pipe one, two, three;
  test::ExchangeReply reply;
  const grpc::Status status = CallWith(stub.get(), {one.write, two.write, three.write}, &reply);
  // The handler ran and reported what it was told.
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << status.error_message();
  EXPECT_EQ(from_context.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_NE(from_context.message().find("no pipes here"), std::string::npos) << from_context;
  EXPECT_EQ(method, "/grpcfd.test.TestService/Exchange");
  EXPECT_EQ(count, 3u);
  EXPECT_EQ(pid, getpid());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_TRUE(one.WriteEndsAreClosed());
  EXPECT_TRUE(two.WriteEndsAreClosed());
  EXPECT_TRUE(three.WriteEndsAreClosed());

  // The session goes on: the next call is served, and its window was given back.
  refuse = false;
  EXPECT_EQ(fd_server.lock()->session_count(), 1u);
  const UniqueFd file = MemoryFile("welcome");
  for (int i = 0; i < 100; ++i) {
    refuse = i % 2 == 0;
    const grpc::Status next = CallWith(stub.get(), {file, file}, &reply);
    EXPECT_EQ(next.ok(), !refuse) << next.error_message();
    if (next.ok()) {
      EXPECT_EQ(reply.payload(), "welcome");
    }
  }
}

TEST(AuthorizerTest, WhatARefusedStreamSendsLaterIsClosedToo) {
  FdServerOptions options;
  options.authorize_call = [](const CallDescription& call) {
    return call.method == "/grpcfd.test.TestService/Upload" ? absl::PermissionDeniedError("no")
                                                            : absl::OkStatus();
  };
  TestServer server(WithOptions(options));
  server.service.upload = [](grpc::ServerContext* context, auto* reader, auto*) {
    EXPECT_EQ(FromContext(context)->status().code(), absl::StatusCode::kPermissionDenied);
    test::ExchangeRequest request;
    while (reader->Read(&request)) continue;
    return grpc::Status::OK;
  };
  server.service.exchange = TakeAndAnswer;
  auto stub = server.Stub();
  Pipe first, later;
  {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    ASSERT_TRUE(fds->SendFd(first.write).ok());
    test::ExchangeReply reply;
    auto writer = stub->Upload(&context, &reply);
    ASSERT_TRUE(writer->Write(test::ExchangeRequest()));
    // The server has refused the call by the time it answers nothing to this one.
    EXPECT_TRUE(first.WriteEndsAreClosed());
    ASSERT_TRUE(fds->SendFd(later.write).ok());
    ASSERT_TRUE(writer->Write(test::ExchangeRequest()));
    ASSERT_TRUE(writer->WritesDone());
    EXPECT_TRUE(writer->Finish().ok());
  }
  EXPECT_TRUE(later.WriteEndsAreClosed());
  test::ExchangeReply reply;
  const UniqueFd file = MemoryFile("other method");
  EXPECT_TRUE(CallWith(stub.get(), {file}, &reply).ok());
  EXPECT_EQ(reply.payload(), "other method");
}

TEST(AuthorizerTest, AClientMayRefuseTheServer) {
  TestServer server;
  server.service.exchange = TakeAndAnswer;
  std::atomic<bool> refuse{true};
  SessionLog log;
  ChannelOptions options;
  options.fd_channel_options.authorize_session = [&](const PeerCredentials& peer) {
    EXPECT_EQ(peer.pid, getpid());
    EXPECT_EQ(peer.uid, geteuid());
    EXPECT_EQ(peer.gid, getegid());
    return refuse ? absl::NotFoundError("not the server I know") : absl::OkStatus();
  };
  options.fd_channel_options.on_session = log.OnSession();
  options.fd_channel_options.on_session_end = log.OnSessionEnd();
  auto stub = test::TestService::NewStub(server.Channel(options));
  Pipe pipe;
  test::ExchangeReply reply;
  grpc::Status status = CallWith(stub.get(), {pipe.write}, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << status.error_message();
  EXPECT_NE(status.error_message().find("not the server I know"), std::string::npos)
      << status.error_message();
  EXPECT_TRUE(pipe.WriteEndsAreClosed());
  EXPECT_TRUE(log.begun().empty());
  refuse = false;
  const UniqueFd file = MemoryFile("known");
  status = CallWith(stub.get(), {file}, &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "known");
  EXPECT_EQ(log.begun().size(), 1u);
  EXPECT_TRUE(log.ended().empty());
}

}  // namespace
}  // namespace grpcfd
