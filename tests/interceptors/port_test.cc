// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// AddListeningPort: each option, what it says when it cannot listen, and how a server starts and
// stops with it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/socket_address.h"
#include "fdchannel/wire/hello.h"
#include "tests/fdchannel/session/lingering_socket.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;
using testing_internal::Content;
using testing_internal::FunctionService;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;

grpc::Status Echo(grpc::ServerContext* context, const test::ExchangeRequest* request,
                  test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  auto fd = fds->RecvFd(request->urls(0));
  if (!fd.ok()) return ToGrpcStatus(fd.status());
  reply->set_payload(Content(*fd));
  return grpc::Status::OK;
}

// One call with one descriptor over a channel to `target`.
grpc::Status CallEcho(
    const std::string& target,
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials()) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto stub = test::TestService::NewStub(
      grpcfd::CreateCustomChannel(target, std::move(credentials), arguments));
  grpc::ClientContext context;
  SetDeadline(&context, 10);
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFd(MemoryFile("hello"))->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  if (status.ok()) {
    EXPECT_EQ("hello", reply.payload());
  }
  return status;
}

class PortTest : public ::testing::Test {
 protected:
  void SetUp() override { service_.exchange = Echo; }

  // BuildAndStart with one port.
  std::unique_ptr<grpc::Server> Build(
      const std::string& address, ListenOptions options = {},
      std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials()) {
    options.bind_status = &bound_;
    grpc::ServerBuilder builder;
    AddListeningPort(&builder, address, credentials, options);
    builder.RegisterService(&service_);
    return builder.BuildAndStart();
  }

  TempDir dir_;
  FunctionService service_;
  absl::Status bound_;
};

TEST_F(PortTest, ModeIsThatOfTheFile) {
  for (mode_t mode : {0600, 0660, 0666, 0777}) {
    ListenOptions options;
    options.mode = mode;
    const mode_t before = umask(0);
    auto server = Build("unix:" + dir_.File("socket"), options);
    umask(before);
    ASSERT_NE(nullptr, server) << bound_;
    struct stat st;
    ASSERT_EQ(0, lstat(dir_.File("socket").c_str(), &st));
    EXPECT_EQ(mode, st.st_mode & 07777);
  }
}

TEST_F(PortTest, TheFileGoesWithTheServer) {
  auto server = Build("unix:" + dir_.File("socket"));
  ASSERT_NE(nullptr, server) << bound_;
  struct stat st;
  ASSERT_EQ(0, lstat(dir_.File("socket").c_str(), &st));
  server.reset();
  EXPECT_EQ(-1, lstat(dir_.File("socket").c_str(), &st));
}

TEST_F(PortTest, AnAddressInUseMakesBuildAndStartReturnNullAndSaysWhy) {
  auto first = Build("unix:" + dir_.File("socket"));
  ASSERT_NE(nullptr, first) << bound_;
  EXPECT_EQ(nullptr, Build("unix:" + dir_.File("socket")));
  EXPECT_EQ(absl::StatusCode::kAlreadyExists, bound_.code()) << bound_;
  // The living server keeps its socket.
  EXPECT_TRUE(CallEcho("unix:" + dir_.File("socket")).ok());
}

TEST_F(PortTest, AStaleSocketFileIsReplaced) {
  const std::string path = dir_.File("socket");
  {
    UniqueFd stale(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address;
    const socklen_t length = internal::SocketAddress::Parse("unix:" + path)->ToSockaddr(&address);
    ASSERT_EQ(0, bind(stale.get(), reinterpret_cast<sockaddr*>(&address), length));
  }
  auto server = Build("unix:" + path);
  ASSERT_NE(nullptr, server) << bound_;
  EXPECT_TRUE(CallEcho("unix:" + path).ok());
}

TEST_F(PortTest, WhatIsNoUnixSocketAddressIsRefused) {
  EXPECT_EQ(nullptr, Build("127.0.0.1:0"));
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, bound_.code()) << bound_;
  EXPECT_EQ(nullptr, Build("unix:" + std::string(200, 'x')));
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, bound_.code()) << bound_;
  EXPECT_EQ(nullptr, Build("unix:" + dir_.File("no/such/directory")));
  EXPECT_EQ(absl::StatusCode::kNotFound, bound_.code()) << bound_;
}

