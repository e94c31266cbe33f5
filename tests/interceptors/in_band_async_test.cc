// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Calls over the in-band wire in the asynchronous APIs: callbacks and completion queues.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/interceptors/in_band_test_util.h"

namespace grpcfd {
namespace testing_internal {
namespace {

class ChatClient final
    : public grpc::ClientBidiReactor<test::ExchangeRequest, test::ExchangeReply> {
 public:
  explicit ChatClient(test::TestService::Stub* stub) {
    SetDeadline(&context_, 20);
    fds_ = FromContext(&context_);
    stub->async()->Chat(&context_, this);
    Write();
    StartRead(&reply_);
    StartCall();
  }
  std::vector<std::string> Wait() {
    done_.get_future().wait();
    return contents_;
  }
  const grpc::Status& status() const { return status_; }

 private:
  void Write() {
    request_.clear_urls();
    auto url = fds_->SendFd(MemoryFile("message " + std::to_string(contents_.size())));
    if (url.ok()) request_.add_urls(url->ToString());
    StartWrite(&request_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    fds_->RecvFdAsync(reply_.urls(0), [this](const absl::StatusOr<UniqueFd>& fd) {
      contents_.push_back(fd.ok() ? Content(*fd) : fd.status().ToString());
      Next();
    });
  }
  void OnWriteDone(bool) override { Next(); }
  // The reply may be here before the write is said to be done, and one write must end before the
  // next begins.
  void Next() {
    if (--under_way_ != 0) return;
    under_way_ = 2;
    if (contents_.size() == 20) {
      StartWritesDone();
    } else {
      Write();
    }
    StartRead(&reply_);
  }
  void OnDone(const grpc::Status& status) override {
    status_ = status;
    done_.set_value();
  }

  grpc::ClientContext context_;
  std::shared_ptr<FdTransceiver> fds_;
  test::ExchangeRequest request_;
  test::ExchangeReply reply_;
  std::atomic<int> under_way_{2};
  std::vector<std::string> contents_;
  grpc::Status status_;
  std::promise<void> done_;
};

class ChatService final : public test::TestService::CallbackService {
  grpc::ServerBidiReactor<test::ExchangeRequest, test::ExchangeReply>* Chat(
      grpc::CallbackServerContext* context) override {
    class Reactor final
        : public grpc::ServerBidiReactor<test::ExchangeRequest, test::ExchangeReply> {
     public:
      explicit Reactor(grpc::CallbackServerContext* context) : fds_(FromContext(context)) {
        if (!fds_->status().ok()) {
          Finish(ToGrpcStatus(fds_->status()));
          return;
        }
        StartRead(&request_);
      }
      void OnReadDone(bool ok) override {
        if (!ok) return Finish(grpc::Status::OK);
        fds_->RecvFdAsync(request_.urls(0), [this](const absl::StatusOr<UniqueFd>& fd) {
          if (!fd.ok()) return Finish(ToGrpcStatus(fd.status()));
          reply_.clear_urls();
          auto url = fds_->SendFd(MemoryFile("re: " + Content(*fd)));
          if (!url.ok()) return Finish(ToGrpcStatus(url.status()));
          reply_.add_urls(url->ToString());
          StartWrite(&reply_);
        });
      }
      void OnWriteDone(bool) override { StartRead(&request_); }
      void OnDone() override { delete this; }

     private:
      const std::shared_ptr<FdTransceiver> fds_;
      test::ExchangeRequest request_;
      test::ExchangeReply reply_;
    };
    return new Reactor(context);
  }
};

TEST_F(InBandTest, CallbackStreamsAtBothEnds) {
  ChatService service;
  TestServer server([&](grpc::ServerBuilder* builder, ListenOptions* options) {
    options->wire = PortWire::kInBand;
    builder->RegisterService("callback", &service);
  });
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "callback");
  auto stub = test::TestService::NewStub(grpcfd::CreateCustomChannel(
      server.address(), grpc::InsecureChannelCredentials(), arguments, {}, InBand()));
  ChatClient client(stub.get());
  const auto contents = client.Wait();
  EXPECT_TRUE(client.status().ok()) << client.status().error_message();
  ASSERT_EQ(20u, contents.size());
  for (size_t i = 0; i < contents.size(); ++i) {
    EXPECT_EQ("re: message " + std::to_string(i), contents[i]);
  }
}

TEST_F(InBandTest, CompletionQueuesAtBothEnds) {
  test::TestService::AsyncService service;
  std::unique_ptr<grpc::ServerCompletionQueue> queue;
  TestServer server([&](grpc::ServerBuilder* builder, ListenOptions* options) {
    options->wire = PortWire::kInBand;
    builder->RegisterService("queue", &service);
    queue = builder->AddCompletionQueue();
  });
  std::thread serving([&] {
    for (int i = 0; i < 10; ++i) {
      grpc::ServerContext context;
      test::ExchangeRequest request;
      grpc::ServerAsyncResponseWriter<test::ExchangeReply> writer(&context);
      service.RequestExchange(&context, &request, &writer, queue.get(), queue.get(), nullptr);
      void* tag;
      bool ok = false;
      ASSERT_TRUE(queue->Next(&tag, &ok) && ok);
      test::ExchangeReply reply;
      const grpc::Status status = Exchange(&context, request, &reply);
      if (status.ok()) {
        writer.Finish(reply, status, nullptr);
      } else {
        writer.FinishWithError(status, nullptr);
      }
      ASSERT_TRUE(queue->Next(&tag, &ok));
    }
  });
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "queue");
  {
    auto stub = test::TestService::NewStub(grpcfd::CreateCustomChannel(
        server.address(), grpc::InsecureChannelCredentials(), arguments, {}, InBand()));
    grpc::CompletionQueue client_queue;
    for (int i = 0; i < 10; ++i) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      auto fds = FromContext(&context);
      test::ExchangeRequest request;
      request.add_urls(fds->SendFd(MemoryFile("one"))->ToString());
      test::ExchangeReply reply;
      grpc::Status status;
      auto call = stub->AsyncExchange(&context, request, &client_queue);
      call->Finish(&reply, &status, nullptr);
      void* tag;
      bool ok = false;
      ASSERT_TRUE(client_queue.Next(&tag, &ok));
      ASSERT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ("one|", reply.payload());
      EXPECT_TRUE(fds->RecvFd(reply.urls(0)).ok());
    }
    client_queue.Shutdown();
    void* tag;
    bool ok;
    while (client_queue.Next(&tag, &ok)) {
    }
  }
  serving.join();
  server.server()->Shutdown();
  queue->Shutdown();
  void* tag;
  bool ok;
  while (queue->Next(&tag, &ok)) {
  }
}

}  // namespace
}  // namespace testing_internal
}  // namespace grpcfd
