// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/fds/own_credentials.h"

#include <errno.h>
#include <sys/socket.h>

#include "absl/status/status.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

absl::StatusOr<PeerCredentials> GetOwnCredentials() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  const UniqueFd one(pair[0]);
  const UniqueFd other(pair[1]);
  return GetPeerCredentials(one, PidfdMode::kWanted);
}

}  // namespace internal
}  // namespace grpcfd
