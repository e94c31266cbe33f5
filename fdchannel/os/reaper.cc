// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/reaper.h"

#include <utility>

#include "absl/time/time.h"
#include "fdchannel/os/threads.h"

namespace grpcfd {
namespace internal {
namespace {

// How long a thread beside the last idle one waits for work.
constexpr absl::Duration kIdleTime = absl::Seconds(1);

}  // namespace

bool Reaper::Pool::HandOver(uid_t uid, Job* job) {
  {
    MutexLock lock(&state_->mutex);
    if (state_->stopping) return false;
    Queue& queue = state_->queues[uid];
    queue.jobs.push_back(std::move(*job));
    if (queue.jobs.size() == 1 && !queue.served) state_->ready.push_back(uid);
    // Threads that were woken, or made, and have not run yet will each take one.
    if (state_->ready.size() > state_->idle + state_->starting) {
      // It waits for the lock, so its entry is there before it looks for it.
      std::thread thread = StartThread("grpcfd-reaper", [state = state_] { Run(state); });
      const std::thread::id id = thread.get_id();
      if (thread.joinable()) {
        state_->threads.emplace(id, std::move(thread));
        ++state_->starting;
        ++state_->alive;
      }
      // If there is none to be had, it waits: what a peer chose is not closed on this thread.
    }
  }
  // Without the lock: the thread that is woken needs it, and may be the next to run.
  state_->wake.NotifyOne();
  return true;
}

void Reaper::Close(FdVector fds, std::function<void()> after) {
  Job job{std::move(fds), std::move(after)};
  if (pool_->HandOver(uid_, &job)) return;
  job.fds.clear();
  if (job.after) job.after();
}

void Reaper::Pool::Stop() {
  std::map<std::thread::id, std::thread> threads;
  {
    MutexLock lock(&state_->mutex);
    state_->stopping = true;
    threads.swap(state_->threads);
    // There was never a thread for what is here.
    if (state_->alive == 0) Work(state_.get());
  }
  state_->wake.NotifyAll();
  for (auto& [id, thread] : threads) JoinOrLeave(&thread);
}

bool Reaper::AwaitWork(State* state) {
  while (state->ready.empty()) {
    if (state->stopping) return false;
    const MonotonicTime deadline =
        state->idle == 0 ? MonotonicTime::InfiniteFuture() : MonotonicTime::Now() + kIdleTime;
    ++state->idle;
    const bool woken = state->wake.WaitUntil(&state->mutex, deadline);
    --state->idle;
    // The last one that is idle stays.
    if (!woken && state->ready.empty() && state->idle != 0) return false;
  }
  return true;
}

void Reaper::Work(State* state) {
  while (AwaitWork(state)) {
    const uid_t uid = state->ready.front();
    state->ready.pop_front();
    Queue& queue = state->queues[uid];
    queue.served = true;
    Job job = std::move(queue.jobs.front());
    queue.jobs.pop_front();
    state->mutex.Unlock();
    job.fds.clear();
    if (job.after) job.after();
    job.after = nullptr;  // What it holds may be the last reference to the Reaper.
    state->mutex.Lock();
    queue.served = false;
    if (queue.jobs.empty()) {
      state->queues.erase(uid);
    } else {
      state->ready.push_back(uid);
    }
  }
}

void Reaper::Run(const std::shared_ptr<State>& state) {
  MutexLock lock(&state->mutex);
  --state->starting;
  Work(state.get());
  --state->alive;
  std::thread self;
  const auto entry = state->threads.find(std::this_thread::get_id());
  if (entry != state->threads.end()) {  // Stop() has not taken it.
    self = std::move(entry->second);
    state->threads.erase(entry);
  }
  lock.Unlock();
  JoinOrLeave(&self);
  lock.Lock();
}

void ReapedFd::Close() {
  if (reaper_ != nullptr && fd_.valid()) {
    FdVector fds;
    fds.push_back(std::move(fd_));
    reaper_->Close(std::move(fds), /*after=*/nullptr);
  }
  fd_.Reset();
}

}  // namespace internal
}  // namespace grpcfd
