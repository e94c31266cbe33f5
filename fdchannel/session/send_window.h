// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SendWindow: how much may be sent to the peer now, and the line of those who wait to send more.
//
// What is sent and not credited stays within the peer's window. What the peer has not read, as the
// kernel says (InFlight), stays within it too: credit can be a lie.
#ifndef GRPCFD_FDCHANNEL_SESSION_SEND_WINDOW_H_
#define GRPCFD_FDCHANNEL_SESSION_SEND_WINDOW_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "fdchannel/session/in_flight.h"
#include "fdchannel/session/waiter.h"
#include "fdchannel/wire/frame.h"

namespace grpcfd {
namespace internal {

// Thread-compatible: a part of a Session, guarded by its mutex.
class SendWindow {
 public:
  explicit SendWindow(uint32_t window) : window_(window) {}
  SendWindow(const SendWindow&) = delete;
  SendWindow& operator=(const SendWindow&) = delete;
  // Before anything is sent.
  void Bind(std::shared_ptr<InFlight> in_flight) { in_flight_ = std::move(in_flight); }

  // --- Room ---

  // Reserves room for `n` more descriptors, in the window and in flight. False if there is none.
  // The caller then sends each (InFlight::Sent), or gives it back by Return().
  bool Reserve(size_t n);
  // `n` that were reserved will not be sent. FAILED_PRECONDITION if the peer has given credit for
  // them, which breaks the protocol.
  absl::Status Return(size_t n);
  // The peer gives credit for `total` in all. INVALID_ARGUMENT for more than were sent.
  absl::Status Credit(uint64_t total);
  // Whether the last Reserve() failed for what is in flight; no frame will tell of room there.
  bool short_in_flight() const { return room_ != InFlight::Room::kYes; }
  // Why `waiter` has not sent until its deadline.
  absl::Status Shortage(const Waiter& waiter, const std::string& peer, uint64_t budget) const;
  InFlight::Room room() const { return room_; }

  // --- The line: who waits to send, strictly in their order ---

  // A large set must not starve behind small ones, so only the front may send.
  bool nobody_waits() const { return line_.empty(); }
  Waiter* front() const { return line_.front(); }
  Waiter* Next(const Waiter* waiter) const { return decltype(line_)::Next(waiter); }
  void Enter(Waiter* waiter) { line_.PushBack(waiter); }
  void Leave(Waiter* waiter) { line_.Remove(waiter); }
  // Whether the front waits for room in the socket.
  bool blocked_on_write() const { return !line_.empty() && line_.front()->blocked_on_write; }

  // --- Ended calls that may still have descriptors at the peer. Clients only ---

  void MayDiscard(uint64_t call);
  bool has_discards() const { return !discardable_.empty(); }
  // Fills a DISCARD frame with the oldest. Discarded() once it is sent.
  Frame NextDiscard() const;
  void Discarded(const Frame& frame);

 private:
  const uint64_t window_;
  std::shared_ptr<InFlight> in_flight_;
  uint64_t sent_ = 0;  // Reserved ones included.
  uint64_t credited_ = 0;
  // The peer's credit would let the front go on; what is in flight does not, unless kYes.
  InFlight::Room room_ = InFlight::Room::kYes;
  WaiterList<&Waiter::in_line> line_;
  std::vector<uint64_t> discardable_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SEND_WINDOW_H_
