// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// BorrowedFd::Dup.
#include "grpcfd/borrowed_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace grpcfd {

absl::StatusOr<UniqueFd> BorrowedFd::Dup() const {
  if (!valid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected an open descriptor to duplicate, got the number ", fd_));
  }
  // One call that is close-on-exec from birth: dup(2) and a later FD_CLOEXEC would leak the
  // duplicate into whatever another thread forks in between.
  const int fd = ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  const int error = errno;
  if (fd >= 0) return UniqueFd(fd);
  switch (error) {
    case EBADF:
      return absl::InvalidArgumentError(
          absl::StrCat("expected an open descriptor to duplicate, but number ", fd_, " is closed"));
    case EINVAL:  // fcntl(2): the lowest number asked for, 3, is beyond RLIMIT_NOFILE itself.
    case EMFILE:
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot duplicate descriptor ", fd_,
                       ": this process is at RLIMIT_NOFILE; raise it or close some"));
    default:  // fcntl(2) names no other; seccomp(2) filters may.
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot duplicate descriptor ", fd_, ": ", strerror(error)));
  }
}

}  // namespace grpcfd
