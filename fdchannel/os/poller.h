// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Poller: one epoll(7) thread with timers, for work that has no caller's thread: accepting,
// handshakes, hang-ups, sweeps, time-outs and asynchronous waiters. It is not on the path of a
// descriptor: a thread that waits for one reads it itself.
//
// Every registration has its own id: a descriptor's number that is closed and opened again within
// one batch of events would otherwise get its predecessor's events.
//
// Thread-safe. Handlers, tasks and timers run one after another on the poller's thread; they must
// not block.
#ifndef GRPCFD_FDCHANNEL_OS_POLLER_H_
#define GRPCFD_FDCHANNEL_OS_POLLER_H_

#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

class Poller {
 public:
  using EventHandler = std::function<void(uint32_t epoll_events)>;
  using Task = std::function<void()>;
  // Ids are never 0 and never used twice.
  using Id = uint64_t;

  // RESOURCE_EXHAUSTED if the epoll or eventfd descriptor or the thread cannot be had.
  // `thread_name` has at most 15 bytes.
  static absl::StatusOr<std::shared_ptr<Poller>> Start(const char* thread_name);

  ~Poller() { Stop(); }
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  // Calls `handler` with the events of `fd` until Remove(). The descriptor must outlive its
  // registration.
  absl::StatusOr<Id> Add(BorrowedFd fd, uint32_t epoll_events, EventHandler handler);
  // Changes the events waited for; re-arms EPOLLONESHOT. Ignores ids that were removed.
  void Modify(Id id, uint32_t epoll_events);
  // After this the handler is not called again, except for a call that another thread finds under
  // way.
  void Remove(Id id);

  // Runs `task` soon, in the order of the calls. After Stop() the caller's thread runs it.
  void Post(Task task);
  // Runs `task` at `when` or soon after. Dropped if the poller stops before.
  Id RunAt(MonotonicTime when, Task task);
  Id RunAfter(absl::Duration delay, Task task) {
    return RunAt(MonotonicTime::Now() + delay, std::move(task));
  }
  // It is not an error to call it too late: the timer may be running.
  void CancelTimer(Id id);

  // How many timers wait for their time. For tests.
  size_t timer_count() const;

  // Runs what was posted, then ends the thread. Handlers and timers are dropped. Idempotent.
  void Stop();

 private:
  struct Registration {
    int fd;
    std::shared_ptr<EventHandler> handler;
  };
  // Shared with the thread, which may be the one that drops the last reference to the Poller.
  struct State {
    UniqueFd epoll;
    UniqueFd wake;
    Mutex mutex;
    bool stopping ABSL_GUARDED_BY(mutex) = false;
    bool stopped ABSL_GUARDED_BY(mutex) = false;
    std::thread::id thread ABSL_GUARDED_BY(mutex);  // Who runs it; unset before it begins.
    Id next_id ABSL_GUARDED_BY(mutex) = 1;
    std::deque<Task> tasks ABSL_GUARDED_BY(mutex);
    absl::flat_hash_map<Id, Registration> registrations ABSL_GUARDED_BY(mutex);
    std::map<std::pair<MonotonicTime, Id>, Task> timers ABSL_GUARDED_BY(mutex);
    absl::flat_hash_map<Id, MonotonicTime> timer_times ABSL_GUARDED_BY(mutex);
  };

  explicit Poller(std::shared_ptr<State> state) : state_(std::move(state)) {}
  static void Run(const std::shared_ptr<State>& state);
  // The parts of one round of Run(). How long epoll_wait(2) may wait, and whether it is the last
  // round; the handler of one event; timers that are due; what was posted. The last one returns
  // true if the thread is to end.
  static int NextTimeout(State* state, bool* stop);
  static void HandleEvent(State* state, Id id, uint32_t epoll_events);
  static void RunDueTimers(State* state);
  static void RunTasks(State* state);
  static bool EndIfStopped(State* state);
  // Wakes the thread to look at tasks and timers, unless it is the caller.
  static void Wake(State* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state->mutex);

  const std::shared_ptr<State> state_;
  Mutex thread_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(thread_mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_POLLER_H_
