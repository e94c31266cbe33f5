// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/same_file.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace grpcfd {
namespace internal {

FileTraits LookAtFile(BorrowedFd fd) {
  FileTraits traits;
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0) return traits;
  traits.access = flags & (O_ACCMODE | O_PATH | O_APPEND);
  // The type of a file cannot need the network: it never changes, so no statx flags are needed to
  // keep a remote file system out of it. Anonymous inodes have the type 0.
  struct statx st;
  if (::statx(fd.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) != 0) {
    return traits;
  }
  const mode_t type = st.stx_mode & S_IFMT;
  traits.interchangeable = type == S_IFREG || type == S_IFDIR || type == S_IFLNK || type == S_IFBLK;
  return traits;
}

bool AsGoodAs(const FileTraits& first, const FileTraits& second) {
  return first.interchangeable && first == second;
}

bool SameFile(BorrowedFd a, BorrowedFd b) {
  const pid_t self = ::getpid();
  // glibc has no wrapper. The descriptors are `unsigned long` to the kernel, and variadic arguments
  // are not converted.
  const long order = ::syscall(SYS_kcmp, self, self, KCMP_FILE,       // NOLINT(google-runtime-int)
                               static_cast<unsigned long>(a.get()),   // NOLINT(google-runtime-int)
                               static_cast<unsigned long>(b.get()));  // NOLINT(google-runtime-int)
  if (order >= 0) return order == 0;
  return AsGoodAs(LookAtFile(a), LookAtFile(b));
}

}  // namespace internal
}  // namespace grpcfd
