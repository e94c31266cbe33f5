// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/testing/fd_leak_checker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "testing/proc_fd_dir.h"

namespace grpcfd {
namespace {

// What is tried at least where every number has to be tried: a test that lowers RLIMIT_NOFILE may
// have descriptors above the limit.
constexpr rlim_t kMinNumbersTried = 1 << 16;

// The numbers open in this process. Falls back to asking for each number where the directory cannot
// be opened, which is just when a test has used up RLIMIT_NOFILE and its table is of most interest.
std::set<int> OwnFds() {
  std::set<int> fds;
  internal::ProcFdDir dir(0);
  for (int fd = dir.Next(); fd >= 0; fd = dir.Next()) fds.insert(fd);
  if (dir.error() == 0) return fds;
  fds.clear();
  struct rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t numbers =
      std::min<rlim_t>(std::max(limit.rlim_cur, kMinNumbersTried), std::numeric_limits<int>::max());
  for (int fd = 0; fd < static_cast<int>(numbers); ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) fds.insert(fd);
  }
  return fds;
}

std::string Describe(int fd, const std::string& target) {
  return absl::StrCat("\n  ", fd, " -> ", target);
}

}  // namespace

size_t CountOpenFds() { return OwnFds().size(); }

absl::StatusOr<size_t> CountOpenFds(pid_t pid) {
  if (pid <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("expected the id of a process, got ", pid));
  }
  internal::ProcFdDir dir(pid);
  size_t count = 0;
  while (dir.Next() >= 0) ++count;
  // A process that ends while its table is read fails the read with ENOENT or ESRCH (fs/proc/fd.c).
  if (dir.error() == ESRCH) {
    return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  }
  if (dir.error() != 0) {
    return absl::ErrnoToStatus(dir.error(), absl::StrCat("reading /proc/", pid, "/fd"));
  }
  return count;
}

FdLeakChecker::FdLeakChecker() : before_(ReadTable()) {}

FdLeakChecker::~FdLeakChecker() {
  if (!checked_) Check();
}

FdLeakChecker::Table FdLeakChecker::ReadTable() {
  Table table;
  // The numbers first, then the look at each: the directory's own descriptor is closed by then, and
  // cannot be mistaken for one of the test's.
  for (const int fd : OwnFds()) {
    const absl::StatusOr<DevIno> dev_ino = FdToDevIno(BorrowedFd(fd));
    if (!dev_ino.ok()) continue;  // Closed by another thread in between.
    char target[PATH_MAX];
    const ssize_t size =
        ::readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), target, sizeof(target));
    table[fd] = Entry{size < 0 ? "?" : std::string(target, static_cast<size_t>(size)), *dev_ino};
  }
  return table;
}

bool FdLeakChecker::IsSame(const Entry& before, const Entry& after) {
  if (before.dev_ino != after.dev_ino) return false;
  // Eventfds, epolls, timerfds and more share an inode; what tells them apart is the text. A path
  // may change under an open file, by rename(2) or unlink(2).
  return before.target == after.target || before.target[0] == '/';
}

std::string FdLeakChecker::Difference() const {
  const Table after = ReadTable();
  std::string opened;
  std::string missing;
  for (const auto& [fd, entry] : after) {
    const auto it = before_.find(fd);
    if (it == before_.end() || !IsSame(it->second, entry)) {
      absl::StrAppend(&opened, Describe(fd, entry.target));
    }
  }
  for (const auto& [fd, entry] : before_) {
    const auto it = after.find(fd);
    if (it == after.end() || !IsSame(entry, it->second)) {
      absl::StrAppend(&missing, Describe(fd, entry.target));
    }
  }
  std::string text;
  if (!opened.empty()) {
    absl::StrAppend(&text, "\nopen now, and not when the check began (leaked):", opened);
  }
  if (!missing.empty()) {
    absl::StrAppend(&text, "\nopen when the check began, and not now (missing):", missing);
  }
  return text;
}

bool FdLeakChecker::Report(const std::string& difference) {
  checked_ = true;
  if (difference.empty()) return true;
  ADD_FAILURE() << "the descriptor table is not as it was:" << difference;
  return false;
}

bool FdLeakChecker::Check() { return Report(Difference()); }

bool FdLeakChecker::WaitUntilClean(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::string difference = Difference();
  // The kernel reports no event when another thread closes a descriptor (inotify has none for
  // /proc), so the only way to learn of it is to look again. The interval is short beside any close
  // that is worth waiting for, and long beside one look.
  while (!difference.empty() && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(1));
    difference = Difference();
  }
  return Report(difference);
}

void FdLeakListener::OnTestStart(const ::testing::TestInfo& /*test*/) {
  checker_ = std::make_unique<FdLeakChecker>();
}

void FdLeakListener::OnTestEnd(const ::testing::TestInfo& /*test*/) {
  if (checker_ == nullptr) return;  // Installed while this test was running.
  checker_->WaitUntilClean(grace_);
  checker_.reset();
}

FdLeakListener* InstallFdLeakListener(absl::Duration grace) {
  auto listener = std::make_unique<FdLeakListener>(grace);
  FdLeakListener* const installed = listener.get();
  ::testing::UnitTest::GetInstance()->listeners().Append(listener.release());
  return installed;
}

}  // namespace grpcfd
