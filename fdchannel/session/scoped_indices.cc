// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/scoped_indices.h"

#include <limits>

#include "absl/status/status.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

absl::StatusOr<uint32_t> ScopedIndices::Next() {
  // The wire has 2^32 - 1 of them (PROTOCOL.md, "DATA"), and none may come back: a URL of an
  // earlier one would then name another file.
  const uint64_t index = next_.fetch_add(1, std::memory_order_relaxed);
  if (index >= std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError(
        "2^32 - 1 descriptors were registered, and no index is used twice: make a new channel");
  }
  return static_cast<uint32_t>(index);
}

absl::StatusOr<SessionFd> RegisterInSession(const std::shared_ptr<Session>& session,
                                            ScopedIndices* indices, BorrowedFd fd,
                                            absl::Time deadline) {
  // In the socket before this returns, so no duplicate is needed to keep it open.
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  const auto index = indices->Next();
  if (!index.ok()) return index.status();
  WaitOptions options;
  options.deadline = deadline;
  const absl::Status sent = session->SendScoped(*index, fd.get(), options);
  if (!sent.ok()) return sent;
  return SessionFd(InodeUrl::ForSession(*dev_ino, *index),
                   [weak = std::weak_ptr<Session>(session), index = *index] {
                     if (auto still = weak.lock()) still->WithdrawScoped(index);
                   });
}

}  // namespace internal
}  // namespace grpcfd
