// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// DialedCall: the descriptors of one call of a channel that is relayed. What ClientCall hands its
// methods to once such a call is made.
//
// When they leave: when gRPC asks the call's credentials for metadata, that is, when the call has
// been given to a connection and its headers are about to be written. Not before: a call may wait
// for the channel to be ready, and a descriptor that went by the connection before last is lost.
// That is Go's moment too (GetRequestMetadata).
#ifndef GRPCFD_INBAND_DIALED_CALL_H_
#define GRPCFD_INBAND_DIALED_CALL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/fd_transceiver.h"
#include "inband/dialer.h"
#include "inband/link_call.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
class DialedCall final : public CallCarrier {
 public:
  struct Config {
    bool client_streams = false;  // The client may send more during the call.
    absl::Time deadline = absl::InfiniteFuture();
    absl::Duration recv_timeout = absl::Seconds(10);
    uint32_t max_fds_per_call = 16;               // Before the call reaches a connection.
    std::shared_ptr<const ReceivePolicy> policy;  // Null: accepts all.
  };

  // `queued`: what was sent before the call was made.
  DialedCall(std::shared_ptr<Dialer> dialer, NamedFds queued, const Config& config)
      : dialer_(std::move(dialer)), config_(config), queued_(std::move(queued)) {}

  using FdReceiver::DupFd;
  using FdReceiver::RecvFd;
  using FdReceiver::RecvFdAsync;
  using FdSender::SendFilename;

  absl::StatusOr<InodeUrl> SendFd(BorrowedFd fd) override;
  absl::StatusOr<InodeUrl> SendFd(UniqueFd&& fd) override;
  absl::StatusOr<InodeUrl> SendFilename(const std::string& path, int flags) override;
  absl::StatusOr<UniqueFd> RecvFd(const InodeUrl& url, absl::Time deadline) override;
  void RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override;
  absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url, absl::Time deadline) override;

  // Whether what is queued could leave by the connection there is now, so that a call that cannot
  // be made fails with the right status. Errors as SendQueue::Push.
  absl::Status Check();
  // The call has been given to the channel's connection: sends what is queued, or says why the call
  // must fail. A second attempt by another connection cannot bring what went with the first:
  // UNAVAILABLE.
  absl::Status StartAttempt();
  // Whether any descriptor ever came by its connection.
  bool AnyCame() const;

  void OnCancelled() override;
  void OnEnded() override;
  // What is queued is closed.
  void Abandon(const absl::Status& why) override;

 private:
  // Nothing is sent any more; `over` says why. The call of the latest attempt, which has to be told
  // as well; without one, `without` is what all methods report from now on.
  std::shared_ptr<LinkCall> Finish(const absl::Status& over, const absl::Status& without);
  void AbandonLocked(const absl::Status& why, NamedFds* done_with)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The call of the latest attempt; waits for it until `deadline`.
  absl::StatusOr<std::shared_ptr<LinkCall>> Started(absl::Time deadline);

  const std::shared_ptr<Dialer> dialer_;
  const Config config_;

  mutable Mutex mutex_;
  CondVar started_;
  absl::Status abandoned_ ABSL_GUARDED_BY(mutex_);
  absl::Status over_ ABSL_GUARDED_BY(mutex_);  // What came can still be had.
  NamedFds queued_ ABSL_GUARDED_BY(mutex_);
  SendQueue::Checked checked_ ABSL_GUARDED_BY(mutex_);  // queued_ is.
  bool sent_ ABSL_GUARDED_BY(mutex_) = false;           // Something, with call_'s connection.
  std::shared_ptr<LinkCall> call_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_DIALED_CALL_H_
