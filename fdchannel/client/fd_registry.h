// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdRegistry: the session-scoped descriptors that a client channel has registered. It keeps them
// for the channel's life and sends them to each of its sessions before any call starts on it, under
// the same indices. So a URL that a program made once stays valid when the server restarts, and in
// each process that shares the server's socket.
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
#include <set>
#include <utility>
#include <vector>

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
    int senders = 0;                     // Sessions that it is being sent to.
    bool withdrawn = false;              // Meanwhile; the last sender then withdraws it.
  };
  // A session of the channel's, by the order of coming.
  struct Attached {
    std::weak_ptr<Session> session;
    // It has all but those that failed; what is registered later is sent at once.
    bool complete = false;
    std::set<uint32_t> sent;
    std::set<uint32_t> sending;
    std::set<uint32_t> failed;
  };
  // What goes when an entry does; to be done, and dropped, without the lock.
  struct Removal {
    uint32_t index = 0;
    Entry entry;
    std::vector<std::pair<uint64_t, std::shared_ptr<Session>>> holders;
  };

  void Withdraw(uint32_t index);
  void Remove(uint32_t index, Removal* removal) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(const Removal& removal);
  // Sends what session `number` does not have, one after the other, and calls `done`.
  void SendUnsent(const std::shared_ptr<Session>& session, uint64_t number, absl::Time deadline,
                  Done done);
  // After one was sent, or could not be.
  void Sent(uint64_t number, uint32_t index, const absl::Status& status);

  const uint32_t limit_;
  const std::shared_ptr<ScopedIndices> indices_;

  Mutex mutex_;
  std::map<uint32_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, Attached> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CLIENT_FD_REGISTRY_H_