TEST_F(PortTest, AbstractNamesAreOptIn) {
  const std::string name = absl::StrCat("unix-abstract:grpcfd_test_", getpid());
  EXPECT_EQ(nullptr, Build(name));
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, bound_.code()) << bound_;
  ListenOptions options;
  options.allow_abstract = true;
  auto server = Build(name, options);
  ASSERT_NE(nullptr, server) << bound_;
  const grpc::Status status = CallEcho(name);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(PortTest, ASocketFromSocketActivationIsAdopted) {
  const std::string path = dir_.File("socket");
  UniqueFd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = internal::SocketAddress::Parse("unix:" + path)->ToSockaddr(&address);
  ASSERT_EQ(0, bind(listening.get(), reinterpret_cast<sockaddr*>(&address), length));
  ASSERT_EQ(0, listen(listening.get(), 16));
  ListenOptions options;
  options.listen_fd = listening;
  // The options can be used again: each port has a duplicate.
  for (int round = 0; round < 2; ++round) {
    auto server = Build("unix:" + path, options);
    ASSERT_NE(nullptr, server) << bound_;
    const grpc::Status status = CallEcho("unix:" + path);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  // The process that bound it removes the file.
  struct stat st;
  EXPECT_EQ(0, lstat(path.c_str(), &st));
}

TEST_F(PortTest, ADescriptorThatIsNoListeningSocketIsRefused) {
  ListenOptions options;
  const UniqueFd file = MemoryFile("no socket");
  options.listen_fd = file;
  EXPECT_EQ(nullptr, Build("unix:activated", options));
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, bound_.code()) << bound_;
  options.listen_fd = BorrowedFd(-1);
  EXPECT_EQ(nullptr, Build("unix:activated", options));
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, bound_.code()) << bound_;
}

TEST_F(PortTest, LimitsThatDoNotFitIntoTheProcessAreRefusedAtStart) {
  ListenOptions options;
  options.fd_server_options.limits.max_sessions = 1u << 30;
  EXPECT_EQ(nullptr, Build("unix:" + dir_.File("socket"), options));
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, bound_.code());
  EXPECT_THAT(bound_.message(), HasSubstr("RLIMIT_NOFILE"));
}

