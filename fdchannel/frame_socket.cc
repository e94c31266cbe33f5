// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/frame_socket.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace grpcfd {
namespace internal {
namespace {

// Without a wake-up descriptor (none left in this process) a waiter looks around this often
// instead.
constexpr absl::Duration kBlindSlice = absl::Milliseconds(10);

}  // namespace

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeSessionSockets() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("socketpair: ", strerror(errno)));
  }
  return std::make_pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

IoResult SeqpacketSocket::Send(const FrameBuffer& frame, absl::Span<const int> fds) {
  return SendMessage(socket_, frame, fds);
}

IoResult SeqpacketSocket::Receive(absl::Span<FrameBuffer> data,
                                  absl::Span<ReceivedMessage> messages) {
  return ReceiveMessages(socket_, data[0].data(), kFrameSize, messages);
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
