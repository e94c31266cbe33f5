// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A user's program that takes the fdchannel alone, without gRPC.

#include <fcntl.h>
#include <stdio.h>

#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/peer_credentials.h"
#include "grpcfd/unique_fd.h"

int main() {
  const grpcfd::UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const absl::StatusOr<grpcfd::InodeUrl> url = grpcfd::FdToUrl(file);
  if (!url.ok()) {
    fprintf(stderr, "%s\n", url.status().ToString().c_str());
    return 1;
  }
  printf("/dev/null is %s\n", url->ToString().c_str());
  const absl::StatusOr<grpcfd::InodeUrl> parsed = grpcfd::InodeUrl::Parse(url->ToString());
  // A device is not a socket; that this is refused shows that the fdchannel is linked.
  const bool refused = !grpcfd::GetPeerCredentials(file, grpcfd::PidfdMode::kNone).ok();
  return parsed.ok() && *parsed == *url && refused ? 0 : 1;
}
