// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerCall: the descriptors of one call, at the server, whichever wire carries them.
// FromContext(ServerContextBase*) returns it.
#ifndef GRPCFD_FDCHANNEL_CALLS_SERVER_CALL_H_
#define GRPCFD_FDCHANNEL_CALLS_SERVER_CALL_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/call.h"
#include "fdchannel/calls/call_transport.h"
#include "fdchannel/calls/session_transport.h"
#include "fdchannel/session/session.h"

namespace grpcfd {
namespace internal {

// Thread-safe. End(), or the destructor, closes descriptors that were not taken. A handle may
// outlive the call: its methods then return FAILED_PRECONDITION.
class ServerCall final : public Call, public std::enable_shared_from_this<ServerCall> {
 public:
  struct Config {
    // The first four are for sessions.
    CallKey key;
    uint32_t announced = 0;       // Highest index that the client sent before the call + 1.
    uint32_t holes = 0;           // Indices below that were not sent.
    bool client_streams = false;  // The client may send more during the call.
    // More than max_fds_per_call may be sent in the course of the call.
    bool server_streams = false;
    absl::Time deadline = absl::InfiniteFuture();
    absl::Duration recv_timeout = absl::Seconds(10);
    // For handlers that must not block: sends that find the window full, and receives without a
    // deadline of their own, fail at once instead of waiting.
    bool never_block = false;
    // What may come with the call; null accepts all.
    std::shared_ptr<const ReceivePolicy> policy;
  };

  ServerCall(std::shared_ptr<Session> session, const Config& config);
  ServerCall(std::shared_ptr<CallTransport> transport, const Config& config);
  ~ServerCall() override;

  void ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override;

  bool indexed() const override { return transport_->indexed(); }
  bool AnyCame() const override { return transport_->AnyCame(); }
  absl::StatusOr<std::vector<InodeUrl>> Arrived() override { return transport_->Arrived(); }
  std::shared_ptr<Reaper> reaper() override { return transport_->reaper(); }
  absl::Status ClaimIndices(std::vector<InodeUrl>* urls) override;
  size_t MaxAtOnce() override { return transport_->max_to_receive(); }
  size_t Room(size_t max_at_once) override;
  bool MustNotWait() override { return server_streams_ || never_block_; }
  absl::Status SendClaimed(IndexedFds fds) override;
  void SendClaimedLater(IndexedFd fd, std::function<void()> done) override;

  // The call was cancelled, or its deadline passed.
  void Cancel() { transport_->Cancel(); }
  // The handler has returned and the call is closed.
  void End();

 private:
  absl::StatusOr<InodeUrl> Send(BorrowedFd fd, UniqueFd* adopted) override;
  absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, absl::Time deadline,
                                   CallTransport::Op op) override;
  // Whether `n` more may be sent.
  absl::Status CheckSend(size_t n) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // For a send of this thread; `cancelled`, which may be empty, must outlive them.
  WaitOptions SendOptions(const std::function<bool()>& cancelled) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::optional<SessionTransport> own_transport_;  // Need not be allocated.
  std::shared_ptr<CallTransport> kept_transport_;  // One of the two.
  CallTransport* const transport_;
  const bool server_streams_;
  const bool never_block_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_SERVER_CALL_H_
