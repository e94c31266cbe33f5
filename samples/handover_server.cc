// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The server of the handover sample: it receives descriptors with a call, proves that each is what
// the client says, and sends others back with the reply. Start reading at main(), then
// HandoverService::Exchange, then the functions it calls.
//
//   handover_server unix:/run/user/1000/handover.sock
//
// grpcfd is in four places: AddListeningPort, FromContext, Take and Attach.
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
absl::Status ReadAndAppend(const Item& item, grpcfd::FdReceiver* fds, std::string* proof) {
  // From here on `file` is ours, and closed at the end of this function.
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd file, grpcfd::Take(*fds, item.fd()));
  GRPCFD_ASSIGN_OR_RETURN(const std::string content, ReadFile(file));
  absl::Status status = Expect(item.content(), content);
  status.Update(WriteToFile(file, item.answer(), content.size()));
  *proof = "server read it and appended";
  return status;
}

// The same file opened read-only: it must not have become the read-write one on its way, although
// both have the same inode.
absl::Status ReadAndBeRefused(const Item& item, grpcfd::FdReceiver* fds, ExchangeReply* reply) {
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd file, grpcfd::Take(*fds, item.fd()));
  GRPCFD_ASSIGN_OR_RETURN(const std::string content, ReadFile(file));
  absl::Status status = Expect(item.content(), content);
  if (pwrite(file.get(), "x", 1, 0) >= 0 || errno != EBADF) {
    status.Update(absl::InternalError("a write to the read-only file was not refused"));
  }
  (*reply->mutable_proofs())[item.fd().url()] = "server read it; its write was refused";
  return status;
}

// Eventfds: all of them on this machine share one inode, so only the URL's index tells them apart.
// The client finds in each the value that it asked for.
absl::Status AddValue(const Item& item, grpcfd::FdReceiver* fds, ExchangeReply* reply) {
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd event, grpcfd::Take(*fds, item.fd()));
  (*reply->mutable_proofs())[item.fd().url()] = absl::StrCat("server added ", item.value());
  return AddToEvent(event, item.value());
}

// A listening socket: the client has connected to its address and gave its own descriptor away, so
// nobody else can accept.
absl::Status AcceptAndTalk(const Item& item, grpcfd::FdReceiver* fds, ExchangeReply* reply) {
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd listener, grpcfd::Take(*fds, item.fd()));
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd connection, Accept(listener));
  GRPCFD_ASSIGN_OR_RETURN(const std::string content, ReadToEnd(connection));
  absl::Status status = Expect(item.content(), content);
  status.Update(WriteToStream(connection, item.answer()));
  (*reply->mutable_proofs())[item.fd().url()] = "server accepted a connection, read and answered";
  return status;
}

// Both ends of a pipe, with something in it.
absl::Status SendPipe(grpcfd::FdSender* fds, ExchangeReply* reply) {
  Item* read_item = reply->mutable_pipe_read_end();
  Item* write_item = reply->mutable_pipe_write_end();
  GRPCFD_ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  read_item->set_content("put into the pipe by the server");
  GRPCFD_RETURN_IF_ERROR(WriteToStream(pipe.write_end, read_item->content()));
  // Moved, the descriptor is given away, and closed here once it is on its way. The client relies
  // on it: it reads until no write end is open.
  GRPCFD_ASSIGN_OR_RETURN(*read_item->mutable_fd(), grpcfd::Attach(*fds, std::move(pipe.read_end)));
  GRPCFD_ASSIGN_OR_RETURN(*write_item->mutable_fd(),
                          grpcfd::Attach(*fds, std::move(pipe.write_end)));
  return absl::OkStatus();
}

// The read end of a pipe with something in it. The write end is closed here, so that the client
// reads to the end.
absl::Status SendFilledPipe(grpcfd::FdSender* fds, Item* item) {
  GRPCFD_ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  item->set_content("put into a pipe while the call runs");
  GRPCFD_RETURN_IF_ERROR(WriteToStream(pipe.write_end, item->content()));
  GRPCFD_ASSIGN_OR_RETURN(*item->mutable_fd(), grpcfd::Attach(*fds, std::move(pipe.read_end)));
  return absl::OkStatus();
}

// Memory that the client can map safely: sealed, so that nobody can change or shrink it.
absl::Status SendSealedMemory(grpcfd::FdSender* fds, Item* item) {
  item->set_content("put into memory by the server");
  GRPCFD_ASSIGN_OR_RETURN(const grpcfd::UniqueFd memory,
                          MakeMemoryFile("handover-reply", item->content()));
  GRPCFD_RETURN_IF_ERROR(Seal(memory));
  // Not moved: a duplicate is sent, and `memory` stays ours until the end of this function.
  GRPCFD_ASSIGN_OR_RETURN(*item->mutable_fd(), grpcfd::Attach(*fds, memory));
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

    // Update() keeps the first error. The order is free: Take finds the descriptor that is named,
    // whichever was sent first. (Only the read-only file must be looked at before the read-write
    // one changes its content.)
    absl::Status status = AcceptAndTalk(request->tcp_listener(), fds, reply);
    for (const Item& event : request->events()) status.Update(AddValue(event, fds, reply));
    status.Update(ReadAndBeRefused(request->read_only_file(), fds, reply));
    for (const Item* file :
         {&request->read_write_file(), &request->memory_file(), &request->unlinked_file()}) {
      status.Update(ReadAndAppend(*file, fds, &(*reply->mutable_proofs())[file->fd().url()]));
    }

    status.Update(SendPipe(fds, reply));
    status.Update(SendSealedMemory(fds, reply->mutable_sealed_memory_file()));
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
    GRPCFD_ASSIGN_OR_RETURN(const DescriptorTable table, handover::OpenDescriptors());
    for (const auto& [fd, target] : table) (*reply->mutable_table())[fd] = target;
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
