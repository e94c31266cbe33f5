// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/server_call.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/send_file.h"

namespace grpcfd {
namespace internal {

ServerCall::ServerCall(std::shared_ptr<Session> session, const Config& config)
    : session_(std::move(session)), config_(config), inbox_(config.key, config.policy) {
  session_->Attach(&inbox_, config.announced, config.client_streams, config.holes);
}

ServerCall::~ServerCall() { End(); }

void ServerCall::End() {
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    cancelled_ = nullptr;  // It refers to the call's context, which goes now; a handle may stay.
  }
  // What was sent back outlives the call here: the client takes it when the reply has reached it.
  session_->End(&inbox_, /*sent=*/false);
}

void ServerCall::Cancel() { session_->Cancel(&inbox_); }

void ServerCall::AskOnThisThread(std::function<bool()> cancelled) {
  MutexLock lock(&mutex_);
  asking_thread_ = std::this_thread::get_id();
  cancelled_ = std::move(cancelled);
}

absl::StatusOr<InodeUrl> ServerCall::SendFd(BorrowedFd fd) {
  // Sent before this returns, so no duplicate is needed to keep it open.
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  uint32_t index;
  std::function<bool()> cancelled;
  {
    MutexLock lock(&mutex_);
    absl::Status status = CheckSend(1);
    if (!status.ok()) return status;
    if (indices_.exhausted()) return IndicesExhausted();
    index = indices_.Take();
    cancelled = AskedHere();
  }
  const WaitOptions options = SendOptions(cancelled);
  const int number = fd.get();
  absl::Status status =
      session_->Send(config_.key, index, absl::MakeConstSpan(&number, 1), options);
  if (!status.ok()) {
    // An index that was not used leaves no hole, unless another sender has the next one already.
    MutexLock lock(&mutex_);
    indices_.GiveBack(index);
    return status;
  }
  return InodeUrl(*dev_ino, index);
}

absl::Status ServerCall::CheckSend(size_t n) const {
  if (ended_) {
    return absl::FailedPreconditionError("the call has ended: nothing can be sent with it");
  }
  const uint32_t limit = session_->remote_limits().max_fds_per_call;
  if (!config_.server_streams && indices_.used() + n > limit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the call has sent %d descriptors, and %d more would be more than may be "
                        "sent to %s for one call (max_fds_per_call = %d, the lower of both ends'); "
                        "raise it at both ends, or use several calls",
                        indices_.used(), n, session_->peer(), limit));
  }
  return absl::OkStatus();
}

WaitOptions ServerCall::SendOptions(const std::function<bool()>& cancelled) const {
  WaitOptions options;
  if (config_.never_block) {
    options.deadline = absl::InfinitePast();
  } else {
    options = Until(absl::InfiniteFuture());
    if (cancelled) options.cancelled = &cancelled;
  }
  return options;
}

std::function<bool()> ServerCall::AskedHere() const {
  return asking_thread_ == std::this_thread::get_id() ? cancelled_ : nullptr;
}

absl::StatusOr<std::vector<InodeUrl>> ServerCall::Arrived() { return session_->Arrived(&inbox_); }

absl::Status ServerCall::ClaimIndices(std::vector<InodeUrl>* urls) {
  MutexLock lock(&mutex_);
  if (!forward_failure_.ok()) return forward_failure_;
  if (urls->empty()) return absl::OkStatus();
  absl::Status status = CheckSend(urls->size());
  if (!status.ok()) return status;
  return indices_.ClaimIndices(urls);
}

void ServerCall::UnclaimIndex(uint32_t index) {
  MutexLock lock(&mutex_);
  indices_.UnclaimIndex(index);
}

size_t ServerCall::MaxAtOnce() { return session_->local_limits().max_fds_per_call; }

size_t ServerCall::Room(size_t) { return std::numeric_limits<size_t>::max(); }

bool ServerCall::MustNotWait() { return config_.server_streams || config_.never_block; }

absl::Status ServerCall::SendClaimed(IndexedFds fds) {
  std::function<bool()> cancelled;
  {
    MutexLock lock(&mutex_);
    cancelled = AskedHere();
  }
  const WaitOptions options = SendOptions(cancelled);
  return session_->Send(config_.key, Indices(IndicesOf(fds)), NumbersOf(fds), options);
}

void ServerCall::SendClaimedLater(IndexedFd fd, std::function<void()> done) {
  SendForwardedLater(session_.get(), config_.key, std::move(fd), Limit(absl::InfiniteFuture()),
                     [weak = weak_from_this(), done = std::move(done)](const absl::Status& status) {
                       if (auto self = weak.lock(); self != nullptr && !status.ok()) {
                         MutexLock lock(&self->mutex_);
                         self->forward_failure_.Update(status);
                       }
                       done();
                     });
}

absl::StatusOr<InodeUrl> ServerCall::SendFd(UniqueFd&& fd) {
  const UniqueFd adopted = std::move(fd);
  return SendFd(BorrowedFd(adopted));
}

absl::StatusOr<InodeUrl> ServerCall::SendFilename(const std::string& path, int flags) {
  absl::StatusOr<UniqueFd> fd = OpenForSending(path, flags);
  if (!fd.ok()) return fd.status();
  return SendFd(*std::move(fd));
}

WaitOptions ServerCall::Until(absl::Time deadline) const {
  WaitOptions options;
  options.deadline = std::min(deadline, config_.deadline);
  options.patience = config_.recv_timeout;
  return options;
}

absl::Time ServerCall::Limit(absl::Time deadline) const {
  deadline = std::min(deadline, config_.deadline);
  return deadline == absl::InfiniteFuture() ? absl::Now() + config_.recv_timeout : deadline;
}

absl::StatusOr<UniqueFd> ServerCall::Receive(const InodeUrl& url, absl::Time deadline,
                                             Session::Op op) {
  WaitOptions options = Until(deadline);
  std::function<bool()> cancelled;
  {
    MutexLock lock(&mutex_);
    cancelled = AskedHere();
  }
  if (cancelled) options.cancelled = &cancelled;
  return session_->Receive(&inbox_, url, op, options);
}

absl::StatusOr<UniqueFd> ServerCall::RecvFd(const InodeUrl& url, absl::Time deadline) {
  return Receive(url, deadline, Session::Op::kTake);
}

absl::StatusOr<UniqueFd> ServerCall::DupFd(const InodeUrl& url, absl::Time deadline) {
  return Receive(url, deadline, Session::Op::kDup);
}

void ServerCall::RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  session_->ReceiveAsync(&inbox_, url, Session::Op::kTake, Limit(deadline), std::move(done));
}

}  // namespace internal
}  // namespace grpcfd
