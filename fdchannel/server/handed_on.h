// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// HandedOn: how many of each user's connections were handed on to gRPC, and are still open.
//
// Why it exists: gRPC takes every connection that says one byte. Without a bound one user fills the
// process's table with them. gRPC does not tell when it closes one, so a connection is known by its
// number and its inode, and looked for when its user seems to have too many.
#ifndef GRPCFD_FDCHANNEL_SERVER_HANDED_ON_H_
#define GRPCFD_FDCHANNEL_SERVER_HANDED_ON_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <map>
#include <vector>

#include "absl/time/time.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
class HandedOn {
 public:
  // A user may have `per_uid`; all users together have five fourths of it, of which one gets at
  // most four fifths of what the others leave.
  explicit HandedOn(uint32_t per_uid) : per_uid_(per_uid) {}
  HandedOn(const HandedOn&) = delete;
  HandedOn& operator=(const HandedOn&) = delete;

  // Counts `connection`, which takes `weight` descriptors, until it is closed. False, and not
  // counted, if its user has too many.
  bool Admit(uid_t uid, BorrowedFd connection, uint32_t weight);

 private:
  struct Connection {
    int number;
    DevIno inode;
    uint32_t weight;
  };
  struct User {
    std::vector<Connection> connections;
    uint64_t weight = 0;
  };

  bool HasRoom(uid_t uid, uint32_t weight) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets those that are closed.
  void Prune() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t per_uid_;
  Mutex mutex_;
  std::map<uid_t, User> users_ ABSL_GUARDED_BY(mutex_);
  uint64_t total_ ABSL_GUARDED_BY(mutex_) = 0;
  MonotonicTime next_prune_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfinitePast();
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SERVER_HANDED_ON_H_
