// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The system calls of the handover sample, behind absl::Status. Nothing here knows of gRPC or of
// passing descriptors: read handover_client.cc and handover_server.cc first, and come here for a
// detail.
//
// The two processes share the file offset of a descriptor that was passed along, so each would
// move the other's. The files here are read and written at given positions (pread(2),
// pwrite(2)).
#ifndef GRPCFD_SAMPLES_HANDOVER_IO_H_
#define GRPCFD_SAMPLES_HANDOVER_IO_H_

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace handover {

// A file that has content, but no name any more: it lives as long as a descriptor of it is open, in
// whichever process.
absl::StatusOr<grpcfd::UniqueFd> MakeUnlinkedFile(const std::string& content);

// The same file, opened once more, read-only.
absl::StatusOr<grpcfd::UniqueFd> ReopenReadOnly(grpcfd::BorrowedFd file);

// memfd_create(2). `name` is only for people who look into /proc.
absl::StatusOr<grpcfd::UniqueFd> MakeMemoryFile(const std::string& name,
                                                const std::string& content);

// Forbids every later change of a memory file, by anybody: fcntl(2), F_ADD_SEALS. A receiver of a
// memory file calls IsSealed before trusting its content or mapping it, because the sender still
// has it.
absl::Status Seal(grpcfd::BorrowedFd memory_file);
bool IsSealed(grpcfd::BorrowedFd memory_file);

absl::StatusOr<grpcfd::UniqueFd> MakeEvent();
absl::Status AddToEvent(grpcfd::BorrowedFd event, uint64_t value);
absl::StatusOr<uint64_t> ReadEvent(grpcfd::BorrowedFd event);

struct Pipe {
  grpcfd::UniqueFd read_end;
  grpcfd::UniqueFd write_end;
};
absl::StatusOr<Pipe> MakePipe();

// A TCP socket that listens on a free port of 127.0.0.1; a connection to such a socket; and the
// connection at its other end.
absl::StatusOr<grpcfd::UniqueFd> ListenOnLoopback();
absl::StatusOr<grpcfd::UniqueFd> ConnectTo(grpcfd::BorrowedFd listener);
absl::StatusOr<grpcfd::UniqueFd> Accept(grpcfd::BorrowedFd listener);

// Nothing more will be sent on the connection: its reader comes to the end.
absl::Status FinishSending(grpcfd::BorrowedFd connection);

// The content of a file, from its start to its end.
absl::StatusOr<std::string> ReadFile(grpcfd::BorrowedFd file);
absl::Status WriteToFile(grpcfd::BorrowedFd file, const std::string& text, size_t position);

// What comes out of a pipe or a connection until nobody can write to it any more.
absl::StatusOr<std::string> ReadToEnd(grpcfd::BorrowedFd stream);
absl::Status WriteToStream(grpcfd::BorrowedFd stream, const std::string& text);

// DATA_LOSS, with both texts, if they differ.
absl::Status Expect(const std::string& expected, const std::string& actual);

// This process's descriptors, as /proc/self/fd has them: the numbers, and what they lead to.
using DescriptorTable = std::map<int, std::string>;
absl::StatusOr<DescriptorTable> OpenDescriptors();

}  // namespace handover

#endif  // GRPCFD_SAMPLES_HANDOVER_IO_H_
