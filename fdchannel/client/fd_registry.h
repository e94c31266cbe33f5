// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdRegistry: the session-scoped descriptors that a client channel has registered. It keeps them
// for the channel's life and sends them to each new session before any call starts on it, under the
// same indices. So a URL that a program made once stays valid when the server restarts.
//
// Finding that nothing is left to send and publishing the session are one step under the lock. In
// two steps, a descriptor that is registered in between would never be sent to the new session, and
// its URL would name nothing there.
#ifndef GRPCFD_FDCHANNEL_CLIENT_FD_REGISTRY_H_
#define GRPCFD_FDCHANNEL_CLIENT_FD_REGISTRY_H_

#include <stdint.h>

#include <functional>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/session/scoped_indices.h"
#include "fdchannel/session/session.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_session.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
class FdRegistry : public std::enable_shared_from_this<FdRegistry> {
 public:
  explicit FdRegistry(uint32_t limit)
      : limit_(limit), indices_(std::make_shared<ScopedIndices>()) {}

  // Shared with those that register in one session of the channel only.
  const std::shared_ptr<ScopedIndices>& indices() const { return indices_; }

  // Errors as FdChannel::Register.
  absl::StatusOr<SessionFd> Register(BorrowedFd fd, absl::Time deadline);

  // Sends all that is registered to `session`, and from then on what is registered later. Calls
  // `done` when all is on its way, on this thread or the poller's: OK, or UNAVAILABLE if the
  // session died meanwhile. What could not be sent by `deadline`, or the server has no room for
  // (its max_session_fds), is left out; withdrawing another tries again.
  void Attach(const std::shared_ptr<Session>& session, absl::Time deadline,
              std::function<void(absl::Status)> done);

 private:
  using Done = std::function<void(absl::Status)>;
  struct Entry {
    std::shared_ptr<const UniqueFd> fd;  // Shared with who sends it.
    uint64_t sent = 0;                   // Generation of the last session that has it.
    uint64_t failed = 0;                 // Generation of the last session that did not take it.
    bool sending = false;                // To the session of the present generation.
    bool withdrawn = false;              // While it was being sent; the sender then withdraws it.
  };

  void Withdraw(uint32_t index);
  // Sends what the session of `generation` does not have, one after the other, and calls `done`.
  void SendUnsent(const std::shared_ptr<Session>& session, uint64_t generation, absl::Time deadline,
                  Done done);
  // After one was sent, or could not be.
  void Sent(const std::shared_ptr<Session>& session, uint64_t generation, uint32_t index,
            const absl::Status& status);

  const uint32_t limit_;
  const std::shared_ptr<ScopedIndices> indices_;

  Mutex mutex_;
  std::map<uint32_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  // Counts the sessions. The last of them, and whether it has all but those that failed.
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::weak_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  bool attached_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CLIENT_FD_REGISTRY_H_
