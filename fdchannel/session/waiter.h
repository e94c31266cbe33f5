// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Waiter: one wait in a session: for a descriptor, for room to send, or for the next look at the
// socket. WaiterList: a list of them.
//
// The links are in the waiter. So entering a list allocates nothing, leaving it takes constant
// time, and the waiters of one call are found without walking past those of other calls.
#ifndef GRPCFD_FDCHANNEL_SESSION_WAITER_H_
#define GRPCFD_FDCHANNEL_SESSION_WAITER_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/indices.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

class DescriptorInbox;

enum class ReceiveOp { kTake, kDup };

// What a receive asks for, and what came of it. Guarded by the session's mutex.
struct Request {
  Request() = default;
  Request(DescriptorInbox* its_inbox, const InodeUrl& its_url, ReceiveOp its_op)
      : inbox(its_inbox), url(its_url), op(its_op) {}

  absl::StatusOr<UniqueFd> TakeFd() {
    if (!status.ok()) return std::move(status);
    return std::move(fd);
  }

  // Null for a session-scoped descriptor that no call asks for.
  DescriptorInbox* inbox = nullptr;
  InodeUrl url;
  ReceiveOp op = ReceiveOp::kTake;
  absl::Status status;
  UniqueFd fd;
};

// Guarded by the session's mutex. A blocking waiter lives on its thread's stack; an asynchronous
// one owns itself (`self`) while it is listed.
struct Waiter : Request {
  enum class Kind { kReceive, kSend, kInspect };
  struct Link {
    Waiter* prev = nullptr;
    Waiter* next = nullptr;
  };

  explicit Waiter(Kind k) : kind(k) {}
  explicit Waiter(Request request) : Request(std::move(request)), kind(Kind::kReceive) {}

  bool blocking() const { return self == nullptr; }
  // The callback of an asynchronous one. Without the lock.
  void Call() {
    if (kind == Kind::kReceive) {
      fd_callback(TakeFd());
    } else {
      status_callback(std::move(status));
    }
  }

  // The request counts for kReceive, its inbox for kInspect, its status for all.
  const Kind kind;
  // kSend
  CallKey call;
  Indices indices = 0;
  absl::Span<const int> fds;
  size_t sent = 0;
  bool reserved = false;
  bool blocked_on_write = false;

  // The look at the socket that was under way or last when this waiter came, or asked again.
  uint64_t epoch = 0;
  bool listed = false;
  bool asking = false;  // Whether it is in the leader's list of those whom the next look settles.
  Link in_leader;
  Link in_asking;
  Link in_inbox;
  Link in_line;
  bool done = false;
  // It has the lead, or it was passed to it.
  bool promoted = false;
  // A look that began after it came found the socket empty; whether it waits for that only.
  bool looked = false;
  bool wants_look = false;
  CondVar wake;

  // Asynchronous ones.
  std::shared_ptr<Waiter> self;
  std::vector<int> owned_fds;
  Poller::Id timer = 0;
  absl::AnyInvocable<void(absl::StatusOr<UniqueFd>)> fd_callback;
  std::function<void(absl::Status)> status_callback;
};

// In the order of coming. Thread-compatible.
template <Waiter::Link Waiter::*kLink>
class WaiterList {
 public:
  WaiterList() = default;
  WaiterList(const WaiterList&) = delete;
  WaiterList& operator=(const WaiterList&) = delete;

  bool empty() const { return first_ == nullptr; }
  Waiter* front() const { return first_; }
  // Null at the end.
  static Waiter* Next(const Waiter* waiter) { return (waiter->*kLink).next; }

  void PushBack(Waiter* waiter) {
    (waiter->*kLink).prev = last_;
    (waiter->*kLink).next = nullptr;
    if (last_ == nullptr) {
      first_ = waiter;
    } else {
      (last_->*kLink).next = waiter;
    }
    last_ = waiter;
  }
  void Remove(Waiter* waiter) {
    Waiter::Link& link = waiter->*kLink;
    if (link.prev == nullptr) {
      first_ = link.next;
    } else {
      (link.prev->*kLink).next = link.next;
    }
    if (link.next == nullptr) {
      last_ = link.prev;
    } else {
      (link.next->*kLink).prev = link.prev;
    }
    link = Waiter::Link();
  }

 private:
  Waiter* first_ = nullptr;
  Waiter* last_ = nullptr;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_WAITER_H_
