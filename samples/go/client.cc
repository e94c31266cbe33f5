// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A client in C++ that speaks to servers in Go. It hands the server a file, and gets a pipe back.
#include <grpcpp/grpcpp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <iomanip>
#include <iostream>
#include <string>

#include "grpcfd/grpcfd.h"
#include "notes.grpc.pb.h"

namespace {

// What a read of a file from its beginning gives; the offset stays.
std::string ContentOf(const grpcfd::UniqueFd& file) {
  char text[100];
  const ssize_t got = ::pread(file.get(), text, sizeof(text), 0);
  return got < 0 ? "" : std::string(text, static_cast<size_t>(got));
}

absl::Status Swap(const std::string& socket) {
  grpcfd::ChannelOptions options;
  options.wire = grpcfd::Wire::kInBand;  // Only this is needed for Go.
  auto channel = grpcfd::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(),
                                             grpc::ChannelArguments(), {}, options);
  auto stub = notes::Notes::NewStub(channel);

  const grpcfd::UniqueFd note(::memfd_create("note", MFD_CLOEXEC));
  const std::string text = "a note from a C++ client";
  if (::write(note.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return absl::ErrnoToStatus(errno, "write to a memfd");
  }

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  auto fds = grpcfd::FromContext(&context);  // The descriptors of one call.
  absl::StatusOr<grpcfd::InodeUrl> url = fds->SendFd(note);
  if (!url.ok()) return url.status();
  notes::SwapRequest request;
  request.set_note_url(url->ToString());
  notes::SwapReply reply;
  const grpc::Status status = stub->Swap(&context, request, &reply);
  if (!status.ok()) return absl::UnavailableError(status.error_message());
  // The server wrote to the same file.
  std::cout << "C++ client -> server " << std::left << std::setw(22) << request.note_url()
            << " the file says: " << ContentOf(note) << "\n";

  absl::StatusOr<grpcfd::UniqueFd> pipe = fds->RecvFd(reply.pipe_url());
  if (!pipe.ok()) return pipe.status();
  // One read, not all of it: on this wire another end of the pipe may be open until the connection
  // closes.
  char greetings[100];
  const ssize_t got = ::read(pipe->get(), greetings, sizeof(greetings));
  if (got < 0) return absl::ErrnoToStatus(errno, "read from the pipe");
  std::cout << "server -> C++ client " << std::left << std::setw(22) << reply.pipe_url()
            << " the pipe says: " << std::string(greetings, static_cast<size_t>(got)) << "\n";
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: notes_client SOCKET\n";
    return 2;
  }
  const absl::Status status = Swap(argv[1]);
  if (!status.ok()) std::cerr << "C++ client: " << status << "\n";
  return status.ok() ? 0 : 1;
}
