// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// StatxDevIno: the (dev, ino) of a descriptor or a path, by statx(2).
//
// Why it exists: fstat(2) may ask the server of a network file system for fresh attributes, and
// hang with it. Neither number can change while the file is open, so what the kernel has cached is
// enough: AT_STATX_DONT_SYNC. One place keeps the numbers of all callers comparable.
//
// How people get it wrong: statx(2) yields the device as two numbers. makedev(3) packs them as
// fstat(2) does; any other packing names a file that nobody else knows.
#ifndef GRPCFD_URLS_STATX_H_
#define GRPCFD_URLS_STATX_H_

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

// Asks for `path` relative to `dirfd`, symbolic links followed, or for `dirfd` itself if `flags`
// holds AT_EMPTY_PATH and `path` is empty. Returns 0 and fills `*out`, or the errno.
inline int StatxDevIno(int dirfd, const char* path, int flags, DevIno* out) {
  struct statx attributes;
  if (::statx(dirfd, path, flags | AT_STATX_DONT_SYNC, STATX_INO, &attributes) != 0) return errno;
  out->dev = ::makedev(attributes.stx_dev_major, attributes.stx_dev_minor);
  out->ino = attributes.stx_ino;
  return 0;
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_URLS_STATX_H_
