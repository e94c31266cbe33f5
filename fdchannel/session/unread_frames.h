// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// UnreadFrames: how many descriptors of this session the peer has not read from its socket, as the
// kernel says, not the peer.
//
// Why it exists: the kernel charges descriptors in flight to the sender's user, all its processes
// together, and at RLIMIT_NOFILE refuses every further one with ETOOMANYREFS. CREDIT frames keep
// them within the session's window as long as the peer tells the truth. One that gives credit for
// frames it has not read would have this process pile up descriptors until nobody can be served.
// SIOCOUTQ counts what is unread, without trusting the peer.
//
// How it works: frames leave the socket in the order in which they went in, so if the kernel has k
// of them, these are the last k. A list of what each frame carried gives their descriptors. Frames
// of the same size are one entry, so the list is short. The kernel is asked only when the list says
// that the window may be full: once in so many descriptors.
//
// Threads that send at once may enter their frames here in another order than the socket's, and
// after the kernel counts them; the count may be off by their difference then. That is why it
// limits and does not accuse.
//
// Thread-compatible; InFlight's lock guards it.
#ifndef GRPCFD_FDCHANNEL_SESSION_UNREAD_FRAMES_H_
#define GRPCFD_FDCHANNEL_SESSION_UNREAD_FRAMES_H_

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <vector>

namespace grpcfd {
namespace internal {

class UnreadFrames {
 public:
  // A frame with so many descriptors was sent. Not before: one that is listed and not there yet
  // would make KeepLast() forget one that is.
  void Add(uint32_t fds) {
    if (!runs_.empty() && runs_.back().fds == fds) {
      ++runs_.back().frames;
    } else {
      runs_.push_back(Run{1, fds});
    }
    fds_ += fds;
  }
  // The peer has read all but the last `frames`.
  void KeepLast(uint64_t frames) {
    uint64_t kept = 0;
    auto run = runs_.end();
    fds_ = 0;
    while (run != runs_.begin() && kept < frames) {
      --run;
      run->frames = std::min(run->frames, frames - kept);
      kept += run->frames;
      fds_ += run->frames * run->fds;
    }
    runs_.erase(runs_.begin(), run);
  }
  // Descriptors in frames that may be unread.
  uint64_t fds() const { return fds_; }

 private:
  struct Run {
    uint64_t frames;
    uint32_t fds;  // Of each.
  };
  std::vector<Run> runs_;
  uint64_t fds_ = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_UNREAD_FRAMES_H_
