// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// CreditOwed: decides when the peer is told that it may send again.
//
// The peer counts what it has sent against its window until this end gives credit. Telling it of
// each descriptor would cost a system call each, so credit is given by quarters of the window. But
// nothing may be owed while the peer could be waiting for it. Four rules ensure that:
//  1. What is owed is never so much that a full call does not fit beside it.
//  2. While so much is here that a full call does not fit, credit follows at once.
//  3. A peer that has filled its window once is likely to do so again. For a while, credit also
//     follows when everything that is here is disposed of: how much waits in the socket is not
//     known.
//  4. A sweep gives all that is owed (Session::Sweep), and so does the first frame that comes after
//     one.
#ifndef GRPCFD_FDCHANNEL_SESSION_CREDIT_OWED_H_
#define GRPCFD_FDCHANNEL_SESSION_CREDIT_OWED_H_

#include <stddef.h>
#include <stdint.h>

#include <algorithm>

namespace grpcfd {
namespace internal {

// Thread-compatible: a part of a Session, guarded by its mutex.
class CreditOwed {
 public:
  // `window` and `call` are what the peer goes by: how many descriptors it may have here, and how
  // many it sends at once.
  CreditOwed(uint32_t window, uint32_t call)
      : window_(window),
        call_(std::min(window, call)),
        step_(std::max<uint64_t>(1, std::min<uint64_t>(window / 4, window_ - call_ + 1))),
        small_step_(std::max<uint64_t>(1, step_ / 16)) {}

  // `n` came, and count in the peer's window.
  void Received(size_t n) {
    received_ += n;
    if (pressed()) eager_until_ = disposed_ + kEagerWindows * window_;
    unasked_ = unasked_ > n ? unasked_ - n : 0;
  }
  // `n` of them are taken or closed.
  void Disposed(size_t n) { disposed_ += n; }

  bool owes() const { return disposed_ != told_; }
  // Whether to give credit now.
  bool due() const {
    const uint64_t owed = disposed_ - told_;
    if (owed >= step_) return true;
    if (owed == 0) return false;
    return (owed >= small_step_ && pressed()) ||
           (disposed_ < eager_until_ && disposed_ == received_);
  }
  // Whether a sweep has to give what due() keeps back.
  bool needs_sweep() const { return owes() && pressed(); }

  // Credit for all that was disposed of is given; returns the frame's total.
  uint64_t Tell() { return told_ = disposed_; }
  // It could not be sent: it is owed again, unless more was told since.
  void TakeBack(uint64_t total, uint64_t before) {
    if (told_ == total) told_ = before;
  }
  uint64_t told() const { return told_; }

  // A call has ended for which the peer may have sent descriptors that nobody asked for.
  void MayHaveSent() {
    unasked_ += call_;
    ++calls_;
  }
  // Whether to read the socket unasked: what may be there fills the window, so that the peer cannot
  // send for another call; or it has been long.
  bool ShouldRead() const {
    return received_ - told_ + unasked_ + call_ > window_ || calls_ >= kCallsPerRead;
  }
  // The socket was read to its end.
  void NothingUnread() {
    unasked_ = 0;
    calls_ = 0;
  }

 private:
  // For how many windows full of descriptors rule 3 holds.
  static constexpr uint64_t kEagerWindows = 256;
  static constexpr uint32_t kCallsPerRead = 16;

  // A full call does not fit beside what is here or owed.
  bool pressed() const { return received_ - told_ + call_ > window_; }

  const uint64_t window_;
  const uint64_t call_;
  const uint64_t step_;
  const uint64_t small_step_;
  uint64_t received_ = 0;
  uint64_t disposed_ = 0;
  uint64_t told_ = 0;
  uint64_t eager_until_ = 0;
  // The most that the peer may have sent and nobody has read.
  uint64_t unasked_ = 0;
  uint32_t calls_ = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_CREDIT_OWED_H_
