// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SameOpenFile: whether two descriptors of this process are the same open file.
//
// It shows that the descriptor which arrived is the one that was sent. An open file ("open file
// description" in open(2)) is what dup(2), fork(2) and SCM_RIGHTS share: one file offset, one set
// of status flags. Numbers differ between the ends and are reused, and (dev, ino) is shared by two
// opens of one file, by both ends of a pipe, and by all eventfds of the machine.
#ifndef GRPCFD_TESTING_SAME_FILE_H_
#define GRPCFD_TESTING_SAME_FILE_H_

#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"

namespace grpcfd {

// Returns true if `a` and `b` are one open file. INVALID_ARGUMENT if one of them is negative or
// closed; UNIMPLEMENTED or PERMISSION_DENIED where the kernel has no F_DUPFD_QUERY (Linux 6.10) and
// kcmp(2) is missing or forbidden. Thread-safe.
absl::StatusOr<bool> SameOpenFile(BorrowedFd a, BorrowedFd b);

}  // namespace grpcfd

#endif  // GRPCFD_TESTING_SAME_FILE_H_
