// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/send_queue.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace grpcfd {
namespace internal {
namespace {

// Inodes of which only the traits are known. About 100 bytes each.
constexpr size_t kMaxForgotten = 4096;

absl::Status OtherFile(const DevIno& dev_ino, const char* when) {
  return absl::AlreadyExistsError(absl::StrCat(
      "another open file of ", InodeUrl(dev_ino).ToString(), " was sent ", when,
      ": peers of the in-band wire keep the first descriptor of an inode and drop this one in "
      "silence (all eventfds have one inode, and so have the ends of a pipe and two opens of a "
      "file); use another connection, or the fdchannel"));
}

}  // namespace

SendQueue::Named SendQueue::Refer(const NamedFds& fds) {
  Named named;
  for (const NamedFd& one : fds) named.push_back({one.name, BorrowedFd(one.fd)});
  return named;
}

void SendQueue::LetGo(SharedFd&& fd, FdVector* closing) {
  const SharedFd gone = std::move(fd);
  if (gone != nullptr && gone.use_count() == 1) closing->push_back(std::move(*gone));
}

absl::Status SendQueue::CheckAmong(const Named& fds) {
  for (size_t i = 1; i < fds.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      if (fds[k].name == fds[i].name && !SameFile(fds[k].fd, fds[i].fd)) {
        return OtherFile(fds[i].name, "with it");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status SendQueue::CheckRoom(size_t count) const {
  if (!end_.ok()) return end_;
  if (queue_.size() + count <= max_queued_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%d descriptors wait for bytes to leave with, and with %d more there would be more than "
      "max_queued_fds = %d (InBandOptions): the peer does not read, or raise it",
      queue_.size(), count, max_queued_));
}

absl::Status SendQueue::CheckFiles(const Named& fds) const {
  absl::Status status = CheckAmong(fds);
  for (const NamedRef& one : fds) {
    if (!status.ok()) break;
    const auto it = memory_.find(one.name);
    if (it == memory_.end()) continue;  // As nearly always: nothing to compare with.
    const Remembered& first = it->second;
    const bool same = first.fd != nullptr ? SameFile(*first.fd, one.fd)
                                          : AsGoodAs(first.traits, LookAtFile(one.fd));
    if (!same) status = OtherFile(one.name, "before on this connection");
  }
  return status;
}

absl::Status SendQueue::Check(const Named& fds, Checked* checked) const {
  MutexLock lock(&mutex_);
  absl::Status status = CheckRoom(fds.size());
  if (status.ok()) status = CheckFiles(fds);
  if (!status.ok()) {
    Count(&counters_->sends_refused);
    return status;
  }
  checked->queue_ = this;
  checked->generation_ = generation_;
  return status;
}

absl::Status SendQueue::Push(NamedFds fds, const Checked& checked, FdVector* closing) {
  MutexLock lock(&mutex_);
  absl::Status status = CheckRoom(fds.size());
  if (status.ok() && (checked.queue_ != this || checked.generation_ != generation_)) {
    status = CheckFiles(Refer(fds));
  }
  if (!status.ok()) {
    Count(&counters_->sends_refused);
    for (NamedFd& one : fds) closing->push_back(std::move(one.fd));
    return status;
  }
  for (NamedFd& one : fds) {
    auto [it, is_new] = memory_.try_emplace(one.name);
    Remembered& entry = it->second;
    if (entry.fd == nullptr) {
      if (is_new) {
        entry.position = held_.insert(held_.end(), one.name);
      } else {
        held_.splice(held_.end(), forgotten_, entry.position);
      }
      entry.fd = std::make_shared<UniqueFd>(std::move(one.fd));
      ++generation_;
    } else {
      // The same open file as the one that is held: one descriptor for both.
      held_.splice(held_.end(), held_, entry.position);
      closing->push_back(std::move(one.fd));
    }
    queue_.push_back(entry.fd);
  }
  Shrink(closing);
  size_.store(queue_.size(), std::memory_order_release);
  return absl::OkStatus();
}

void SendQueue::Shrink(FdVector* closing) {
  while (held_.size() > max_remembered_) {
    Remembered& oldest = memory_[held_.front()];
    oldest.traits = LookAtFile(*oldest.fd);
    LetGo(std::move(oldest.fd), closing);
    oldest.fd = nullptr;
    forgotten_.splice(forgotten_.end(), held_, held_.begin());
  }
  while (forgotten_.size() > kMaxForgotten) {
    memory_.erase(forgotten_.front());
    forgotten_.pop_front();
  }
}

SendQueue::SharedFd SendQueue::Pop() {
  if (empty()) return nullptr;  // As most of the time.
  MutexLock lock(&mutex_);
  if (queue_.empty()) return nullptr;
  SharedFd next = std::move(queue_.front());
  queue_.pop_front();
  size_.store(queue_.size(), std::memory_order_release);
  return next;
}

void SendQueue::Done(SharedFd fd, FdVector* closing) {
  MutexLock lock(&mutex_);
  LetGo(std::move(fd), closing);
}

void SendQueue::SetLimit(size_t max_remembered, FdVector* closing) {
  MutexLock lock(&mutex_);
  max_remembered_ = max_remembered;
  Shrink(closing);
}

FdVector SendQueue::End(const absl::Status& status) {
  FdVector all;
  MutexLock lock(&mutex_);
  if (end_.ok()) end_ = status;
  Count(&counters_->fds_unsent, queue_.size());
  for (auto& [name, entry] : memory_) {
    SharedFd queued = std::move(entry.fd);
    (void)name;
    // The queue's pointer to the same descriptor goes below.
    if (queued != nullptr) queue_.push_back(std::move(queued));
  }
  memory_.clear();
  held_.clear();
  forgotten_.clear();
  while (!queue_.empty()) {
    LetGo(std::move(queue_.front()), &all);
    queue_.pop_front();
  }
  size_.store(0, std::memory_order_release);
  return all;
}

size_t SendQueue::remembered() const {
  MutexLock lock(&mutex_);
  return held_.size();
}

}  // namespace internal
}  // namespace grpcfd
