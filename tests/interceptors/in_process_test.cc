// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The in-process channel: descriptors between a client and a server of one process, without a
// socket file, by the same rules as between two.
#include <fcntl.h>
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
using testing_internal::FunctionService;
using testing_internal::MemoryFile;
using testing_internal::Pipe;
using testing_internal::SessionLog;
using testing_internal::SetDeadline;
using testing_internal::Text;

// A server that only this process can reach.
class Server {
 public:
  explicit Server(const FdServerOptions& options = {}) {
    auto made = FdServer::Create(options);
    EXPECT_TRUE(made.ok()) << made.status();
    fd_server = *std::move(made);
    grpc::ServerBuilder builder;
    AddFdServer(&builder, fd_server);
    builder.RegisterService(&service);
    server = builder.BuildAndStart();
    EXPECT_NE(server, nullptr);
  }
  ~Server() { Stop(); }
  void Stop() {
    if (server == nullptr) return;
    server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    server.reset();
    fd_server.reset();
  }

  std::shared_ptr<grpc::Channel> Channel(const ChannelOptions& options = {}) const {
    return InProcessChannel(server.get(), fd_server, grpc::ChannelArguments(), {}, options);
  }
  std::unique_ptr<test::TestService::Stub> Stub(const ChannelOptions& options = {}) const {
    return test::TestService::NewStub(Channel(options));
  }

  FunctionService service;
  std::shared_ptr<FdServer> fd_server;
  std::unique_ptr<grpc::Server> server;
};

// Takes each descriptor that the request names, and sends one back with "reply to " before it.
grpc::Status AnswerEach(FdTransceiver* fds, const test::ExchangeRequest& request,
                        test::ExchangeReply* reply) {
  for (const std::string& url : request.urls()) {
    auto fd = fds->RecvFd(url);
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    auto back = fds->SendFd(MemoryFile("reply to " + Content(*fd)));
    if (!back.ok()) return ToGrpcStatus(back.status());
    reply->add_urls(back->ToString());
  }
  return grpc::Status::OK;
}

grpc::Status Exchange(grpc::ServerContext* context, const test::ExchangeRequest* request,
                      test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  return AnswerEach(fds.get(), *request, reply);
}

TEST(InProcessTest, UnaryBothDirections) {
  Server server;
  server.service.exchange = Exchange;
  auto stub = server.Stub();
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    for (int k = 0; k < 3; ++k) {
      const std::string content = std::to_string(i) + "/" + std::to_string(k);
      auto url = fds->SendFd(MemoryFile(content));
      ASSERT_TRUE(url.ok()) << url.status();
      request.add_urls(url->ToString());
    }
    test::ExchangeReply reply;
    ASSERT_EQ(Text(stub->Exchange(&context, request, &reply)), "OK");
    ASSERT_EQ(reply.urls_size(), 3);
    for (int k = 0; k < 3; ++k) {
      auto fd = fds->RecvFd(reply.urls(k));
      ASSERT_TRUE(fd.ok()) << fd.status();
      EXPECT_EQ(Content(*fd), "reply to " + std::to_string(i) + "/" + std::to_string(k));
      EXPECT_NE(fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
    }
  }
  EXPECT_EQ(server.fd_server->session_count(), 1u);
}

