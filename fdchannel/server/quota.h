// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// QuotaLedger: how many descriptors and sessions a server holds, in total and for each user.
//
// Why it exists: a session's window bounds one client process, but a user may start many.
// What one user holds must never keep another user out: nobody gets more than half of the
// total.
//
// Limits are of the process, not of a connection. All arithmetic is 64-bit over 32-bit
// limits, so sums cannot overflow. A charge is released by the object that holds what was
// charged, so no error path forgets it.
#ifndef GRPCFD_FDCHANNEL_SERVER_QUOTA_H_
#define GRPCFD_FDCHANNEL_SERVER_QUOTA_H_

#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/session/read_room.h"
#include "fdchannel/session/session.h"
#include "grpcfd/limits.h"

namespace grpcfd {
namespace internal {

// `limits` with every 0 replaced by what it stands for at a soft RLIMIT_NOFILE of `nofile`.
// FAILED_PRECONDITION, with the sum spelled out, if all limits together do not fit into it;
// INVALID_ARGUMENT for limits that contradict (a window smaller than a call's descriptors,
// say). `nofile` may be RLIM_INFINITY.
absl::StatusOr<ServerLimits> ResolveLimits(ServerLimits limits, uint64_t nofile);

// The room for what looks at sockets bring (ReadRoom), of a server with these limits, resolved:
// what the limits leave of `nofile`, but for an eighth, and at most eight full messages. If that is
// less than one, all reading is done on the users' lanes.
uint64_t RoomForReading(const ServerLimits& limits, uint64_t nofile);

// Thread-safe.
class QuotaLedger : public std::enable_shared_from_this<QuotaLedger> {
 public:
  // `limits` as ResolveLimits gave them for `nofile`.
  explicit QuotaLedger(const ServerLimits& limits, uint64_t nofile = RLIM_INFINITY);

  // The account of one session of `uid`; the session is counted until the account is destroyed.
  // RESOURCE_EXHAUSTED if `uid`, or the server, has too many.
  absl::StatusOr<std::shared_ptr<DescriptorQuota>> OpenSession(uid_t uid);

  // Of a user who has a session. At most a quarter of the whole is one user's, or one message.
  std::shared_ptr<ReadRoom> RoomOf(uid_t uid) const;

  // The most that one user may hold: half of the total, rounded up, so that a total of 1 serves
  // somebody; or less.
  uint64_t most_per_uid() const;
  uint64_t held_total() const;
  uint64_t held_by(uid_t uid) const;
  // Of all users: refused, and not closed yet.
  uint64_t closing_total() const { return room_->closing(); }
  uint64_t sessions() const;

 private:
  class Account;
  struct User {
    uint64_t held = 0;
    uint64_t sessions = 0;
    std::shared_ptr<ReadRoom> room;
  };

  // `user` is in users_ as long as it has a session, and so has a place of its own there.
  absl::Status Charge(uid_t uid, User* user, uint64_t n);
  void Release(User* user, uint64_t n);
  void CloseSession(uid_t uid);

  const ServerLimits limits_;
  const std::shared_ptr<ReadRoom> room_;
  mutable Mutex mutex_;
  uint64_t held_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uid_t, User> users_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SERVER_QUOTA_H_
