// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The public forms that are more than one line. All of them end in the virtual methods.
#include "grpcfd/fd_transceiver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "fdchannel/fds/send_file.h"

namespace grpcfd {

absl::StatusOr<InodeUrl> FdSender::SendPath(const std::string& path, int flags) {
  absl::StatusOr<UniqueFd> fd = internal::OpenForSending(path, flags);
  if (!fd.ok()) return fd.status();
  return SendOwned(*std::move(fd));
}

absl::StatusOr<UniqueFd> FdReceiver::RecvFd(const std::string& url, Deadline deadline) {
  const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(url);
  if (!parsed.ok()) return parsed.status();
  return ReceiveFd(*parsed, deadline.time());
}

absl::StatusOr<UniqueFd> FdReceiver::DupFd(const std::string& url, Deadline deadline) {
  const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(url);
  if (!parsed.ok()) return parsed.status();
  return DuplicateFd(*parsed, deadline.time());
}

void FdReceiver::RecvFdAsync(const std::string& url, Deadline deadline, FdCallback done) {
  const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(url);
  if (!parsed.ok()) return done(parsed.status());
  ReceiveFdAsync(*parsed, deadline.time(), std::move(done));
}

void FdReceiver::RecvFdAsync(const std::string& url, FdCallback done) {
  RecvFdAsync(url, Deadline::Infinite(), std::move(done));
}

absl::StatusOr<UniqueFile> FdReceiver::RecvFile(const std::string& url, const std::string& mode) {
  const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(url);
  if (!parsed.ok()) return parsed.status();
  return RecvFile(*parsed, mode);
}

absl::StatusOr<UniqueFile> FdReceiver::RecvFile(const InodeUrl& url, const std::string& mode) {
  // Looked at first: a mistyped mode must not cost the descriptor, which can be taken only once.
  // fdopen(3) judges a mode by its first letter.
  if (mode.empty() || (mode[0] != 'r' && mode[0] != 'w' && mode[0] != 'a')) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a mode of fdopen(3), such as \"r\" or \"w+\", got \"",
                     absl::CEscape(mode), "\""));
  }
  absl::StatusOr<UniqueFd> fd = ReceiveFd(url, absl::InfiniteFuture());
  if (!fd.ok()) return fd.status();
  // fdopen(3) compares the mode with the access mode, which an O_PATH descriptor pretends to be
  // O_RDONLY; the stream would then fail at its first read.
  const int flags = ::fcntl(fd->get(), F_GETFL);
  if (flags >= 0 && (flags & O_PATH) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the descriptor of ", url.ToString(),
                     " is an O_PATH handle, which no stream can read or write; "
                     "send it opened with O_RDONLY or O_RDWR"));
  }
  FILE* const file = ::fdopen(fd->get(), mode.c_str());
  const int error = errno;
  if (file == nullptr) {
    const std::string message =
        absl::StrCat("opening the descriptor of ", url.ToString(), " as a stream with mode \"",
                     absl::CEscape(mode), "\"");
    if (error == EINVAL) {
      return absl::InvalidArgumentError(
          absl::StrCat(message, ": its access mode does not allow that"));
    }
    return absl::ErrnoToStatus(error, message);
  }
  // The stream owns the descriptor from here on, so the return value says nothing new.
  static_cast<void>(fd->Release());
  return UniqueFile(file);
}

}  // namespace grpcfd
