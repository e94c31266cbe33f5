// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sessions as programs see them: on_session and on_session_end at both ends, and who is at the
// other end of a call.
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "tests/interceptors/session_log.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SessionLog;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

TestServer::Setup WithOptions(const FdServerOptions& options) {
  return [options](grpc::ServerBuilder*, ListenOptions* listen) {
    auto fd_server = FdServer::Create(options);
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    listen->fd_server = *fd_server;
  };
}

TestServer::Setup WithLog(SessionLog* log) {
  FdServerOptions options;
  options.on_session = log->OnSession();
  options.on_session_end = log->OnSessionEnd();
  return WithOptions(options);
}

ChannelOptions ClientWithLog(SessionLog* log) {
  ChannelOptions options;
  options.fd_channel_options.on_session = log->OnSession();
  options.fd_channel_options.on_session_end = log->OnSessionEnd();
  return options;
}

// Sends one descriptor with a call whose handler takes it and answers with what is in it.
grpc::Status CallWithDescriptor(test::TestService::Stub* stub, const std::string& content,
                                test::ExchangeReply* reply) {
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeRequest request;
  auto url = FromContext(&context)->SendFd(MemoryFile(content));
  EXPECT_TRUE(url.ok()) << url.status();
  request.add_urls(url->ToString());
  return stub->Exchange(&context, request, reply);
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

TEST(SessionsTest, BothEndsAreToldOfASessionAndOfItsEnd) {
  SessionLog server_log, client_log;
  TestServer server(WithLog(&server_log));
  size_t seen_by_handler = 0;
  server.service.exchange = [&](auto* context, auto* request, auto* reply) {
    seen_by_handler = server_log.begun().size();
    return TakeAndAnswer(context, request, reply);
  };
  auto channel = server.Channel(ClientWithLog(&client_log));
  auto stub = test::TestService::NewStub(channel);
  EXPECT_TRUE(server_log.begun().empty());
  EXPECT_TRUE(client_log.begun().empty());

  test::ExchangeReply reply;
  grpc::Status status = CallWithDescriptor(stub.get(), "one", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "one");
  EXPECT_EQ(seen_by_handler, 1u) << "on_session runs before any call";
  status = CallWithDescriptor(stub.get(), "two", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();

  ASSERT_EQ(server_log.begun().size(), 1u);
  ASSERT_EQ(client_log.begun().size(), 1u);
  EXPECT_EQ(server_log.threads()[0], "grpcfd-server");
  EXPECT_EQ(client_log.threads()[0], "grpcfd-channel");
  for (SessionLog* log : {&server_log, &client_log}) {
    const auto session = log->begun()[0];
    EXPECT_EQ(session->id(), server_log.begun()[0]->id());
    EXPECT_NE(session->id(), 0u);
    EXPECT_TRUE(session->alive());
    EXPECT_EQ(session->peer().pid, getpid());
    EXPECT_EQ(session->peer().uid, geteuid());
    EXPECT_EQ(session->peer().gid, getegid());
    EXPECT_TRUE(log->ended().empty());
  }

  stub.reset();
  channel.reset();
  ASSERT_TRUE(server_log.WaitForEnds(1));
  ASSERT_TRUE(client_log.WaitForEnds(1));
  for (SessionLog* log : {&server_log, &client_log}) {
    EXPECT_EQ(log->ended()[0], log->begun()[0]->id());
    EXPECT_FALSE(log->begun()[0]->alive());
  }
  server.Stop();
  EXPECT_EQ(server_log.ended().size(), 1u);
  EXPECT_EQ(client_log.ended().size(), 1u);
}

TEST(SessionsTest, AServersEndAndItsRestartAreTwoSessions) {
  SessionLog server_log, client_log;
  TestServer server(WithLog(&server_log));
  server.service.exchange = TakeAndAnswer;
  auto stub = test::TestService::NewStub(server.Channel(ClientWithLog(&client_log)));
  test::ExchangeReply reply;
  ASSERT_TRUE(CallWithDescriptor(stub.get(), "one", &reply).ok());
  server.Stop();
  ASSERT_TRUE(server_log.WaitForEnds(1));
  ASSERT_TRUE(client_log.WaitForEnds(1));
  server.Start();

  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_wait_for_ready(true);
  auto url = FromContext(&context)->SendFd(MemoryFile("two"));
  ASSERT_TRUE(url.ok());
  test::ExchangeRequest request;
  request.add_urls(url->ToString());
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "two");
  EXPECT_EQ(server_log.begun().size(), 2u);
  EXPECT_EQ(client_log.begun().size(), 2u);
}

TEST(SessionsTest, AHandlerKnowsItsPeer) {
  SessionLog log;
  TestServer server(WithLog(&log));
  absl::StatusOr<PeerCredentials> peer = absl::UnknownError("not asked");
  uint64_t id = 0;
  server.service.exchange = [&](grpc::ServerContext* context, auto*, auto*) {
    peer = PeerFromContext(context);
    auto session = SessionFromContext(context);
    EXPECT_TRUE(session.ok()) << session.status();
    if (session.ok()) id = (*session)->id();
    return grpc::Status::OK;
  };
  {
    auto stub = server.Stub();
    // No descriptor is needed, only the tie to the session.
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    FromContext(&context);
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
  EXPECT_EQ(peer->gid, getegid());
  ASSERT_EQ(log.begun().size(), 1u);
  EXPECT_EQ(id, log.begun()[0]->id());
  // The pidfd is the caller's: the session's end does not close it.
  server.Stop();
  EXPECT_EQ(peer->pidfd.valid(), log.begun()[0]->peer().pidfd.valid());
  if (peer->pidfd.valid()) {
    pollfd polled = {peer->pidfd.get(), POLLIN, 0};
    EXPECT_EQ(poll(&polled, 1, 0), 0);
    EXPECT_FALSE(peer->HasExited());
  }
}

TEST(SessionsTest, APlainCallHasNoSessionAndItsConnectionSaysWhoCalls) {
  TestServer server;
  absl::StatusOr<PeerCredentials> peer;
  absl::Status session;
  server.service.exchange = [&](grpc::ServerContext* context, auto*, auto*) {
    peer = PeerFromContext(context);
    session = SessionFromContext(context).status();
    return grpc::Status::OK;
  };
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeReply reply;
  ASSERT_TRUE(server.Stub()->Exchange(&context, test::ExchangeRequest(), &reply).ok());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(session.code(), absl::StatusCode::kFailedPrecondition) << session;
}

TEST(SessionsTest, AClosedSessionEndsAndTheNextCallHasAnother) {
  SessionLog log;
  TestServer server(WithLog(&log));
  server.service.exchange = TakeAndAnswer;
  auto stub = server.Stub();
  test::ExchangeReply reply;
  ASSERT_TRUE(CallWithDescriptor(stub.get(), "one", &reply).ok());
  log.begun()[0]->Close("not today");
  ASSERT_TRUE(log.WaitForEnds(1));
  EXPECT_FALSE(log.begun()[0]->alive());
  const grpc::Status status = CallWithDescriptor(stub.get(), "two", &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "two");
  ASSERT_EQ(log.begun().size(), 2u);
  EXPECT_NE(log.begun()[0]->id(), log.begun()[1]->id());
  log.begun()[0]->Close("again");  // Of no consequence.
  EXPECT_TRUE(log.begun()[1]->alive());
}

}  // namespace
}  // namespace grpcfd
