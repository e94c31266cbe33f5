// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/dialed_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/send_file.h"

namespace grpcfd {
namespace internal {

absl::StatusOr<std::shared_ptr<LinkCall>> DialedCall::Started(absl::Time deadline) {
  deadline = std::min(deadline, config_.deadline);
  if (deadline == absl::InfiniteFuture()) deadline = absl::Now() + config_.recv_timeout;
  MutexLock lock(&mutex_);
  while (call_ == nullptr && abandoned_.ok()) {
    if (!started_.WaitUntil(&mutex_, deadline) && call_ == nullptr && abandoned_.ok()) {
      return absl::DeadlineExceededError("the call has not reached a connection in time");
    }
  }
  if (!abandoned_.ok()) return abandoned_;
  return call_;
}

absl::StatusOr<InodeUrl> DialedCall::SendFd(BorrowedFd fd) {
  auto copy = fd.Dup();
  if (!copy.ok()) return copy.status();
  return SendFd(*std::move(copy));
}

absl::StatusOr<InodeUrl> DialedCall::SendFd(UniqueFd&& fd) {
  UniqueFd adopted = std::move(fd);
  const auto dev_ino = FdToDevIno(adopted);
  if (!dev_ino.ok()) return dev_ino.status();
  if (!config_.client_streams) {
    return absl::FailedPreconditionError(
        "the call has sent its request: only streams of requests send descriptors later");
  }
  MutexLock lock(&mutex_);
  if (!abandoned_.ok()) return abandoned_;
  if (!over_.ok()) return over_;
  if (call_ == nullptr) {
    if (queued_.size() >= config_.max_fds_per_call) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("the call has not reached a connection yet, and until then holds at most "
                          "max_fds_per_call = %d descriptors: send more once it runs, or raise the "
                          "limit",
                          config_.max_fds_per_call));
    }
    queued_.push_back(NamedFd{*dev_ino, std::move(adopted)});
    checked_ = SendQueue::Checked();
    return InodeUrl(*dev_ino);
  }
  sent_ = true;
  const std::shared_ptr<LinkCall> call = call_;
  lock.Unlock();
  auto url = call->SendFd(std::move(adopted));
  lock.Lock();
  return url;
}

absl::StatusOr<InodeUrl> DialedCall::SendFilename(const std::string& path, int flags) {
  absl::StatusOr<UniqueFd> fd = OpenForSending(path, flags);
  if (!fd.ok()) return fd.status();
  return SendFd(*std::move(fd));
}

absl::StatusOr<UniqueFd> DialedCall::RecvFd(const InodeUrl& url, absl::Time deadline) {
  auto call = Started(deadline);
  if (!call.ok()) return call.status();
  return (*call)->RecvFd(url, deadline);
}

absl::StatusOr<UniqueFd> DialedCall::DupFd(const InodeUrl& url, absl::Time deadline) {
  return RecvFd(url, deadline);
}

void DialedCall::RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  std::shared_ptr<LinkCall> call;
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    call = call_;
    // Never blocks: a call that is still starting has nothing to wait for with.
    status = abandoned_.ok() && call_ == nullptr
                 ? absl::FailedPreconditionError("the call has not started yet")
                 : abandoned_;
  }
  if (!status.ok()) return done(std::move(status));
  call->RecvFdAsync(url, deadline, std::move(done));
}

absl::Status DialedCall::Check() {
  const auto link = dialer_->current();
  MutexLock lock(&mutex_);
  if (link != nullptr) return link->queue.Check(queued_, &checked_);
  return SendQueue::CheckAmong(queued_);
}

absl::Status DialedCall::StartAttempt() {
  const auto link = dialer_->current();
  NamedFds queued;
  std::shared_ptr<LinkCall> call;
  std::shared_ptr<LinkCall> former;  // Outlives the lock.
  {
    MutexLock lock(&mutex_);
    if (!abandoned_.ok()) return abandoned_;
    if (!over_.ok()) return over_;
    if (link == nullptr) {
      return absl::UnavailableError(
          "the connection of the call is gone: a new call gets a new one");
    }
    if (call_ != nullptr && call_->IsOf(link)) return absl::OkStatus();  // The peer has them all.
    if (sent_) {
      return absl::UnavailableError(
          "the call's descriptors went with a connection that is gone, and this attempt has "
          "another one: a new call brings them anew");
    }
    queued.swap(queued_);
    sent_ = !queued.empty();
    LinkCall::Config config;
    config.deadline = config_.deadline;
    config.recv_timeout = config_.recv_timeout;
    config.policy = config_.policy;
    call = std::make_shared<LinkCall>(link, config);
    former = std::exchange(call_, call);
    // Before anybody else can queue with this call.
    absl::Status status =
        queued.empty() ? absl::OkStatus() : call->SendAll(std::move(queued), checked_);
    if (!status.ok()) abandoned_ = status;
    started_.NotifyAll();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

bool DialedCall::AnyCame() const {
  std::shared_ptr<LinkCall> call;
  {
    MutexLock lock(&mutex_);
    call = call_;
  }
  return call != nullptr && call->AnyCame();
}

std::shared_ptr<LinkCall> DialedCall::Finish(const absl::Status& over,
                                             const absl::Status& without) {
  NamedFds queued;  // Outlives the lock.
  MutexLock lock(&mutex_);
  if (call_ != nullptr) {
    over_ = over;
    return call_;
  }
  AbandonLocked(without, &queued);
  return nullptr;
}

void DialedCall::OnCancelled() {
  const absl::Status cancelled = absl::CancelledError("the call was cancelled");
  if (const auto call = Finish(cancelled, cancelled)) call->Cancel();
}

void DialedCall::OnEnded() {
  const auto call = Finish(
      absl::FailedPreconditionError("the call has ended: nothing can be sent with it"),
      absl::UnavailableError("the call ended before it had a connection, and nothing can have come "
                             "back"));
  if (call != nullptr) call->Complete();
}

void DialedCall::Abandon(const absl::Status& why) {
  NamedFds queued;  // Outlives the lock.
  MutexLock lock(&mutex_);
  AbandonLocked(why, &queued);
}

void DialedCall::AbandonLocked(const absl::Status& why, NamedFds* done_with) {
  if (abandoned_.ok()) abandoned_ = why;
  done_with->swap(queued_);
  started_.NotifyAll();
}

}  // namespace internal
}  // namespace grpcfd