TEST(InProcessTest, StreamsBothDirections) {
  Server server;
  server.service.chat =
      [](grpc::ServerContext* context,
         grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        auto fds = FromContext(context);
        if (!fds->status().ok()) return ToGrpcStatus(fds->status());
        test::ExchangeRequest request;
        while (stream->Read(&request)) {
          test::ExchangeReply reply;
          const grpc::Status status = AnswerEach(fds.get(), request, &reply);
          if (!status.ok()) return status;
          stream->Write(reply);
        }
        return grpc::Status::OK;
      };
  server.service.upload = [](grpc::ServerContext* context, auto* reader, auto* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    test::ExchangeRequest request;
    while (reader->Read(&request)) {
      const grpc::Status status = AnswerEach(fds.get(), request, reply);
      if (!status.ok()) return status;
    }
    return grpc::Status::OK;
  };
  server.service.download = [](grpc::ServerContext* context, const auto* request, auto* writer) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    for (int i = 0; i < 5; ++i) {
      test::ExchangeReply reply;
      if (i == 0) {
        const grpc::Status status = AnswerEach(fds.get(), *request, &reply);
        if (!status.ok()) return status;
      } else {
        auto url = fds->SendFd(MemoryFile(std::to_string(i)));
        if (!url.ok()) return ToGrpcStatus(url.status());
        reply.add_urls(url->ToString());
      }
      writer->Write(reply);
    }
    return grpc::Status::OK;
  };
  auto stub = server.Stub();
  const auto add = [](FdTransceiver* fds, const std::string& content,
                      test::ExchangeRequest* request) {
    auto url = fds->SendFd(MemoryFile(content));
    ASSERT_TRUE(url.ok()) << url.status();
    request->clear_urls();
    request->add_urls(url->ToString());
  };
  const auto content = [](FdTransceiver* fds, const std::string& url) {
    auto fd = fds->RecvFd(url);
    return fd.ok() ? Content(*fd) : fd.status().ToString();
  };
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    auto stream = stub->Chat(&context);
    for (int i = 0; i < 5; ++i) {
      add(fds.get(), "chat " + std::to_string(i), &request);
      ASSERT_TRUE(stream->Write(request));
      ASSERT_TRUE(stream->Read(&reply));
      EXPECT_EQ(content(fds.get(), reply.urls(0)), "reply to chat " + std::to_string(i));
    }
    stream->WritesDone();
    EXPECT_EQ(Text(stream->Finish()), "OK");
  }
  {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    reply.Clear();
    auto writer = stub->Upload(&context, &reply);
    for (int i = 0; i < 5; ++i) {
      add(fds.get(), "up " + std::to_string(i), &request);
      ASSERT_TRUE(writer->Write(request));
    }
    writer->WritesDone();
    ASSERT_EQ(Text(writer->Finish()), "OK");
    ASSERT_EQ(reply.urls_size(), 5);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(content(fds.get(), reply.urls(i)), "reply to up " + std::to_string(i));
    }
  }
  {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    add(fds.get(), "down", &request);
    auto reader = stub->Download(&context, request);
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(reader->Read(&reply));
      EXPECT_EQ(content(fds.get(), reply.urls(0)), i == 0 ? "reply to down" : std::to_string(i));
    }
    EXPECT_EQ(Text(reader->Finish()), "OK");
  }
}

// What would be sent for each attempt of a call over a socket: in-process there is one attempt.
TEST(InProcessTest, CallsThatWaitForReady) {
  Server server;
  server.service.exchange = Exchange;
  ChannelOptions per_attempt;
  per_attempt.interceptor.send_per_attempt = true;
  for (const ChannelOptions& options : {ChannelOptions(), per_attempt}) {
    auto stub = server.Stub(options);
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_wait_for_ready(true);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    auto url = fds->SendFd(MemoryFile("ready"));
    ASSERT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    ASSERT_EQ(Text(stub->Exchange(&context, request, &reply)), "OK");
    auto fd = fds->RecvFd(reply.urls(0));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), "reply to ready");
  }
}

TEST(InProcessTest, WhatNobodyTakesIsClosed) {
  Server server;
  Pipe to_client;
  server.service.exchange = [&](grpc::ServerContext* context, auto*, auto*) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    EXPECT_TRUE(fds->SendFd(to_client.write).ok());
    return grpc::Status(grpc::StatusCode::ABORTED, "after all");
  };
  auto stub = server.Stub();
  Pipe to_server;
  {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    ASSERT_TRUE(FromContext(&context)->SendFd(to_server.write).ok());
    test::ExchangeReply reply;
    EXPECT_EQ(stub->Exchange(&context, test::ExchangeRequest(), &reply).error_code(),
              grpc::StatusCode::ABORTED);
  }
  EXPECT_TRUE(to_server.WriteEndsAreClosed());
  stub.reset();  // What came back may be in the session's socket still.
  EXPECT_TRUE(to_client.WriteEndsAreClosed());
}

