// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ReceivedFds: the descriptors that came on one connection, and the waiters for them.
//
// Why it exists: on this wire a descriptor belongs to no call. It is kept under its
// (dev, ino). Any call of the connection can get a duplicate, any number of times,
// before or after it came.
//
// The number kept is limited: a client with one new file for each call would otherwise
// fill the server's descriptor table. Above the limit the least recently used one is
// closed, and a call that asks for it afterwards gets an error instead of waiting for
// it.
#ifndef GRPCFD_INBAND_RECEIVED_FDS_H_
#define GRPCFD_INBAND_RECEIVED_FDS_H_

#include <stddef.h>

#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/session/counters.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Thread-safe. Nothing is closed or called back under its lock.
class ReceivedFds {
 public:
  using FdCallback = absl::AnyInvocable<void(absl::StatusOr<UniqueFd>)>;

  // A call that asks. Must stay until Release().
  class Caller {
   private:
    friend class ReceivedFds;
    absl::Status released_;  // Under the lock of the ReceivedFds.
  };

  // Keeps at most `limit` (1 or more). `poller` has the timers of asynchronous waits,
  // and its thread calls back those that a call of the program's ends. Null, for tests: no timers,
  // and Release() calls back itself.
  explicit ReceivedFds(
      size_t limit, std::shared_ptr<InBandCounters> counters = std::make_shared<InBandCounters>(),
      std::shared_ptr<Poller> poller = nullptr)
      : counters_(std::move(counters)), poller_(std::move(poller)), limit_(limit) {}

  // Keeps `fds`, gives those who wait their duplicates, and moves into `*closing` what must be
  // closed: the second of an inode, and the least recently used above the limit.
  void Keep(FdVector fds, FdVector* closing);
  // From now on.
  void SetLimit(size_t limit, FdVector* closing);

  // A duplicate. Waits for it, unless the caller was released.
  //   DEADLINE_EXCEEDED   it did not come before `deadline`
  //   CANCELLED           `cancelled` (may be null) said so; it is asked now and then
  //   RESOURCE_EXHAUSTED  it came, but newer ones have pushed it out; or this process is at
  //                       RLIMIT_NOFILE
  //   others              as Release() or End() said
  absl::StatusOr<UniqueFd> Receive(const DevIno& dev_ino, Caller* caller, absl::Time deadline,
                                   const std::function<bool()>* cancelled);
  // The same. False if it has to wait: then `*done` is moved from, and called later, on a thread
  // that calls Keep, Expire or End, or the poller's, with what it was called for. True, with
  // `*result`, if not.
  bool ReceiveAsync(const DevIno& dev_ino, Caller* caller, uint64_t id, FdCallback* done,
                    absl::StatusOr<UniqueFd>* result);
  // `timer` calls Expire(id). It is cancelled when the wait is over; at once if that is so.
  void SetTimer(uint64_t id, Poller::Id timer);
  // The time of the asynchronous waiter `id` is over. It may be gone already.
  void Expire(uint64_t id);
  // From now on `caller` does not wait: its waits fail with `status`, and so do its later requests
  // for what is not here.
  void Release(Caller* caller, const absl::Status& status);

  // No more will come: fails all waits. What is here can still be had.
  void End(const absl::Status& status);
  // Gives up everything that is kept.
  FdVector TakeAll();

  size_t size() const;
  // Whether any was ever kept.
  bool any_came() const;

 private:
  struct Kept {
    DevIno dev_ino;
    UniqueFd fd;
  };
  struct Waiter {
    DevIno dev_ino;
    Caller* caller = nullptr;
    uint64_t id = 0;  // Asynchronous ones, as the next two.
    Poller::Id timer = 0;
    FdCallback callback;  // Unset: blocked, on `wake`.
    CondVar wake;
    bool done = false;
    absl::StatusOr<UniqueFd> result;
  };
  using Waiters = std::vector<std::shared_ptr<Waiter>>;

  // Whether the outcome is at hand; then `*result` is it.
  bool Look(const DevIno& dev_ino, const Caller& caller, absl::StatusOr<UniqueFd>* result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Shrink(FdVector* closing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the waiters that `finished` picks (and answers) out of the list. Blocked ones are woken;
  // the others are to be called with CallBack, without the lock.
  template <typename Finished>
  Waiters Finish(const Finished& finished) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CallBack(const Waiters& waiters);
  void CancelTimers(const Waiters& waiters);

  const std::shared_ptr<InBandCounters> counters_;
  const std::shared_ptr<Poller> poller_;
  mutable Mutex mutex_;
  size_t limit_ ABSL_GUARDED_BY(mutex_);
  bool any_came_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  // Most recently used first.
  std::list<Kept> kept_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<DevIno, std::list<Kept>::iterator> index_ ABSL_GUARDED_BY(mutex_);
  // Pushed out; a bounded number, oldest first.
  std::list<DevIno> pushed_out_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<DevIno, std::list<DevIno>::iterator> pushed_out_index_
      ABSL_GUARDED_BY(mutex_);
  Waiters waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_RECEIVED_FDS_H_
