// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Calls over the in-band wire: a C++ client and a C++ server, each with its relay. Between the two
// is what a Go peer would see.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "grpcfd/grpcfd.h"
#include "grpcfd/testing/same_file.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/in_band_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace testing_internal {
namespace {

using ::testing::HasSubstr;

TEST_F(InBandTest, DescriptorsBothWays) {
  TestServer server(Listen(PortWire::kInBand));
  Serve(&server);
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  for (int i = 0; i < 3; ++i) {
    const grpc::Status status = ExchangeOne(stub.get(), "content " + std::to_string(i));
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
}

// --- The kinds of calls ---

class InBandKindTest : public InBandTest, public ::testing::WithParamInterface<Kind> {};

TEST_P(InBandKindTest, DescriptorsBothWays) {
  TestServer server(Listen(PortWire::kInBand));
  AnswerAll(&server.service);
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFd(MemoryFile("one"))->ToString());
  request.add_urls(fds->SendFd(MemoryFile("two"))->ToString());
  request.set_command("reply");
  test::ExchangeReply reply;
  const grpc::Status status = Call(GetParam(), stub.get(), &context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ("one|two|", reply.payload());
  ASSERT_EQ(1, reply.urls_size());
  auto fd = fds->RecvFd(reply.urls(0));
  ASSERT_TRUE(fd.ok()) << fd.status();
}

INSTANTIATE_TEST_SUITE_P(Kinds, InBandKindTest,
                         ::testing::Values(Kind::kUnary, Kind::kUpload, Kind::kDownload,
                                           Kind::kChat));

// A stream may send as it goes, in both directions.
TEST_F(InBandTest, AStreamSendsMoreInItsCourse) {
  TestServer server(Listen(PortWire::kInBand));
  server.service.chat =
      [](grpc::ServerContext* context,
         grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        test::ExchangeRequest request;
        while (stream->Read(&request)) {
          test::ExchangeReply reply;
          grpc::Status status = Exchange(context, request, &reply);
          if (!status.ok()) return status;
          stream->Write(reply);
        }
        return grpc::Status::OK;
      };
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  for (int i = 0; i < 40; ++i) {
    const std::string content = "message " + std::to_string(i);
    auto url = fds->SendFd(MemoryFile(content));
    ASSERT_TRUE(url.ok()) << url.status();
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    ASSERT_TRUE(stream->Write(request));
    test::ExchangeReply reply;
    ASSERT_TRUE(stream->Read(&reply));
    EXPECT_EQ(content + "|", reply.payload());
    auto fd = fds->RecvFd(reply.urls(0));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ("reply to " + content + "|", Content(*fd));
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

// --- What this wire does otherwise ---

TEST_F(InBandTest, ADescriptorMayBeAskedForAgainAndByALaterCall) {
  TestServer server(Listen(PortWire::kInBand));
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    for (int i = 0; i < 2; ++i) {
      auto fd = fds->RecvFd(request->urls(0));
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      reply->set_payload(reply->payload() + Content(*fd) + "|");
    }
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  test::ExchangeRequest request;
  for (int call = 0; call < 2; ++call) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    if (call == 0) {
      auto url = FromContext(&context)->SendFd(MemoryFile("kept"));
      ASSERT_TRUE(url.ok()) << url.status();
      request.add_urls(url->ToString());
    }
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << call << ": " << status.error_message();
    EXPECT_EQ("kept|kept|", reply.payload());
  }
}

TEST_F(InBandTest, ASecondFileOfAnInodeIsRefused) {
  TestServer server(Listen(PortWire::kInBand));
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    UniqueFd event(eventfd(0, EFD_CLOEXEC));
    const auto first = fds->SendFd(event);
    const auto again = fds->SendFd(event);
    const auto other = fds->SendFd(UniqueFd(eventfd(0, EFD_CLOEXEC)));
    reply->set_status_text(absl::StatusCodeToString(first.status().code()) + " " +
                           absl::StatusCodeToString(again.status().code()) + " " +
                           absl::StatusCodeToString(other.status().code()));
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ("OK OK ALREADY_EXISTS", reply.status_text());
  }
  // The client: two in one call, then one each in two calls.
  for (int call = 0; call < 3; ++call) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    for (int i = 0; i < (call == 0 ? 2 : 1); ++i) {
      ASSERT_TRUE(fds->SendFd(UniqueFd(eventfd(0, EFD_CLOEXEC))).ok());
    }
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
    EXPECT_EQ(call == 1 ? grpc::StatusCode::OK : grpc::StatusCode::ALREADY_EXISTS,
              status.error_code())
        << call << ": " << status.error_message();
  }
}

// --- Who meets whom ---

TEST_F(InBandTest, BothWiresAtOneAddressAtOnce) {
  TestServer server(Listen(PortWire::kBoth));
  Serve(&server);
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {
      auto stub =
          test::TestService::NewStub(server.Channel(i % 2 == 0 ? InBand() : ChannelOptions()));
      for (int call = 0; call < 25; ++call) {
        const grpc::Status status = ExchangeOne(
            stub.get(), "client " + std::to_string(i) + " call " + std::to_string(call));
        EXPECT_TRUE(status.ok()) << i << ": " << status.error_message();
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(InBandTest, PlainCallsAndPlainClientsWorkAsEver) {
  for (const PortWire wire : {PortWire::kInBand, PortWire::kBoth}) {
    TestServer server(Listen(wire));
    server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                                 test::ExchangeReply* reply) {
      reply->set_status_text(std::string(context->peer()));
      return grpc::Status::OK;
    };
    for (const bool stock : {false, true}) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      auto stub = test::TestService::NewStub(
          stock ? grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(),
                                            arguments)
                : server.Channel(InBand()));
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      test::ExchangeReply reply;
      const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
      ASSERT_TRUE(status.ok()) << status.error_message();
      EXPECT_THAT(reply.status_text(), HasSubstr("unix-abstract:grpcfd-in-band-"));
    }
  }
}

TEST_F(InBandTest, AnFdChannelClientOfAnInBandServerIsToldSo) {
  TestServer server(Listen(PortWire::kInBand));
  Serve(&server);
  auto stub = server.Stub();
  const grpc::Status status = ExchangeOne(stub.get(), "x");
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << status.error_message();
}

TEST_F(InBandTest, OptionsThatMakeNoSenseAreErrors) {
  InBandOptions none;
  none.max_queued_fds = 0;
  TestServer server(Listen(PortWire::kInBand));
  Serve(&server);
  ChannelOptions options = InBand();
  options.in_band = none;
  auto stub = test::TestService::NewStub(server.Channel(options));
  EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, ExchangeOne(stub.get(), "x").error_code());

