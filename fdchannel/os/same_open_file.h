// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// CompareOpenFiles: whether two descriptors of this process are one open file ("open file
// description" in open(2)).
#ifndef GRPCFD_FDCHANNEL_OS_SAME_OPEN_FILE_H_
#define GRPCFD_FDCHANNEL_OS_SAME_OPEN_FILE_H_

#include "grpcfd/borrowed_fd.h"

namespace grpcfd {
namespace internal {

// Returns 0 and fills `*same`, or returns the errno: EBADF if one of them is not open, EPERM or
// ENOSYS where nobody may ask. F_DUPFD_QUERY (Linux 6.10) needs no right; kcmp(2), which is asked
// where that is not there, is refused in many sandboxes. Thread-safe.
int CompareOpenFiles(BorrowedFd a, BorrowedFd b, bool* same);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_SAME_OPEN_FILE_H_
