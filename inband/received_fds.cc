// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/received_fds.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace grpcfd {
namespace internal {
namespace {

// How often a waiter asks whether its call was cancelled.
constexpr absl::Duration kAskInterval = absl::Milliseconds(20);
// Names of descriptors that were pushed out, to tell who asks. 16 bytes each, and the list's.
constexpr size_t kMaxPushedOut = 1024;

}  // namespace

bool ReceivedFds::Look(const DevIno& dev_ino, const Caller& caller,
                       absl::StatusOr<UniqueFd>* result) {
  const auto it = index_.find(dev_ino);
  if (it != index_.end()) {
    kept_.splice(kept_.begin(), kept_, it->second);
    *result = BorrowedFd(it->second->fd).Dup();
    return true;
  }
  if (pushed_out_index_.contains(dev_ino)) {
    *result = absl::ResourceExhaustedError(absl::StrFormat(
        "%s came, but was closed when more than %d descriptors of the connection were kept "
        "(InBandOptions::max_fds_per_connection, max_fds_total): take what a call brought before "
        "others bring more",
        InodeUrl(dev_ino).ToString(), limit_));
    return true;
  }
  const absl::Status& why_not = end_.ok() ? caller.released_ : end_;
  if (why_not.ok()) return false;
  *result = why_not;
  return true;
}

template <typename Finished>
ReceivedFds::Waiters ReceivedFds::Finish(const Finished& finished) {
  Waiters callbacks;
  const auto end = std::remove_if(waiters_.begin(), waiters_.end(), [&](const auto& waiter) {
    if (!finished(waiter.get())) return false;
    waiter->done = true;
    if (waiter->callback) {
      callbacks.push_back(waiter);
    } else {
      waiter->wake.NotifyOne();
    }
    return true;
  });
  waiters_.erase(end, waiters_.end());
  return callbacks;
}

void ReceivedFds::CancelTimers(const Waiters& waiters) {
  for (const auto& waiter : waiters) {
    if (waiter->timer != 0) poller_->CancelTimer(waiter->timer);
  }
}

void ReceivedFds::CallBack(const Waiters& waiters) {
  CancelTimers(waiters);
  for (const auto& waiter : waiters) waiter->callback(std::move(waiter->result));
}

void ReceivedFds::Shrink(FdVector* closing) {
  while (kept_.size() > limit_) {
    Count(&counters_->fds_pushed_out);
    Kept& oldest = kept_.back();
    pushed_out_.push_back(oldest.dev_ino);
    pushed_out_index_[oldest.dev_ino] = std::prev(pushed_out_.end());
    if (pushed_out_.size() > kMaxPushedOut) {
      pushed_out_index_.erase(pushed_out_.front());
      pushed_out_.pop_front();
    }
    closing->push_back(std::move(oldest.fd));
    index_.erase(oldest.dev_ino);
    kept_.pop_back();
  }
}

void ReceivedFds::Keep(FdVector fds, FdVector* closing) {
  Waiters callbacks;
  {
    MutexLock lock(&mutex_);
    for (UniqueFd& fd : fds) {
      const auto dev_ino = FdToDevIno(fd);
      const auto known = dev_ino.ok() ? index_.find(*dev_ino) : index_.end();
      if (!dev_ino.ok() || known != index_.end()) {
        // The first of an inode stays. It counts as used: the peer has just named it again.
        Count(&counters_->fds_repeated);
        if (known != index_.end()) kept_.splice(kept_.begin(), kept_, known->second);
        closing->push_back(std::move(fd));
        continue;
      }
      const auto pushed_out = pushed_out_index_.find(*dev_ino);
      if (pushed_out != pushed_out_index_.end()) {
        pushed_out_.erase(pushed_out->second);
        pushed_out_index_.erase(pushed_out);
      }
      any_came_ = true;
      kept_.push_front(Kept{*dev_ino, std::move(fd)});
      index_[*dev_ino] = kept_.begin();
      if (!waiters_.empty()) {
        const BorrowedFd newest(kept_.front().fd);
        Waiters finished = Finish([&](Waiter* waiter) {
          if (waiter->dev_ino != *dev_ino) return false;
          waiter->result = newest.Dup();
          return true;
        });
        callbacks.insert(callbacks.end(), finished.begin(), finished.end());
      }
      Shrink(closing);
    }
  }
  CallBack(callbacks);
}

void ReceivedFds::SetLimit(size_t limit, FdVector* closing) {
  MutexLock lock(&mutex_);
  limit_ = limit;
  Shrink(closing);
}

absl::StatusOr<UniqueFd> ReceivedFds::Receive(const DevIno& dev_ino, Caller* caller,
                                              absl::Time deadline,
                                              const std::function<bool()>* cancelled) {
  absl::StatusOr<UniqueFd> result;
  MutexLock lock(&mutex_);
  if (Look(dev_ino, *caller, &result)) return result;
  const auto waiter = std::make_shared<Waiter>();
  waiter->dev_ino = dev_ino;
  waiter->caller = caller;
  waiters_.push_back(waiter);
  const auto give_up = [&](absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    (void)Finish([&](Waiter* other) {
      if (other != waiter.get()) return false;
      other->result = std::move(status);
      return true;
    });
  };
  while (!waiter->done) {
    if (cancelled != nullptr) {
      lock.Unlock();
      const bool is_cancelled = (*cancelled)();  // gRPC's code: not under the lock.
      lock.Lock();
      if (waiter->done) break;
      if (is_cancelled) {
        give_up(absl::CancelledError("the call was cancelled"));
        break;
      }
    }
    const absl::Time until =
        cancelled == nullptr ? deadline : std::min(deadline, absl::Now() + kAskInterval);
    if (!waiter->wake.WaitUntil(&mutex_, until) && !waiter->done && absl::Now() >= deadline) {
      give_up(absl::DeadlineExceededError(absl::StrCat(
          InodeUrl(dev_ino).ToString(),
          " did not come in time: the peer has not sent it on this connection, or sent another "
          "descriptor of the same inode before")));
    }
  }
  return std::move(waiter->result);
}

bool ReceivedFds::ReceiveAsync(const DevIno& dev_ino, Caller* caller, uint64_t id, FdCallback* done,
                               absl::StatusOr<UniqueFd>* result) {
  MutexLock lock(&mutex_);
  if (Look(dev_ino, *caller, result)) return true;
  auto waiter = std::make_shared<Waiter>();
  waiter->dev_ino = dev_ino;
  waiter->caller = caller;
  waiter->id = id;
  waiter->callback = std::move(*done);
  waiters_.push_back(std::move(waiter));
  return false;
}

void ReceivedFds::SetTimer(uint64_t id, Poller::Id timer) {
  {
    MutexLock lock(&mutex_);
    // From the end: it is the newest, or nearly.
    const auto it = std::find_if(waiters_.rbegin(), waiters_.rend(),
                                 [id](const auto& waiter) { return waiter->id == id; });
    if (it != waiters_.rend()) {
      (*it)->timer = timer;
      return;
    }
  }
  poller_->CancelTimer(timer);
}

void ReceivedFds::Expire(uint64_t id) {
  Waiters callbacks;
  {
    MutexLock lock(&mutex_);
    callbacks = Finish([&](Waiter* waiter) {
      if (waiter->id != id || !waiter->callback) return false;
      waiter->result = absl::DeadlineExceededError(
          absl::StrCat(InodeUrl(waiter->dev_ino).ToString(), " did not come in time"));
      return true;
    });
  }
  CallBack(callbacks);
}

void ReceivedFds::Release(Caller* caller, const absl::Status& status) {
  Waiters callbacks;
  {
    MutexLock lock(&mutex_);
    caller->released_ = status;
    if (waiters_.empty()) return;
    callbacks = Finish([&](Waiter* waiter) {
      if (waiter->caller != caller) return false;
      waiter->result = status;
      return true;
    });
  }
  if (callbacks.empty()) return;
  if (poller_ == nullptr) return CallBack(callbacks);
  // The caller may be gRPC, in the middle of its own work, or a program in a destructor.
  CancelTimers(callbacks);
  poller_->Post([callbacks = std::move(callbacks)] {
    for (const auto& waiter : callbacks) waiter->callback(std::move(waiter->result));
  });
}

void ReceivedFds::End(const absl::Status& status) {
  Waiters callbacks;
  {
    MutexLock lock(&mutex_);
    if (!end_.ok()) return;
    end_ = status;
    callbacks = Finish([&](Waiter* waiter) {
      waiter->result = status;
      return true;
    });
  }
  CallBack(callbacks);
}

FdVector ReceivedFds::TakeAll() {
  FdVector all;
  MutexLock lock(&mutex_);
  for (Kept& kept : kept_) all.push_back(std::move(kept.fd));
  kept_.clear();
  index_.clear();
  return all;
}

bool ReceivedFds::any_came() const {
  MutexLock lock(&mutex_);
  return any_came_;
}

size_t ReceivedFds::size() const {
  MutexLock lock(&mutex_);
  return kept_.size();
}

}  // namespace internal
}  // namespace grpcfd
