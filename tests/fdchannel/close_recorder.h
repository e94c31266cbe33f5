// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Who closes a file. Linked with --wrap=close: the library's calls come to close_recorder.cc first.
#ifndef GRPCFD_TESTS_FDCHANNEL_CLOSE_RECORDER_H_
#define GRPCFD_TESTS_FDCHANNEL_CLOSE_RECORDER_H_

#include <string>
#include <vector>

#include "fdchannel/os/mutex.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

// The names of the threads that closed a file, while somebody wants to know.
class Closes {
 public:
  void Record(const DevIno& file);
  void OnClose(int fd);
  // Once there are so many, or patience ends.
  std::vector<std::string> Wait(size_t count);

 private:
  Mutex mutex_;
  CondVar changed_;
  bool recording_ ABSL_GUARDED_BY(mutex_) = false;
  DevIno file_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> threads_ ABSL_GUARDED_BY(mutex_);
};

// Of this process.
Closes& AllCloses();

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_CLOSE_RECORDER_H_
