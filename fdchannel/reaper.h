// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Reaper: closes received descriptors on a thread of its own.
//
// Why it exists: close(2) can block. A descriptor from a peer may belong to a FUSE or network file
// system whose flush waits for a server that never answers (close(2), "NOTES"; fs/open.c,
// filp_flush). Closed on a poller thread or under a lock, one such descriptor would stop every
// session; closed here, it delays only other closes.
//
// Thread-safe.
#ifndef GRPCFD_FDCHANNEL_REAPER_H_
#define GRPCFD_FDCHANNEL_REAPER_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "fdchannel/cmsg.h"
#include "fdchannel/mutex.h"

namespace grpcfd {
namespace internal {

class Reaper {
 public:
  Reaper() : state_(std::make_shared<State>()) {}
  ~Reaper() { Stop(); }
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;

  // Closes `fds` soon, then calls `after` (may be empty) on the same thread. The thread starts with
  // the first call, so a process that never drops a descriptor never has it. After Stop() the
  // caller's thread does the work.
  void Close(FdVector fds, std::function<void()> after);

  // Closes all that was handed over, then ends the thread. Idempotent. A close that blocks holds
  // this up.
  void Stop();

 private:
  struct Job {
    FdVector fds;
    std::function<void()> after;
  };
  // Shared with the thread, which may be the one that drops the last reference to the Reaper.
  struct State {
    Mutex mutex;
    CondVar wake;
    std::deque<Job> jobs ABSL_GUARDED_BY(mutex);
    bool stopping ABSL_GUARDED_BY(mutex) = false;
  };
  static void Run(const std::shared_ptr<State>& state);
  // Moves the job to the thread; false, with nothing done, after Stop().
  bool HandOver(Job* job);

  const std::shared_ptr<State> state_;
  Mutex thread_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(thread_mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_REAPER_H_
