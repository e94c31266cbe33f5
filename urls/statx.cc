// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "urls/statx.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace grpcfd {
namespace internal {

int StatxInode(int dirfd, const char* path, int flags, InodeFacts* out) {
  // Not glibc's wrapper, which makes EINVAL of ENOSYS if there is AT_STATX_DONT_SYNC in the flags.
  struct statx attributes;
  if (::syscall(SYS_statx, dirfd, path, flags | AT_STATX_DONT_SYNC, STATX_INO | STATX_TYPE,
                &attributes) == 0) {
    out->dev_ino.dev = ::makedev(attributes.stx_dev_major, attributes.stx_dev_minor);
    out->dev_ino.ino = attributes.stx_ino;
    out->type = attributes.stx_mode & S_IFMT;
    out->rdev_major = attributes.stx_rdev_major;
    return 0;
  }
  const int error = errno;
  // The kernel itself says neither of a statx(2) like this one.
  if (error != ENOSYS && error != EPERM) return error;
  struct stat st;
  if (::fstatat(dirfd, path, &st, flags) != 0) return errno;
  out->dev_ino.dev = st.st_dev;
  out->dev_ino.ino = st.st_ino;
  out->type = st.st_mode & S_IFMT;
  out->rdev_major = ::major(st.st_rdev);
  return 0;
}

}  // namespace internal
}  // namespace grpcfd
