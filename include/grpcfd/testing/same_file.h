// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SameOpenFile: whether two descriptors of this process are the same open file.
//
// Why it exists: it is the only proof that the descriptor which arrived is the one that was sent.
// An open file ("open file description" in open(2)) is what dup(2), fork(2) and SCM_RIGHTS share:
// one file offset, one set of status flags.
//
// How people get it wrong: they compare numbers, which differ between the ends and are reused, or
// (dev, ino), which two opens of one file share, both ends of a pipe, and all eventfds of the
// machine.
#ifndef GRPCFD_TESTING_SAME_FILE_H_
#define GRPCFD_TESTING_SAME_FILE_H_

#include <errno.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"

namespace grpcfd {

// True if `a` and `b` are one open file, by kcmp(2) with KCMP_FILE. INVALID_ARGUMENT if one of them
// is negative or closed; UNIMPLEMENTED or PERMISSION_DENIED where the kernel or a seccomp filter
// has no kcmp(2) to offer. Thread-safe.
inline absl::StatusOr<bool> SameOpenFile(BorrowedFd a, BorrowedFd b) {
  if (!a.valid() || !b.valid()) {
    return absl::InvalidArgumentError("expected two open descriptors, got a negative number");
  }
  const pid_t self = ::getpid();
  // glibc has no wrapper. The descriptors are `unsigned long` to the kernel, and variadic arguments
  // are not converted.
  const long order = ::syscall(SYS_kcmp, self, self, KCMP_FILE,       // NOLINT(google-runtime-int)
                               static_cast<unsigned long>(a.get()),   // NOLINT(google-runtime-int)
                               static_cast<unsigned long>(b.get()));  // NOLINT(google-runtime-int)
  const int error = errno;
  if (order >= 0) return order == 0;  // 1 and 2 order the two by address, 3 says "not equal".
  if (error == EBADF) {
    return absl::InvalidArgumentError("expected two open descriptors, but one is closed");
  }
  if (error == EPERM) return absl::PermissionDeniedError("kcmp(2) is forbidden here");
  return absl::ErrnoToStatus(error, "kcmp");
}

}  // namespace grpcfd

#endif  // GRPCFD_TESTING_SAME_FILE_H_