  absl::Status bound;
  ListenOptions listen;
  listen.wire = PortWire::kInBand;
  listen.in_band = none;
  listen.bind_status = &bound;
  testing_internal::FunctionService service;
  grpc::ServerBuilder builder;
  AddListeningPort(&builder, server.address() + "2", grpc::InsecureServerCredentials(), listen);
  builder.RegisterService(&service);  // Without one gRPC does not get as far as the port.
  EXPECT_EQ(nullptr, builder.BuildAndStart());
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, bound.code()) << bound;
}

TEST_F(InBandTest, ATargetThatIsNoUnixSocketIsRefusedForDescriptorsOnly) {
  grpc::ChannelArguments arguments;
  auto stub = test::TestService::NewStub(grpcfd::CreateCustomChannel(
      "dns:localhost:1", grpc::InsecureChannelCredentials(), arguments, {}, InBand()));
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, ExchangeOne(stub.get(), "x").error_code());
}

// --- Ends ---

TEST_F(InBandTest, AHandlerThatWaitsIsReleasedByDeadlineCancelAndDeath) {
  enum class End { kDeadline, kCancel, kDeath };
  for (const End end : {End::kDeadline, End::kCancel, End::kDeath}) {
    SCOPED_TRACE(static_cast<int>(end));
    TestServer server(Listen(PortWire::kInBand));
    std::promise<void> waiting;
    std::promise<absl::Status> result;
    server.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest*,
                                  test::ExchangeReply*) {
      auto fds = FromContext(context);
      waiting.set_value();
      absl::Status status = fds->RecvFd("inode://1/2").status();
      result.set_value(status);
      return ToGrpcStatus(status);
    };
    auto channel = server.Channel(InBand());
    auto stub = test::TestService::NewStub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + (end == End::kDeadline
                                                                 ? std::chrono::milliseconds(300)
                                                                 : std::chrono::seconds(20)));
    (void)FromContext(&context);
    grpc::Status status;
    std::thread call([&] {
      test::ExchangeReply reply;
      status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
    });
    waiting.get_future().wait();
    if (end == End::kCancel) context.TryCancel();
    if (end == End::kDeath) server.server()->Shutdown(std::chrono::system_clock::now());
    const absl::Status released = result.get_future().get();
    call.join();
    EXPECT_FALSE(status.ok());
    if (end == End::kDeadline) {
      // Whichever of the two deadlines comes first.
      EXPECT_THAT(released.code(), ::testing::AnyOf(absl::StatusCode::kDeadlineExceeded,
                                                    absl::StatusCode::kCancelled))
          << released;
    } else {
      EXPECT_THAT(released.code(),
                  ::testing::AnyOf(absl::StatusCode::kCancelled, absl::StatusCode::kUnavailable))
          << released;
    }
  }
}

