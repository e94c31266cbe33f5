// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/poller.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/threads.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr Poller::Id kWakeId = 0;

// Milliseconds for epoll_wait(2), rounded up so that a timer is never early by a busy loop.
int TimeoutMillis(MonotonicTime next) {
  if (next == MonotonicTime::InfiniteFuture()) return -1;
  const absl::Duration left = next - MonotonicTime::Now();
  if (left <= absl::ZeroDuration()) return 0;
  const int64_t millis = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
  return static_cast<int>(std::min<int64_t>(millis, std::numeric_limits<int>::max()));
}

}  // namespace

absl::StatusOr<std::shared_ptr<Poller>> Poller::Start(const char* thread_name) {
  auto state = std::make_shared<State>();
  state->epoll = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  if (!state->epoll.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "epoll_create1: ", strerror(errno), "; raise RLIMIT_NOFILE, or close some descriptors"));
  }
  state->wake = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!state->wake.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "eventfd: ", strerror(errno), "; raise RLIMIT_NOFILE, or close some descriptors"));
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeId;
  if (epoll_ctl(state->epoll.get(), EPOLL_CTL_ADD, state->wake.get(), &event) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("epoll_ctl: ", strerror(errno)));
  }
  auto poller = std::shared_ptr<Poller>(new Poller(state));
  MutexLock lock(&poller->thread_mutex_);
  poller->thread_ = StartThread(thread_name, [state = std::move(state)] { Run(state); });
  if (!poller->thread_.joinable()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the thread ", thread_name,
                     " cannot be started: raise RLIMIT_NPROC or pids.max, or end some threads"));
  }
  return poller;
}

