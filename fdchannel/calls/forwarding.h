// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ForwardingCall: what forwarding needs of a call beside FdTransceiver, at either end: to list what
// has come, and to send under given indices. Forward() joins two of them; grpcfd/forward.h is the
// public form.
//
// How people get it wrong: they forward what arrives as it arrives, in a thread of its own, and
// race the message that names it. The messages set the pace: whoever has read a message finds the
// descriptors that were sent before it in the socket, and passes them on before the message.
#ifndef GRPCFD_FDCHANNEL_CALLS_FORWARDING_H_
#define GRPCFD_FDCHANNEL_CALLS_FORWARDING_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

struct IndexedFd {
  InodeUrl url;  // With an index.
  ReapedFd fd;
};
// Most calls have one.
using IndexedFds = absl::InlinedVector<IndexedFd, 1>;

class ForwardingCall : public FdTransceiver {
 public:
  // The URLs of what has come and was not taken, by index. All that the peer sent before the last
  // message that was read from it is among them. Empty for a call to which nothing can come.
  // Errors as Session::Arrived, and FAILED_PRECONDITION for a call that was not made yet.
  virtual absl::StatusOr<std::vector<InodeUrl>> Arrived() = 0;

  // Who closes what came with it; null if nothing can have come.
  virtual std::shared_ptr<Reaper> reaper() = 0;

  // Takes the indices of `urls` for forwarding, and removes those from the list that were taken so
  // before. FAILED_PRECONDITION, with nothing taken, if one is in use otherwise, or nothing can be
  // sent any more; INVALID_ARGUMENT for more than the peer takes. Also returns what went wrong
  // since with SendClaimedLater.
  virtual absl::Status ClaimIndices(std::vector<InodeUrl>* urls) = 0;
  // Nothing was sent under this index after all.
  virtual void UnclaimIndex(uint32_t index) = 0;

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
  // ahead of the message that the forwarder has in hand, and fill the next window; only who gets
  // that message can make room there. `done` is called when it is sent, or cannot be.
  virtual void SendClaimedLater(IndexedFd fd, std::function<void()> done) = 0;
};

// The indices of one direction of a call: those of its own descriptors, and those that were claimed
// for forwarded ones. Thread-compatible.
class ForwardedIndices {
 public:
  uint32_t next() const { return all_.next(); }
  uint32_t used() const { return all_.used(); }
  bool exhausted() const { return all_.exhausted(); }
  uint32_t Take() { return all_.Take(); }
  void GiveBack(uint32_t index) { all_.GiveBack(index); }
  // As ForwardingCall::ClaimIndices.
  absl::Status ClaimIndices(std::vector<InodeUrl>* urls);
  void UnclaimIndex(uint32_t index);

 private:
  IndexAllocator all_;
  IndexAllocator forwarded_;
};

// What the two ends share in implementing this.
std::vector<uint32_t> IndicesOf(const IndexedFds& fds);
std::vector<int> NumbersOf(const IndexedFds& fds);
std::vector<uint32_t> IndicesOf(const std::vector<InodeUrl>& urls);
absl::Status IndicesExhausted();
void SendForwardedLater(Session* session, const CallKey& call, IndexedFd fd, absl::Time deadline,
                        std::function<void(absl::Status)> done);

using ForwardFilter = std::function<bool(const InodeUrl& url, BorrowedFd fd)>;

// Passes on what has come with `from` and `filter` (all, if empty) lets pass, and closes the rest.
// With `keep` everything stays to be taken, and duplicates go.
absl::Status Forward(const std::shared_ptr<ForwardingCall>& from, ForwardingCall* to,
                     const ForwardFilter& filter, bool keep);

// For calls of the in-band wire, whose descriptors have names but no indices: they belong to the
// connection, and nothing but the message says which are the call's.
//
// Passes on duplicates of what `urls` name, each once, as they come: waits for them as DupFd does.
// Under the index that the URL has, if it has one; the others after those, under the next ones.
//   INVALID_ARGUMENT  an index that no sender can have used
//   others            as FdReceiver::DupFd, ForwardingCall::ClaimIndices, FdSender::SendFd
absl::Status ForwardNamed(FdReceiver* from, std::vector<InodeUrl> urls, ForwardingCall* to,
                          const ForwardFilter& filter);
absl::Status ForwardNamed(FdReceiver* from, std::vector<InodeUrl> urls, FdSender* to,
                          const ForwardFilter& filter);
// As Forward(), to such a call.
absl::Status ForwardWithoutIndices(ForwardingCall* from, FdSender* to, const ForwardFilter& filter,
                                   bool keep);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_FORWARDING_H_
