// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// InBandTransport: carries one call by a relayed connection, at either end.
//
// Nothing on this wire says which call a descriptor is for: it belongs to the connection, and a
// call gets a duplicate of what it names.
#ifndef GRPCFD_INBAND_IN_BAND_TRANSPORT_H_
#define GRPCFD_INBAND_IN_BAND_TRANSPORT_H_

#include <stddef.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/call_transport.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/receive_policy.h"
#include "inband/connection.h"

namespace grpcfd {
namespace internal {

// Thread-safe. Ends with the last reference, if not before.
class InBandTransport final : public CallTransport,
                              public std::enable_shared_from_this<InBandTransport> {
 public:
  // `policy` decides what the call may have; null accepts all.
  InBandTransport(std::shared_ptr<InBandPeer> peer, std::shared_ptr<const ReceivePolicy> policy)
      : policy_(std::move(policy)), peer_(std::move(peer)) {}
  ~InBandTransport() override { End(/*sent=*/false); }

  // Whether it uses the connection to `peer`.
  bool IsOf(const std::shared_ptr<InBandPeer>& peer) const;
  // Queues all or none; as SendQueue::Push.
  absl::Status Push(NamedFds fds, const SendQueue::Checked& checked);

  bool indexed() const override { return false; }
  // The queue of the connection has a limit, a call has none.
  size_t max_to_send() const override;
  size_t max_to_receive() const override;
  std::string peer() const override;
  // Duplicates are the program's own.
  std::shared_ptr<Reaper> reaper() const override { return nullptr; }
  bool AnyCame() const override;
  // Queues for the next bytes of the connection, at the latest those of the call's response. Never
  // waits.
  absl::Status Send(const InodeUrl& url, BorrowedFd fd, UniqueFd* adopted,
                    const WaitOptions& options) override;
  // FAILED_PRECONDITION, as Arrived(): it would need indices.
  absl::Status SendAll(const IndexedFds& fds, const WaitOptions& options) override;
  void SendLater(IndexedFd fd, absl::Time deadline, StatusCallback done) override;
  absl::StatusOr<std::vector<InodeUrl>> Arrived() override;
  // Gives a duplicate and keeps the original, whatever `op` says.
  absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, Op op, const WaitOptions& options) override;
  void ReceiveAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override;
  void Cancel() override;
  void CancelSends() override {}  // None waits.
  // What came can still be received.
  void Complete() override;
  void End(bool sent) override;

 private:
  // Null when the call is over.
  std::shared_ptr<InBandPeer> LivingPeer() const;
  // What came, if the policy lets the call have it.
  absl::StatusOr<UniqueFd> Judge(const DevIno& dev_ino, absl::StatusOr<UniqueFd> fd);

  const std::shared_ptr<const ReceivePolicy> policy_;
  ReceivedFds::Caller caller_;

  mutable Mutex mutex_;
  std::shared_ptr<InBandPeer> peer_ ABSL_GUARDED_BY(mutex_);
  // What the policy has seen, in the order in which the call asked: their indexes. Bounded by what
  // the policy allows.
  std::vector<DevIno> judged_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_IN_BAND_TRANSPORT_H_
