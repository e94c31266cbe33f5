// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A server in C++ that serves clients in Go. It gets a file from the client, and sends a pipe.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <string>

#include "grpcfd/grpcfd.h"
#include "notes.grpc.pb.h"

namespace {

absl::Status Write(const grpcfd::UniqueFd& fd, const std::string& text) {
  if (::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, "write");
}

class NotesService final : public notes::Notes::Service {
  grpc::Status Swap(grpc::ServerContext* context, const notes::SwapRequest* request,
                    notes::SwapReply* reply) override {
    return grpcfd::ToGrpcStatus(Answer(context, *request, reply));
  }

  static absl::Status Answer(grpc::ServerContext* context, const notes::SwapRequest& request,
                             notes::SwapReply* reply) {
    auto fds = grpcfd::FromContext(context);
    GRPCFD_ASSIGN_OR_RETURN(grpcfd::UniqueFd note, fds->RecvFd(request.note_url()));
    // The offset is shared with the client.
    if (::lseek(note.get(), 0, SEEK_END) < 0) return absl::ErrnoToStatus(errno, "lseek");
    absl::Status written = Write(note, ", read by a C++ server");
    if (!written.ok()) return written;

    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) return absl::ErrnoToStatus(errno, "pipe2");
    grpcfd::UniqueFd reader(ends[0]);
    const grpcfd::UniqueFd writer(ends[1]);
    written = Write(writer, "greetings from a C++ server");
    if (!written.ok()) return written;
    GRPCFD_ASSIGN_OR_RETURN(grpcfd::InodeUrl url, fds->SendFd(std::move(reader)));
    reply->set_pipe_url(url.ToString());
    return absl::OkStatus();
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: notes_server SOCKET\n";
    return 2;
  }
  // Before gRPC makes threads, so that only sigwait() below sees these.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);

  NotesService service;
  grpc::ServerBuilder builder;
  grpcfd::ListenOptions options;
  options.wire = grpcfd::PortWire::kBoth;  // Clients in Go, and those in C++ with the fdchannel.
  absl::Status bound;
  options.bind_status = &bound;
  grpcfd::AddListeningPort(&builder, std::string("unix:") + argv[1],
                           grpc::InsecureServerCredentials(), options);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    std::cerr << "C++ server: " << bound << "\n";
    return 1;
  }
  std::cout << "C++ server listens" << std::endl;
  int signal = 0;
  sigwait(&stop, &signal);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return 0;
}
