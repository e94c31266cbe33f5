// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The relay of the handover sample: a third process between client and server. It passes every call
// on, with its descriptors, and brings back the reply with its own. It never looks into a message.
// Start reading at RelayService::Exchange.
//
//   relay unix:/run/user/1000/front.sock unix:/run/user/1000/handover.sock
//
// grpcfd is in three places: AddListeningPort, CreateChannel and ForwardFds.
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "grpcfd/grpcfd.h"
#include "handover.grpc.pb.h"

namespace handover {
namespace {

// A filter that lets everything pass and says so. A relay between people who do not trust each
// other would check `fd` here (fstat(2), fcntl(2)) and refuse what the next hop does not expect.
grpcfd::ForwardOptions Announcing(const char* direction) {
  grpcfd::ForwardOptions options;
  options.filter = [direction](const grpcfd::InodeUrl& url, grpcfd::BorrowedFd) {
    printf("relay: %-34s %s\n", url.ToString().c_str(), direction);
    fflush(stdout);
    return true;
  };
  return options;
}

class RelayService final : public Handover::Service {
 public:
  explicit RelayService(const std::shared_ptr<grpc::Channel>& next)
      : next_(Handover::NewStub(next)) {}

  grpc::Status Exchange(grpc::ServerContext* context, const ExchangeRequest* request,
                        ExchangeReply* reply) override {
    // gRPC's own way to pass a deadline and a cancellation on.
    const auto onward = grpc::ClientContext::FromServerContext(*context);
    // The descriptors: one line there, one line back. Their indices are kept, so the URLs in the
    // messages stay true, and the messages pass as they are.
    absl::Status there = grpcfd::ForwardFds(context, onward.get(), Announcing("passed on"));
    if (!there.ok()) return grpcfd::ToGrpcStatus(there);
    const grpc::Status status = next_->Exchange(onward.get(), *request, reply);
    absl::Status back = grpcfd::ForwardFds(onward.get(), context, Announcing("passed back"));
    return back.ok() ? status : grpcfd::ToGrpcStatus(back);
  }

  // A stream: the same for each message, in both directions. Forward what came, then the message.
  grpc::Status Converse(grpc::ServerContext* context,
                        grpc::ServerReaderWriter<ConverseReply, ConverseRequest>* stream) override {
    const auto onward = grpc::ClientContext::FromServerContext(*context);
    absl::Status there = grpcfd::ForwardFds(context, onward.get(), Announcing("passed on"));
    if (!there.ok()) return grpcfd::ToGrpcStatus(there);
    const auto next = next_->Converse(onward.get());
    absl::Status back;
    std::thread replies([&] {
      ConverseReply reply;
      while (next->Read(&reply)) {
        back.Update(grpcfd::ForwardFds(onward.get(), context, Announcing("passed back")));
        if (back.ok()) stream->Write(reply);
      }
    });
    ConverseRequest request;
    while (there.ok() && stream->Read(&request)) {
      there = grpcfd::ForwardFds(context, onward.get(), Announcing("passed on"));
      if (there.ok()) next->Write(request);
    }
    next->WritesDone();
    replies.join();
    const grpc::Status status = next->Finish();
    there.Update(back);
    return there.ok() ? status : grpcfd::ToGrpcStatus(there);
  }

  // The same, without printing. The client's first call is one of these.
  grpc::Status OpenDescriptors(grpc::ServerContext* context, const OpenDescriptorsRequest* request,
                               OpenDescriptorsReply* reply) override {
    const auto onward = grpc::ClientContext::FromServerContext(*context);
    onward->set_wait_for_ready(true);  // The server may be starting just now.
    absl::Status there = grpcfd::ForwardFds(context, onward.get());
    if (!there.ok()) return grpcfd::ToGrpcStatus(there);
    const grpc::Status status = next_->OpenDescriptors(onward.get(), *request, reply);
    absl::Status back = grpcfd::ForwardFds(onward.get(), context);
    return back.ok() ? status : grpcfd::ToGrpcStatus(back);
  }

 private:
  const std::unique_ptr<Handover::Stub> next_;
};

}  // namespace
}  // namespace handover

// NOLINTNEXTLINE(bugprone-exception-escape): CLI11 throws if options are defined wrongly.
int main(int argc, char** argv) {
  std::string address, next;
  CLI::App app("The relay of grpcfd's handover sample. Runs until SIGTERM or SIGINT.");
  app.add_option("address,--socket", address, "Where to listen: unix:PATH")->required();
  app.add_option("next,--next", next, "Where the server listens: unix:PATH")->required();
  CLI11_PARSE(app, argc, argv);

  // Blocked before gRPC starts its threads, which inherit it: so the two signals wait for sigwait()
  // below.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  grpcfd::ListenOptions options;
  options.mode = 0600;  // Only this user may connect.
  absl::Status bind_status;
  options.bind_status = &bind_status;

  handover::RelayService service(grpcfd::CreateChannel(next, grpc::InsecureChannelCredentials()));
  grpc::ServerBuilder builder;
  grpcfd::AddListeningPort(&builder, address, grpc::InsecureServerCredentials(), options);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    fprintf(stderr, "relay: cannot listen on %s: %s\n", address.c_str(),
            bind_status.ToString().c_str());
    return 1;
  }
  printf("relay: pid %d listens on %s and passes on to %s\n", getpid(), address.c_str(),
         next.c_str());
  fflush(stdout);  // The reader of this line may be at the end of a pipe.

  int received = 0;
  sigwait(&stop_signals, &received);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return 0;
}
