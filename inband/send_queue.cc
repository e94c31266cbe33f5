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

void SendQueue::LetGo(SharedFd&& fd, FdVector* closing) {
  const SharedFd gone = std::move(fd);
  if (gone != nullptr && gone.use_count() == 1) closing->push_back(std::move(*gone));
}

absl::Status SendQueue::CheckNames(const std::vector<UniqueFd>& fds, std::vector<DevIno>* names) {
  names->reserve(fds.size());
  for (const UniqueFd& fd : fds) {
    const auto dev_ino = FdToDevIno(fd);
    if (!dev_ino.ok()) return dev_ino.status();
    for (size_t k = 0; k < names->size(); ++k) {
      if ((*names)[k] == *dev_ino && !SameFile(fds[k], fd)) return OtherFile(*dev_ino, "with it");
    }
    names->push_back(*dev_ino);
  }
  return absl::OkStatus();
}

absl::Status SendQueue::CheckLocked(const std::vector<UniqueFd>& fds,
                                    std::vector<DevIno>* names) const {
  if (!end_.ok()) return end_;
  if (queue_.size() + fds.size() > max_queued_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d descriptors wait for bytes to leave with, and with %d more there would be more than "
        "max_queued_fds = %d (InBandOptions): the peer does not read, or raise it",
        queue_.size(), fds.size(), max_queued_));
  }
  absl::Status status = CheckNames(fds, names);
  for (size_t i = 0; i < fds.size() && status.ok(); ++i) {
    const auto it = memory_.find((*names)[i]);
    if (it == memory_.end()) continue;
    const Remembered& first = it->second;
    const bool same = first.fd != nullptr ? SameFile(*first.fd, fds[i])
                                          : AsGoodAs(first.traits, LookAtFile(fds[i]));
    if (!same) status = OtherFile((*names)[i], "before on this connection");
  }
  return status;
}

absl::Status SendQueue::Check(const std::vector<UniqueFd>& fds) const {
  std::vector<DevIno> names;
  MutexLock lock(&mutex_);
  return CheckLocked(fds, &names);
}

absl::Status SendQueue::CheckAmong(const std::vector<UniqueFd>& fds) {
  std::vector<DevIno> names;
  return CheckNames(fds, &names);
}

absl::Status SendQueue::Push(std::vector<UniqueFd> fds, FdVector* closing) {
  std::vector<DevIno> names;
  MutexLock lock(&mutex_);
  absl::Status status = CheckLocked(fds, &names);
  if (!status.ok()) {
    for (UniqueFd& fd : fds) closing->push_back(std::move(fd));
    return status;
  }
  for (size_t i = 0; i < fds.size(); ++i) {
    auto [it, is_new] = memory_.try_emplace(names[i]);
    Remembered& entry = it->second;
    if (is_new || entry.fd == nullptr) {
      if (is_new) {
        entry.traits = LookAtFile(fds[i]);
        entry.position = held_.insert(held_.end(), names[i]);
      } else {
        held_.splice(held_.end(), forgotten_, entry.position);
      }
      entry.fd = std::make_shared<UniqueFd>(std::move(fds[i]));
    } else {
      // The same open file as the one that is held: one descriptor for both.
      held_.splice(held_.end(), held_, entry.position);
      closing->push_back(std::move(fds[i]));
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
