// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/link_call.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "fdchannel/fds/send_file.h"

namespace grpcfd {
namespace internal {
namespace {

absl::Status Over() {
  return absl::FailedPreconditionError(
      "the call has ended: nothing can be sent or received with it");
}

}  // namespace

std::shared_ptr<InBandPeer> LinkCall::link() const {
  MutexLock lock(&mutex_);
  return link_;
}

bool LinkCall::AnyCame() const {
  const auto link = this->link();
  return link != nullptr && link->received.any_came();
}

bool LinkCall::IsOf(const std::shared_ptr<InBandPeer>& link) const {
  MutexLock lock(&mutex_);
  return link_ == link;
}

absl::Time LinkCall::Limit(absl::Time deadline) const {
  deadline = std::min(deadline, config_.deadline);
  return deadline == absl::InfiniteFuture() ? absl::Now() + config_.recv_timeout : deadline;
}

absl::StatusOr<InodeUrl> LinkCall::SendFd(BorrowedFd fd) {
  auto copy = fd.Dup();
  if (!copy.ok()) return copy.status();
  return SendFd(*std::move(copy));
}

absl::StatusOr<InodeUrl> LinkCall::SendFd(UniqueFd&& fd) {
  UniqueFd adopted = std::move(fd);
  const auto dev_ino = FdToDevIno(adopted);
  if (!dev_ino.ok()) return dev_ino.status();
  NamedFds one;
  one.push_back(NamedFd{*dev_ino, std::move(adopted)});
  absl::Status status = SendAll(std::move(one), SendQueue::Checked());
  if (!status.ok()) return status;
  return InodeUrl(*dev_ino);
}

absl::StatusOr<InodeUrl> LinkCall::SendFilename(const std::string& path, int flags) {
  absl::StatusOr<UniqueFd> fd = OpenForSending(path, flags);
  if (!fd.ok()) return fd.status();
  return SendFd(*std::move(fd));
}

absl::Status LinkCall::SendAll(NamedFds fds, const SendQueue::Checked& checked) {
  const auto link = this->link();
  if (link == nullptr) return Over();
  FdVector closing;  // The program's own files: closed here, as it would close them itself.
  return link->queue.Push(std::move(fds), checked, &closing);
}

absl::StatusOr<UniqueFd> LinkCall::RecvFd(const InodeUrl& url, absl::Time deadline) {
  const auto link = this->link();
  if (link == nullptr) return Over();
  std::function<bool()> cancelled;
  {
    MutexLock lock(&mutex_);
    if (cancelled_ && asking_thread_ == std::this_thread::get_id()) cancelled = cancelled_;
  }
  return Judge(url.dev_ino(), link->received.Receive(url.dev_ino(), &caller_, Limit(deadline),
                                                     cancelled ? &cancelled : nullptr));
}

absl::StatusOr<UniqueFd> LinkCall::Judge(const DevIno& dev_ino, absl::StatusOr<UniqueFd> fd) {
  if (config_.policy == nullptr || !fd.ok()) return fd;
  size_t index;
  {
    MutexLock lock(&mutex_);
    const auto it = std::find(judged_.begin(), judged_.end(), dev_ino);
    index = static_cast<size_t>(it - judged_.begin());
    // Beyond the maximum they are all alike.
    if (it == judged_.end() && index < config_.policy->max_fds()) judged_.push_back(dev_ino);
  }
  absl::Status status = config_.policy->Check(*fd, static_cast<uint32_t>(index));
  if (status.ok()) return fd;
  if (const auto link = this->link()) Count(&link->counters().asks_refused_policy);
  return status;
}

absl::StatusOr<UniqueFd> LinkCall::DupFd(const InodeUrl& url, absl::Time deadline) {
  return RecvFd(url, deadline);
}

void LinkCall::RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  const auto link = this->link();
  if (link == nullptr) return done(Over());
  if (config_.policy != nullptr) {
    done = [weak = weak_from_this(), dev_ino = url.dev_ino(),
            done = std::move(done)](absl::StatusOr<UniqueFd> fd) {
      if (!fd.ok()) return done(std::move(fd));
      const auto self = weak.lock();
      done(self == nullptr ? Over() : self->Judge(dev_ino, std::move(fd)));
    };
  }
  link->ReceiveAsync(url.dev_ino(), &caller_, Limit(deadline), done);
}

void LinkCall::Cancel() {
  const auto link = this->link();
  if (link == nullptr) return;
  link->received.Release(&caller_, absl::CancelledError("the call was cancelled"));
}

void LinkCall::Complete() {
  const auto link = this->link();
  if (link == nullptr) return;
  link->received.Release(
      &caller_, absl::NotFoundError("the call has ended, and the descriptor had not come by then"));
}

void LinkCall::End() {
  std::shared_ptr<InBandPeer> link;
  std::function<bool()> cancelled;  // It refers to the call's context, which goes now.
  {
    MutexLock lock(&mutex_);
    link = std::move(link_);
    link_ = nullptr;
    cancelled.swap(cancelled_);
  }
  if (link != nullptr) link->received.Release(&caller_, Over());
}

void LinkCall::AskOnThisThread(std::function<bool()> cancelled) {
  MutexLock lock(&mutex_);
  asking_thread_ = std::this_thread::get_id();
  cancelled_ = std::move(cancelled);
}

}  // namespace internal
}  // namespace grpcfd
