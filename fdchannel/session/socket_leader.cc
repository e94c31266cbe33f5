// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/socket_leader.h"

namespace grpcfd {
namespace internal {

SocketLeader::Left SocketLeader::PassLead() {
  if (!blocking_.empty()) {
    Waiter* const next = blocking_.front();
    next->promoted = true;
    next->wake.NotifyOne();
    return Left::kNothing;
  }
  led_ = false;
  if (async_.empty()) return watch_again_ ? Left::kWatch : Left::kNothing;
  // An asynchronous waiter may have come during the last look, for what is lost: the socket
  // will not tell.
  return look_owed_ ? Left::kWatchAndLook : Left::kWatch;
}

void SocketLeader::Enlist(Waiter* waiter, bool look_settles) {
  waiter->epoch = number_;
  waiter->listed = true;
  ++waiters_;
  if (waiter->blocking()) {
    blocking_.PushBack(waiter);
  } else {
    async_.PushBack(waiter);
  }
  if (waiter->kind == Waiter::Kind::kSend) {
    Wake();  // A leader that waits already does not look for room to write.
    return;
  }
  waiter->asking = true;
  asking_.PushBack(waiter);
  if (look_settles) OweLook();
}

void SocketLeader::Remove(Waiter* waiter) {
  waiter->listed = false;
  --waiters_;
  if (waiter->blocking()) {
    blocking_.Remove(waiter);
  } else {
    async_.Remove(waiter);
  }
  if (waiter->asking) asking_.Remove(waiter);
  waiter->asking = false;
}

void SocketLeader::AskAgain(Waiter* waiter) {
  if (waiter->asking) asking_.Remove(waiter);
  waiter->epoch = number_;
  waiter->asking = true;
  asking_.PushBack(waiter);
}

Waiter* SocketLeader::NextAsking(uint64_t number) {
  Waiter* const waiter = asking_.front();
  if (waiter == nullptr || waiter->epoch >= number) return nullptr;
  asking_.Remove(waiter);
  waiter->asking = false;
  return waiter;
}

}  // namespace internal
}  // namespace grpcfd