TEST(InProcessTest, CallbacksAndAuthorizersSeeThisProcess) {
  SessionLog at_server, at_client;
  std::atomic<bool> refuse_session{true}, refuse_call{false};
  FdServerOptions options;
  options.on_session = at_server.OnSession();
  options.on_session_end = at_server.OnSessionEnd();
  options.authorize_session = [&](const PeerCredentials& peer) {
    EXPECT_EQ(peer.pid, getpid());
    EXPECT_EQ(peer.uid, geteuid());
    EXPECT_EQ(peer.gid, getegid());
    return refuse_session ? absl::PermissionDeniedError("no") : absl::OkStatus();
  };
  options.authorize_call = [&](const CallDescription& call) {
    EXPECT_EQ(call.peer->pid, getpid());
    return refuse_call ? absl::PermissionDeniedError("not this one") : absl::OkStatus();
  };
  Server server(options);
  absl::StatusOr<PeerCredentials> peer = absl::UnknownError("not asked");
  server.service.exchange = [&](grpc::ServerContext* context, auto* request, auto* reply) {
    peer = PeerFromContext(context);
    return Exchange(context, request, reply);
  };
  ChannelOptions client;
  client.fd_channel_options.on_session = at_client.OnSession();
  client.fd_channel_options.on_session_end = at_client.OnSessionEnd();
  client.fd_channel_options.authorize_session = [](const PeerCredentials& credentials) {
    EXPECT_EQ(credentials.pid, getpid());
    return absl::OkStatus();
  };
  auto stub = server.Stub(client);
  const auto call = [&](BorrowedFd fd) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto url = FromContext(&context)->SendFd(fd);
    EXPECT_TRUE(url.ok());
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    return stub->Exchange(&context, request, &reply);
  };
  Pipe refused;
  EXPECT_EQ(call(refused.write).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(refused.WriteEndsAreClosed());
  EXPECT_TRUE(at_server.begun().empty());
  refuse_session = false;
  const UniqueFd file = MemoryFile("x");
  EXPECT_EQ(Text(call(file)), "OK");
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  ASSERT_EQ(at_server.begun().size(), 1u);
  ASSERT_EQ(at_client.begun().size(), 1u);
  EXPECT_EQ(at_server.threads()[0], "grpcfd-server");
  EXPECT_EQ(at_client.threads()[0], "grpcfd-channel");
  EXPECT_EQ(at_server.begun()[0]->id(), at_client.begun()[0]->id());
  refuse_call = true;
  Pipe closed;
  EXPECT_EQ(call(closed.write).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(closed.WriteEndsAreClosed());
  refuse_call = false;
  EXPECT_EQ(Text(call(file)), "OK");
  stub.reset();
  EXPECT_TRUE(at_server.WaitForEnds(1));
  EXPECT_TRUE(at_client.WaitForEnds(1));
}

TEST(InProcessTest, SessionScopedDescriptors) {
  Server server;
  server.service.exchange = Exchange;
  auto fd_channel = FdChannel::CreateInProcess(server.fd_server);
  ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
  auto pool = (*fd_channel)->Register(MemoryFile("pool"));
  ASSERT_TRUE(pool.ok()) << pool.status();
  ChannelOptions options;
  options.fd_channel = *fd_channel;
  auto stub = server.Stub(options);
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    request.add_urls(pool->url().ToString());
    test::ExchangeReply reply;
    ASSERT_EQ(Text(stub->Exchange(&context, request, &reply)), "OK");
    auto back = fds->RecvFd(reply.urls(0));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(Content(*back), "reply to pool");
  }
}

