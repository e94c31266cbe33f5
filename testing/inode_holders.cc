// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/testing/inode_holders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "testing/proc_fd_dir.h"
#include "urls/statx.h"

namespace grpcfd {
namespace {

bool Vanished(int error) { return error == ENOENT || error == ESRCH; }
bool Forbidden(int error) { return error == EACCES || error == EPERM; }

// Every process in /proc, in ascending order.
absl::StatusOr<std::vector<pid_t>> AllPids() {
  struct DirCloser {
    void operator()(DIR* dir) const { ::closedir(dir); }
  };
  const std::unique_ptr<DIR, DirCloser> proc(::opendir("/proc"));
  if (proc == nullptr) return absl::ErrnoToStatus(errno, "opening /proc");
  std::vector<pid_t> pids;
  while (true) {
    errno = 0;
    const struct dirent* const entry = ::readdir(proc.get());
    if (entry == nullptr) {
      if (errno != 0) return absl::ErrnoToStatus(errno, "reading /proc");
      break;
    }
    const pid_t pid = ::atoi(entry->d_name);  // 0 if it is not a process
    if (pid > 0) pids.push_back(pid);
  }
  return pids;
}

// Adds the holders in one process to `result`. Its own error if neither "vanished" nor "forbidden".
absl::Status AddHoldersOf(pid_t pid, const DevIno& dev_ino, InodeHolders* result) {
  internal::ProcFdDir dir(pid);
  std::vector<InodeHolder> found;
  bool forbidden = false;
  for (int fd = dir.Next(); fd >= 0; fd = dir.Next()) {
    DevIno entry;
    // Follows the link to the open file itself; nothing is opened by that, so no device is woken
    // and no pipe gets another writer. An error means that the descriptor is gone, or that we may
    // no more look: a process that changes its user in between.
    const int error =
        internal::StatxDevIno(dir.dirfd(), absl::StrCat(fd).c_str(), AT_NO_AUTOMOUNT, &entry);
    if (error == 0 && entry == dev_ino) found.push_back(InodeHolder{pid, fd});
    if (Forbidden(error)) forbidden = true;
  }
  if (Vanished(dir.error())) {
    ++result->vanished_processes;
    return absl::OkStatus();
  }
  if (forbidden || Forbidden(dir.error())) {
    ++result->forbidden_processes;
    return absl::OkStatus();
  }
  if (dir.error() != 0) {
    return absl::ErrnoToStatus(dir.error(), absl::StrCat("reading /proc/", pid, "/fd"));
  }
  result->holders.insert(result->holders.end(), found.begin(), found.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InodeHolders> FindInodeHolders(const DevIno& dev_ino,
                                              const std::vector<pid_t>& pids) {
  InodeHolders result;
  for (const pid_t pid : pids) {
    if (pid <= 0) {
      return absl::InvalidArgumentError(absl::StrCat("expected the id of a process, got ", pid));
    }
    const absl::Status status = AddHoldersOf(pid, dev_ino, &result);
    if (!status.ok()) return status;
  }
  std::sort(result.holders.begin(), result.holders.end(),
            [](const InodeHolder& a, const InodeHolder& b) {
              return a.pid != b.pid ? a.pid < b.pid : a.fd < b.fd;
            });
  return result;
}

absl::StatusOr<InodeHolders> FindInodeHolders(const DevIno& dev_ino) {
  const absl::StatusOr<std::vector<pid_t>> pids = AllPids();
  if (!pids.ok()) return pids.status();
  return FindInodeHolders(dev_ino, *pids);
}

absl::StatusOr<size_t> CountHolders(const DevIno& dev_ino) {
  const absl::StatusOr<InodeHolders> found = FindInodeHolders(dev_ino);
  if (!found.ok()) return found.status();
  return found->holders.size();
}

absl::StatusOr<size_t> CountHolders(const DevIno& dev_ino, const std::vector<pid_t>& pids) {
  const absl::StatusOr<InodeHolders> found = FindInodeHolders(dev_ino, pids);
  if (!found.ok()) return found.status();
  if (found->forbidden_processes > 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("expected to read the descriptor tables of ", pids.size(), " processes, but ",
                     found->forbidden_processes,
                     " of them may not be looked at; run as their user, or as root"));
  }
  return found->holders.size();
}

}  // namespace grpcfd
