// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerCall: the descriptors of one call, at the server. What FromContext(ServerContextBase*)
// hands out.
#ifndef GRPCFD_FDCHANNEL_CALLS_SERVER_CALL_H_
#define GRPCFD_FDCHANNEL_CALLS_SERVER_CALL_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/calls/forwarding.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/fd_transceiver.h"

namespace grpcfd {
namespace internal {

// Thread-safe. Descriptors that nobody took are closed by End(), or by the destructor. A handle may
// outlive the call: its methods then say FAILED_PRECONDITION.
class ServerCall final : public ForwardingCall, public std::enable_shared_from_this<ServerCall> {
 public:
  struct Config {
    CallKey key;
    uint32_t announced = 0;       // Highest index that the client sent before the call + 1.
    uint32_t holes = 0;           // Indices below that were not sent.
    bool client_streams = false;  // The client may send more during the call.
    bool server_streams =
        false;  // More than max_fds_per_call may be sent in the course of the call.
    absl::Time deadline = absl::InfiniteFuture();
    absl::Duration recv_timeout = absl::Seconds(10);
    // Sends that find the window full fail at once instead of waiting: for handlers that must not
    // block.
    bool never_block = false;
    // What may come with the call; null accepts all.
    std::shared_ptr<const ReceivePolicy> policy;
  };

  ServerCall(std::shared_ptr<Session> session, const Config& config);
  ~ServerCall() override;

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

  absl::StatusOr<std::vector<InodeUrl>> Arrived() override;
  absl::Status ClaimIndices(std::vector<InodeUrl>* urls) override;
  void UnclaimIndex(uint32_t index) override;
  size_t MaxAtOnce() override;
  size_t Room(size_t max_at_once) override;
  bool MustNotWait() override;
  std::shared_ptr<Reaper> reaper() override { return session_->reaper(); }
  absl::Status SendClaimed(IndexedFds fds) override;
  void SendClaimedLater(IndexedFd fd, std::function<void()> done) override;

  // The call was cancelled, or its deadline passed.
  void Cancel();
  // The handler has returned and the call is closed.
  void End();
  // Asks `cancelled` while a method of the calling thread waits: gRPC's synchronous handlers learn
  // of a cancellation only by asking, and only the handler's own thread can be sure that the
  // context it asks is still there.
  void AskOnThisThread(std::function<bool()> cancelled);

 private:
  absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, absl::Time deadline, Session::Op op);
  // Whether `n` more may be sent.
  absl::Status CheckSend(size_t n) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // For a send of this thread; `cancelled`, which may be empty, must outlive them.
  WaitOptions SendOptions(const std::function<bool()>& cancelled) const;
  // What this thread may ask while it waits; empty if nothing.
  std::function<bool()> AskedHere() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  WaitOptions Until(absl::Time deadline) const;
  absl::Time Limit(absl::Time deadline) const;

  const std::shared_ptr<Session> session_;
  const Config config_;
  CallInbox inbox_;

  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  ForwardedIndices indices_ ABSL_GUARDED_BY(mutex_);
  absl::Status forward_failure_ ABSL_GUARDED_BY(mutex_);
  std::thread::id asking_thread_ ABSL_GUARDED_BY(mutex_);
  std::function<bool()> cancelled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_SERVER_CALL_H_
