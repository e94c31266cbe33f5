// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/in_band_transport.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/fd_facts.h"

namespace grpcfd {
namespace internal {
namespace {

absl::Status Over() {
  return absl::FailedPreconditionError(
      "the call has ended: nothing can be sent or received with it");
}

absl::Status BelongsToNoCall() {
  return absl::FailedPreconditionError(
      "the call's descriptors go on gRPC's own connection (Wire::kInBand): what comes there "
      "belongs to no call, and cannot be forwarded");
}

}  // namespace

std::shared_ptr<InBandPeer> InBandTransport::LivingPeer() const {
  MutexLock lock(&mutex_);
  return peer_;
}

bool InBandTransport::IsOf(const std::shared_ptr<InBandPeer>& peer) const {
  return LivingPeer() == peer;
}

size_t InBandTransport::max_to_send() const { return std::numeric_limits<size_t>::max(); }

size_t InBandTransport::max_to_receive() const { return std::numeric_limits<size_t>::max(); }

std::string InBandTransport::peer() const {
  const auto peer = LivingPeer();
  return peer == nullptr ? "a connection that is gone"
                         : absl::StrCat("pid ", peer->credentials.pid);
}

bool InBandTransport::AnyCame() const {
  const auto peer = LivingPeer();
  return peer != nullptr && peer->received.any_came();
}

// --- Sending ---

absl::Status InBandTransport::Push(NamedFds fds, const SendQueue::Checked& checked) {
  const auto peer = LivingPeer();
  if (peer == nullptr) return Over();
  FdVector closing;  // The program's own files: closed here, as it would close them itself.
  return peer->queue.Push(std::move(fds), checked, &closing);
}

absl::Status InBandTransport::Send(const InodeUrl& url, BorrowedFd fd, UniqueFd* adopted,
                                   const WaitOptions& /*options*/) {
  NamedFds one;
  if (adopted != nullptr) {
    one.push_back(NamedFd{url.dev_ino(), std::move(*adopted)});
  } else {
    auto copy = fd.Dup();
    if (!copy.ok()) return copy.status();
    one.push_back(NamedFd{url.dev_ino(), *std::move(copy)});
  }
  return Push(std::move(one), SendQueue::Checked());
}

absl::Status InBandTransport::SendAll(const IndexedFds& /*fds*/, const WaitOptions& /*options*/) {
  return BelongsToNoCall();
}

void InBandTransport::SendLater(IndexedFd /*fd*/, absl::Time /*deadline*/, StatusCallback done) {
  done(BelongsToNoCall());
}

// --- Receiving ---

absl::StatusOr<std::vector<InodeUrl>> InBandTransport::Arrived() { return BelongsToNoCall(); }

absl::StatusOr<UniqueFd> InBandTransport::Judge(const DevIno& dev_ino,
                                                absl::StatusOr<UniqueFd> fd) {
  if (policy_ == nullptr || !fd.ok()) return fd;
  size_t index;
  {
    MutexLock lock(&mutex_);
    const auto it = std::find(judged_.begin(), judged_.end(), dev_ino);
    index = static_cast<size_t>(it - judged_.begin());
    // Beyond the maximum they are all alike.
    if (it == judged_.end() && index < PolicyRules::MaxFds(*policy_)) judged_.push_back(dev_ino);
  }
  absl::Status status = policy_->Check(*fd, static_cast<uint32_t>(index));
  if (status.ok()) return fd;
  if (const auto peer = LivingPeer()) Count(&peer->counters().asks_refused_policy);
  return status;
}

absl::StatusOr<UniqueFd> InBandTransport::Receive(const InodeUrl& url, Op /*op*/,
                                                  const WaitOptions& options) {
  const auto peer = LivingPeer();
  if (peer == nullptr) return Over();
  const absl::Time deadline = options.deadline == absl::InfiniteFuture()
                                  ? absl::Now() + options.patience
                                  : options.deadline;
  return Judge(url.dev_ino(),
               peer->received.Receive(url.dev_ino(), &caller_, deadline, options.cancelled));
}

void InBandTransport::ReceiveAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  const auto peer = LivingPeer();
  if (peer == nullptr) return done(Over());
  if (policy_ != nullptr) {
    done = [weak = weak_from_this(), dev_ino = url.dev_ino(),
            done = std::move(done)](absl::StatusOr<UniqueFd> fd) mutable {
      if (!fd.ok()) return done(std::move(fd));
      const auto self = weak.lock();
      done(self == nullptr ? Over() : self->Judge(dev_ino, std::move(fd)));
    };
  }
  peer->ReceiveAsync(url.dev_ino(), &caller_, deadline, std::move(done));
}

// --- Ending ---

void InBandTransport::Cancel() {
  const auto peer = LivingPeer();
  if (peer == nullptr) return;
  peer->received.Release(&caller_, absl::CancelledError("the call was cancelled"));
}

void InBandTransport::Complete() {
  const auto peer = LivingPeer();
  if (peer == nullptr) return;
  peer->received.Release(
      &caller_, absl::NotFoundError("the call has ended, and the descriptor had not come by then"));
}

void InBandTransport::End(bool /*sent*/) {
  std::shared_ptr<InBandPeer> peer;
  {
    MutexLock lock(&mutex_);
    peer = std::move(peer_);
    peer_ = nullptr;
  }
  if (peer != nullptr) peer->received.Release(&caller_, Over());
}

}  // namespace internal
}  // namespace grpcfd