TEST_F(InBandTest, AHandleThatIsKeptSaysThatTheCallIsOver) {
  TestServer server(Listen(PortWire::kInBand));
  std::shared_ptr<FdTransceiver> kept;
  server.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest*,
                                test::ExchangeReply*) {
    kept = FromContext(context);
    return grpc::Status::OK;
  };
  {
    auto stub = test::TestService::NewStub(server.Channel(InBand()));
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    test::ExchangeReply reply;
    ASSERT_TRUE(stub->Exchange(&context, test::ExchangeRequest(), &reply).ok());
  }
  server.Stop();
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, kept->SendFd(MemoryFile("x")).status().code());
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, kept->RecvFd("inode://1/2").status().code());
}

TEST_F(InBandTest, TheChannelOutlivesItsServer) {
  TestServer server(Listen(PortWire::kInBand));
  Serve(&server);
  auto channel = server.Channel(InBand());
  auto stub = test::TestService::NewStub(channel);
  for (int i = 0; i < 3; ++i) {
    grpc::Status status;
    const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(20);
    ASSERT_TRUE(channel->WaitForConnected(deadline));
    // The first call may still meet the former connection.
    do {
      status = ExchangeOne(stub.get(), "round " + std::to_string(i));
    } while (status.error_code() == grpc::StatusCode::UNAVAILABLE &&
             std::chrono::system_clock::now() < deadline);
    EXPECT_TRUE(status.ok()) << status.error_message();
    server.Stop();
    EXPECT_FALSE(ExchangeOne(stub.get(), "nobody").ok());
    server.Start();
  }
}

TEST_F(InBandTest, ACallThatWaitsForReadyBringsItsDescriptors) {
  TestServer server(Listen(PortWire::kInBand));
  Serve(&server);
  server.Stop();
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_wait_for_ready(true);
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFd(MemoryFile("patient"))->ToString());
  grpc::Status status;
  test::ExchangeReply reply;
  std::thread call([&] { status = stub->Exchange(&context, request, &reply); });
  server.Start();
  call.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ("patient|", reply.payload());
}

TEST_F(InBandTest, WithoutAServerACallFailsAndItsDescriptorsAreClosed) {
  TestServer server(Listen(PortWire::kInBand));
  server.Stop();
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  const grpc::Status status = ExchangeOne(stub.get(), "x");
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << status.error_message();
}

// --- Numbers ---

