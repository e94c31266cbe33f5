// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ProcFdDir: walks the descriptor table of a process in /proc/<pid>/fd.
//
// Why it exists: the leak checker, the count of descriptors and the search for holders all read the
// same directory.
//
// Reading the directory opens a descriptor. A walk of the process's own table leaves that one
// out.
#ifndef GRPCFD_TESTING_PROC_FD_DIR_H_
#define GRPCFD_TESTING_PROC_FD_DIR_H_

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {

// Thread-compatible.
class ProcFdDir {
 public:
  // `pid` 0 means this process. Check error() next.
  explicit ProcFdDir(pid_t pid) {
    const std::string path = pid == 0 ? "/proc/self/fd" : absl::StrCat("/proc/", pid, "/fd");
    dir_.reset(::opendir(path.c_str()));  // opendir(3) sets close-on-exec.
    if (dir_ == nullptr) {
      error_ = errno;
    } else if (pid == 0 || pid == ::getpid()) {
      skipped_ = dirfd();
    }
  }

  // The errno of opening or reading so far, 0 if there was none. ENOENT and ESRCH: no such process
  // (any more). EACCES and EPERM: it may not be looked at.
  int error() const { return error_; }

  // The next descriptor number, in no particular order, or -1 at the end or after an error.
  int Next() {
    while (error_ == 0) {
      errno = 0;
      const struct dirent* const entry = ::readdir(dir_.get());
      if (entry == nullptr) {
        error_ = errno;
        return -1;
      }
      if (entry->d_name[0] == '.') continue;
      const int fd = ::atoi(entry->d_name);
      if (fd != skipped_) return fd;
    }
    return -1;
  }

  // The directory itself; its entries are symbolic links named after the numbers. Only after
  // error() was found to be 0.
  int dirfd() const { return ::dirfd(dir_.get()); }

 private:
  struct DirCloser {
    void operator()(DIR* dir) const { ::closedir(dir); }
  };

  std::unique_ptr<DIR, DirCloser> dir_;
  int error_ = 0;
  int skipped_ = -1;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTING_PROC_FD_DIR_H_