absl::StatusOr<Poller::Id> Poller::Add(BorrowedFd fd, uint32_t epoll_events, EventHandler handler) {
  MutexLock lock(&state_->mutex);
  const Id id = state_->next_id++;
  epoll_event event{};
  event.events = epoll_events;
  event.data.u64 = id;
  if (epoll_ctl(state_->epoll.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) {
    const int error = errno;
    const std::string text =
        absl::StrCat("epoll_ctl(EPOLL_CTL_ADD, ", fd.get(), "): ", strerror(error));
    // The caller's mistake: not a descriptor that can be watched. The others are shortages.
    return error == EBADF || error == EPERM ? absl::InvalidArgumentError(text)
                                            : absl::ResourceExhaustedError(text);
  }
  state_->registrations.emplace(
      id, Registration{fd.get(), std::make_shared<EventHandler>(std::move(handler))});
  return id;
}

void Poller::Modify(Id id, uint32_t epoll_events) {
  MutexLock lock(&state_->mutex);
  auto it = state_->registrations.find(id);
  if (it == state_->registrations.end()) return;
  epoll_event event{};
  event.events = epoll_events;
  event.data.u64 = id;
  epoll_ctl(state_->epoll.get(), EPOLL_CTL_MOD, it->second.fd, &event);
}

void Poller::Remove(Id id) {
  std::shared_ptr<EventHandler> handler;  // Destroyed after the lock: its captures may own much.
  MutexLock lock(&state_->mutex);
  auto it = state_->registrations.find(id);
  if (it == state_->registrations.end()) return;
  epoll_ctl(state_->epoll.get(), EPOLL_CTL_DEL, it->second.fd, nullptr);
  handler = std::move(it->second.handler);
  state_->registrations.erase(it);
  lock.Unlock();
  handler.reset();
  lock.Lock();
}

void Poller::Post(Task task) {
  {
    MutexLock lock(&state_->mutex);
    if (!state_->stopped) {
      state_->tasks.push_back(std::move(task));
      Wake(state_.get());
      return;
    }
  }
  task();
}

Poller::Id Poller::RunAt(MonotonicTime when, Task task) {
  MutexLock lock(&state_->mutex);
  const Id id = state_->next_id++;
  if (state_->stopping) return id;
  const bool earliest = state_->timers.empty() || when < state_->timers.begin()->first.first;
  state_->timers.emplace(std::make_pair(when, id), std::move(task));
  state_->timer_times.emplace(id, when);
  if (earliest) Wake(state_.get());
  return id;
}

void Poller::CancelTimer(Id id) {
  Task task;  // Destroyed after the lock.
  MutexLock lock(&state_->mutex);
  auto it = state_->timer_times.find(id);
  if (it == state_->timer_times.end()) return;
  auto timer = state_->timers.find(std::make_pair(it->second, id));
  task = std::move(timer->second);
  state_->timers.erase(timer);
  state_->timer_times.erase(it);
  lock.Unlock();
  task = nullptr;
  lock.Lock();
}

size_t Poller::timer_count() const {
  MutexLock lock(&state_->mutex);
  return state_->timers.size();
}

void Poller::Stop() {
  std::thread thread;
  {
    MutexLock lock(&thread_mutex_);
    {
      MutexLock state_lock(&state_->mutex);
      state_->stopping = true;
      Wake(state_.get());
    }
    thread = std::move(thread_);
  }
  JoinOrLeave(&thread);
}

void Poller::Wake(State* state) {
  if (state->thread == std::this_thread::get_id()) return;
  const uint64_t one = 1;
  // EAGAIN means that the counter is full of wake-ups nobody has read yet, which is as good.
  [[maybe_unused]] const ssize_t written = ::write(state->wake.get(), &one, sizeof(one));
}

void Poller::Run(const std::shared_ptr<State>& state) {
  std::array<epoll_event, 64> events;
  {
    MutexLock lock(&state->mutex);
    state->thread = std::this_thread::get_id();
  }
  do {
    bool stop = false;
    const int timeout = NextTimeout(state.get(), &stop);
    const int count = epoll_wait(state->epoll.get(), events.data(), events.size(), timeout);
    if (!stop) {
      for (int i = 0; i < count; ++i) {
        // Copied, not referred to: epoll_event is packed on x86-64, and its data misaligned.
        const uint64_t id = events[i].data.u64;
        HandleEvent(state.get(), id, events[i].events);
      }
      RunDueTimers(state.get());
    }
    RunTasks(state.get());
  } while (!EndIfStopped(state.get()));
}

int Poller::NextTimeout(State* state, bool* stop) {
  MonotonicTime next = MonotonicTime::InfiniteFuture();
  {
    MutexLock lock(&state->mutex);
    *stop = state->stopping;
    if (!state->tasks.empty() || state->stopping) {
      next = MonotonicTime::InfinitePast();
    } else if (!state->timers.empty()) {
      next = state->timers.begin()->first.first;
    }
  }
  return TimeoutMillis(next);
}

void Poller::HandleEvent(State* state, Id id, uint32_t epoll_events) {
  if (id == kWakeId) {
    uint64_t ignored;
    [[maybe_unused]] const ssize_t got = ::read(state->wake.get(), &ignored, sizeof(ignored));
    return;
  }
  std::shared_ptr<EventHandler> handler;
  {
    MutexLock lock(&state->mutex);
    auto it = state->registrations.find(id);
    if (it != state->registrations.end()) handler = it->second.handler;
  }
  if (handler != nullptr) (*handler)(epoll_events);
}

// One by one, because each may cancel the next; those that they add wait for the next round.
void Poller::RunDueTimers(State* state) {
  Id newest = 0;
  const MonotonicTime now = MonotonicTime::Now();
  for (;;) {
    Task task;
    {
      MutexLock lock(&state->mutex);
      if (newest == 0) newest = state->next_id;
      auto timer = state->timers.begin();
      while (timer != state->timers.end() && timer->first.second >= newest) ++timer;
      if (timer == state->timers.end() || timer->first.first > now) return;
      state->timer_times.erase(timer->first.second);
      task = std::move(timer->second);
      state->timers.erase(timer);
    }
    task();
  }
}

void Poller::RunTasks(State* state) {
  std::deque<Task> tasks;
  {
    MutexLock lock(&state->mutex);
    tasks.swap(state->tasks);
  }
  for (Task& task : tasks) {
    task();
    task = nullptr;
  }
}

bool Poller::EndIfStopped(State* state) {
  // Destroyed after the lock: their captures may own much.
  absl::flat_hash_map<Id, Registration> registrations;
  std::map<std::pair<MonotonicTime, Id>, Task> timers;
  MutexLock lock(&state->mutex);
  if (!state->stopping || !state->tasks.empty()) return false;
  state->stopped = true;
  registrations.swap(state->registrations);
  timers.swap(state->timers);
  state->timer_times.clear();
  return true;
}

}  // namespace internal
}  // namespace grpcfd
