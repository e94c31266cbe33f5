// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// OpenForSending: what FdSender::SendFilename opens.
#ifndef GRPCFD_FDCHANNEL_FDS_SEND_FILE_H_
#define GRPCFD_FDCHANNEL_FDS_SEND_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// open(2) with O_CLOEXEC added. NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED as errno says;
// INVALID_ARGUMENT for a path with a NUL byte.
absl::StatusOr<UniqueFd> OpenForSending(const std::string& path, int flags);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_FDS_SEND_FILE_H_
