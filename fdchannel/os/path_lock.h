// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// PathLock: the right to bind a socket path, from before bind(2) until after listen(2).
//
// Why it exists: two processes that start at once must not both find a stale file, and the second
// remove the first one's new file; and a socket that is bound but does not listen yet looks as
// stale as one whose process is gone. The lock is a file beside the socket, removed with the lock.
//
// Who may hold it: processes of this user. In a directory that others may write to, anybody can
// create the lock file first and never let go; such a file is ignored
// (docs/decisions/0020-only-our-own-lock-file-counts.md).
#ifndef GRPCFD_FDCHANNEL_OS_PATH_LOCK_H_
#define GRPCFD_FDCHANNEL_OS_PATH_LOCK_H_

#include <sys/types.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Move-only; unlocks when destroyed. Thread-compatible.
class PathLock {
 public:
  // Never waits. The result holds nothing where the lock file is another user's than `user`, or the
  // file system has no locks: bind without it then.
  //   UNAVAILABLE  another process of the same user binds the path at this moment
  //   others       the lock file cannot be made, as open(2) says: no directory, no right to write
  static absl::StatusOr<PathLock> Take(const std::string& path, uid_t user = ::geteuid());

  PathLock(PathLock&&) = default;
  // Removes the file while it is still locked: a process that opened it sees that it is gone.
  ~PathLock();

  bool held() const { return fd_.valid(); }

 private:
  explicit PathLock(std::string path) : path_(std::move(path)) {}

  std::string path_;
  UniqueFd fd_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_PATH_LOCK_H_