TEST_F(PortTest, ServerLimitsHold) {
  ListenOptions options;
  options.fd_server_options.limits.session.max_fds_per_call = 2;
  auto server = Build("unix:" + dir_.File("socket"), options);
  ASSERT_NE(nullptr, server) << bound_;
  auto stub = test::TestService::NewStub(
      grpcfd::CreateChannel("unix:" + dir_.File("socket"), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  SetDeadline(&context, 10);
  auto fds = FromContext(&context);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(fds->SendFd(MemoryFile("x")).ok());
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
  EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code());
  EXPECT_THAT(status.error_message(), HasSubstr("max_fds_per_call = 2"));
}

TEST_F(PortTest, LocalCredentials) {
  auto server =
      Build("unix:" + dir_.File("socket"), {}, grpc::experimental::LocalServerCredentials(UDS));
  ASSERT_NE(nullptr, server) << bound_;
  const grpc::Status status =
      CallEcho("unix:" + dir_.File("socket"), grpc::experimental::LocalCredentials(UDS));
  EXPECT_TRUE(status.ok()) << status.error_message();
}

// Guards against asking the first FdServer only: the call's session may be at another one.
TEST_F(PortTest, PortsWithFdServersOfTheirOwn) {
  grpc::ServerBuilder builder;
  std::vector<std::string> addresses;
  for (const char* name : {"first", "second", "third"}) {
    addresses.push_back("unix:" + dir_.File(name));
    ListenOptions options;
    options.fd_server = *FdServer::Create();
    AddListeningPort(&builder, addresses.back(), grpc::InsecureServerCredentials(), options);
  }
  builder.RegisterService(&service_);
  auto server = builder.BuildAndStart();
  ASSERT_NE(nullptr, server);
  for (const std::string& address : addresses) {
    const grpc::Status status = CallEcho(address);
    EXPECT_TRUE(status.ok()) << address << ": " << status.error_message();
  }
}

TEST_F(PortTest, AClientThatCameBeforeTheServerWaitsInTheBacklogAndIsServed) {
  const std::string path = dir_.File("socket");
  UniqueFd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = internal::SocketAddress::Parse("unix:" + path)->ToSockaddr(&address);
  ASSERT_EQ(0, bind(listening.get(), reinterpret_cast<sockaddr*>(&address), length));
  ASSERT_EQ(0, listen(listening.get(), 16));
  std::thread client([&] {
    const grpc::Status status = CallEcho("unix:" + path);
    EXPECT_TRUE(status.ok()) << status.error_message();
  });
  ListenOptions options;
  options.listen_fd = listening;
  auto server = Build("unix:" + path, options);
  EXPECT_NE(nullptr, server) << bound_;
  listening.Reset();
  client.join();
}

// Who came before the socket was adopted may have sent descriptors, as anybody may on kernels
// before Linux 6.16. What is unread of a client that is turned away goes with its connection, and
// closing that can block for as long as the client likes.
TEST_F(PortTest, AClientThatIsTurnedAwayHoldsNobodyUp) {
  // For its name, which is as the in-band relay gives them; or for a descriptor before any session.
  for (const bool for_its_name : {true, false}) {
    SCOPED_TRACE(for_its_name);
    internal::LingeringSocket slow;
    const std::string path = dir_.File(for_its_name ? "socket" : "other");
    UniqueFd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address;
    const socklen_t length = internal::SocketAddress::Parse("unix:" + path)->ToSockaddr(&address);
    ASSERT_EQ(0, bind(listening.get(), reinterpret_cast<sockaddr*>(&address), length));
    ASSERT_EQ(0, listen(listening.get(), 16));
    const UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (for_its_name) {
      const std::string name = absl::StrCat("unix-abstract:grpcfd-in-band-test-", getpid());
      sockaddr_un own;
      const socklen_t own_length = internal::SocketAddress::Parse(name)->ToSockaddr(&own);
      ASSERT_EQ(0, bind(client.get(), reinterpret_cast<sockaddr*>(&own), own_length));
    }
    ASSERT_EQ(0, connect(client.get(), reinterpret_cast<sockaddr*>(&address), length));
    // As much as the server reads at once: it then knows that this is not a hello.
    const std::string no_hello(internal::kHelloSize, 'P');
    const UniqueFd early = MemoryFile("early");
    const int numbers[] = {early.get(), slow.socket.get()};
    ASSERT_TRUE(internal::SendMessage(client, absl::MakeConstSpan(no_hello.data(), no_hello.size()),
                                      absl::MakeConstSpan(numbers, for_its_name ? 0 : 1))
                    .ok());
    ASSERT_TRUE(internal::SendMessage(client, absl::MakeConstSpan("x", 1),
                                      absl::MakeConstSpan(numbers + 1, 1))
                    .ok());
    slow.socket.Reset();  // Not the last reference: that one is in flight.
    ListenOptions options;
    options.listen_fd = listening;
    auto server = Build("unix:" + path, options);
    ASSERT_NE(nullptr, server) << bound_;
    const grpc::Status status = CallEcho("unix:" + path);
    EXPECT_TRUE(status.ok()) << status.error_message();
    slow.peer.Reset();  // Lets the close go on.
  }
}

TEST_F(PortTest, ShutdownWithADeadlineEndsCallsAndLeavesNothing) {
  std::promise<void> waiting;
  auto server = Build("unix:" + dir_.File("socket"));
  ASSERT_NE(nullptr, server) << bound_;
  // A stream may still send what the handler waits for.
  service_.chat = [&waiting](
                      grpc::ServerContext* context,
                      grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>*) {
    auto fds = FromContext(context);
    waiting.set_value();
    return ToGrpcStatus(fds->RecvFd("inode://1/2?fd=0").status());
  };
  {
    auto stub = test::TestService::NewStub(
        grpcfd::CreateChannel("unix:" + dir_.File("socket"), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    auto fds = FromContext(&context);
    auto stream = stub->Chat(&context);
    waiting.get_future().wait();
    server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
    EXPECT_FALSE(stream->Finish().ok());
  }
  server.reset();
}

}  // namespace
}  // namespace grpcfd
