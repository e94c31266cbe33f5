// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/testing/same_file.h"

#include <errno.h>

#include "fdchannel/os/same_open_file.h"

namespace grpcfd {

absl::StatusOr<bool> SameOpenFile(BorrowedFd a, BorrowedFd b) {
  if (!a.valid() || !b.valid()) {
    return absl::InvalidArgumentError("expected two open descriptors, got a negative number");
  }
  bool same = false;
  const int error = internal::CompareOpenFiles(a, b, &same);
  if (error == 0) return same;
  if (error == EBADF) {
    return absl::InvalidArgumentError("expected two open descriptors, but one is closed");
  }
  if (error == EPERM) return absl::PermissionDeniedError("kcmp(2) is forbidden here");
  return absl::ErrnoToStatus(error, "kcmp");
}

}  // namespace grpcfd
