// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The test cases of Go's grpcfd, by name. Programs that are ported from there find the same
// promises here.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "grpcfd/testing/inode_holders.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::AnswerAll;
using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;

// A file with a name, open for reading and writing.
UniqueFd NamedFile(const std::string& path, const std::string& content) {
  UniqueFd fd(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(static_cast<ssize_t>(content.size()),
            pwrite(fd.get(), content.data(), content.size(), 0));
  return fd;
}

class GoCasesTest : public ::testing::Test {
 protected:
  GoCasesTest() { AnswerAll(&server_.service); }

  TestServer server_;
};

TEST_F(GoCasesTest, ServerReceivesByUrlThreeTimesOnOneCredentialsObject) {
  // Reads two bytes from the descriptor itself: the three calls get one open file, so the offset
  // moves on.
  server_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    auto fd = fds->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    char two[2] = {};
    const ssize_t got = read(fd->get(), two, sizeof(two));
    reply->set_payload(std::string(two, got < 0 ? 0 : static_cast<size_t>(got)));
    return grpc::Status::OK;
  };
  const auto credentials = PerRpcCredentials();
  UniqueFd file = MemoryFile("abcdef");
  auto url = FromPerRpcCredentials(credentials)->SendFd(file);
  ASSERT_TRUE(url.ok()) << url.status();
  auto stub = server_.Stub();
  for (const std::string expected : {"ab", "cd", "ef"}) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(credentials);
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(expected, reply.payload());
  }
  EXPECT_EQ(6, lseek(file.get(), 0, SEEK_CUR));
}

TEST_F(GoCasesTest, ClientReceivesByUrl) {
  auto stub = server_.Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  request.set_command("reply");
  request.set_payload("you");
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  auto url = InodeUrl::Parse(reply.urls(0));
  ASSERT_TRUE(url.ok()) << url.status();
  // Go's URLs have no index.
  auto fd = fds->RecvFd(InodeUrl(url->dev_ino()).ToString());
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ("reply to you", Content(*fd));
}

TEST_F(GoCasesTest, SendFile) {
  FILE* file = tmpfile();
  ASSERT_NE(nullptr, file);
  const UniqueFile owner(file);
  fputs("stdio", file);
  fflush(file);
  auto stub = server_.Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto url = FromContext(&context)->SendFile(file);
  ASSERT_TRUE(url.ok()) << url.status();
  auto expected = FileToUrl(file);
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(expected->dev_ino(), url->dev_ino());
  test::ExchangeRequest request;
  request.add_urls(url->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ("stdio|", reply.payload());
  // The caller's stream is still its own.
  EXPECT_EQ(0, fseek(file, 0, SEEK_SET));
  EXPECT_EQ('s', fgetc(file));
}

TEST_F(GoCasesTest, SendFilename) {
  TempDir dir;
  const std::string path = dir.File("named");
  NamedFile(path, "by name").Reset();
  // O_PATH unless told otherwise: a handle for the file, which cannot be read but reopened.
  server_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    auto fd = fds->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    reply->set_status_text(Content(*fd));
    const std::string link = "/proc/self/fd/" + std::to_string(fd->get());
    reply->set_payload(Content(UniqueFd(open(link.c_str(), O_RDONLY | O_CLOEXEC))));
    return grpc::Status::OK;
  };
  auto stub = server_.Stub();
  for (const bool o_path : {true, false}) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    auto url = o_path ? fds->SendFilename(path) : fds->SendFilename(path, O_RDONLY);
    ASSERT_TRUE(url.ok()) << url.status();
    auto expected = FilenameToUrl(path);
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_EQ(expected->dev_ino(), url->dev_ino());
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(o_path ? "unreadable" : "by name", reply.status_text());
    EXPECT_EQ("by name", reply.payload());
  }
}

TEST_F(GoCasesTest, SendFailsWhenTheServerStoppedAndNothingStaysOpen) {
  auto stub = server_.Stub();
  const auto call = [&stub](DevIno* dev_ino) {
    UniqueFd file = MemoryFile("going nowhere");
    *dev_ino = *FdToDevIno(file);
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto url = FromContext(&context)->SendFd(std::move(file));
    EXPECT_TRUE(url.ok()) << url.status();
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    return stub->Exchange(&context, request, &reply);
  };
  DevIno dev_ino;
  EXPECT_TRUE(call(&dev_ino).ok());
  server_.Stop();
  const grpc::Status status = call(&dev_ino);
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << status.error_message();
  auto held = CountHolders(dev_ino, {getpid()});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(0u, *held);
}

TEST_F(GoCasesTest, ServerSends) {
  TempDir dir;
  const std::string path = dir.File("of the server");
  const UniqueFd file = NamedFile(path, "the server's");
  server_.service.exchange = [&file, &path](grpc::ServerContext* context,
                                            const test::ExchangeRequest*,
                                            test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    for (const auto& url : {fds->SendFd(file), fds->SendFilename(path, O_RDONLY)}) {
      if (!url.ok()) return ToGrpcStatus(url.status());
      reply->add_urls(url->ToString());
    }
    return grpc::Status::OK;
  };
  auto stub = server_.Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, {}, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  for (const int i : {1, 0}) {
    auto fd = fds->RecvFd(reply.urls(i));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ("the server's", Content(*fd));
    EXPECT_EQ(i == 0 ? O_RDWR : O_RDONLY, fcntl(fd->get(), F_GETFL) & O_ACCMODE);
  }
}

TEST_F(GoCasesTest, SeveralClientsThreeFilesSixteenRounds) {
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([this, client] {
      auto stub = server_.Stub();  // A channel of its own, and so a session of its own.
      for (int round = 0; round < 16; ++round) {
        grpc::ClientContext context;
        SetDeadline(&context, 20);
        auto fds = FromContext(&context);
        test::ExchangeRequest request;
        std::string expected;
        for (int file = 0; file < 3; ++file) {
          const std::string content =
              std::to_string(client) + "/" + std::to_string(round) + "/" + std::to_string(file);
          auto url = fds->SendFd(MemoryFile(content));
          ASSERT_TRUE(url.ok()) << url.status();
          request.add_urls(url->ToString());
          expected += content + "|";
        }
        test::ExchangeReply reply;
        const grpc::Status status = stub->Exchange(&context, request, &reply);
        ASSERT_TRUE(status.ok()) << status.error_message();
        EXPECT_EQ(expected, reply.payload());
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(GoCasesTest, TheSameFileOverTheSameConnectionSixteenTimes) {
  const UniqueFd file = MemoryFile("again");
  auto stub = server_.Stub();
  for (int i = 0; i < 16; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto url = FromContext(&context)->SendFd(file);
    ASSERT_TRUE(url.ok()) << url.status();
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ("again|", reply.payload());
  }
}

}  // namespace
}  // namespace grpcfd
