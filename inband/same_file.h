// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether two descriptors of one inode are the same open file.
//
// Why it exists: the receiver of this wire keeps the first descriptor of an inode and closes all
// that follow. That is harmless if they are the same open file, or as good as the same. If not, the
// peer silently gets the wrong one.
#ifndef GRPCFD_INBAND_SAME_FILE_H_
#define GRPCFD_INBAND_SAME_FILE_H_

#include "grpcfd/borrowed_fd.h"

namespace grpcfd {
namespace internal {

// What is remembered of an open file that is not held open any more.
struct FileTraits {
  int access = 0;                // Access mode, O_PATH, O_APPEND.
  bool interchangeable = false;  // A file, a directory, a block device: any open of it will do.

  friend bool operator==(const FileTraits& a, const FileTraits& b) {
    return a.access == b.access && a.interchangeable == b.interchangeable;
  }
};

// Of an open descriptor.
FileTraits LookAtFile(BorrowedFd fd);

// Whether a receiver that has a file with the traits `first` loses nothing when it drops one of the
// same inode with the traits `second`: both are opened alike, and the file is of a kind where the
// inode is all there is. Never true for anonymous inodes (eventfd and its like), pipes and sockets.
bool AsGoodAs(const FileTraits& first, const FileTraits& second);

// Asks the kernel. Where it has no F_DUPFD_QUERY and kcmp(2) is not allowed or not there
// (CONFIG_KCMP, seccomp), as AsGoodAs.
bool SameFile(BorrowedFd a, BorrowedFd b);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_SAME_FILE_H_
