// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SendQueue: the descriptors that are to leave on one connection, and a memory of those that left.
//
// Why it exists: a descriptor can leave only with a byte, and the bytes are
// gRPC's, so it waits here for the next one. The memory tells whether the peer
// would keep it: a peer keeps the first descriptor of an inode and silently drops
// all others.
//
// Equal (dev, ino) need not mean the same open file. Comparing takes a descriptor
// of the first, so a bounded number of those that were sent stay open here.
#ifndef GRPCFD_INBAND_SEND_QUEUE_H_
#define GRPCFD_INBAND_SEND_QUEUE_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <deque>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/session/counters.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"
#include "inband/same_file.h"

namespace grpcfd {
namespace internal {

// A descriptor and what FdToDevIno says of it, asked once.
struct NamedFd {
  DevIno name;
  UniqueFd fd;
};
using NamedFds = std::vector<NamedFd>;

// Thread-safe. Nothing is closed under its lock.
class SendQueue {
 public:
  // A descriptor that several hold: the queue, the memory. Closed with the last.
  using SharedFd = std::shared_ptr<UniqueFd>;

  // Descriptors that are only looked at.
  struct NamedRef {
    DevIno name;
    BorrowedFd fd;
  };
  using Named = absl::InlinedVector<NamedRef, 4>;
  static Named Refer(const NamedFds& fds);

  SendQueue(size_t max_queued, size_t max_remembered,
            std::shared_ptr<InBandCounters> counters = std::make_shared<InBandCounters>())
      : counters_(std::move(counters)), max_queued_(max_queued), max_remembered_(max_remembered) {}

  // Records that some descriptors were compared with what a queue had seen by then.
  class Checked {
    friend class SendQueue;
    const SendQueue* queue_ = nullptr;
    uint64_t generation_ = 0;
  };

  // Puts `fds` into the queue, all or none. The bytes that are handed to the connection after this
  // leave after them. `*closing` gets what need not stay open. `checked` is what Check() of the
  // same descriptors left; what has not changed since is not compared again.
  //   ALREADY_EXISTS      another open file of the same inode was sent on this connection, or is
  //                       among them: the peer would drop the second
  //   RESOURCE_EXHAUSTED  more than `max_queued` would wait
  //   others              as End() said
  absl::Status Push(NamedFds fds, const Checked& checked, FdVector* closing);
  // What Push() would return. For the second, the connection is not known yet.
  absl::Status Check(const Named& fds, Checked* checked) const;
  static absl::Status CheckAmong(const Named& fds);

  // Whether there is anything. Cheap; what was pushed before the caller learned of it is seen.
  bool empty() const { return size_.load(std::memory_order_acquire) == 0; }
  size_t size() const { return size_.load(std::memory_order_acquire); }
  // Takes the next one, to be given back with Done(); null if there is none.
  SharedFd Pop();
  // It has left, or will never leave. `*closing` gets what need not stay open.
  void Done(SharedFd fd, FdVector* closing);

  // Remembers at most so many from now on.
  void SetLimit(size_t max_remembered, FdVector* closing);

  // Nothing more will leave: later pushes get `status`. Gives up everything that is held.
  FdVector End(const absl::Status& status);

  size_t remembered() const;

 private:
  struct Remembered {
    SharedFd fd;
    FileTraits traits;  // Once it is forgotten, that is, `fd` is null.
    std::list<DevIno>::iterator position;
  };

  absl::Status CheckRoom(size_t count) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckFiles(const Named& fds) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Shrink(FdVector* closing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves the descriptor to `*closing` if nobody else holds it. All who do come and go under the
  // lock, so the count is exact.
  static void LetGo(SharedFd&& fd, FdVector* closing);

  const std::shared_ptr<InBandCounters> counters_;
  const size_t max_queued_;
  std::atomic<size_t> size_{0};

  mutable Mutex mutex_;
  size_t max_remembered_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  std::deque<SharedFd> queue_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<DevIno, Remembered> memory_ ABSL_GUARDED_BY(mutex_);
  // How often `memory_` got a descriptor to compare with.
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  // Least recently sent first: those with descriptors, and those without.
  std::list<DevIno> held_ ABSL_GUARDED_BY(mutex_);
  std::list<DevIno> forgotten_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_SEND_QUEUE_H_
