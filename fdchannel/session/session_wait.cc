// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/session/session.h"

namespace grpcfd {
namespace internal {
namespace {

// How often a waiter asks whether its call was cancelled.
constexpr absl::Duration kCancelSlice = absl::Milliseconds(10);
// How often one turn looks at the socket before it minds its deadline again.
constexpr int kLooksPerWait = 1024;
// How long a receive whose deadline has passed waits for the leader to look at the socket once: the
// look takes microseconds, but its thread may have to get a processor first, or be in a callback
// that asks for a cancellation.
constexpr absl::Duration kLookPatience = absl::Milliseconds(500);

// When to ask next whether the call was cancelled.
absl::Time SliceEnd(const WaitOptions& options) {
  return options.cancelled == nullptr ? options.deadline
                                      : std::min(options.deadline, absl::Now() + kCancelSlice);
}

absl::Status CallWasCancelled() { return absl::CancelledError("the call was cancelled"); }

}  // namespace

// --- Settling a waiter ---

bool Session::ProgressReceive(Request* request, bool drained) {
  if (request->url.session_index().has_value()) return ProgressScoped(request, drained);
  DescriptorInbox* const inbox = request->inbox;
  const DescriptorInbox::Finding found = inbox->Seek(request->url, drained, dead_.ok());
  switch (found.answer) {
    case DescriptorInbox::Answer::kWait:
      return false;
    case DescriptorInbox::Answer::kDead:
      request->status = dead_;
      return true;
    case DescriptorInbox::Answer::kHere:
      GiveOut(request, found.slot);
      return true;
    default:
      request->status = inbox->Explain(found, request->url, config_.peer);
      return true;
  }
}

void Session::GiveOut(Request* request, DescriptorInbox::Slot* slot) {
  if (request->op == Op::kTake) {
    request->fd = Take(request->inbox, slot);
    return;
  }
  // fcntl(F_DUPFD_CLOEXEC) does not block, so it may be done under the lock.
  auto copy = BorrowedFd(slot->fd).Dup();
  request->status = copy.status();
  if (copy.ok()) request->fd = *std::move(copy);
}

bool Session::ProgressScoped(Request* request, bool drained) {
  // What befalls a call is not the session's; its end is.
  if (request->inbox != nullptr && request->inbox->ended()) {
    request->status = request->inbox->failure();
    return true;
  }
  if (!dead_.ok()) {
    request->status = dead_;
    return true;
  }
  // It was sent before what names it, and so was its withdrawal: only an empty socket tells.
  if (!drained) return false;
  const ReceivePolicy* const policy =
      request->inbox != nullptr ? request->inbox->policy() : config_.policy.get();
  auto copy = arrivals_.scoped().Dup(request->url, policy, config_.peer);
  request->status = copy.status();
  if (copy.ok()) request->fd = *std::move(copy);
  return true;
}

void Session::ProgressCall(DescriptorInbox* inbox) {
  for (Waiter* waiter = inbox->waiters()->front(); waiter != nullptr;) {
    Waiter* const next = WaiterList<&Waiter::in_inbox>::Next(waiter);
    // A look at the socket is about its end, not about what comes.
    const bool settled = waiter->kind == Waiter::Kind::kInspect
                             ? !inbox->failure().ok()
                             : ProgressReceive(waiter, /*drained=*/false);
    if (settled) Finish(waiter, absl::OkStatus());
    waiter = next;
  }
}

void Session::SettleAsking(uint64_t number) {
  while (Waiter* const waiter = leader_.NextAsking(number)) {
    if (waiter->kind == Waiter::Kind::kInspect || ProgressReceive(waiter, /*drained=*/true)) {
      Finish(waiter, absl::OkStatus());
      continue;
    }
    waiter->looked = true;
    if (!waiter->wants_look) continue;
    if (waiter->blocking()) {
      waiter->wake.NotifyOne();
    } else {
      Finish(waiter, DeadlineError(*waiter));
    }
  }
}

void Session::SettleAll() {
  while (!window_.nobody_waits()) Finish(window_.front(), dead_);
  while (Waiter* const waiter = leader_.Any()) {
    const bool settled =
        waiter->kind == Waiter::Kind::kInspect || ProgressReceive(waiter, /*drained=*/true);
    Finish(waiter, settled ? absl::OkStatus() : dead_);
  }
}

void Session::ProgressSenders() {
  while (!window_.nobody_waits() && ProgressSend(window_.front())) {
    Finish(window_.front(), absl::OkStatus());
  }
  if (!window_.blocked_on_write()) return;
  // A thread must look for room to write now. A leader that is not waiting will.
  if (leader_.waits()) {
    leader_.Wake();
  } else if (!leader_.led()) {
    Watch(true);
  }
}

void Session::Finish(Waiter* waiter, absl::Status status) {
  waiter->done = true;
  if (!status.ok()) waiter->status = std::move(status);
  if (waiter->reserved) {
    counters_->Add(Counter::kFdsSent, waiter->sent);
    const size_t left = waiter->fds.size() - waiter->sent;  // What was never sent.
    in_flight_->Return(left);
    Unreserve(left);
    waiter->reserved = false;
  }
  if (waiter->listed) {
    leader_.Remove(waiter);
    if (waiter->kind == Waiter::Kind::kSend) {
      window_.Leave(waiter);
    } else if (waiter->inbox != nullptr) {
      waiter->inbox->waiters()->Remove(waiter);
    }
  }
  if (!waiter->blocking()) {
    finished_async_.push_back(std::move(waiter->self));
    return;
  }
  waiter->wake.NotifyOne();
  if (waiter->promoted) leader_.Wake();
}

void Session::FinishCall(DescriptorInbox* inbox, const absl::Status& status) {
  while (!inbox->waiters()->empty()) Finish(inbox->waiters()->front(), status);
}

void Session::FinishSenders(const DescriptorInbox* inbox, const absl::Status& status) {
  if (arrivals_.Find(inbox->key()) != inbox) return;  // Another one has its number.
  for (Waiter* waiter = window_.front(); waiter != nullptr;) {
    Waiter* const next = window_.Next(waiter);
    // A server is also told of calls that ended well; see End.
    const bool stays = !waiter->blocking() && config_.role == Role::kServer;
    if (waiter->call == inbox->key() && !stays) Finish(waiter, status);
    waiter = next;
  }
  // The next sender in line may have been waiting for these only.
  ProgressSenders();
}

absl::Status Session::DeadlineError(const Waiter& waiter) const {
  if (waiter.kind == Waiter::Kind::kInspect) {
    return absl::DeadlineExceededError(
        "another thread reads the session's socket, and did not get to it in time");
  }
  if (waiter.kind == Waiter::Kind::kSend) {
    counters_->Add(window_.room() == InFlight::Room::kShared ? Counter::kSendsRefusedInFlight
                                                             : Counter::kSendsRefusedWindow);
    return window_.Shortage(waiter, config_.peer,
                            config_.in_flight != nullptr ? config_.in_flight->total() : 0);
  }
  if (waiter.url.session_index().has_value()) {
    return absl::DeadlineExceededError(
        absl::StrCat("the session's socket was not looked at in time for ", waiter.url.ToString()));
  }
  if (!waiter.url.index().has_value() && waiter.inbox->Knows(waiter.url.dev_ino())) {
    return absl::FailedPreconditionError(absl::StrCat(
        waiter.url.ToString(), " was taken from this call before, and no other one came"));
  }
  return absl::DeadlineExceededError(absl::StrCat(waiter.url.ToString(), " did not come from ",
                                                  config_.peer, " before the deadline"));
}

// --- A thread that waits ---

void Session::Enlist(Waiter* waiter) {
  if (waiter->kind == Waiter::Kind::kSend) {
    window_.Enter(waiter);
    leader_.Enlist(waiter, /*look_settles=*/false);
    return;
  }
  if (waiter->inbox != nullptr) waiter->inbox->waiters()->PushBack(waiter);
  leader_.Enlist(waiter, waiter->kind == Waiter::Kind::kInspect ||
                             waiter->url.session_index().has_value() ||
                             waiter->inbox->LookSettles(waiter->url));
}

void Session::RunWaiter(Waiter* waiter, const WaitOptions& options, DeferredCloses* closes) {
  Enlist(waiter);
  WaitOptions limited = options;
  if (options.deadline == absl::InfiniteFuture()) limited.deadline = absl::Now() + options.patience;
  int looks = 0;
  while (!waiter->done) {
    if (leader_.Lead()) waiter->promoted = true;
    if (waiter->promoted) {
      LeadOnce(waiter, limited, &looks, closes);
    } else {
      FollowOnce(waiter, limited);
    }
  }
  // The next sender in line has not been tried yet, or not with the room that this one leaves.
  if (waiter->kind == Waiter::Kind::kSend) ProgressSenders();
  if (waiter->promoted) PassLead();
}

void Session::LeadOnce(Waiter* waiter, const WaitOptions& options, int* looks,
                       DeferredCloses* closes) {
  const PumpResult result = Pump(std::min(kMaxBatch, leader_.waiters()), closes);
  if (result == PumpResult::kNoRoom) {
    waiter->promoted = false;
    return PassLeadToLane(closes);
  }
  if (waiter->done) return;
  if (result == PumpResult::kDead) return Finish(waiter, dead_);
  // A peer that never stops sending must not hold this thread beyond its deadline.
  if (result == PumpResult::kProgress && ++*looks % kLooksPerWait != 0) return;
  if (!closes->empty() || !finished_async_.empty()) {
    // This may be a long wait. What this thread has to deliver or close for others must not wait
    // with it.
    RunDeferred(closes);
    if (waiter->done) return;
  }
  if (absl::Now() >= options.deadline) return Finish(waiter, DeadlineError(*waiter));
  const bool wait = result == PumpResult::kEmpty && !leader_.look_owed();
  if (wait) leader_.BeginWait();
  const bool want_write = window_.blocked_on_write();
  mutex_.Unlock();
  if (wait) socket_->Wait(want_write, SliceEnd(options));
  const bool cancelled = options.cancelled != nullptr && (*options.cancelled)();
  mutex_.Lock();
  leader_.EndWait();
  if (want_write) ProgressSenders();
  if (cancelled && !waiter->done) Finish(waiter, CallWasCancelled());
}

void Session::FollowOnce(Waiter* waiter, const WaitOptions& options) {
  waiter->wake.WaitUntil(&mutex_, SliceEnd(options));
  if (waiter->done || waiter->promoted) return;
  if (absl::Now() >= options.deadline) {
    if (!AwaitLook(waiter)) Finish(waiter, DeadlineError(*waiter));
    return;
  }
  if (options.cancelled == nullptr) return;
  mutex_.Unlock();
  const bool cancelled = (*options.cancelled)();
  mutex_.Lock();
  if (cancelled && !waiter->done) Finish(waiter, CallWasCancelled());
}

// Finds what is in the socket, however late it is, even if another thread leads and may not have
// looked since. True if the waiter is settled or promoted by that.
bool Session::AwaitLook(Waiter* waiter) {
  if (waiter->kind != Waiter::Kind::kReceive || waiter->looked || waiter->wants_look) return false;
  const absl::Time limit = absl::Now() + kLookPatience;
  waiter->wants_look = true;
  leader_.OweLook();
  while (!waiter->done && !waiter->promoted && !waiter->looked) {
    if (!waiter->wake.WaitUntil(&mutex_, limit)) break;
  }
  return waiter->done || waiter->promoted;
}

void Session::PassLead() {
  const SocketLeader::Left left = leader_.PassLead();
  if (left == SocketLeader::Left::kNothing) return;
  Watch(true);
  if (left == SocketLeader::Left::kWatchAndLook && config_.poller != nullptr) {
    config_.poller->RunAt(absl::InfinitePast(), [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->Sweep();
    });
  }
}

// --- Asynchronous waiters ---

void Session::EnlistAsync(const std::shared_ptr<Waiter>& waiter, absl::Time deadline,
                          DeferredCloses* closes) {
  waiter->self = waiter;
  Enlist(waiter.get());
  if (deadline != absl::InfiniteFuture()) SetTimer(waiter, deadline);
  // If there is a leader it serves this waiter too; if not, look once, and then let the poller
  // watch.
  Drain(closes);
}

void Session::SetTimer(const std::shared_ptr<Waiter>& waiter, absl::Time when) {
  if (config_.poller == nullptr) return;
  std::weak_ptr<Session> weak_session = weak_from_this();
  std::weak_ptr<Waiter> weak_waiter = waiter;
  waiter->timer = config_.poller->RunAt(when, [weak_session, weak_waiter] {
    auto session = weak_session.lock();
    auto late = weak_waiter.lock();
    if (session == nullptr || late == nullptr) return;
    DeferredCloses closes;
    MutexLock session_lock(&session->mutex_);
    session->OnLate(late, &closes);
    session->RunDeferred(&closes);
  });
}

void Session::OnLate(const std::shared_ptr<Waiter>& late, DeferredCloses* closes) {
  if (!late->done && late->kind == Waiter::Kind::kReceive && !late->looked && !late->wants_look) {
    // As in AwaitLook: what is in the socket is found, however late it is.
    late->wants_look = true;
    if (!Drain(closes)) {
      leader_.OweLook();
      return SetTimer(late, absl::Now() + kLookPatience);
    }
  }
  if (late->done) return;
  Finish(late.get(), DeadlineError(*late));
  // The next sender in line has not been tried yet.
  if (late->kind == Waiter::Kind::kSend) ProgressSenders();
}

}  // namespace internal
}  // namespace grpcfd