TEST(InProcessTest, ErrorsAreThoseOfOtherChannels) {
  Server server;
  server.service.exchange = Exchange;
  auto stub = server.Stub();
  test::ExchangeReply reply;
  {
    // More than the limit.
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    Pipe pipe;
    for (int i = 0; i < 17; ++i) ASSERT_TRUE(fds->SendFd(pipe.write).ok());
    EXPECT_EQ(stub->Exchange(&context, test::ExchangeRequest(), &reply).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_TRUE(pipe.WriteEndsAreClosed());
  }
  {
    // A name that nothing has.
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    request.add_urls("inode://1/2?fd=0");
    EXPECT_EQ(stub->Exchange(&context, request, &reply).error_code(), grpc::StatusCode::NOT_FOUND);
  }
  {
    // Plain calls.
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    EXPECT_EQ(stub->Exchange(&context, test::ExchangeRequest(), &reply).error_code(),
              grpc::StatusCode::FAILED_PRECONDITION);
  }
  {
    // gRPC's own channel, which has no interceptors.
    auto bare =
        test::TestService::NewStub(server.server->InProcessChannel(grpc::ChannelArguments()));
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    Pipe pipe;
    ASSERT_TRUE(FromContext(&context)->SendFd(pipe.write).ok());
    EXPECT_EQ(bare->Exchange(&context, test::ExchangeRequest(), &reply).error_code(),
              grpc::StatusCode::FAILED_PRECONDITION);
  }
  {
    // An FdServer that is not the server's.
    auto other = FdServer::Create();
    ASSERT_TRUE(other.ok());
    auto lost = test::TestService::NewStub(
        InProcessChannel(server.server.get(), *other, grpc::ChannelArguments()));
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    Pipe pipe;
    auto url = FromContext(&context)->SendFd(pipe.write);
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    EXPECT_EQ(lost->Exchange(&context, request, &reply).error_code(),
              grpc::StatusCode::UNAVAILABLE);
    lost.reset();
    other->reset();
    EXPECT_TRUE(pipe.WriteEndsAreClosed());
  }
}

TEST(InProcessTest, ASharedFdChannelMustBeOfTheServer) {
  Server server, other;
  server.service.exchange = Exchange;
  auto same = FdChannel::CreateInProcess(server.fd_server);
  auto of_other = FdChannel::CreateInProcess(other.fd_server);
  auto of_socket = FdChannel::Create("unix:/nowhere");
  ASSERT_TRUE(same.ok() && of_other.ok() && of_socket.ok());
  for (const auto& shared : {*same, *of_other, *of_socket}) {
    ChannelOptions options;
    options.fd_channel = shared;
    auto stub = server.Stub(options);
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto url = FromContext(&context)->SendFd(MemoryFile("x"));
    ASSERT_TRUE(url.ok()) << url.status();
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    EXPECT_EQ(status.error_code(),
              shared == *same ? grpc::StatusCode::OK : grpc::StatusCode::INVALID_ARGUMENT)
        << Text(status);
  }
}

TEST(InProcessTest, BesideAPort) {
  FunctionService service;
  service.exchange = Exchange;
  testing_internal::TempDir dir;
  auto fd_server = FdServer::Create();
  ASSERT_TRUE(fd_server.ok());
  grpc::ServerBuilder builder;
  ListenOptions listen;
  listen.fd_server = *fd_server;
  AddFdServer(&builder, *fd_server);
  AddListeningPort(&builder, "unix:" + dir.File("s"), grpc::InsecureServerCredentials(), listen);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::vector<std::shared_ptr<grpc::Channel>> channels = {
      InProcessChannel(server.get(), *fd_server, arguments),
      grpcfd::CreateCustomChannel("unix:" + dir.File("s"), grpc::InsecureChannelCredentials(),
                                  arguments)};
  for (const auto& channel : channels) {
    auto stub = test::TestService::NewStub(channel);
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    auto url = fds->SendFd(MemoryFile("x"));
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    ASSERT_EQ(Text(stub->Exchange(&context, request, &reply)), "OK");
    auto back = fds->RecvFd(reply.urls(0));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(Content(*back), "reply to x");
  }
  EXPECT_EQ((*fd_server)->session_count(), 2u);
  channels.clear();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
}

TEST(InProcessTest, TheServerGoesFirst) {
  auto server = std::make_unique<Server>();
  server->service.exchange = Exchange;
  auto fd_channel = FdChannel::CreateInProcess(server->fd_server);
  ASSERT_TRUE(fd_channel.ok());
  EXPECT_EQ((*fd_channel)->target(), "in-process");
  auto pool = (*fd_channel)->Register(MemoryFile("pool"));
  ASSERT_TRUE(pool.ok());
  std::weak_ptr<FdServer> weak = server->fd_server;
  server.reset();
  EXPECT_TRUE(weak.expired()) << "a channel keeps no server";
  pool->Withdraw();
  EXPECT_EQ((*fd_channel)->session_id(), 0u);
  EXPECT_EQ(FdChannel::CreateInProcess(nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace grpcfd
