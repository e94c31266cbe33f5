// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/read_room.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>

#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

FdTable LookAtFdTable() {
  FdTable table;
  rlimit nofile{};
  table.nofile = ::getrlimit(RLIMIT_NOFILE, &nofile) == 0 ? nofile.rlim_cur : RLIM_INFINITY;
  const UniqueFd probe(::open("/", O_PATH | O_CLOEXEC));
  table.lowest_free = probe.valid() ? static_cast<uint64_t>(probe.get()) : table.nofile;
  return table;
}

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

size_t ReadRoom::RoomInTable(size_t messages) {
  const auto room = [this] {
    const uint64_t nofile = nofile_.load(std::memory_order_relaxed);
    const uint64_t lowest_free = lowest_free_.load(std::memory_order_relaxed);
    if (lowest_free >= nofile) return uint64_t{0};
    // A table that is small from the start has no room for a full message: half of it has to do.
    return (nofile - lowest_free) / std::min<uint64_t>(kMaxFdsPerMessage, (nofile + 1) / 2);
  };
  if (room() < messages) {
    const FdTable table = table_();
    nofile_.store(table.nofile, std::memory_order_relaxed);
    lowest_free_.store(table.lowest_free, std::memory_order_relaxed);
  }
  return static_cast<size_t>(std::min<uint64_t>(room(), messages));
}

size_t ReadRoom::TryReserve(size_t messages, bool* gave_back) {
  messages = Root()->RoomInTable(messages);
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

bool ReadRoom::Blocked() {
  const auto full = [](const ReadRoom& room) {
    return room.closing_.load() + kMaxFdsPerMessage > room.limit_;
  };
  return full(*this) || full(*Root()) || Root()->RoomInTable(1) == 0;
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
