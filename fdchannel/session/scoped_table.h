// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ScopedTable: the session-scoped descriptors that a session holds of its peer's: those that belong
// to no call, and that any call of the session may name. See PROTOCOL.md, "Session-scoped
// descriptors".
//
// A descriptor that could not be kept stays listed with the reason, so that a call that names it
// gets that reason at once.
#ifndef GRPCFD_FDCHANNEL_SESSION_SCOPED_TABLE_H_
#define GRPCFD_FDCHANNEL_SESSION_SCOPED_TABLE_H_

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fdchannel/fds/fd_facts.h"
#include "fdchannel/os/cmsg.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/receive_policy.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Thread-compatible: part of a Session, guarded by its mutex. Closes nothing: what is removed is
// handed back.
class ScopedTable {
 public:
  // Those that could not be kept included: the peer's limit counts them.
  size_t size() const { return entries_.size(); }
  bool Contains(uint32_t index) const { return entries_.contains(index); }

  void Add(uint32_t index, const DevIno& dev_ino, const FdFacts& facts, UniqueFd fd);
  // In place of one that could not be kept.
  void AddFailed(uint32_t index, absl::Status why);

  // A duplicate of the descriptor that `url` names, if `policy` accepts it (null: all). The policy
  // is that of the call which asks, so the descriptor stays for others. `peer` is for messages.
  //   NOT_FOUND           there is none of that index (any more)
  //   INVALID_ARGUMENT    it is another file
  //   PERMISSION_DENIED   the policy refuses it
  //   RESOURCE_EXHAUSTED  it could not be kept when it came, or cannot be duplicated
  absl::StatusOr<UniqueFd> Dup(const InodeUrl& url, const ReceivePolicy* policy,
                               const std::string& peer) const;

  // The descriptor; an invalid one if there is none, or it could not be kept.
  UniqueFd Remove(uint32_t index);
  // Removes and returns all of them.
  FdVector Clear();

 private:
  struct Entry {
    DevIno dev_ino;
    FdFacts facts;
    UniqueFd fd;
    absl::Status failure;
  };
  absl::flat_hash_map<uint32_t, Entry> entries_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SCOPED_TABLE_H_
