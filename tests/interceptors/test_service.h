// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the gRPC tests share: a server on a socket of its own, a service whose handlers are given by
// each test, and small makers of descriptors whose identity shows in their content.
#ifndef GRPCFD_TESTS_INTERCEPTORS_TEST_SERVICE_H_
#define GRPCFD_TESTS_INTERCEPTORS_TEST_SERVICE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "grpcfd/grpcfd.h"
#include "test.grpc.pb.h"

namespace grpcfd {
namespace testing_internal {

// A directory that goes with the object.
class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/grpcfd_test_XXXXXX";
    path_ = mkdtemp(name);
  }
  ~TempDir() { (void)!system(("rm -rf " + path_).c_str()); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A memfd with `content`.
inline UniqueFd MemoryFile(const std::string& content) {
  UniqueFd fd(memfd_create("grpcfd_test", MFD_CLOEXEC));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(static_cast<ssize_t>(content.size()),
            pwrite(fd.get(), content.data(), content.size(), 0));
  return fd;
}

// The first 4 KiB of a file, without moving its offset.
inline std::string Content(const UniqueFd& fd) {
  char buffer[4096];
  const ssize_t got = pread(fd.get(), buffer, sizeof(buffer), 0);
  return got < 0 ? "unreadable" : std::string(buffer, static_cast<size_t>(got));
}

inline grpc::Status AsStatus(const absl::Status& status) { return ToGrpcStatus(status); }

// The status as text, so that a failed comparison says why.
inline std::string Text(const grpc::Status& status) {
  return status.ok() ? "OK" : std::to_string(status.error_code()) + " " + status.error_message();
}

// Handlers as functions; unset ones are UNIMPLEMENTED.
class FunctionService final : public test::TestService::Service {
 public:
  std::function<grpc::Status(grpc::ServerContext*, const test::ExchangeRequest*,
                             test::ExchangeReply*)>
      exchange;
  std::function<grpc::Status(grpc::ServerContext*, grpc::ServerReader<test::ExchangeRequest>*,
                             test::ExchangeReply*)>
      upload;
  std::function<grpc::Status(grpc::ServerContext*, const test::ExchangeRequest*,
                             grpc::ServerWriter<test::ExchangeReply>*)>
      download;
  std::function<grpc::Status(grpc::ServerContext*,
                             grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>*)>
      chat;

  grpc::Status Exchange(grpc::ServerContext* context, const test::ExchangeRequest* request,
                        test::ExchangeReply* reply) override {
    return exchange ? exchange(context, request, reply) : Unset();
  }
  grpc::Status Upload(grpc::ServerContext* context,
                      grpc::ServerReader<test::ExchangeRequest>* reader,
                      test::ExchangeReply* reply) override {
    return upload ? upload(context, reader, reply) : Unset();
  }
  grpc::Status Download(grpc::ServerContext* context, const test::ExchangeRequest* request,
                        grpc::ServerWriter<test::ExchangeReply>* writer) override {
    return download ? download(context, request, writer) : Unset();
  }
  grpc::Status Chat(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) override {
    return chat ? chat(context, stream) : Unset();
  }

 private:
  static grpc::Status Unset() { return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "unset"); }
};

// A server with grpcfd on a socket of its own, and what a test needs to call it.
class TestServer {
 public:
  using Setup = std::function<void(grpc::ServerBuilder*, ListenOptions*)>;

  explicit TestServer(
      const Setup& setup = {},
      std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials()) {
    address_ = "unix:" + dir_.File("socket");
    credentials_ = std::move(credentials);
    setup_ = setup;
    Start();
  }
  ~TestServer() { Stop(); }

  void Start() {
    auto fd_server = FdServer::Create();
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    fd_server_ = *fd_server;
    grpc::ServerBuilder builder;
    ListenOptions options;
    options.fd_server = fd_server_;
    if (setup_) setup_(&builder, &options);
    fd_server_ = options.fd_server;  // It may have another one.
    absl::Status bound;
    options.bind_status = &bound;
    AddListeningPort(&builder, address_, credentials_, options);
    builder.RegisterService(&service);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr) << bound;
  }
  void Stop() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    server_.reset();
    fd_server_.reset();
  }

  const std::string& address() const { return address_; }
  std::string path() const { return address_.substr(5); }
  grpc::Server* server() { return server_.get(); }
  FdServer* fd_server() { return fd_server_.get(); }

  std::shared_ptr<grpc::Channel> Channel(const ChannelOptions& options = {},
                                         std::shared_ptr<grpc::ChannelCredentials> credentials =
                                             grpc::InsecureChannelCredentials()) const {
    // A pool of its own: channels of other tests to the same path must not share the connection.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpcfd::CreateCustomChannel(address_, credentials, arguments, {}, options);
  }
  std::unique_ptr<test::TestService::Stub> Stub() const {
    return test::TestService::NewStub(Channel());
  }

  FunctionService service;

 private:
  TempDir dir_;
  std::string address_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  Setup setup_;
  std::shared_ptr<FdServer> fd_server_;
  std::unique_ptr<grpc::Server> server_;
};

// Makes a round of calls. gRPC opens some descriptors of its own (epoll sets, wake-up eventfds)
// with the first server and the first calls of a process, and keeps them; after this, what a test
// leaves open is its own.
void WarmUp();

inline void SetDeadline(grpc::ClientContext* context, int seconds) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
}

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_TEST_SERVICE_H_
