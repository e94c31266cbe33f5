// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/event_queue.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <deque>
#include <utility>

#include "absl/status/status.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

struct EventQueue::State {
  struct Result {
    FdReceiver::FdCallback callback;
    absl::StatusOr<UniqueFd> fd;
  };

  // Under the lock, so that `signalled` says exactly whether the eventfd is readable. Neither call
  // blocks: the descriptor is non-blocking, and its counter never passes 1.
  void Signal() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (std::exchange(signalled, true)) return;
    const uint64_t one = 1;
    (void)!::write(number, &one, sizeof(one));
  }
  void Clear() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (!std::exchange(signalled, false)) return;
    uint64_t count = 0;
    (void)!::read(number, &count, sizeof(count));
  }

  const int number;
  internal::Mutex mutex;
  UniqueFd event ABSL_GUARDED_BY(mutex);
  bool signalled ABSL_GUARDED_BY(mutex) = false;
  std::deque<Result> results ABSL_GUARDED_BY(mutex);

  explicit State(UniqueFd fd) : number(fd.get()), event(std::move(fd)) {}
};

absl::StatusOr<std::unique_ptr<EventQueue>> EventQueue::Create() {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return absl::ErrnoToStatus(errno, "eventfd for an EventQueue");
  return std::unique_ptr<EventQueue>(new EventQueue(std::make_shared<State>(std::move(event))));
}

EventQueue::EventQueue(std::shared_ptr<State> state) : state_(std::move(state)) {}

EventQueue::~EventQueue() {
  // Destroyed, and so closed, without the lock.
  std::deque<State::Result> dropped;
  UniqueFd event;
  internal::MutexLock lock(&state_->mutex);
  dropped.swap(state_->results);
  event = std::move(state_->event);
  lock.Unlock();
}

int EventQueue::fd() const { return state_->number; }

size_t EventQueue::Process() {
  const std::shared_ptr<State> state = state_;  // A callback may destroy this object.
  // Cleared first, and signalled by whatever comes from now on: an edge-triggered loop hears of it.
  size_t limit = 0;
  {
    internal::MutexLock lock(&state->mutex);
    state->Clear();
    limit = state->results.size();
  }
  // What an exception leaves behind, or another thread's call has not reached, stays announced.
  struct Announce {
    ~Announce() {
      internal::MutexLock lock(&state->mutex);
      if (!state->results.empty()) state->Signal();
    }
    State* const state;
  } const announce{state.get()};
  size_t count = 0;
  while (count < limit) {
    internal::MutexLock lock(&state->mutex);
    if (state->results.empty()) break;
    State::Result result = std::move(state->results.front());
    state->results.pop_front();
    lock.Unlock();
    ++count;
    result.callback(std::move(result.fd));
  }
  return count;
}

FdReceiver::FdCallback EventQueue::Wrap(FdReceiver::FdCallback callback) {
  return [state = state_, callback = std::move(callback)](absl::StatusOr<UniqueFd> fd) mutable {
    State::Result result{std::move(callback), std::move(fd)};
    internal::MutexLock lock(&state->mutex);
    if (state->event.valid()) {
      state->results.push_back(std::move(result));
      state->Signal();
    }
    lock.Unlock();
    // If the queue has gone, the descriptor is closed here.
  };
}

}  // namespace grpcfd
