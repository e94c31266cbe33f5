// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/same_open_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

// Linux 6.10, newer than Debian 12's headers (include/uapi/linux/fcntl.h).
#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY (1024 + 3)
#endif

namespace grpcfd {
namespace internal {

int CompareOpenFiles(BorrowedFd a, BorrowedFd b, bool* same) {
  const int answer = ::fcntl(a.get(), F_DUPFD_QUERY, b.get());
  if (answer > 0) {
    *same = true;
    return 0;
  }
  if (answer == 0) {
    // Some kernels answer 0 also where `b` is closed (fs/fcntl.c, f_dupfd_query).
    if (::fcntl(b.get(), F_GETFD) < 0) return errno;
    *same = false;
    return 0;
  }
  const pid_t self = ::getpid();
  // glibc has no wrapper. The descriptors are `unsigned long` to the kernel, and variadic arguments
  // are not converted.
  const long order = ::syscall(SYS_kcmp, self, self, KCMP_FILE,       // NOLINT(google-runtime-int)
                               static_cast<unsigned long>(a.get()),   // NOLINT(google-runtime-int)
                               static_cast<unsigned long>(b.get()));  // NOLINT(google-runtime-int)
  if (order < 0) return errno;
  *same = order == 0;  // 1 and 2 order the two by address, 3 says "not equal".
  return 0;
}

}  // namespace internal
}  // namespace grpcfd
