// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace grpcfd {
namespace internal {

absl::Status ForwardedIndices::ClaimIndices(std::vector<InodeUrl>* urls) {
  urls->erase(
      std::remove_if(urls->begin(), urls->end(),
                     [this](const InodeUrl& url) { return !forwarded_.IsFree(*url.index()); }),
      urls->end());
  std::vector<uint32_t> indices;
  indices.reserve(urls->size());
  for (const InodeUrl& url : *urls) indices.push_back(*url.index());
  if (!all_.Take(indices)) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "descriptors %d to %d cannot be forwarded: at least one of these indices is in use in the "
        "next call. Forward before SendFd",
        indices.front(), indices.back()));
  }
  forwarded_.Take(indices);
  return absl::OkStatus();
}

void ForwardedIndices::UnclaimIndex(uint32_t index) {
  forwarded_.GiveBack(index);
  all_.GiveBack(index);
}

absl::StatusOr<InodeUrl> Call::SendBorrowed(BorrowedFd fd) { return Send(fd, nullptr); }

absl::StatusOr<InodeUrl> Call::SendOwned(UniqueFd fd) { return Send(BorrowedFd(fd), &fd); }

absl::StatusOr<UniqueFd> Call::ReceiveFd(const InodeUrl& url, absl::Time deadline) {
  return Receive(url, deadline, CallTransport::Op::kTake);
}

absl::StatusOr<UniqueFd> Call::DuplicateFd(const InodeUrl& url, absl::Time deadline) {
  return Receive(url, deadline, CallTransport::Op::kDup);
}

void Call::AskOnThisThread(std::function<bool()> cancelled) {
  MutexLock lock(&mutex_);
  asking_thread_ = std::this_thread::get_id();
  cancelled_ = std::move(cancelled);
}

void Call::UnclaimIndex(uint32_t index) {
  MutexLock lock(&mutex_);
  indices_.UnclaimIndex(index);
}

absl::Time Call::Limit(absl::Time deadline) const {
  deadline = std::min(deadline, deadline_);
  return deadline == absl::InfiniteFuture() ? absl::Now() + recv_timeout_ : deadline;
}

absl::Status Call::NoIndexLeft() {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "the call has used descriptor index %d, and there is none above it", kMaxIndex));
}

}  // namespace internal
}  // namespace grpcfd
