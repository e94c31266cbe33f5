// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that are sent while a stream runs, on a channel with a retry policy: they are
// replayed with the messages that name them.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <future>
#include <string>

#include "absl/status/status.h"
#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/retry_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_internal::Content;
using testing_internal::Log;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::StubOf;
using testing_internal::TestServer;
using testing_internal::Text;
using testing_internal::Unavailable;

class RetriedStreamTest : public ::testing::Test {
 protected:
  using Stream = grpc::ClientReaderWriter<test::ExchangeRequest, test::ExchangeReply>;

  static bool Write(Stream* stream, const std::string& url) {
    test::ExchangeRequest request;
    request.add_urls(url);
    return stream->Write(request);
  }
  // Reads messages until there is none, or `last` of them were there; their descriptors' contents.
  static std::string ReadContents(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream, int last) {
    std::string contents;
    auto fds = FromContext(context);
    if (!fds->status().ok()) return fds->status().ToString();
    test::ExchangeRequest request;
    for (int i = 0; i < last && stream->Read(&request); ++i) {
      auto fd = fds->RecvFd(request.urls(0));
      contents += fd.ok() ? Content(*fd) + "|" : fd.status().ToString();
    }
    return contents;
  }

  TestServer server_;
  Log log_;
};

// Retried once, and nothing is written after the response: gRPC 1.51.1 itself, without grpcfd too,
// now and then crashes when a stream of several messages is retried twice, and delivers an empty
// message when one is written after the response to a retried stream.
TEST_F(RetriedStreamTest, AreReplayedWithTheMessagesThatNameThem) {
  std::promise<void> all_written;
  server_.service.chat =
      [&](grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        if (log_.Add(ReadContents(context, stream, 3)) > 1) {
          stream->Write(test::ExchangeReply());
          return grpc::Status::OK;
        }
        all_written.get_future().wait();
        return Unavailable("first");
      };
  auto stub = StubOf(server_.address(), 4);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  const auto before = handle->SendFd(MemoryFile("before"));
  ASSERT_TRUE(before.ok());
  auto stream = stub->Chat(&context);
  EXPECT_TRUE(Write(stream.get(), before->ToString()));
  for (const char* content : {"second", "third"}) {
    const auto url = handle->SendFd(MemoryFile(content));
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_TRUE(Write(stream.get(), url->ToString()));
  }
  all_written.set_value();
  test::ExchangeReply reply;
  EXPECT_TRUE(stream->Read(&reply));
  EXPECT_EQ("OK", Text(stream->Finish()));
  EXPECT_THAT(log_.lines(), ElementsAre("before|second|third|", "before|second|third|"));
}

// What is sent after the response is sent once, and its index follows on.
TEST_F(RetriedStreamTest, GoOnAfterTheResponse) {
  server_.service.chat =
      [&](grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        log_.Add(ReadContents(context, stream, 2));
        stream->Write(test::ExchangeReply());
        log_.Add(ReadContents(context, stream, 20));
        return grpc::Status::OK;
      };
  auto stub = StubOf(server_.address(), 4);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  const auto before = handle->SendFd(MemoryFile("before"));
  ASSERT_TRUE(before.ok());
  auto stream = stub->Chat(&context);
  EXPECT_TRUE(Write(stream.get(), before->ToString()));
  uint32_t index = 0;
  std::string expected;
  for (int i = 0; i < 21; ++i) {
    const auto url = handle->SendFd(MemoryFile(std::to_string(i)));
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(++index, url->index());
    EXPECT_TRUE(Write(stream.get(), url->ToString()));
    if (i > 0) expected += std::to_string(i) + "|";
    test::ExchangeReply reply;
    if (i == 0) {
      ASSERT_TRUE(stream->Read(&reply));
    }
  }
  EXPECT_TRUE(stream->WritesDone());
  EXPECT_EQ("OK", Text(stream->Finish()));
  EXPECT_THAT(log_.lines(), ElementsAre("before|0|", expected));
}

// As gRPC keeps only so much of what was sent (GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE).
TEST_F(RetriedStreamTest, MoreThanACallMayHaveAreNotKept) {
  server_.service.chat =
      [&](grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        log_.Add(ReadContents(context, stream, 17));
        return Unavailable("first");
      };
  auto stub = StubOf(server_.address(), 3);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  auto stream = stub->Chat(&context);
  // Until the server has the call, no more than it may begin with; after that as many as it takes.
  std::string expected;
  for (int i = 0; i < 17; ++i) {
    auto url = handle->SendFd(MemoryFile(std::to_string(i)));
    while (absl::IsResourceExhausted(url.status())) url = handle->SendFd(MemoryFile("17th"));
    ASSERT_TRUE(url.ok()) << url.status();
    expected += i == 16 ? "17th|" : std::to_string(i) + "|";
    EXPECT_TRUE(Write(stream.get(), url->ToString()));
  }
  EXPECT_TRUE(stream->WritesDone());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(grpc::StatusCode::RESOURCE_EXHAUSTED, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), HasSubstr("kept for another attempt"));
  EXPECT_EQ(1u, log_.lines().size());
}

}  // namespace
}  // namespace grpcfd
