// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Receive policies as handlers and clients meet them.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

constexpr char kExchange[] = "/grpcfd.test.TestService/Exchange";

std::shared_ptr<FdServer> Server(const ReceivePolicy& policy,
                                 std::map<std::string, ReceivePolicy> methods = {}) {
  FdServerOptions options;
  options.receive_policy = policy;
  options.method_policies = std::move(methods);
  auto server = FdServer::Create(options);
  EXPECT_TRUE(server.ok()) << server.status();
  return *server;
}

UniqueFd Directory() { return UniqueFd(::open("/", O_DIRECTORY | O_RDONLY | O_CLOEXEC)); }

// A handler that takes all that was sent, and replies with the first error, or with the contents.
grpc::Status TakeAll(grpc::ServerContext* context, const test::ExchangeRequest* request,
                     test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  absl::Status first;
  for (const std::string& url : request->urls()) {
    auto fd = fds->RecvFd(url);
    if (fd.ok()) {
      reply->set_payload(reply->payload() + Content(*fd) + ";");
    } else if (first.ok()) {
      first = fd.status();
    }
  }
  return ToGrpcStatus(first);
}

grpc::Status Call(TestServer* server, const std::vector<const UniqueFd*>& sent,
                  test::ExchangeReply* reply) {
  auto stub = server->Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeRequest request;
  auto fds = FromContext(&context);
  for (const UniqueFd* fd : sent) {
    auto url = fds->SendFd(*fd);
    EXPECT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
  }
  return stub->Exchange(&context, request, reply);
}

TEST(PolicyTest, TheDefaultTakesDirectoriesAsGoDoes) {
  TestServer server;
  server.service.exchange = TakeAll;
  const UniqueFd directory = Directory();
  const UniqueFd handle(::open("/", O_PATH | O_CLOEXEC));
  test::ExchangeReply reply;
  const grpc::Status status = Call(&server, {&directory, &handle}, &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.payload(), "unreadable;unreadable;");
}

TEST(PolicyTest, StrictServersHandlersNeverSeeADirectory) {
  TestServer server([](grpc::ServerBuilder*, ListenOptions* options) {
    options->fd_server = Server(ReceivePolicy::Strict());
  });
  server.service.exchange = TakeAll;
  const UniqueFd directory = Directory();
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const UniqueFd file = MemoryFile("fine");
  for (const auto& [refused, name] :
       {std::pair<const UniqueFd*, const char*>(&directory, "directory"),
        {&epoll, "epoll"},
        {&socket, "unix socket"},
        {&null, "character device"}}) {
    test::ExchangeReply reply;
    const grpc::Status status = Call(&server, {refused, &file}, &reply);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << name;
    EXPECT_THAT(status.error_message(),
                AllOf(HasSubstr(name), HasSubstr("pid"), HasSubstr("uid"), HasSubstr("?fd=0")));
  }
  test::ExchangeReply reply;
  EXPECT_TRUE(Call(&server, {&file, &file}, &reply).ok());
  EXPECT_EQ(reply.payload(), "fine;fine;");
}

TEST(PolicyTest, AMethodMayHaveItsOwn) {
  const UniqueFd directory = Directory();
  for (const bool method_is_lax : {true, false}) {
    TestServer server([&](grpc::ServerBuilder*, ListenOptions* options) {
      const ReceivePolicy lax, strict = ReceivePolicy::Strict();
      options->fd_server =
          Server(method_is_lax ? strict : lax, {{kExchange, method_is_lax ? lax : strict}});
    });
    server.service.exchange = TakeAll;
    test::ExchangeReply reply;
    const grpc::Status status = Call(&server, {&directory}, &reply);
    EXPECT_EQ(status.error_code(),
              method_is_lax ? grpc::StatusCode::OK : grpc::StatusCode::PERMISSION_DENIED)
        << status.error_message();
  }
}

TEST(PolicyTest, AClientsPolicyHoldsForReplies) {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    reply->add_urls(fds->SendFd(Directory())->ToString());
    reply->add_urls(fds->SendFd(MemoryFile("fine"))->ToString());
    return grpc::Status::OK;
  };
  ChannelOptions options;
  options.fd_channel_options.receive_policy = ReceivePolicy::Strict();
  auto stub = test::TestService::NewStub(server.Channel(options));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, {}, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto refused = fds->RecvFd(reply.urls(0));
  EXPECT_TRUE(absl::IsPermissionDenied(refused.status())) << refused.status();
  EXPECT_THAT(refused.status().message(), HasSubstr("directory"));
  const auto taken = fds->RecvFd(reply.urls(1));
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(Content(*taken), "fine");
}

TEST(PolicyTest, SealedMemoryGoesFromEndToEnd) {
  TestServer server([](grpc::ServerBuilder*, ListenOptions* options) {
    options->fd_server = Server(ReceivePolicy::Strict().RequireSeals(F_SEAL_SHRINK | F_SEAL_WRITE));
  });
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    auto fd = fds->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    auto memory = MappedMemory::Map(*fd, /*max_size=*/4096);
    if (!memory.ok()) return ToGrpcStatus(memory.status());
    reply->set_payload(std::string(static_cast<const char*>(memory->data()), memory->size()));
    return grpc::Status::OK;
  };
  auto sealed = MappedMemory::FromBytes("hold still", 10);
  ASSERT_TRUE(sealed.ok()) << sealed.status();
  test::ExchangeReply reply;
  EXPECT_TRUE(Call(&server, {&*sealed}, &reply).ok());
  EXPECT_EQ(reply.payload(), "hold still");
  const UniqueFd unsealed = MemoryFile("hold still");
  const grpc::Status status = Call(&server, {&unsealed}, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(status.error_message(), HasSubstr("requires the seals F_SEAL_SHRINK|F_SEAL_WRITE"));
}

}  // namespace
}  // namespace grpcfd
