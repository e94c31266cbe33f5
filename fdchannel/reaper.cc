// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/reaper.h"

#include <utility>

#include "fdchannel/threads.h"

namespace grpcfd {
namespace internal {

bool Reaper::HandOver(Job* job) {
  MutexLock lock(&thread_mutex_);
  MutexLock state_lock(&state_->mutex);
  if (state_->stopping) return false;
  state_->jobs.push_back(std::move(*job));
  if (!thread_.joinable()) {
    thread_ = StartThread("grpcfd-reaper", [state = state_] { Run(state); });
  }
  return true;
}

void Reaper::Close(FdVector fds, std::function<void()> after) {
  Job job{std::move(fds), std::move(after)};
  if (HandOver(&job)) {
    // Without the locks: the thread that is woken needs one, and may be the next to run.
    state_->wake.NotifyOne();
    return;
  }
  job.fds.clear();
  if (job.after) job.after();
}

void Reaper::Stop() {
  std::thread thread;
  {
    MutexLock lock(&thread_mutex_);
    {
      MutexLock state_lock(&state_->mutex);
      state_->stopping = true;
      state_->wake.NotifyOne();
    }
    thread = std::move(thread_);
  }
  JoinOrLeave(&thread);
}

void Reaper::Run(const std::shared_ptr<State>& state) {
  for (;;) {
    Job job;
    {
      MutexLock lock(&state->mutex);
      while (state->jobs.empty() && !state->stopping) state->wake.Wait(&state->mutex);
      if (state->jobs.empty()) return;
      job = std::move(state->jobs.front());
      state->jobs.pop_front();
    }
    job.fds.clear();
    if (job.after) job.after();
  }
}

}  // namespace internal
}  // namespace grpcfd
