// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The server of the handover sample: it receives descriptors with a call, proves that each is what
// the client says, and sends others back with the reply. Start reading at main(), then
// HandoverService::Exchange, then the functions it calls.
//
//   handover_server unix:/run/user/1000/handover.sock
//
// grpcfd is in four places: AddListeningPort, FromContext, RecvFd and SendFd.
#include <errno.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "grpcfd/grpcfd.h"
#include "handover.grpc.pb.h"
#include "handover_io.h"

namespace handover {
namespace {

// Files: the content is what the client put there, and what we write the client can see, for it is
// the same file and no copy.
absl::Status ReadAndAppend(const Descriptor& descriptor, grpcfd::FdReceiver* fds,
                           std::string* proof) {
  // RecvFd takes: from here on `file` is ours, and closed at the end of this function.
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd file, fds->RecvFd(descriptor.url()));
  absl::StatusOr<std::string> content = ReadFile(file);
  if (!content.ok()) return content.status();
  absl::Status status = Expect(descriptor.content(), *content);
  status.Update(WriteToFile(file, descriptor.answer(), content->size()));
  *proof = "server read it and appended";
  return status;
}

// The same file opened read-only: it must not have become the read-write one on its way, although
// both have the same inode.
absl::Status ReadAndBeRefused(const Descriptor& descriptor, grpcfd::FdReceiver* fds,
                              ExchangeReply* reply) {
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd file, fds->RecvFd(descriptor.url()));
  absl::StatusOr<std::string> content = ReadFile(file);
  if (!content.ok()) return content.status();
  absl::Status status = Expect(descriptor.content(), *content);
  if (pwrite(file.get(), "x", 1, 0) >= 0 || errno != EBADF) {
    status.Update(absl::InternalError("a write to the read-only file was not refused"));
  }
  (*reply->mutable_proofs())[descriptor.url()] = "server read it; its write was refused";
  return status;
}

// Eventfds: all of them on this machine share one inode, so only the URL's index tells them apart.
// The client finds in each the value that it asked for.
absl::Status AddValue(const Descriptor& descriptor, grpcfd::FdReceiver* fds, ExchangeReply* reply) {
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd event, fds->RecvFd(descriptor.url()));
  (*reply->mutable_proofs())[descriptor.url()] = absl::StrCat("server added ", descriptor.value());
  return AddToEvent(event, descriptor.value());
}

// A listening socket: the client has connected to its address and gave its own descriptor away, so
// nobody else can accept.
absl::Status AcceptAndTalk(const Descriptor& descriptor, grpcfd::FdReceiver* fds,
                           ExchangeReply* reply) {
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd listener, fds->RecvFd(descriptor.url()));
  absl::StatusOr<grpcfd::UniqueFd> connection = Accept(listener);
  if (!connection.ok()) return connection.status();
  absl::StatusOr<std::string> content = ReadToEnd(*connection);
  if (!content.ok()) return content.status();
  absl::Status status = Expect(descriptor.content(), *content);
  status.Update(WriteToStream(*connection, descriptor.answer()));
  (*reply->mutable_proofs())[descriptor.url()] = "server accepted a connection, read and answered";
  return status;
}

// Both ends of a pipe, with something in it.
absl::Status SendPipe(grpcfd::FdSender* fds, ExchangeReply* reply) {
  absl::StatusOr<Pipe> pipe = MakePipe();
  if (!pipe.ok()) return pipe.status();
  reply->mutable_pipe_read_end()->set_content("put into the pipe by the server");
  absl::Status status = WriteToStream(pipe->write_end, reply->pipe_read_end().content());
  // Moved, the descriptor is given away, and closed here once it is on its way. The client relies
  // on it: it reads until no write end is open.
  absl::StatusOr<grpcfd::InodeUrl> read_url = fds->SendFd(std::move(pipe->read_end));
  if (!read_url.ok()) return read_url.status();
  absl::StatusOr<grpcfd::InodeUrl> write_url = fds->SendFd(std::move(pipe->write_end));
  if (!write_url.ok()) return write_url.status();
  reply->mutable_pipe_read_end()->set_url(read_url->ToString());
  reply->mutable_pipe_write_end()->set_url(write_url->ToString());
  return status;
}

// The read end of a pipe with something in it. The write end is closed here, so that the client
// reads to the end.
absl::Status SendFilledPipe(grpcfd::FdSender* fds, Descriptor* descriptor) {
  absl::StatusOr<Pipe> pipe = MakePipe();
  if (!pipe.ok()) return pipe.status();
  descriptor->set_content("put into a pipe while the call runs");
  absl::Status status = WriteToStream(pipe->write_end, descriptor->content());
  absl::StatusOr<grpcfd::InodeUrl> url = fds->SendFd(std::move(pipe->read_end));
  if (!url.ok()) return url.status();
  descriptor->set_url(url->ToString());
  return status;
}

