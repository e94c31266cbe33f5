// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Call: what the two ends of a call have in common, whichever wire carries it: its limits in time,
// its indices, what is open to forwarding, and who may be asked whether it was cancelled.
//
// Forward() (forwarding.h) joins two of them; grpcfd/forward.h is the public form.
#ifndef GRPCFD_FDCHANNEL_CALLS_CALL_H_
#define GRPCFD_FDCHANNEL_CALLS_CALL_H_

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/call_transport.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/fd_transceiver.h"

namespace grpcfd {
namespace internal {

// The indices of one direction of a call: those of its own descriptors, and those that were claimed
// for forwarded ones. Thread-compatible.
class ForwardedIndices {
 public:
  uint32_t next() const { return all_.next(); }
  uint32_t used() const { return all_.used(); }
  bool exhausted() const { return all_.exhausted(); }
  uint32_t Take() { return all_.Take(); }
  void GiveBack(uint32_t index) { all_.GiveBack(index); }
  // As Call::ClaimIndices.
  absl::Status ClaimIndices(std::vector<InodeUrl>* urls);
  void UnclaimIndex(uint32_t index);

 private:
  IndexAllocator all_;
  IndexAllocator forwarded_;
};

// Thread-safe.
class Call : public FdTransceiver {
 public:
  // Asks `cancelled` while a method of the calling thread waits: gRPC's synchronous handlers learn
  // of a cancellation only by asking, and only the handler's own thread can be sure that the
  // context it asks is still there.
  void AskOnThisThread(std::function<bool()> cancelled);

  // --- For Forward() ---

  // Whether its descriptors have indices, or will once it is made. If not, they belong to the
  // connection: only AnyCame() and the methods of FdTransceiver are of use.
  virtual bool indexed() const = 0;
  // Whether any descriptor ever came by its connection.
  virtual bool AnyCame() const = 0;
  // The URLs of what has come and was not taken, by index. All that the peer sent before the last
  // message that was read from it is among them. Empty for a call to which nothing can come.
  // Errors as Session::Arrived, and FAILED_PRECONDITION for a call that was not made yet.
  virtual absl::StatusOr<std::vector<InodeUrl>> Arrived() = 0;
  // Closes what came with it; null if nothing can have come.
  virtual std::shared_ptr<Reaper> reaper() = 0;
  // Takes the indices of `urls` for forwarding, and removes those from the list that were taken so
  // before. FAILED_PRECONDITION, with nothing taken, if one is in use otherwise, or nothing can be
  // sent any more; INVALID_ARGUMENT for more than the peer takes. Also returns what went wrong
  // since with SendClaimedLater.
  virtual absl::Status ClaimIndices(std::vector<InodeUrl>* urls) = 0;
  // Undoes the claim of this index: nothing was sent under it.
  void UnclaimIndex(uint32_t index);
  // How many the peer of this call may send with it before it is made.
  virtual size_t MaxAtOnce() = 0;
  // How many may be claimed now. A call that was not made yet brings no more than its channel
  // allows; that is not known yet, and `max_at_once` of the call they come from is the guess.
  virtual size_t Room(size_t max_at_once) = 0;
  // Whether SendClaimed must not be used: see SendClaimedLater.
  virtual bool MustNotWait() = 0;
  // Sends what was claimed, by index. Waits for room as SendFd does; same errors.
  virtual absl::Status SendClaimed(IndexedFds fds) = 0;
  // The same for one, without waiting: as soon as there is room. For streams. What has come may be
  // ahead of the message that the forwarder has in hand, and fill the next window; only the
  // receiver of that message can make room there. `done` is called when it is sent, or cannot be.
  virtual void SendClaimedLater(IndexedFd fd, std::function<void()> done) = 0;

  absl::StatusOr<InodeUrl> SendBorrowed(BorrowedFd fd) final;
  absl::StatusOr<InodeUrl> SendOwned(UniqueFd fd) final;
  absl::StatusOr<UniqueFd> ReceiveFd(const InodeUrl& url, absl::Time deadline) final;
  absl::StatusOr<UniqueFd> DuplicateFd(const InodeUrl& url, absl::Time deadline) final;

 protected:
  // `adopted` is null, or what `fd` borrows from.
  virtual absl::StatusOr<InodeUrl> Send(BorrowedFd fd, UniqueFd* adopted) = 0;
  virtual absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, absl::Time deadline,
                                           CallTransport::Op op) = 0;

  // Up to `deadline` or the call's; without either, recv_timeout_ from when the wait begins.
  WaitOptions Until(absl::Time deadline) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    WaitOptions options;
    options.deadline = std::min(deadline, deadline_);
    options.patience = recv_timeout_;
    return options;
  }
  // The same as a point in time.
  absl::Time Limit(absl::Time deadline) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether this thread may ask cancelled_ while it waits.
  bool AsksHere() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return cancelled_ && asking_thread_ == std::this_thread::get_id();
  }
  // The next URL of the call for a descriptor of `dev_ino`. RESOURCE_EXHAUSTED if no index is left.
  absl::StatusOr<InodeUrl> NextUrl(const DevIno& dev_ino) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (indices_.exhausted()) return NoIndexLeft();
    return InodeUrl(dev_ino, indices_.Take());
  }
  static absl::Status NoIndexLeft();

  mutable Mutex mutex_;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Duration recv_timeout_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(10);
  ForwardedIndices indices_ ABSL_GUARDED_BY(mutex_);
  absl::Status forward_failure_ ABSL_GUARDED_BY(mutex_);
  std::thread::id asking_thread_ ABSL_GUARDED_BY(mutex_);
  std::function<bool()> cancelled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_CALL_H_
