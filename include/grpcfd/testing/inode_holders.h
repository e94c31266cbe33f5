// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FindInodeHolders, CountHolders: who holds an inode open, across processes.
//
// "The server has closed it" is a statement about another process. This looks at the descriptor
// tables of all processes under /proc, as fuser(1) and lsof(8) do, so a test can assert that a
// descriptor passed along is open exactly where it should be. The links are followed with statx(2):
// names change with rename(2) and unlink(2).
//
// Count descriptors of a file of the test's own: memfds, pipes, sockets and files have an inode of
// their own, but all eventfds (epolls, timerfds, signalfds) of the machine share one. A pipe's two
// ends count alike. No table has a descriptor that is in flight between sendmsg(2) and recvmsg(2),
// or a file that is only mapped.
#ifndef GRPCFD_TESTING_INODE_HOLDERS_H_
#define GRPCFD_TESTING_INODE_HOLDERS_H_

#include <stddef.h>
#include <sys/types.h>

#include <ostream>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {

// One descriptor that is open on the inode.
struct InodeHolder {
  pid_t pid = 0;
  int fd = -1;

  friend bool operator==(const InodeHolder& a, const InodeHolder& b) {
    return a.pid == b.pid && a.fd == b.fd;
  }
  friend bool operator!=(const InodeHolder& a, const InodeHolder& b) { return !(a == b); }
  friend std::ostream& operator<<(std::ostream& out, const InodeHolder& holder) {
    return out << "{pid " << holder.pid << ", fd " << holder.fd << "}";
  }
};

struct InodeHolders {
  // In order of pid, then of descriptor number.
  std::vector<InodeHolder> holders;

  // Processes that ended before or while their table was read. They hold nothing any more.
  size_t vanished_processes = 0;

  // Processes whose table may not be read: another user's, or not dumpable (proc(5),
  // "/proc/pid/fd"; the rule is that of ptrace(2)). Nothing is known of them.
  size_t forbidden_processes = 0;
};

// The descriptors open on `dev_ino` in all processes that this one can see. The tables change while
// they are read: an entry that comes or goes meanwhile may be missed. Fails only if /proc cannot be
// read. Thread-safe.
absl::StatusOr<InodeHolders> FindInodeHolders(const DevIno& dev_ino);

// The same, of the given processes only.
absl::StatusOr<InodeHolders> FindInodeHolders(const DevIno& dev_ino,
                                              const std::vector<pid_t>& pids);

// How many descriptors are open on `dev_ino` in all processes that may be looked at.
absl::StatusOr<size_t> CountHolders(const DevIno& dev_ino);

// The same, of the given processes only. PERMISSION_DENIED if one of them may not be looked at:
// a process that is named must be counted.
absl::StatusOr<size_t> CountHolders(const DevIno& dev_ino, const std::vector<pid_t>& pids);

}  // namespace grpcfd

#endif  // GRPCFD_TESTING_INODE_HOLDERS_H_
