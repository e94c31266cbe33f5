// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/in_band_start.h"

namespace grpcfd {
namespace internal {

absl::Status InBandStart::Check() {
  const auto call = call_.lock();
  if (call == nullptr) return absl::CancelledError("the call was given up");
  const auto peer = dialer_->current();
  SendQueue::Checked checked;
  size_t count = 0;
  absl::Status status = call->InspectQueue([&](const IndexedFds& queued) {
    SendQueue::Named named;
    for (const IndexedFd& one : queued) {
      named.push_back({one.url.dev_ino(), BorrowedFd(one.fd.get())});
    }
    count = named.size();
    return peer == nullptr ? SendQueue::CheckAmong(named) : peer->queue.Check(named, &checked);
  });
  MutexLock lock(&mutex_);
  checked_ = checked;
  checked_count_ = count;
  return status;
}

absl::Status InBandStart::StartAttempt() {
  const auto call = call_.lock();
  if (call == nullptr) return absl::CancelledError("the call was given up");
  const auto peer = dialer_->current();
  if (peer == nullptr) {
    return absl::UnavailableError("the connection of the call is gone: a new call gets a new one");
  }
  SendQueue::Checked checked;
  size_t checked_count = 0;
  std::shared_ptr<InBandTransport> transport;
  {
    MutexLock lock(&mutex_);
    const auto former = transport_.lock();
    if (former == nullptr || !former->IsOf(peer)) {
      transport = std::make_shared<InBandTransport>(peer, policy_);
      transport_ = transport;
      checked = checked_;
      checked_count = checked_count_;
    }
  }
  return call->StartOnConnection(transport, [&](IndexedFds* queued) {
    NamedFds named;
    named.reserve(queued->size());
    for (IndexedFd& one : *queued) named.push_back(NamedFd{one.url.dev_ino(), one.fd.Take()});
    const bool all_checked = named.size() == checked_count;
    return transport->Push(std::move(named), all_checked ? checked : SendQueue::Checked());
  });
}

}  // namespace internal
}  // namespace grpcfd
