// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A client channel to an FdServer of this process: the one place that knows both ends.
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fdchannel/client/channel_core.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/server/server_core.h"
#include "grpcfd/fd_channel.h"
#include "grpcfd/fd_server.h"

namespace grpcfd {

absl::StatusOr<std::shared_ptr<FdChannel>> FdChannel::CreateInProcess(
    const std::shared_ptr<FdServer>& fd_server, const FdChannelOptions& options) {
  if (fd_server == nullptr) {
    return absl::InvalidArgumentError(
        "an in-process channel needs the server's FdServer, got none");
  }
  auto core = internal::ChannelCore::CreateInProcess(internal::CoreOf(*fd_server), options);
  if (!core.ok()) return core.status();
  return std::shared_ptr<FdChannel>(new FdChannel(*std::move(core)));
}

}  // namespace grpcfd
