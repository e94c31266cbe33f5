// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/server/connection_table.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {
namespace {

// Of this socket alone, for as long as the machine runs. Zero if there is none: not a socket.
uint64_t CookieOf(BorrowedFd socket) {
  uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  const int result = ::getsockopt(socket.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size);
  return result == 0 && size == sizeof(cookie) ? cookie : 0;
}

}  // namespace

ConnectionTable& ConnectionTable::Process() {
  static auto* const table = new ConnectionTable;  // Never destroyed: servers may outlive statics.
  return *table;
}

void ConnectionTable::Add(BorrowedFd connection, const ConnectionId& id, const void* server) {
  const uint64_t cookie = id.zero() ? 0 : CookieOf(connection);
  MutexLock lock(&mutex_);
  const auto last = records_.find(connection.get());
  if (last != records_.end()) {
    const auto numbers = numbers_.find(last->second.id);
    auto& list = numbers->second;
    list.erase(std::find(list.begin(), list.end(), connection.get()));
    if (list.empty()) numbers_.erase(numbers);
    records_.erase(last);
  }
  if (cookie == 0) return;
  records_[connection.get()] = Record{id, cookie, server};
  numbers_[id].push_back(connection.get());
}

std::vector<std::pair<int, ConnectionTable::Record>> ConnectionTable::Living(
    const ConnectionId& id) const {
  std::vector<std::pair<int, Record>> living;
  MutexLock lock(&mutex_);
  const auto numbers = numbers_.find(id);
  if (numbers == numbers_.end()) return living;
  for (const int number : numbers->second) {
    const Record& record = records_.at(number);
    if (CookieOf(BorrowedFd(number)) == record.cookie) living.emplace_back(number, record);
  }
  return living;
}

bool ConnectionTable::Has(const ConnectionId& id, const void* server) const {
  const auto living = Living(id);
  return std::any_of(living.begin(), living.end(),
                     [server](const auto& entry) { return entry.second.server == server; });
}

std::vector<ConnectionId> ConnectionTable::NamesOf(const void* server) const {
  std::vector<ConnectionId> names;
  MutexLock lock(&mutex_);
  for (const auto& [number, record] : records_) {
    if (record.server == server && CookieOf(BorrowedFd(number)) == record.cookie) {
      names.push_back(record.id);
    }
  }
  return names;
}

bool ConnectionTable::HasOf(const PeerCredentials& owner, const ConnectionId& id,
                            const void* server) const {
  const auto living = Living(id);
  return std::any_of(living.begin(), living.end(), [&](const auto& entry) {
    const auto& [number, record] = entry;
    if (record.server != server) return false;
    auto peer = GetPeerCredentials(BorrowedFd(number), PidfdMode::kWanted);
    if (!peer.ok()) peer = GetPeerCredentials(BorrowedFd(number), PidfdMode::kNone);
    if (!peer.ok() || CookieOf(BorrowedFd(number)) != record.cookie) return false;
    if (peer->pid == 0 || owner.pid == 0) return true;
    // The pid of one that has ended may be another's now.
    return peer->pid == owner.pid && !peer->HasExited();
  });
}

absl::StatusOr<PeerCredentials> ConnectionTable::Peer(const ConnectionId& id) const {
  const auto living = Living(id);
  if (living.size() > 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(living.size(), " connections are named ", NameOf(id),
                     ", from several network namespaces: which of them the call came by is not "
                     "known"));
  }
  const absl::Status gone =
      absl::UnavailableError("the connection that the call came by has ended");
  if (living.empty()) return gone;
  const auto& [number, record] = living.front();
  auto peer = GetPeerCredentials(BorrowedFd(number), PidfdMode::kWanted);
  // It may have been closed meanwhile, and its number be another socket's.
  if (CookieOf(BorrowedFd(number)) != record.cookie) return gone;
  return peer;
}

}  // namespace internal
}  // namespace grpcfd
