// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/frame_socket.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/os/pass_rights.h"

namespace grpcfd {
namespace internal {
namespace {

// Without a wake-up descriptor (none left in this process) a waiter looks around this often
// instead.
constexpr absl::Duration kBlindSlice = absl::Milliseconds(10);

// Bytes that the sender of frames has in flight: whole buffers, not only their content
// (unix(7), SIOCOUTQ; the kernel's unix_outq_len). Negative if the kernel does not say.
int BytesInFlight(BorrowedFd socket) {
  int bytes = 0;
  return ::ioctl(socket.get(), SIOCOUTQ, &bytes) == 0 ? bytes : -1;
}

// What one frame counts for there. It depends on the kernel, so it is looked at, once in a process.
int FrameCost() {
  // What it was wherever it was measured (Linux 6.18); off by little elsewhere.
  constexpr int kUsual = 768;
  static std::atomic<int> measured{0};
  const int known = measured.load(std::memory_order_relaxed);
  if (known != 0) return known;
  auto sockets = MakeSessionSockets();
  if (!sockets.ok()) return kUsual;
  const FrameBuffer frame{};
  if (!SendMessage(sockets->first, frame, {}).ok()) return kUsual;
  const int cost = BytesInFlight(sockets->first);
  if (cost <= 0) return kUsual;
  measured.store(cost, std::memory_order_relaxed);
  return cost;
}

}  // namespace

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeSessionSockets() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no socket pair for a session: ", strerror(errno), "; raise RLIMIT_NOFILE, or close some"));
  }
  auto sockets = std::make_pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
  // Both ends are known: one is ours, the other goes to a peer that has said hello. New sockets
  // take descriptors by themselves; this says that it is meant.
  SetPassRights(sockets.first, PassRights::kOn);
  SetPassRights(sockets.second, PassRights::kOn);
  return sockets;
}

IoResult SeqpacketSocket::Send(const FrameBuffer& frame, absl::Span<const int> fds) {
  return SendMessage(socket_, frame, fds);
}

IoResult SeqpacketSocket::Receive(absl::Span<FrameBuffer> data,
                                  absl::Span<ReceivedMessage> messages, size_t max_fds) {
  return ReceiveMessages(socket_, data[0].data(), kFrameSize, messages, max_fds);
}

uint64_t SeqpacketSocket::UnreadFrames() {
  const int bytes = BytesInFlight(socket_);
  if (bytes <= 0) return 0;
  const auto cost = static_cast<uint64_t>(FrameCost());
  return (static_cast<uint64_t>(bytes) + cost - 1) / cost;
}

void SeqpacketSocket::PrepareWait() {
  if (!wake_.valid()) wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

void SeqpacketSocket::Wait(bool want_write, absl::Time deadline) {
  pollfd polled[2] = {};
  polled[0].fd = socket_.get();
  polled[0].events = static_cast<short>(POLLIN | (want_write ? POLLOUT : 0));
  polled[1].fd = wake_.get();  // poll(2) ignores a negative one.
  polled[1].events = POLLIN;
  if (!wake_.valid()) deadline = std::min(deadline, absl::Now() + kBlindSlice);
  timespec timeout{};
  const timespec* timeout_ptr = nullptr;
  if (deadline != absl::InfiniteFuture()) {
    timeout = absl::ToTimespec(std::max(absl::ZeroDuration(), deadline - absl::Now()));
    timeout_ptr = &timeout;
  }
  // A signal ends the wait early; the caller looks again anyway.
  ppoll(polled, 2, timeout_ptr, nullptr);
  if ((polled[1].revents & POLLIN) != 0) {
    uint64_t ignored;
    [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &ignored, sizeof(ignored));
  }
}

void SeqpacketSocket::Wake() {
  if (!wake_.valid()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
}

void SeqpacketSocket::ShutDown() { ::shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace internal
}  // namespace grpcfd
