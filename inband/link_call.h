// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// LinkCall: the descriptors of one call of a relayed connection. What
// FromContext(ServerContextBase*) hands out for such calls.
#ifndef GRPCFD_INBAND_LINK_CALL_H_
#define GRPCFD_INBAND_LINK_CALL_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/receive_policy.h"
#include "inband/connection.h"

namespace grpcfd {
namespace internal {

// Thread-safe. A handle may outlive the call: its methods then say FAILED_PRECONDITION.
class LinkCall final : public FdTransceiver, public std::enable_shared_from_this<LinkCall> {
 public:
  struct Config {
    absl::Time deadline = absl::InfiniteFuture();
    absl::Duration recv_timeout = absl::Seconds(10);  // On a call without deadline.
    std::shared_ptr<const ReceivePolicy> policy;      // Null: accepts all.
  };

  LinkCall(std::shared_ptr<InBandPeer> link, const Config& config)
      : config_(config), link_(std::move(link)) {}
  ~LinkCall() override { End(); }

  using FdReceiver::DupFd;
  using FdReceiver::RecvFd;
  using FdReceiver::RecvFdAsync;
  using FdSender::SendFilename;

  // Queues for the next bytes of the connection, at the latest those of the call's response.
  absl::StatusOr<InodeUrl> SendFd(BorrowedFd fd) override;
  absl::StatusOr<InodeUrl> SendFd(UniqueFd&& fd) override;
  absl::StatusOr<InodeUrl> SendFilename(const std::string& path, int flags) override;
  // On this wire RecvFd leaves what it gives a duplicate of, as DupFd does.
  absl::StatusOr<UniqueFd> RecvFd(const InodeUrl& url, absl::Time deadline) override;
  void RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override;
  absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url, absl::Time deadline) override;

  // All or none; as SendQueue::Push.
  absl::Status SendAll(NamedFds fds, const SendQueue::Checked& checked);

  // The call was cancelled, or its deadline passed: nothing is waited for any more.
  void Cancel();
  // At the client: the peer has ended the call. Nothing is waited for any more, but what came can
  // still be had.
  void Complete();
  // The call is over.
  void End();
  // Asks `cancelled` while a RecvFd of the calling thread waits. See ServerCall.
  void AskOnThisThread(std::function<bool()> cancelled);

  // Whether any descriptor ever came by its connection.
  bool AnyCame() const;
  // Whether it is a call of `link`.
  bool IsOf(const std::shared_ptr<InBandPeer>& link) const;

 private:
  // Null when the call is over.
  std::shared_ptr<InBandPeer> link() const;
  absl::Time Limit(absl::Time deadline) const;
  // What came, if the policy lets the call have it.
  absl::StatusOr<UniqueFd> Judge(const DevIno& dev_ino, absl::StatusOr<UniqueFd> fd);

  const Config config_;
  ReceivedFds::Caller caller_;

  mutable Mutex mutex_;
  std::shared_ptr<InBandPeer> link_ ABSL_GUARDED_BY(mutex_);
  std::thread::id asking_thread_ ABSL_GUARDED_BY(mutex_);
  std::function<bool()> cancelled_ ABSL_GUARDED_BY(mutex_);
  // What the policy has seen, in the order in which the call asked: their indexes. Bounded by what
  // the policy allows.
  std::vector<DevIno> judged_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_LINK_CALL_H_
