// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Typed descriptors over real calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "grpcfd/message.h"
#include "tests/interceptors/test_service.h"
#include "typed.grpc.pb.h"

namespace grpcfd {
namespace {

using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;

class TypedService final : public test::TypedService::Service {
  // Answers with one file for each plane: the plane's content, doubled.
  grpc::Status Import(grpc::ServerContext* context, const test::Image* request,
                      test::Image* reply) override {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    absl::StatusOr<TakenFds> taken = TakeAll(*fds, *request);
    if (!taken.ok()) return ToGrpcStatus(taken.status());
    for (const test::Plane& plane : request->planes()) {
      absl::StatusOr<UniqueFd> memory = taken->Take(plane.memory());
      if (!memory.ok()) return ToGrpcStatus(memory.status());
      const std::string content = Content(*memory);
      const absl::Status attached =
          Attach(*fds, MemoryFile(content + content), reply->add_planes()->mutable_memory());
      if (!attached.ok()) return ToGrpcStatus(attached);
    }
    return grpc::Status::OK;
  }

  // Reads the file and connects to the socket by the paths that it was given.
  grpc::Status Open(grpc::ServerContext* context, const test::Paths* request,
                    test::Paths* reply) override {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    test::Paths paths = *request;
    absl::StatusOr<TakenFds> taken = TakeAll(*fds, &paths);
    if (!taken.ok()) return ToGrpcStatus(taken.status());
    const UniqueFd file(::open(paths.file().substr(7).c_str(), O_RDONLY | O_CLOEXEC));
    reply->set_unmarked(Content(file));
    const UniqueFd connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    paths.socket().copy(address.sun_path, sizeof(address.sun_path) - 1, 7);
    const bool connected =
        ::connect(connection.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    reply->set_other(connected ? "connected" : "refused");
    return grpc::Status::OK;
  }
};

class TypedTest : public ::testing::Test {
 protected:
  TypedService service_;
  TestServer server_{[this](grpc::ServerBuilder* builder, ListenOptions*) {
    builder->RegisterService(&service_);
  }};
  std::unique_ptr<test::TypedService::Stub> stub_ = test::TypedService::NewStub(server_.Channel());
};

TEST_F(TypedTest, DescriptorsBothWays) {
  grpc::ClientContext context;
  SetDeadline(&context, 10);
  auto fds = FromContext(&context);
  test::Image request;
  test::Image reply;
  for (const char* content : {"a", "b", "c"}) {
    ASSERT_TRUE(Attach(*fds, MemoryFile(content), request.add_planes()->mutable_memory()).ok());
  }
  const grpc::Status status = stub_->Import(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  absl::StatusOr<TakenFds> taken = TakeAll(*fds, reply);
  ASSERT_TRUE(taken.ok()) << taken.status();
  ASSERT_EQ(taken->size(), 3u);
  EXPECT_EQ(Content(*taken->Take("planes[0].memory")), "aa");
  EXPECT_EQ(Content(*taken->Take("planes[1].memory")), "bb");
  EXPECT_EQ(Content(*taken->Take("planes[2].memory")), "cc");
}

TEST_F(TypedTest, AMissingDescriptorFailsTheCallWithItsField) {
  grpc::ClientContext context;
  SetDeadline(&context, 10);
  auto fds = FromContext(&context);
  test::Image request;
  test::Image reply;
  ASSERT_TRUE(Attach(*fds, MemoryFile("a"), request.add_planes()->mutable_memory()).ok());
  request.add_planes()->mutable_memory()->set_url("inode://1/2?fd=1");
  const grpc::Status status = stub_->Import(&context, request, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), ::testing::StartsWith("planes[1].memory: "));
}

TEST_F(TypedTest, PathsAcrossACall) {
  TempDir dir;
  const UniqueFd file(::open(dir.File("file").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(file.get(), "content", 7), 7);
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  dir.File("socket").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);

  grpc::ClientContext context;
  SetDeadline(&context, 10);
  auto fds = FromContext(&context);
  test::Paths request;
  test::Paths reply;
  request.set_file("file://" + dir.File("file"));
  request.set_socket("unix://" + dir.File("socket"));
  ASSERT_TRUE(AttachAll(*fds, &request).ok());
  const grpc::Status status = stub_->Open(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(reply.unmarked(), "content");
  EXPECT_EQ(reply.other(), "connected");
}

}  // namespace
}  // namespace grpcfd
