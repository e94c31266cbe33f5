// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/read_room.h"

#include <algorithm>

namespace grpcfd {
namespace internal {

size_t ReadRoom::Reserve(size_t messages) {
  messages = std::min(messages, kMaxBatch);
  ReadRoom* const root = Root();
  bool gave_back = false;
  size_t got = TryReserve(messages, &gave_back);
  if (gave_back) Notify();
  if (got != 0) return got;
  MutexLock lock(&root->mutex_);
  // From here on whoever gives room back tells.
  root->waiters_.fetch_add(1);
  while (!Blocked()) {
    gave_back = false;
    got = TryReserve(messages, &gave_back);
    if (gave_back) root->changed_.NotifyAll();
    if (got != 0) break;
    root->changed_.Wait(&root->mutex_);
  }
  root->waiters_.fetch_sub(1);
  return got;
}

size_t ReadRoom::TryReserve(size_t messages, bool* gave_back) {
  const auto seen = static_cast<uint64_t>(Root()->seen_.load(std::memory_order_relaxed));
  if (seen + messages * kMaxFdsPerMessage > nofile_) {
    messages = seen < nofile_ ? (nofile_ - seen) / kMaxFdsPerMessage : 0;
  }
  if (messages != 0 && whole_ != nullptr) messages = whole_->Take(messages);
  const size_t got = messages != 0 ? Take(messages) : 0;
  if (got == messages || whole_ == nullptr) return got;
  whole_->Give((messages - got) * kMaxFdsPerMessage);
  *gave_back = true;
  return got;
}

size_t ReadRoom::Take(size_t messages) {
  uint64_t used = used_.load();
  for (;;) {
    const uint64_t room = used < limit_ ? (limit_ - used) / kMaxFdsPerMessage : 0;
    const size_t got = std::min<uint64_t>(room, messages);
    if (got == 0) return 0;
    if (used_.compare_exchange_weak(used, used + got * kMaxFdsPerMessage)) return got;
  }
}

void ReadRoom::Give(uint64_t fds) { used_.fetch_sub(fds); }

bool ReadRoom::Blocked() const {
  const ReadRoom& root = whole_ != nullptr ? *whole_ : *this;
  const auto full = [](const ReadRoom& room) {
    return room.closing_.load() + kMaxFdsPerMessage > room.limit_;
  };
  const auto seen = static_cast<uint64_t>(root.seen_.load(std::memory_order_relaxed));
  return full(*this) || full(root) || seen + kMaxFdsPerMessage > nofile_;
}

void ReadRoom::Return(size_t messages, size_t kept) {
  for (ReadRoom* room = this; room != nullptr; room = room->whole_.get()) {
    if (kept != 0) room->closing_.fetch_add(kept);
    room->Give(messages * kMaxFdsPerMessage - kept);
  }
  Notify();
}

void ReadRoom::Keep(size_t n) {
  for (ReadRoom* room = this; room != nullptr; room = room->whole_.get()) {
    room->closing_.fetch_add(n);
    room->used_.fetch_add(n);
  }
  Notify();  // Those who wait may wait in vain now.
}

void ReadRoom::Closed(size_t n) {
  if (n == 0) return;
  for (ReadRoom* room = this; room != nullptr; room = room->whole_.get()) {
    room->closing_.fetch_sub(n);
    room->Give(n);
  }
  Notify();
}

void ReadRoom::Notify() {
  ReadRoom* const root = Root();
  if (root->waiters_.load() == 0) return;
  MutexLock lock(&root->mutex_);
  root->changed_.NotifyAll();
}

}  // namespace internal
}  // namespace grpcfd
