// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sessions that share a budget for what is in flight, without sockets.
#ifndef GRPCFD_TESTS_FDCHANNEL_SESSION_IN_FLIGHT_TEST_UTIL_H_
#define GRPCFD_TESTS_FDCHANNEL_SESSION_IN_FLIGHT_TEST_UTIL_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/in_flight.h"

namespace grpcfd {
namespace internal {

using Room = InFlight::Room;

inline constexpr uid_t kAlice = 1000, kBob = 1001;
inline constexpr uint32_t kWindow = 64;

// A socket whose peer has read all but `unread` frames.
class FakeSocket final : public FrameSocket {
 public:
  IoResult Send(const FrameBuffer&, absl::Span<const int>) override { return IoResult(); }
  IoResult Receive(absl::Span<FrameBuffer>, absl::Span<ReceivedMessage>, size_t) override {
    return IoResult();
  }
  uint64_t UnreadFrames() override { return unread; }
  void PrepareWait() override {}
  void Wait(bool, absl::Time) override {}
  void Wake() override {}
  void ShutDown() override {}
  BorrowedFd fd() const override { return BorrowedFd(-1); }

  std::atomic<uint64_t> unread{0};
};

// A session whose peer reads nothing until it is told to.
class Peer {
 public:
  Peer(std::shared_ptr<InFlightBudget> budget, uid_t uid, uint32_t window = kWindow)
      : in_flight_(socket_, window, std::move(budget), uid, [this] { ++told_; }) {}

  Room Send(size_t n) {
    const Room room = in_flight_.Reserve(n);
    if (room != Room::kYes) return room;
    in_flight_.Sent(n);
    ++socket_->unread;
    return room;
  }
  // Sends frames of `n` until there is no room for another one.
  uint64_t SendAll(size_t n = 1) {
    uint64_t sent = 0;
    while (Send(n) == Room::kYes) sent += n;
    return sent;
  }
  void ReadAll() { socket_->unread = 0; }
  InFlight& in_flight() { return in_flight_; }
  int told() const { return told_; }

 private:
  const std::shared_ptr<FakeSocket> socket_ = std::make_shared<FakeSocket>();
  std::atomic<int> told_{0};
  InFlight in_flight_;
};

// As many sessions as no test has: what each has for certain is 0 then.
inline std::shared_ptr<InFlightBudget> Fair(uint64_t total, uint64_t max_sessions = 1 << 20) {
  return std::make_shared<InFlightBudget>(total, InFlightBudget::Shares::kFair, max_sessions);
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SESSION_IN_FLIGHT_TEST_UTIL_H_
