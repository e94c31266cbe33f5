// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ReadRoom: the room in this process's table of descriptors for what a look at a socket may bring,
// and for what was refused and is not closed yet.
//
// Why it exists: a message brings up to 253 descriptors, whatever its sender should send, and what
// the receiver refuses stays open until a close returns, which a peer can delay for ever. So no
// thread that serves others looks before it has room for full messages. When what one user sent
// waits to be closed and leaves no such room, that user's sockets are read on its own lane of the
// reaper: behind those closes, and with room for no more than the user may hold.
//
// A look never blocks, so the room that it takes is soon free again; what waits to be closed may
// keep it long.
//
// Thread-safe.
#ifndef GRPCFD_FDCHANNEL_SESSION_READ_ROOM_H_
#define GRPCFD_FDCHANNEL_SESSION_READ_ROOM_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <memory>

#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/mutex.h"

namespace grpcfd {
namespace internal {

// What this process's table of descriptors looks like.
struct FdTable {
  uint64_t nofile;       // The soft RLIMIT_NOFILE.
  uint64_t lowest_free;  // `nofile` if the table is full.
};
FdTable LookAtFdTable();

class ReadRoom {
 public:
  using FdTableFunction = FdTable (*)();

  // Room for `limit` descriptors in a table that `table` looks at.
  explicit ReadRoom(uint64_t limit, FdTableFunction table = LookAtFdTable)
      : limit_(limit), table_(table), nofile_(table().nofile) {}
  // A user's part of `whole`: at most `limit` of its descriptors.
  ReadRoom(uint64_t limit, std::shared_ptr<ReadRoom> whole)
      : limit_(limit), table_(whole->table_), whole_(std::move(whole)) {}
  ReadRoom(const ReadRoom&) = delete;
  ReadRoom& operator=(const ReadRoom&) = delete;

  // Takes room for up to `messages` full messages and returns for how many. Waits for the looks of
  // other threads if it has to. 0 if what is to be closed has to be closed first, or if the process
  // is about to reach its RLIMIT_NOFILE, as far as can be seen.
  size_t Reserve(size_t messages);
  // The look is over. Of what it brought, `kept` descriptors are to be closed, and keep their room
  // until Closed().
  void Return(size_t messages, size_t kept);
  // More that is to be closed, for which no room was taken. It counts, and is never refused.
  void Keep(size_t n);
  void Closed(size_t n);
  // The kernel gave this number to a descriptor: the lowest one that was free.
  void Saw(int number) {
    Root()->lowest_free_.store(static_cast<uint64_t>(number), std::memory_order_relaxed);
  }

  uint64_t limit() const { return limit_; }
  // What waits to be closed.
  uint64_t closing() const { return closing_.load(std::memory_order_relaxed); }

 private:
  ReadRoom* Root() { return whole_ != nullptr ? whole_.get() : this; }
  // For how many full messages, up to `messages`, the process's table has room. It looks at the
  // table if what is known of it says that it has not: the program may have closed something since,
  // or raised its limit. For the root.
  size_t RoomInTable(size_t messages);
  // `*gave_back`: room that others may wait for was taken for a moment.
  size_t TryReserve(size_t messages, bool* gave_back);
  // Takes what is there, up to `messages`.
  size_t Take(size_t messages);
  void Give(uint64_t fds);
  // Whether what is to be closed leaves no room for one message, or RLIMIT_NOFILE does not.
  bool Blocked();
  void Notify();

  const uint64_t limit_;
  const FdTableFunction table_;
  const std::shared_ptr<ReadRoom> whole_;
  std::atomic<uint64_t> used_{0};     // By looks and by what is to be closed.
  std::atomic<uint64_t> closing_{0};  // Of used_.
  // The rest is the whole's.
  std::atomic<uint64_t> nofile_{0};
  std::atomic<uint64_t> lowest_free_{0};
  std::atomic<int> waiters_{0};
  Mutex mutex_;
  CondVar changed_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_READ_ROOM_H_
