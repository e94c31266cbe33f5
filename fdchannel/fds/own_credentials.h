// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// GetOwnCredentials: who this process is, for a session with itself.
#ifndef GRPCFD_FDCHANNEL_FDS_OWN_CREDENTIALS_H_
#define GRPCFD_FDCHANNEL_FDS_OWN_CREDENTIALS_H_

#include "absl/status/statusor.h"
#include "grpcfd/peer_credentials.h"

namespace grpcfd {
namespace internal {

// This process as the peer of a session with itself, by the kernel's word as for any other.
// RESOURCE_EXHAUSTED at a descriptor limit. Thread-safe.
absl::StatusOr<PeerCredentials> GetOwnCredentials();

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_FDS_OWN_CREDENTIALS_H_
