// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// PeerCredentials: identifies the other end of a session, by the kernel's word.
//
// uid, gid and pid are those of connect(2), when SO_PEERCRED freezes them; the pid may have been
// given to another process since. The pidfd names the process itself: call HasExited() after
// reading anything under /proc/<pid>. An address string does not say who connected; only these
// fields do.
#ifndef GRPCFD_PEER_CREDENTIALS_H_
#define GRPCFD_PEER_CREDENTIALS_H_

#include <sys/types.h>

#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// Move-only, because it owns the pidfd. Thread-compatible.
struct PeerCredentials {
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  pid_t pid = 0;   // 0: the peer lives in another pid namespace
  UniqueFd pidfd;  // Invalid before Linux 6.5 (SO_PEERPIDFD), or if the process was already reaped.

  // Whether the process is known to have ended. False where there is no pidfd to tell.
  bool HasExited() const;

  // A copy with a pidfd of its own. RESOURCE_EXHAUSTED at a descriptor limit.
  absl::StatusOr<PeerCredentials> Dup() const;
};

// Whether GetPeerCredentials asks for a pidfd, which costs a descriptor.
enum class PidfdMode { kNone, kWanted };

// The peer of a connected unix socket, by SO_PEERCRED and, with kWanted and where the kernel has
// it, SO_PEERPIDFD. FAILED_PRECONDITION if `socket` is not a connected unix socket: a failed
// look-up means "refuse", never "anybody". ENOPROTOOPT and EINVAL on SO_PEERPIDFD mean an older
// kernel, ESRCH and ENODATA a process that is gone; both leave `pidfd` invalid.
absl::StatusOr<PeerCredentials> GetPeerCredentials(BorrowedFd socket,
                                                   PidfdMode mode = PidfdMode::kNone);

}  // namespace grpcfd

#endif  // GRPCFD_PEER_CREDENTIALS_H_
