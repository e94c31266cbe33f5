// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// StatxInode: device, inode and type of a descriptor or a path, by statx(2). All callers ask here,
// so their numbers can be compared.
//
// Why not fstat(2): it may ask the server of a network file system for fresh attributes, and hang
// with it. None of these facts can change while the file is open, so what the kernel has cached is
// enough: AT_STATX_DONT_SYNC. fstatat(2) is the fall-back where statx(2) is refused.
#ifndef GRPCFD_URLS_STATX_H_
#define GRPCFD_URLS_STATX_H_

#include <stdint.h>
#include <sys/types.h>

#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

struct InodeFacts {
  DevIno dev_ino;           // The device packed by makedev(3), as fstat(2) gives it.
  mode_t type = 0;          // S_IFMT of the mode. 0: an anonymous inode (eventfd and its like).
  uint32_t rdev_major = 0;  // Of a device file.
};

// Asks for `path` relative to `dirfd`, symbolic links followed, or for `dirfd` itself if `flags`
// holds AT_EMPTY_PATH and `path` is empty. Returns 0 and fills `*out`, or returns the errno.
// Where a seccomp filter answers statx(2) with ENOSYS or EPERM, fstatat(2) is asked; it can wait
// for the server of a network or FUSE file system. Thread-safe.
int StatxInode(int dirfd, const char* path, int flags, InodeFacts* out);

// The same, device and inode only.
inline int StatxDevIno(int dirfd, const char* path, int flags, DevIno* out) {
  InodeFacts facts;
  const int error = StatxInode(dirfd, path, flags, &facts);
  if (error == 0) *out = facts.dev_ino;
  return error;
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_URLS_STATX_H_