// The peer speaks just enough HTTP/2 to be given a call, and dies with it.
TEST_F(InBandTest, APeerThatDiesWithDescriptorsUnderWayFailsTheCall) {
  TempDir dir;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = dir.File("peer");
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(0, ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  ASSERT_EQ(0, ::listen(listener.get(), 8));
  int ends[2];
  ASSERT_EQ(0, ::pipe2(ends, O_CLOEXEC));
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  std::thread peer([&] {
    const UniqueFd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const char settings[9] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
    ASSERT_EQ(9, ::send(connection.get(), settings, sizeof(settings), MSG_NOSIGNAL));
    for (;;) {  // Without room for descriptors: the kernel says that there was one, and closes it.
      char buffer[1024];
      iovec vector = {buffer, sizeof(buffer)};
      msghdr header{};
      header.msg_iov = &vector;
      header.msg_iovlen = 1;
      const ssize_t got = ::recvmsg(connection.get(), &header, 0);
      ASSERT_GT(got, 0);
      if ((header.msg_flags & MSG_CTRUNC) != 0) break;
    }
  });
  {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto stub = test::TestService::NewStub(grpcfd::CreateCustomChannel(
        "unix:" + path, grpc::InsecureChannelCredentials(), arguments, {}, InBand()));
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    ASSERT_TRUE(fds->SendFd(std::move(write_end)).ok());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << status.error_message();
    peer.join();
    EXPECT_EQ(absl::StatusCode::kUnavailable, fds->RecvFd("inode://1/2").status().code());
  }
  char byte;
  EXPECT_EQ(0, ::read(read_end.get(), &byte, 1));  // All closed.
}

TEST_F(InBandTest, AHundredDescriptorsInOneReply) {
  InBandOptions in_band;
  in_band.max_fds_per_connection = 200;
  in_band.max_fds_total = 200;
  TestServer server(Listen(PortWire::kInBand, in_band));
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                               test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    for (int i = 0; i < 100; ++i) {
      auto url = fds->SendFd(MemoryFile("number " + std::to_string(i)));
      if (!url.ok()) return ToGrpcStatus(url.status());
      reply->add_urls(url->ToString());
    }
    return grpc::Status::OK;
  };
  ChannelOptions options = InBand();
  options.in_band = in_band;
  auto stub = test::TestService::NewStub(server.Channel(options));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(100, reply.urls_size());
  for (int i = 0; i < 100; ++i) {
    auto fd = fds->RecvFd(reply.urls(i), absl::InfinitePast());  // All are here by now.
    ASSERT_TRUE(fd.ok()) << i << ": " << fd.status();
    EXPECT_EQ("number " + std::to_string(i), Content(*fd));
  }
}

