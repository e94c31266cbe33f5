// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FrameSocket: what a Session needs of its socket. SeqpacketSocket is the real one.
//
// Why it exists: who reads the socket, and when, is the subtle part of a session. With the socket
// behind this interface, a test drives a session through random schedules without a kernel in the
// loop.
#ifndef GRPCFD_FDCHANNEL_SESSION_FRAME_SOCKET_H_
#define GRPCFD_FDCHANNEL_SESSION_FRAME_SOCKET_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/wire/frame.h"

namespace grpcfd {
namespace internal {

// Send, UnreadFrames and ShutDown are thread-safe. Receive and Wait are called by one thread at a
// time: the session's leader.
class FrameSocket {
 public:
  virtual ~FrameSocket() = default;

  // One frame with its descriptors, in one message. Never blocks.
  virtual IoResult Send(const FrameBuffer& frame, absl::Span<const int> fds) = 0;

  // How many of the frames that were sent the peer has not read, as the kernel says. 0 if it does
  // not say.
  virtual uint64_t UnreadFrames() { return 0; }

  // Up to messages.size() messages, at most kMaxBatch; the i-th one's bytes go to data[i]. `bytes`
  // of the result counts them. A message of size 0 is the end of the session. Blocks only if
  // `max_fds` is less than kMaxFdsPerMessage: what a message brings above it is closed here.
  virtual IoResult Receive(absl::Span<FrameBuffer> data, absl::Span<ReceivedMessage> messages,
                           size_t max_fds) = 0;

  // Called under the session's lock, before Wait: from here on Wake() is not lost.
  virtual void PrepareWait() = 0;
  // Blocks until the socket is readable or hung up, or writable if `want_write`, or Wake() was
  // called since PrepareWait(), or `deadline`.
  virtual void Wait(bool want_write, absl::Time deadline) = 0;
  virtual void Wake() = 0;

  // Ends both directions; what was received can still be read.
  virtual void ShutDown() = 0;
  // After ShutDown(): whether all was read, so that closing the socket cannot block.
  virtual bool NothingUnread() { return false; }

  // For registration with a Poller.
  virtual BorrowedFd fd() const = 0;
};

// Both ends of a new session. RESOURCE_EXHAUSTED at a descriptor limit.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeSessionSockets();

class SeqpacketSocket final : public FrameSocket {
 public:
  explicit SeqpacketSocket(UniqueFd socket) : socket_(std::move(socket)) {}

  IoResult Send(const FrameBuffer& frame, absl::Span<const int> fds) override;
  IoResult Receive(absl::Span<FrameBuffer> data, absl::Span<ReceivedMessage> messages,
                   size_t max_fds) override;
  uint64_t UnreadFrames() override;
  void PrepareWait() override;
  void Wait(bool want_write, absl::Time deadline) override;
  void Wake() override;
  void ShutDown() override;
  bool NothingUnread() override { return internal::NothingUnread(socket_); }
  BorrowedFd fd() const override { return BorrowedFd(socket_); }

 private:
  const UniqueFd socket_;
  // Made for the first wait, which most sessions never need.
  UniqueFd wake_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_FRAME_SOCKET_H_
