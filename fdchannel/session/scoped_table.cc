// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/scoped_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcfd/borrowed_fd.h"

namespace grpcfd {
namespace internal {

void ScopedTable::Add(uint32_t index, const DevIno& dev_ino, const FdFacts& facts, UniqueFd fd) {
  entries_[index] = Entry{dev_ino, facts, std::move(fd), absl::OkStatus()};
}

void ScopedTable::AddFailed(uint32_t index, absl::Status why) {
  entries_[index] = Entry{DevIno{}, FdFacts{}, UniqueFd(), std::move(why)};
}

absl::StatusOr<UniqueFd> ScopedTable::Dup(const InodeUrl& url, const ReceivePolicy* policy,
                                          const std::string& peer) const {
  const auto it = entries_.find(*url.session_index());
  if (it == entries_.end()) {
    return absl::NotFoundError(
        absl::StrCat(url.ToString(), " is not registered in the session with ", peer,
                     ": it was withdrawn, or belongs to another session or the other direction"));
  }
  const Entry& entry = it->second;
  if (!entry.failure.ok()) return entry.failure;
  if (entry.dev_ino != url.dev_ino()) {
    return absl::InvalidArgumentError(
        absl::StrCat(url.ToString(), " names another file than the session's descriptor ",
                     *url.session_index(), ", which is ", InodeUrl(entry.dev_ino).ToString()));
  }
  // It is not one of the call's own descriptors, so a bound on their number allows it if it allows
  // any.
  constexpr uint32_t kAnyIndex = 0;
  if (policy != nullptr && !Accepts(*policy, entry.facts, kAnyIndex)) {
    const absl::Status why = Judge(*policy, entry.facts, kAnyIndex);
    return absl::Status(why.code(),
                        absl::StrCat(url.ToString(), " from ", peer, ": ", why.message()));
  }
  return BorrowedFd(entry.fd).Dup();
}

UniqueFd ScopedTable::Remove(uint32_t index) {
  const auto it = entries_.find(index);
  if (it == entries_.end()) return UniqueFd();
  UniqueFd fd = std::move(it->second.fd);
  entries_.erase(it);
  return fd;
}

FdVector ScopedTable::Clear() {
  FdVector fds;
  for (auto& [index, entry] : entries_) {
    if (entry.fd.valid()) fds.push_back(std::move(entry.fd));
  }
  entries_.clear();
  return fds;
}

}  // namespace internal
}  // namespace grpcfd
