// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/same_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "fdchannel/os/same_open_file.h"
#include "urls/statx.h"

namespace grpcfd {
namespace internal {

FileTraits LookAtFile(BorrowedFd fd) {
  FileTraits traits;
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0) return traits;
  traits.access = flags & (O_ACCMODE | O_PATH | O_APPEND);
  InodeFacts facts;
  if (StatxInode(fd.get(), "", AT_EMPTY_PATH, &facts) != 0) return traits;
  traits.interchangeable = facts.type == S_IFREG || facts.type == S_IFDIR ||
                           facts.type == S_IFLNK || facts.type == S_IFBLK;
  return traits;
}

bool AsGoodAs(const FileTraits& first, const FileTraits& second) {
  return first.interchangeable && first == second;
}

bool SameFile(BorrowedFd a, BorrowedFd b) {
  bool same = false;
  if (CompareOpenFiles(a, b, &same) == 0) return same;
  return AsGoodAs(LookAtFile(a), LookAtFile(b));
}

}  // namespace internal
}  // namespace grpcfd