// Memory that the client can map safely: sealed, so that nobody can change or shrink it.
absl::Status SendSealedMemory(grpcfd::FdSender* fds, ExchangeReply* reply) {
  Descriptor* descriptor = reply->mutable_sealed_memory_file();
  descriptor->set_content("put into memory by the server");
  absl::StatusOr<grpcfd::UniqueFd> memory = MakeMemoryFile("handover-reply", descriptor->content());
  if (!memory.ok()) return memory.status();
  if (absl::Status status = Seal(*memory); !status.ok()) return status;
  // Not moved, a duplicate is sent, and `memory` stays ours; it is closed at the end of this
  // function.
  absl::StatusOr<grpcfd::InodeUrl> url = fds->SendFd(*memory);
  if (!url.ok()) return url.status();
  descriptor->set_url(url->ToString());
  return absl::OkStatus();
}

class HandoverService final : public Handover::Service {
 public:
  grpc::Status Exchange(grpc::ServerContext* context, const ExchangeRequest* request,
                        ExchangeReply* reply) override {
    // The descriptors of this call, both directions. If the call cannot have any (it came over TCP,
    // say), each use of it says so.
    const std::shared_ptr<grpcfd::FdTransceiver> call = grpcfd::FromContext(context);
    grpcfd::FdTransceiver* fds = call.get();

    // Update() keeps the first error. The order is free: a URL finds its descriptor, whichever was
    // sent first. (Only the read-only file must be looked at before the read-write one changes its
    // content.)
    absl::Status status = AcceptAndTalk(request->tcp_listener(), fds, reply);
    for (const Descriptor& event : request->events()) status.Update(AddValue(event, fds, reply));
    status.Update(ReadAndBeRefused(request->read_only_file(), fds, reply));
    for (const Descriptor* file :
         {&request->read_write_file(), &request->memory_file(), &request->unlinked_file()}) {
      status.Update(ReadAndAppend(*file, fds, &(*reply->mutable_proofs())[file->url()]));
    }

    status.Update(SendPipe(fds, reply));
    status.Update(SendSealedMemory(fds, reply));
    return grpcfd::ToGrpcStatus(status);
  }

  // A stream: the same calls as in any handler, as often as messages come.
  grpc::Status Converse(grpc::ServerContext* context,
                        grpc::ServerReaderWriter<ConverseReply, ConverseRequest>* stream) override {
    const std::shared_ptr<grpcfd::FdTransceiver> fds = grpcfd::FromContext(context);
    ConverseRequest request;
    while (stream->Read(&request)) {
      ConverseReply reply;
      absl::Status status = ReadAndAppend(request.memory_file(), fds.get(), reply.mutable_proof());
      status.Update(SendFilledPipe(fds.get(), reply.mutable_pipe_read_end()));
      GRPCFD_RETURN_IF_ERROR(status);
      stream->Write(reply);
    }
    return grpc::Status::OK;
  }

  // A handler that does not use grpcfd. Descriptors that a client sends with this call are
  // closed when it ends.
  grpc::Status OpenDescriptors(grpc::ServerContext*, const OpenDescriptorsRequest*,
                               OpenDescriptorsReply* reply) override {
    absl::StatusOr<DescriptorTable> table = handover::OpenDescriptors();
    if (!table.ok()) return grpcfd::ToGrpcStatus(table.status());
    for (const auto& [fd, target] : *table) (*reply->mutable_table())[fd] = target;
    return grpc::Status::OK;
  }
};

}  // namespace
}  // namespace handover

// NOLINTNEXTLINE(bugprone-exception-escape): CLI11 throws if options are defined wrongly.
int main(int argc, char** argv) {
  std::string address;
  CLI::App app("The server of grpcfd's handover sample. Runs until SIGTERM or SIGINT.");
  app.add_option("address,--socket", address, "Where to listen: unix:PATH")->required();
  CLI11_PARSE(app, argc, argv);

  // Blocked before gRPC starts its threads, which inherit it: so the two signals wait for sigwait()
  // below.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  // Pipes and sockets from clients: one that hangs up must be an error of write(2), not our end.
  signal(SIGPIPE, SIG_IGN);

  grpcfd::ListenOptions options;
  options.mode = 0600;  // Only this user may connect.
  absl::Status bind_status;
  options.bind_status = &bind_status;

  handover::HandoverService service;
  grpc::ServerBuilder builder;
  // Instead of builder.AddListeningPort(...). This is all that a server does for grpcfd outside its
  // handlers.
  grpcfd::AddListeningPort(&builder, address, grpc::InsecureServerCredentials(), options);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    fprintf(stderr, "handover_server: cannot listen on %s: %s\n", address.c_str(),
            bind_status.ToString().c_str());
    return 1;
  }
  printf("handover_server: pid %d listens on %s\n", getpid(), address.c_str());
  fflush(stdout);  // The reader of this line may be at the end of a pipe.

  int received = 0;
  sigwait(&stop_signals, &received);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return 0;
}
