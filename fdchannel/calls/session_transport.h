// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SessionTransport: carries one call by a session, at either end.
#ifndef GRPCFD_FDCHANNEL_CALLS_SESSION_TRANSPORT_H_
#define GRPCFD_FDCHANNEL_CALLS_SESSION_TRANSPORT_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/call_transport.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/call_metadata.h"

namespace grpcfd {
namespace internal {

// Thread-safe once it was attached. Must be ended before it is destroyed.
class SessionTransport final : public CallTransport {
 public:
  // `policy` decides what of the call's descriptors may be had; null accepts all.
  SessionTransport(std::shared_ptr<Session> session, CallKey key,
                   std::shared_ptr<const ReceivePolicy> policy)
      : session_(std::move(session)), inbox_(key, std::move(policy)) {}
  // As Session::Attach; SetOwner() before it.
  void SetOwner(std::weak_ptr<InboxOwner> owner) { inbox_.SetOwner(std::move(owner)); }
  void Attach(uint32_t announced, bool open_ended, uint32_t holes = 0) {
    session_->Attach(&inbox_, announced, open_ended, holes);
  }
  // For Session::TryBegin.
  DescriptorInbox* inbox() { return &inbox_; }

  const CallKey& key() const { return inbox_.key(); }
  Session& session() const { return *session_; }
  // What the RPC says so that the server finds the call's descriptors.
  CallMetadata Metadata(uint32_t count, uint32_t holes) const;

  bool indexed() const override { return true; }
  size_t max_to_send() const override { return session_->remote_limits().max_fds_per_call; }
  size_t max_to_receive() const override { return session_->local_limits().max_fds_per_call; }
  std::string peer() const override { return session_->peer(); }
  std::shared_ptr<Reaper> reaper() const override { return session_->reaper(); }
  bool AnyCame() const override { return false; }
  absl::Status Send(const InodeUrl& url, BorrowedFd fd, UniqueFd* adopted,
                    const WaitOptions& options) override;
  absl::Status SendAll(const IndexedFds& fds, const WaitOptions& options) override;
  void SendLater(IndexedFd fd, absl::Time deadline, StatusCallback done) override;
  absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, Op op,
                                   const WaitOptions& options) override {
    return session_->Receive(&inbox_, url, op, options);
  }
  void ReceiveAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override {
    session_->ReceiveAsync(&inbox_, url, Op::kTake, deadline, std::move(done));
  }
  absl::StatusOr<std::vector<InodeUrl>> Arrived() override { return session_->Arrived(&inbox_); }
  void Cancel() override { session_->Cancel(&inbox_); }
  void CancelSends() override { session_->CancelSends(&inbox_); }
  void Complete() override { session_->Complete(&inbox_); }
  void End(bool sent) override { session_->End(&inbox_, sent); }

 private:
  const std::shared_ptr<Session> session_;
  DescriptorInbox inbox_;
};

// The indices and numbers of `fds`.
std::vector<uint32_t> IndicesOf(const IndexedFds& fds);
std::vector<int> NumbersOf(const IndexedFds& fds);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_SESSION_TRANSPORT_H_
