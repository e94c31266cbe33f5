// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/server/handed_on.h"

#include <algorithm>

#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {
namespace {

// After a look that found little, for each connection costs a system call: a flood of refused ones
// must not buy one look each.
constexpr absl::Duration kPruneInterval = absl::Milliseconds(100);

}  // namespace

bool HandedOn::Admit(uid_t uid, BorrowedFd connection, uint32_t weight) {
  const auto inode = FdToDevIno(connection);
  if (!inode.ok()) return false;
  MutexLock lock(&mutex_);
  if (!HasRoom(uid, weight) && MonotonicTime::Now() >= next_prune_) Prune();
  if (!HasRoom(uid, weight)) return false;
  User& user = users_[uid];
  user.connections.push_back(Connection{connection.get(), *inode, weight});
  user.weight += weight;
  total_ += weight;
  return true;
}

bool HandedOn::HasRoom(uid_t uid, uint32_t weight) const {
  const auto user = users_.find(uid);
  const uint64_t mine = user != users_.end() ? user->second.weight : 0;
  const uint64_t all = per_uid_ + per_uid_ / 4;
  const uint64_t others = total_ - mine;
  const uint64_t left = all > others ? all - others : 0;
  return mine + weight <= std::min(per_uid_, left - left / 5);
}

void HandedOn::Prune() {
  const uint64_t before = total_;
  total_ = 0;
  for (auto user = users_.begin(); user != users_.end();) {
    std::vector<Connection>& all = user->second.connections;
    user->second.weight = 0;
    all.erase(std::remove_if(all.begin(), all.end(),
                             [](const Connection& one) {
                               const auto now = FdToDevIno(BorrowedFd(one.number));
                               return !now.ok() || *now != one.inode;
                             }),
              all.end());
    for (const Connection& one : all) user->second.weight += one.weight;
    total_ += user->second.weight;
    user = all.empty() ? users_.erase(user) : std::next(user);
  }
  if (before - total_ < before / 4) next_prune_ = MonotonicTime::Now() + kPruneInterval;
}

}  // namespace internal
}  // namespace grpcfd
