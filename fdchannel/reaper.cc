// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/reaper.h"

#include <utility>

#include "fdchannel/threads.h"

namespace grpcfd {
namespace internal {

void Reaper::Close(FdVector fds, std::function<void()> after) {
  {
    MutexLock lock(&thread_mutex_);
    MutexLock state_lock(&state_->mutex);
    if (!state_->stopping) {
      state_->jobs.push_back(Job{std::move(fds), std::move(after)});
      if (!thread_.joinable()) {
        thread_ = StartThread("grpcfd-reaper", [state = state_] { Run(state); });
      }
      state_->wake.NotifyOne();
      return;
    }
  }
  fds.clear();
  if (after) after();
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
