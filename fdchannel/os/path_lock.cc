// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/path_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {
namespace {

// Whether this errno of open(2) comes from what was put at the path: a file that only its owner may
// open, a link, a directory, a socket.
bool IsAboutTheFile(int error) {
  return error == EACCES || error == EPERM || error == ELOOP || error == EISDIR || error == ENXIO;
}

// Whether the file that cannot be opened is another user's. One that cannot even be looked at is
// (FUSE shows its files to nobody but their user).
bool IsAnothers(const std::string& path, uid_t user) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 ? st.st_uid != user : errno != ENOENT;
}

}  // namespace

absl::StatusOr<PathLock> PathLock::Take(const std::string& path, uid_t user) {
  PathLock lock(absl::StrCat(path, ".grpcfd-lock"));
  UniqueFd file(::open(lock.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) {
    const int error = errno;
    if (IsAboutTheFile(error) && IsAnothers(lock.path_, user)) return lock;
    return absl::ErrnoToStatus(error, absl::StrCat("open ", lock.path_));
  }
  struct stat held, named;
  if (::fstat(file.get(), &held) != 0) return absl::ErrnoToStatus(errno, "fstat of the lock file");
  // Every process that may open the file can lock it. So only a file that no other user may open
  // counts: not a link that another user made to a file of this one's.
  if (held.st_uid != user || !S_ISREG(held.st_mode) || (held.st_mode & 077) != 0) return lock;
  const bool locked = ::flock(file.get(), LOCK_EX | LOCK_NB) == 0;
  if (!locked && errno != EWOULDBLOCK) {
    ::unlink(lock.path_.c_str());
    return lock;
  }
  // Its holder may have removed it since it was opened here.
  if (!locked || ::lstat(lock.path_.c_str(), &named) != 0 || held.st_ino != named.st_ino ||
      held.st_dev != named.st_dev) {
    return absl::UnavailableError(absl::StrCat("another process is binding it and has ", lock.path_,
                                               ": start again in a moment"));
  }
  lock.fd_ = std::move(file);
  return lock;
}

PathLock::~PathLock() {
  if (fd_.valid()) ::unlink(path_.c_str());
}

}  // namespace internal
}  // namespace grpcfd
