// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the parts of Session share, and nobody else needs: who waits, and what is to be closed once
// the lock is released. The parts are session.cc (its life, and that of its calls), session_wait.cc
// (waiters, and who leads), session_receive.cc (looks at the socket) and session_send.cc.
#ifndef GRPCFD_FDCHANNEL_SESSION_SESSION_PARTS_H_
#define GRPCFD_FDCHANNEL_SESSION_SESSION_PARTS_H_

#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/session/session.h"

namespace grpcfd {
namespace internal {

// Taken slots that are remembered one by one.
inline constexpr size_t kTakenMemory = 64;
// How often somebody who must not wait looks at the socket. More than its buffer holds: only a peer
// that never stops sending gets there.
inline constexpr int kLooksPerDrain = 128;

// For messages: "call 17 attempt 2".
std::string CallName(const CallKey& key);

// Somebody who waits: for a descriptor, for room to send, or just for the next look at the socket.
// Guarded by the session's mutex.
struct Session::Waiter {
  enum class Kind { kReceive, kSend, kLook };
  explicit Waiter(Kind k) : kind(k) {}

  const Kind kind;
  // kReceive and kLook
  CallInbox* inbox = nullptr;
  // kReceive
  InodeUrl url;
  Op op = Op::kTake;
  // kSend
  CallKey call;
  Indices indices = 0;
  absl::Span<const int> fds;
  size_t sent = 0;
  bool reserved = false;
  bool blocked_on_write = false;

  // The look at the socket (Session::epoch_) that was under way or last when this waiter came.
  uint64_t epoch = 0;
  bool listed = false;
  std::list<Waiter*>::iterator position;
  std::list<Waiter*>::iterator sender_position;
  bool done = false;
  // It has the lead, or was given it.
  bool promoted = false;
  // A look that began after it came found the socket empty; whether it waits for that only.
  bool looked = false;
  bool wants_look = false;
  absl::Status status;
  UniqueFd fd;
  CondVar wake;

  // Asynchronous ones own themselves while they are listed.
  std::shared_ptr<Waiter> self;
  std::vector<int> owned_fds;
  Poller::Id timer = 0;
  FdCallback fd_callback;
  StatusCallback status_callback;

  absl::StatusOr<UniqueFd> TakeFd() {
    if (!status.ok()) return std::move(status);
    return std::move(fd);
  }
  void Call() {
    if (kind == Kind::kReceive) {
      fd_callback(TakeFd());
    } else {
      status_callback(std::move(status));
    }
  }
};

// Descriptors to be closed once the lock is released.
struct Session::Trash {
  FdVector fds;
  size_t charged = 0;    // of those, counted in held_ and in the quota
  size_t uncharged = 0;  // arrived or lost on arrival, never counted there
  size_t scoped = 0;     // session-scoped: counted in the quota only

  bool empty() const { return fds.empty() && charged + uncharged + scoped == 0; }
  void AddCharged(UniqueFd fd) {
    fds.push_back(std::move(fd));
    ++charged;
  }
  void AddScoped(FdVector more) {
    for (UniqueFd& fd : more) {
      if (!fd.valid()) continue;
      fds.push_back(std::move(fd));
      ++scoped;
    }
  }
  void AddUncharged(FdVector* more, size_t count) {
    for (UniqueFd& fd : *more) fds.push_back(std::move(fd));
    more->clear();
    uncharged += count;
  }
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SESSION_PARTS_H_
