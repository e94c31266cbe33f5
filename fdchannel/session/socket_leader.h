// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SocketLeader: which thread reads the session's socket, and who waits for what it finds.
//
// At most one thread reads at a time: the leader. The rules:
//  - A waiter becomes the leader if there is none. A leader that leaves passes the lead to another
//    blocking waiter, in the same critical section. If there are only asynchronous ones, the poller
//    watches the socket for them.
//  - Each look at the socket has a number. A look that finds the socket empty settles the waiters
//    that came before it began, and no others: "the socket is empty, so the descriptor is lost" is
//    true only for them.
//  - A waiter that a look could settle may come during a look that began before it. Then another
//    look is owed.
//
// Invariant: unread data plus a waiter implies a leader, a promotion or a watch
// (tests/model/leader.pml).
#ifndef GRPCFD_FDCHANNEL_SESSION_SOCKET_LEADER_H_
#define GRPCFD_FDCHANNEL_SESSION_SOCKET_LEADER_H_

#include <stddef.h>
#include <stdint.h>

#include <utility>

#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/waiter.h"

namespace grpcfd {
namespace internal {

// Thread-compatible: a part of a Session, guarded by its mutex.
class SocketLeader {
 public:
  // How often a caller that must not wait looks at the socket. It is more than the socket's buffer
  // holds: only a peer that never stops sending reaches it.
  static constexpr int kLooksPerTurn = 128;

  // What remains to be done for the other waiters when the lead is free.
  enum class Left {
    kNothing,
    kWatch,         // The poller must watch the socket.
    kWatchAndLook,  // And some thread must look at it now.
  };
  struct Look {
    uint64_t number;
    bool owed;  // A waiter asked for it.
  };

  // `socket` is woken when its leader has to look again. It outlives this.
  explicit SocketLeader(FrameSocket* socket) : socket_(*socket) {}
  SocketLeader(const SocketLeader&) = delete;
  SocketLeader& operator=(const SocketLeader&) = delete;

  // --- The lead ---

  bool led() const { return led_; }
  // Takes the lead. False if it is taken.
  bool Lead() { return !std::exchange(led_, true); }
  // Passes the lead to the first blocking waiter; without one, gives it up.
  Left PassLead();
  // The leader is about to wait for the socket without the lock, and waits no more.
  void BeginWait() {
    socket_.PrepareWait();
    waits_ = true;
  }
  void EndWait() { waits_ = false; }
  bool waits() const { return waits_; }
  // Wakes a leader that waits.
  void Wake() {
    if (waits_) socket_.Wake();
  }

  // --- Looks ---

  uint64_t number() const { return number_; }
  Look BeginLook() { return {++number_, std::exchange(look_owed_, false)}; }
  // It found something, or failed: only an empty socket settles those who asked.
  void FoundSomething(const Look& look) { look_owed_ |= look.owed; }
  bool look_owed() const { return look_owed_; }
  // One more look has to begin.
  void OweLook() {
    look_owed_ = true;
    Wake();
  }

  // --- Waiters ---

  // `look_settles`: it asks for a look.
  void Enlist(Waiter* waiter, bool look_settles);
  void Remove(Waiter* waiter);
  // The next look settles this one.
  void AskAgain(Waiter* waiter);
  size_t waiters() const { return waiters_; }
  // The first of those who came before look `number` and have not seen an empty socket yet, taken
  // from among them; null if there is none.
  Waiter* NextAsking(uint64_t number);
  // Any one; null if there is none.
  Waiter* Any() const { return blocking_.empty() ? async_.front() : blocking_.front(); }

  // --- Watching and sweeping ---

  // The poller saw something while there was a leader, or a turn ended early: the leader that
  // leaves has the socket watched again.
  void WatchAgain() { watch_again_ = true; }
  void Watched() { watch_again_ = false; }
  // False if one is scheduled.
  bool ScheduleSweep() { return !std::exchange(sweep_scheduled_, true); }
  void SweepBegins() {
    sweep_scheduled_ = false;
    watch_again_ = true;
  }

 private:
  FrameSocket& socket_;
  bool led_ = false;
  bool waits_ = false;
  uint64_t number_ = 0;
  // A waiter that a look settles came after the last look that found the socket empty had begun.
  bool look_owed_ = false;
  bool watch_again_ = false;
  bool sweep_scheduled_ = false;
  size_t waiters_ = 0;
  WaiterList<&Waiter::in_leader> blocking_;
  WaiterList<&Waiter::in_leader> async_;
  // In the order of their numbers. A look touches no other waiter, however many there are.
  WaiterList<&Waiter::in_asking> asking_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SOCKET_LEADER_H_
