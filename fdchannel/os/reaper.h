// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Reaper: closes received descriptors on threads of its own.
//
// Why it exists: close(2) can block. A descriptor from a peer may belong to a FUSE or network file
// system whose flush waits for a server that never answers (close(2), "NOTES"; fs/open.c,
// filp_flush). Closed on a poller thread or under a lock, one such descriptor would stop every
// session; closed here, it delays only other closes of the same user.
//
// Lanes: each user has one, and what is handed over in it is closed in its order, by one thread at
// a time. With a single queue one user's descriptor would hold up all others: the sessions that
// ended behind it would stay counted, until nobody could have a new one. A thread is started only
// if a lane has work and no thread is idle, so a process usually has one; each that sits in a close
// is one user's. Idle ones but the last leave after a second, and a lane without work is nothing
// but a number.
//
// Thread-safe.
#ifndef GRPCFD_FDCHANNEL_OS_REAPER_H_
#define GRPCFD_FDCHANNEL_OS_REAPER_H_

#include <stddef.h>
#include <sys/types.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

class Reaper {
 public:
  // The lane for when there is only one peer, or the user is not known.
  static constexpr uid_t kNoUser = static_cast<uid_t>(-1);

  Reaper() : Reaper(std::make_shared<Pool>(), kNoUser) {}
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;

  // The lane of what `uid` sent. All lanes of a reaper share its threads, which stop with the last
  // of them, as Stop() does it.
  std::shared_ptr<Reaper> Lane(uid_t uid) const {
    return std::shared_ptr<Reaper>(new Reaper(pool_, uid));
  }

  // Closes `fds` soon, after what was handed over in this lane before, then calls `after` (may be
  // empty) on the same thread. The first thread starts with the first call, so a process that never
  // drops a descriptor never has one. If no thread can be started, the job waits for one that is
  // there, or for a later job with which one can be; it is not done on the caller's. After Stop()
  // the caller's thread does the work.
  void Close(FdVector fds, std::function<void()> after);

  // Closes all that was handed over in any lane, then ends the threads. Idempotent. A close that
  // blocks holds this up.
  void Stop() { pool_->Stop(); }

 private:
  struct Job {
    FdVector fds;
    std::function<void()> after;
  };
  // Only of users that have something to be closed.
  struct Queue {
    std::deque<Job> jobs;
    bool served = false;
  };
  // Shared with the threads, one of which may drop the last reference to the Reaper.
  struct State {
    Mutex mutex;
    CondVar wake;
    std::map<uid_t, Queue> queues ABSL_GUARDED_BY(mutex);
    // Users with jobs that no thread serves, in their turn.
    std::deque<uid_t> ready ABSL_GUARDED_BY(mutex);
    std::map<std::thread::id, std::thread> threads ABSL_GUARDED_BY(mutex);
    size_t idle ABSL_GUARDED_BY(mutex) = 0;
    size_t starting ABSL_GUARDED_BY(mutex) = 0;  // Not in idle yet, but as good.
    size_t alive ABSL_GUARDED_BY(mutex) = 0;
    bool stopping ABSL_GUARDED_BY(mutex) = false;
  };
  class Pool {
   public:
    Pool() : state_(std::make_shared<State>()) {}
    ~Pool() { Stop(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    // Moves the job into the user's lane; false, with nothing done, after Stop().
    bool HandOver(uid_t uid, Job* job);
    void Stop();

   private:
    const std::shared_ptr<State> state_;
  };

  Reaper(std::shared_ptr<Pool> pool, uid_t uid) : pool_(std::move(pool)), uid_(uid) {}
  static void Run(const std::shared_ptr<State>& state);
  // Does what there is, without the lock, until the thread is to leave.
  static void Work(State* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state->mutex);
  // Waits until a user has work. False if the thread is to leave.
  static bool AwaitWork(State* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state->mutex);

  const std::shared_ptr<Pool> pool_;
  const uid_t uid_;
};

// A descriptor that is passed on. One that was received is closed by a reaper, wherever it is
// dropped: its last holder may be a poller's thread. Thread-compatible.
class ReapedFd {
 public:
  ReapedFd() = default;
  // The program's own: closed in place, so before the send is reported as done.
  ReapedFd(UniqueFd fd)  // NOLINT(google-explicit-constructor)
      : fd_(std::move(fd)) {}
  // A received one; a null `reaper` is yet to be named, and closes in place until then.
  ReapedFd(UniqueFd fd, std::shared_ptr<Reaper> reaper)
      : fd_(std::move(fd)), reaper_(std::move(reaper)), received_(true) {}
  ~ReapedFd() {
    if (fd_.valid()) Close();
  }
  ReapedFd(ReapedFd&&) = default;
  ReapedFd& operator=(ReapedFd&& other) noexcept {
    if (this == &other) return *this;
    Close();
    fd_ = std::move(other.fd_);
    reaper_ = std::move(other.reaper_);
    received_ = other.received_;
    return *this;
  }
  ReapedFd(const ReapedFd&) = delete;
  ReapedFd& operator=(const ReapedFd&) = delete;

  int get() const { return fd_.get(); }
  const std::shared_ptr<Reaper>& reaper() const { return reaper_; }
  // Sets the reaper of a received one that has none.
  void DefaultTo(const std::shared_ptr<Reaper>& reaper) {
    if (received_ && reaper_ == nullptr) reaper_ = reaper;
  }
  UniqueFd Take() { return std::move(fd_); }
  void Close();

 private:
  UniqueFd fd_;
  std::shared_ptr<Reaper> reaper_;
  bool received_ = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_REAPER_H_
