// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ScopedIndices: the numbers of the session-scoped descriptors that one end registers. A number is
// never used twice, so a URL never comes to name another file.
#ifndef GRPCFD_FDCHANNEL_SESSION_SCOPED_INDICES_H_
#define GRPCFD_FDCHANNEL_SESSION_SCOPED_INDICES_H_

#include <stdint.h>

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/session/session.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_session.h"

namespace grpcfd {
namespace internal {

// Hands out indices, none twice. Thread-safe. RESOURCE_EXHAUSTED after 2^32 - 1 of them.
class ScopedIndices {
 public:
  absl::StatusOr<uint32_t> Next();

 private:
  std::atomic<uint64_t> next_{0};
};

// Registers a duplicate of `fd` in one session; the handle withdraws it there. Errors as
// FdSession::Register.
absl::StatusOr<SessionFd> RegisterInSession(const std::shared_ptr<Session>& session,
                                            ScopedIndices* indices, BorrowedFd fd,
                                            absl::Time deadline);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SCOPED_INDICES_H_
