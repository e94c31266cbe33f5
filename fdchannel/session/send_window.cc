// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/send_window.h"

#include "absl/strings/str_format.h"
#include "fdchannel/session/keep_latest.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr size_t kDiscardMemory = 1024;

}  // namespace

bool SendWindow::Reserve(size_t n) {
  room_ = InFlight::Room::kYes;
  if (sent_ - credited_ + n > window_) return false;
  // The credit allows it. An honest peer has read what it gives credit for; the kernel knows
  // whether it did.
  room_ = in_flight_->Reserve(n);
  if (room_ != InFlight::Room::kYes) return false;
  sent_ += n;
  return true;
}

absl::Status SendWindow::Return(size_t n) {
  sent_ -= n;
  if (credited_ <= sent_) return absl::OkStatus();
  const uint64_t credited = credited_;
  credited_ = sent_;
  return absl::FailedPreconditionError(absl::StrFormat(
      "it gave credit for %d descriptors, %d were sent: not those that failed", credited, sent_));
}

absl::Status SendWindow::Credit(uint64_t total) {
  if (total < credited_) return absl::OkStatus();  // Overtaken by a newer one.
  if (total > sent_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("credit for %d descriptors came, %d were sent", total, sent_));
  }
  credited_ = total;
  if (credited_ == sent_) discardable_.clear();
  in_flight_->MayHaveRoom();
  return absl::OkStatus();
}

absl::Status SendWindow::Shortage(const Waiter& waiter, const std::string& peer,
                                  uint64_t budget) const {
  switch (room_) {
    case InFlight::Room::kShared:
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%d descriptors for %s did not fit until the deadline beside %d that it has not read: "
          "its share of max_fds_in_flight = %d, which falls as more peers do not read what they "
          "were sent; end those, or raise the limit and RLIMIT_NOFILE with it",
          waiter.fds.size(), peer, in_flight_->fds(), budget));
    case InFlight::Room::kUnread:
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s has not read %d descriptors that were sent to it, whatever it gave credit for, until "
          "the deadline; the limit is session_window = %d",
          peer, in_flight_->fds(), window_));
    case InFlight::Room::kYes:
      break;
  }
  return absl::ResourceExhaustedError(
      absl::StrFormat("%s has not taken enough of the descriptors sent before, until the "
                      "deadline: it must take or drop them, or its session_window (%d) be larger",
                      peer, window_));
}

void SendWindow::MayDiscard(uint64_t call) {
  discardable_.push_back(call);
  KeepLatest(kDiscardMemory, &discardable_);
}

Frame SendWindow::NextDiscard() const {
  Frame frame;
  frame.type = FrameType::kDiscard;
  while (frame.discard_count < kMaxDiscardIds && frame.discard_count < discardable_.size()) {
    frame.discard[frame.discard_count] = discardable_[frame.discard_count];
    ++frame.discard_count;
  }
  return frame;
}

void SendWindow::Discarded(const Frame& frame) {
  discardable_.erase(discardable_.begin(), discardable_.begin() + frame.discard_count);
}

}  // namespace internal
}  // namespace grpcfd
