// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/fdchannel/close_recorder.h"

#include <pthread.h>
#include <sys/stat.h>

#include "absl/time/clock.h"

namespace grpcfd {
namespace internal {

void Closes::Record(const DevIno& file) {
  MutexLock lock(&mutex_);
  file_ = file;
  recording_ = true;
  threads_.clear();
}

void Closes::OnClose(int fd) {
  struct stat status {};
  MutexLock lock(&mutex_);
  if (!recording_ || ::fstat(fd, &status) != 0) return;
  if (status.st_dev != file_.dev || status.st_ino != file_.ino) return;
  char name[16] = "";
  ::pthread_getname_np(::pthread_self(), name, sizeof(name));
  threads_.emplace_back(name);
  changed_.NotifyAll();
}

std::vector<std::string> Closes::Wait(size_t count) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  MutexLock lock(&mutex_);
  while (threads_.size() < count && changed_.WaitUntil(&mutex_, deadline)) {
  }
  recording_ = false;
  return threads_;
}

Closes& AllCloses() {
  static auto* const closes = new Closes;
  return *closes;
}

}  // namespace internal
}  // namespace grpcfd

extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): the linker's names for what it wraps.
int __real_close(int fd);

int __wrap_close(int fd) {
  grpcfd::internal::AllCloses().OnClose(fd);
  return __real_close(fd);
}
// NOLINTEND(bugprone-reserved-identifier)
}