size_t OpenDescriptors() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST_F(InBandTest, ManyCallsLeaveNoMoreThanTheBoundedCaches) {
  InBandOptions in_band;
  in_band.max_fds_per_connection = 8;
  TestServer server(Listen(PortWire::kInBand, in_band));
  Serve(&server);
  ChannelOptions options = InBand();
  options.in_band = in_band;
  auto stub = test::TestService::NewStub(server.Channel(options));
  ASSERT_TRUE(ExchangeOne(stub.get(), "first").ok());
  const size_t before = OpenDescriptors();
  for (int i = 0; i < 2000; ++i) {
    const grpc::Status status = ExchangeOne(stub.get(), std::to_string(i));
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  // Two ends, two directions, each its cache; and what is just being closed.
  EXPECT_LE(OpenDescriptors(), before + 4 * 8 + 16);
}

// A client that sends to a handler that never asks.
TEST_F(InBandTest, WhatNobodyAsksForIsPushedOut) {
  InBandOptions in_band;
  in_band.max_fds_per_connection = 4;
  TestServer server(Listen(PortWire::kInBand, in_band));
  server.service.exchange = [](grpc::ServerContext*, const test::ExchangeRequest*,
                               test::ExchangeReply*) { return grpc::Status::OK; };
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  for (int i = 0; i < 300; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    for (int k = 0; k < 3; ++k) ASSERT_TRUE(fds->SendFd(MemoryFile("unwanted")).ok());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
    ASSERT_TRUE(status.ok()) << i << ": " << status.error_message();
  }
}

// --- With credentials ---

TEST_F(InBandTest, ACallsOwnCredentialsAreAppliedToo) {
  class Plugin final : public grpc::MetadataCredentialsPlugin {
   public:
    grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                             std::multimap<grpc::string, grpc::string>* metadata) override {
      metadata->emplace("x-user", "me");
      return grpc::Status::OK;
    }
  };
  TestServer server(Listen(PortWire::kInBand));
  AnswerAll(&server.service);
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_credentials(grpc::experimental::MetadataCredentialsFromPlugin(
      std::make_unique<Plugin>(), GRPC_SECURITY_NONE));
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.add_urls(fds->SendFd(MemoryFile("one"))->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ("one|", reply.payload());
  EXPECT_EQ("x-user=me;", reply.status_text());
}

TEST_F(InBandTest, LocalCredentials) {
  TestServer server(Listen(PortWire::kInBand), grpc::experimental::LocalServerCredentials(UDS));
  Serve(&server);
  auto stub = test::TestService::NewStub(
      server.Channel(InBand(), grpc::experimental::LocalCredentials(UDS)));
  const grpc::Status status = ExchangeOne(stub.get(), "x");
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(InBandTest, NoEntryOfGrpcfdIsInTheMetadata) {
  TestServer server(Listen(PortWire::kInBand));
  server.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest*,
                               test::ExchangeReply* reply) {
    for (const auto& [key, value] : context->client_metadata()) {
      (void)value;
      const std::string name(key.data(), key.size());
      if (name == "grpcfd-bin" || name == "grpcfd-urls") reply->set_status_text(name);
    }
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  ASSERT_TRUE(FromContext(&context)->SendFd(MemoryFile("x")).ok());
  test::ExchangeReply reply;
  ASSERT_TRUE(stub->Exchange(&context, test::ExchangeRequest(), &reply).ok());
  EXPECT_EQ("", reply.status_text());
}

TEST_F(InBandTest, PerRpcCredentialsBringTheirSetWithEachCall) {
  TestServer server(Listen(PortWire::kInBand));
  AnswerAll(&server.service);
  auto stub = test::TestService::NewStub(server.Channel(InBand()));
  auto credentials = PerRpcCredentials();
  auto url = FromPerRpcCredentials(credentials)->SendFd(MemoryFile("shared"));
  ASSERT_TRUE(url.ok());
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(credentials);
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ("shared|", reply.payload());
  }
}

// --- Policies ---

TEST_F(InBandTest, TheReceivePoliciesHold) {
  std::shared_ptr<FdServer> fd_server;
  TestServer server([&fd_server](grpc::ServerBuilder*, ListenOptions* options) {
    FdServerOptions strict;
    strict.receive_policy = ReceivePolicy::Strict();
    fd_server = *FdServer::Create(strict);
    options->fd_server = fd_server;
    options->wire = PortWire::kInBand;
  });
  AnswerAll(&server.service);
  ChannelOptions options = InBand();
  options.fd_channel_options.receive_policy = ReceivePolicy().MaxFds(0);
  auto stub = test::TestService::NewStub(server.Channel(options));
  for (const bool directory : {true, false}) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    auto url = directory ? fds->SendFilename("/", O_RDONLY | O_DIRECTORY)
                         : fds->SendFd(MemoryFile("fine"));
    ASSERT_TRUE(url.ok());
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    request.set_command("reply");
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    if (directory) {
      EXPECT_EQ(grpc::StatusCode::PERMISSION_DENIED, status.error_code());
      continue;
    }
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(1, reply.urls_size());
    EXPECT_EQ(absl::StatusCode::kPermissionDenied, fds->RecvFd(reply.urls(0)).status().code());
  }
  // The relay counts what the kernel has taken, and by then the reply may be here.
  InBandStats stats = fd_server->Stats().in_band;
  for (const absl::Time limit = absl::Now() + absl::Seconds(20);
       stats.fds_sent == 0 && absl::Now() < limit; stats = fd_server->Stats().in_band) {
    std::this_thread::yield();
  }
  EXPECT_EQ(1u, stats.connections);
  EXPECT_EQ(2u, stats.fds_received);
  EXPECT_EQ(1u, stats.fds_sent);
  EXPECT_EQ(1u, stats.asks_refused_policy);
}

// --- Storms ---

TEST_F(InBandTest, StartsAndStopsUnderLoadLeaveNothing) {
  for (int round = 0; round < 15; ++round) {
    TestServer server(Listen(round % 2 == 0 ? PortWire::kInBand : PortWire::kBoth));
    Serve(&server);
    std::atomic<bool> stop{false};
    std::vector<std::thread> clients;
    for (int i = 0; i < 3; ++i) {
      clients.emplace_back([&, i] {
        while (!stop) {
          auto stub = test::TestService::NewStub(
              server.Channel(i == 2 && round % 2 != 0 ? ChannelOptions() : InBand()));
          for (int call = 0; call < 3; ++call) (void)ExchangeOne(stub.get(), "x");
        }
      });
    }
    auto stub = test::TestService::NewStub(server.Channel(InBand()));
    const grpc::Status status = ExchangeOne(stub.get(), "healthy");
    EXPECT_TRUE(status.ok()) << status.error_message();
    server.server()->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(5));
    stop = true;
    for (std::thread& client : clients) client.join();
  }
}

}  // namespace
}  // namespace testing_internal
}  // namespace grpcfd
