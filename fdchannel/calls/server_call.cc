// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/server_call.h"

#include <limits>
#include <utility>

#include "absl/strings/str_format.h"

namespace grpcfd {
namespace internal {
namespace {

absl::Status MustNotWaitHere(const InodeUrl& url) {
  return absl::FailedPreconditionError(absl::StrFormat(
      "%s has not come yet, and RecvFd must not wait in a callback or completion queue handler, "
      "whose thread serves other calls: call RecvFdAsync, or pass a finite deadline",
      url.ToString()));
}

}  // namespace

ServerCall::ServerCall(std::shared_ptr<Session> session, const Config& config)
    : transport_(&own_transport_.emplace(std::move(session), config.key, config.policy)),
      server_streams_(config.server_streams),
      never_block_(config.never_block) {
  // No other thread knows of the call yet.
  deadline_ = config.deadline;
  recv_timeout_ = config.recv_timeout;
  own_transport_->Attach(config.announced, config.client_streams, config.holes);
}

ServerCall::ServerCall(std::shared_ptr<CallTransport> transport, const Config& config)
    : kept_transport_(std::move(transport)),
      transport_(kept_transport_.get()),
      server_streams_(config.server_streams),
      never_block_(config.never_block) {
  deadline_ = config.deadline;
  recv_timeout_ = config.recv_timeout;
}

ServerCall::~ServerCall() {
  // The last reference is gone: no other thread is in here, and no lock is needed.
  if (!ended_) transport_->End(/*sent=*/false);
}

void ServerCall::End() {
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    cancelled_ = nullptr;  // It refers to the call's context, which goes now; a handle may stay.
  }
  // What was sent back outlives the call here: the client takes it when the reply has reached it.
  transport_->End(/*sent=*/false);
}

// --- Sending ---

absl::Status ServerCall::CheckSend(size_t n) const {
  if (ended_) {
    return absl::FailedPreconditionError("the call has ended: nothing can be sent with it");
  }
  const size_t limit = transport_->max_to_send();
  if (!server_streams_ && indices_.used() + n > limit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the call has sent %d descriptors, and %d more would be more than may be "
                        "sent to %s for one call (max_fds_per_call = %d, the lower of both ends'); "
                        "raise it at both ends, or use several calls",
                        indices_.used(), n, transport_->peer(), limit));
  }
  return absl::OkStatus();
}

WaitOptions ServerCall::SendOptions(const std::function<bool()>& cancelled) const {
  WaitOptions options;
  if (never_block_) {
    options.deadline = absl::InfinitePast();
  } else {
    options = Until(absl::InfiniteFuture());
    if (cancelled) options.cancelled = &cancelled;
  }
  return options;
}

absl::StatusOr<InodeUrl> ServerCall::Send(BorrowedFd fd, UniqueFd* adopted) {
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  InodeUrl url(*dev_ino);
  std::function<bool()> cancelled;
  WaitOptions options;
  {
    MutexLock lock(&mutex_);
    absl::Status status = CheckSend(1);
    if (!status.ok()) return status;
    if (transport_->indexed()) {
      auto next = NextUrl(*dev_ino);
      if (!next.ok()) return next.status();
      url = *next;
    }
    if (AsksHere()) cancelled = cancelled_;
    options = SendOptions(cancelled);
  }
  absl::Status status = transport_->Send(url, fd, adopted, options);
  if (status.ok()) return url;
  if (url.has_index()) {
    // An index that was not used leaves no hole, unless another sender has the next one already.
    MutexLock lock(&mutex_);
    indices_.GiveBack(*url.index());
  }
  return status;
}

// --- Forwarding ---

absl::Status ServerCall::ClaimIndices(std::vector<InodeUrl>* urls) {
  MutexLock lock(&mutex_);
  if (!forward_failure_.ok()) return forward_failure_;
  if (urls->empty()) return absl::OkStatus();
  absl::Status status = CheckSend(urls->size());
  if (!status.ok()) return status;
  return indices_.ClaimIndices(urls);
}

size_t ServerCall::Room(size_t /*max_at_once*/) { return std::numeric_limits<size_t>::max(); }

absl::Status ServerCall::SendClaimed(IndexedFds fds) {
  std::function<bool()> cancelled;
  WaitOptions options;
  {
    MutexLock lock(&mutex_);
    if (AsksHere()) cancelled = cancelled_;
    options = SendOptions(cancelled);
  }
  return transport_->SendAll(fds, options);
}

void ServerCall::SendClaimedLater(IndexedFd fd, std::function<void()> done) {
  absl::Time deadline;
  {
    MutexLock lock(&mutex_);
    deadline = Limit(absl::InfiniteFuture());
  }
  transport_->SendLater(
      std::move(fd), deadline,
      [weak = weak_from_this(), done = std::move(done)](const absl::Status& status) {
        if (auto self = weak.lock(); self != nullptr && !status.ok()) {
          MutexLock lock(&self->mutex_);
          self->forward_failure_.Update(status);
        }
        done();
      });
}

// --- Receiving ---

absl::StatusOr<UniqueFd> ServerCall::Receive(const InodeUrl& url, absl::Time deadline,
                                             CallTransport::Op op) {
  if (never_block_ && deadline == absl::InfiniteFuture()) {
    WaitOptions options;
    options.deadline = absl::InfinitePast();  // One look happens all the same.
    auto fd = transport_->Receive(url, op, options);
    if (absl::IsDeadlineExceeded(fd.status())) return MustNotWaitHere(url);
    return fd;
  }
  std::function<bool()> cancelled;
  WaitOptions options;
  {
    MutexLock lock(&mutex_);
    options = Until(deadline);
    if (AsksHere()) {
      cancelled = cancelled_;
      options.cancelled = &cancelled;
    }
  }
  return transport_->Receive(url, op, options);
}

void ServerCall::ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  absl::Time limit;
  {
    MutexLock lock(&mutex_);
    limit = Limit(deadline);
  }
  transport_->ReceiveAsync(url, limit, std::move(done));
}

}  // namespace internal
}  // namespace grpcfd
