// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/session/session_parts.h"

namespace grpcfd {
namespace internal {
namespace {

// How often a waiter asks whether its call was cancelled.
constexpr absl::Duration kCancelSlice = absl::Milliseconds(10);
// The wire has no such index: first_index + fd_count fits 32 bits.
constexpr uint32_t kNoIndex = 0xffffffff;
// How often one turn looks at the socket before it minds its deadline again.
constexpr int kLooksPerWait = 1024;
// How long a receive whose deadline has passed waits for the leader to look at the socket once: the
// look takes microseconds, but its thread may have to get a processor first, or be in a callback
// that asks for a cancellation.
constexpr absl::Duration kLookPatience = absl::Milliseconds(500);

}  // namespace

bool Session::ProgressReceive(Waiter* waiter, bool drained) {
  if (waiter->url.session_index().has_value()) return ProgressScoped(waiter, drained);
  CallInbox* inbox = waiter->inbox;
  const InodeUrl& url = waiter->url;
  if (!inbox->failure_.ok()) {
    waiter->status = inbox->failure_;
    return true;
  }

  CallInbox::Slot* slot = nullptr;
  const CallInbox::Slot* refused = nullptr;
  bool taken = false;
  if (url.index().has_value()) {
    const uint32_t index = *url.index();
    slot = inbox->Find(index);
    taken = index < inbox->forgotten_below_ || (slot != nullptr && slot->taken);
    if (slot != nullptr && slot->dev_ino != url.dev_ino()) {
      waiter->status = absl::InvalidArgumentError(absl::StrFormat(
          "%s names another file than the call's descriptor %d, which is inode://%d/%d",
          url.ToString(), index, slot->dev_ino.dev, slot->dev_ino.ino));
      return true;
    }
    if (slot != nullptr && slot->refused) refused = slot;
  } else {
    for (CallInbox::Slot& candidate : inbox->slots_) {
      if (candidate.dev_ino != url.dev_ino()) continue;
      if (!candidate.gone()) {
        slot = &candidate;
        break;
      }
      if (candidate.taken) taken = true;
      if (candidate.refused) refused = &candidate;
    }
    if (slot != nullptr) {
      taken = false;
      refused = nullptr;
    }
  }
  if (refused != nullptr) {
    const absl::Status why = Judge(*inbox->policy_, refused->facts, refused->index);
    waiter->status = absl::Status(
        why.code(), absl::StrCat(url.ToString(), " of ", CallName(inbox->key_), " from ",
                                 config_.peer, " was closed: ", why.message()));
    return true;
  }

  if (slot != nullptr && !taken) {
    if (waiter->op == Op::kDup) {
      // fcntl(F_DUPFD_CLOEXEC) does not block, so it may be done under the lock.
      auto copy = BorrowedFd(slot->fd).Dup();
      waiter->status = copy.status();
      if (copy.ok()) waiter->fd = *std::move(copy);
      return true;
    }
    waiter->fd = Take(inbox, slot);
    return true;
  }
  // Without an index it may mean one that is still to come, or still in the socket. Once nothing
  // more can come it means the one that was taken.
  const bool complete = drained || (inbox->AnnouncedCame() && !inbox->over_);
  const bool open_ended = inbox->open_ended_ && !inbox->over_;
  if (taken && (url.index().has_value() || (complete && !open_ended))) {
    waiter->status = absl::FailedPreconditionError(
        absl::StrCat(url.ToString(), " was taken from this call before; DupFd copies and leaves"));
    return true;
  }
  if (!dead_.ok()) {
    waiter->status = dead_;
    return true;
  }
  if (inbox->cancelled_) {
    waiter->status = absl::CancelledError("the call was cancelled");
    return true;
  }
  if (url.index().has_value()) {
    if (*url.index() >= inbox->announced_) {
      if (open_ended || (inbox->over_ && !drained)) return false;
      if (inbox->over_) {
        waiter->status = absl::NotFoundError(absl::StrCat(url.ToString(), " was not sent, and ",
                                                          config_.peer, " has ended the call"));
        return true;
      }
      waiter->status = absl::NotFoundError(
          absl::StrCat(url.ToString(), " was not sent: ", config_.peer, " sent ", inbox->announced_,
                       " descriptors with this call and can send no more"));
      return true;
    }
    if (inbox->holes_ != 0 && inbox->AnnouncedCame()) {
      waiter->status = absl::NotFoundError(
          absl::StrCat(url.ToString(), " was not sent: whoever forwarded the call left it out"));
      return true;
    }
    if (!drained) return false;
    waiter->status = absl::UnavailableError(absl::StrCat(
        url.ToString(), " was announced by ", config_.peer,
        " but never came: it was lost, or dropped by the sender; a new call brings it anew"));
    return true;
  }
  if (!drained || open_ended) return false;
  if (inbox->over_) {
    waiter->status =
        absl::NotFoundError(absl::StrCat("no descriptor of ", url.ToString(), " was sent, and ",
                                         config_.peer, " has ended the call"));
    return true;
  }
  waiter->status = absl::NotFoundError(
      absl::StrCat("no descriptor of ", url.ToString(), " was sent with this call (it brought ",
                   inbox->announced_, " from ", config_.peer, ")"));
  return true;
}

UniqueFd Session::Take(CallInbox* inbox, CallInbox::Slot* slot) {
  UniqueFd fd = std::move(slot->fd);
  slot->taken = true;
  counters_->Add(Counter::kFdsTaken);
  --held_;
  if (config_.quota != nullptr) config_.quota->Release(1);
  Disposed(1);
  if (inbox->slots_.size() > kTakenMemory) inbox->ForgetTaken();
  return fd;
}

bool Session::ProgressScoped(Waiter* waiter, bool drained) {
  // A call's own misfortunes are not the session's; its end is.
  if (waiter->inbox != nullptr && waiter->inbox->ended_) {
    waiter->status = waiter->inbox->failure_;
    return true;
  }
  if (!dead_.ok()) {
    waiter->status = dead_;
    return true;
  }
  // It went out before what names it, and so did its withdrawal: only an empty socket tells.
  if (!drained) return false;
  const ReceivePolicy* policy =
      waiter->inbox != nullptr ? waiter->inbox->policy_.get() : config_.policy.get();
  auto copy = scoped_.Dup(waiter->url, policy, config_.peer);
  waiter->status = copy.status();
  if (copy.ok()) waiter->fd = *std::move(copy);
  return true;
}

void Session::Finish(Waiter* waiter, absl::Status status) {
  waiter->done = true;
  if (!status.ok()) waiter->status = std::move(status);
  if (waiter->kind == Waiter::Kind::kSend && waiter->reserved) {
    counters_->Add(Counter::kFdsSent, waiter->sent);
    const size_t left = waiter->fds.size() - waiter->sent;  // What never went out.
    sent_total_ -= left;
    in_flight_->Return(left);
    waiter->reserved = false;
  }
  if (waiter->listed) {
    waiters_.erase(waiter->position);
    if (waiter->kind == Waiter::Kind::kSend) senders_.erase(waiter->sender_position);
    waiter->listed = false;
  }
  if (waiter->self != nullptr) {
    finished_async_.push_back(std::move(waiter->self));
  } else {
    waiter->wake.NotifyOne();
    if (leader_waits_ && waiter->promoted) socket_->Wake();
  }
}

absl::Status Session::DeadlineError(const Waiter& waiter) const {
  if (waiter.kind == Waiter::Kind::kLook) {
    return absl::DeadlineExceededError(
        "another thread reads the session's socket, and did not get to it in time");
  }
  if (waiter.kind == Waiter::Kind::kSend) {
    if (room_ == InFlight::Room::kShared) {
      counters_->Add(Counter::kSendsRefusedInFlight);
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%d descriptors for %s did not fit until the deadline beside %d that it has not read: "
          "its share of max_fds_in_flight = %d, which falls as more peers do not read what they "
          "were sent; end those, or raise the limit and RLIMIT_NOFILE with it",
          waiter.fds.size(), config_.peer, in_flight_->fds(), config_.in_flight->total()));
    }
    counters_->Add(Counter::kSendsRefusedWindow);
    if (room_ == InFlight::Room::kUnread) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s has not read %d descriptors that were sent to it, whatever it gave credit for, until "
          "the deadline; the limit is session_window = %d",
          config_.peer, in_flight_->fds(), config_.remote.window));
    }
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s has not taken enough of the descriptors sent before, until the "
                        "deadline: it must take or drop them, or its session_window (%d) be larger",
                        config_.peer, config_.remote.window));
  }
  if (waiter.url.session_index().has_value()) {
    return absl::DeadlineExceededError(
        absl::StrCat("the session's socket was not looked at in time for ", waiter.url.ToString()));
  }
  const auto& slots = waiter.inbox->slots_;
  const bool taken = std::any_of(slots.begin(), slots.end(), [&](const CallInbox::Slot& slot) {
    return slot.dev_ino == waiter.url.dev_ino() && !waiter.url.index().has_value();
  });
  if (taken) {
    return absl::FailedPreconditionError(absl::StrCat(
        waiter.url.ToString(), " was taken from this call before, and no other one came"));
  }
  return absl::DeadlineExceededError(absl::StrCat(waiter.url.ToString(), " did not come from ",
                                                  config_.peer, " before the deadline"));
}

void Session::FinishAll(const CallInbox* inbox, const absl::Status& status) {
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    Waiter* waiter = *it++;
    if (waiter->kind == Waiter::Kind::kSend || waiter->inbox != inbox) continue;
    Finish(waiter, status);
  }
}

void Session::FinishSenders(const CallInbox* inbox, const absl::Status& status) {
  const auto call = calls_.find(inbox->key_);
  if (call == calls_.end() || call->second != inbox) return;  // Another one has its number.
  for (auto it = senders_.begin(); it != senders_.end();) {
    Waiter* waiter = *it++;
    if (!(waiter->call == inbox->key_)) continue;
    // A server is also told of calls that ended well; see End.
    if (waiter->self != nullptr && config_.role == Role::kServer) continue;
    Finish(waiter, status);
  }
  // The next sender in line may have been waiting for these only.
  ProgressSenders();
}

void Session::ProgressAll(uint64_t before_epoch, bool drained) {
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    Waiter* waiter = *it++;
    if (waiter->epoch >= before_epoch || waiter->kind == Waiter::Kind::kSend) continue;
    if (waiter->kind == Waiter::Kind::kLook ? drained : ProgressReceive(waiter, drained)) {
      Finish(waiter, absl::OkStatus());
    } else if (drained) {
      waiter->looked = true;
      if (!waiter->wants_look) continue;
      if (waiter->self != nullptr) {
        Finish(waiter, DeadlineError(*waiter));
      } else {
        waiter->wake.NotifyOne();
      }
    }
  }
}

void Session::ProgressSenders() {
  // Strictly in their order: a large send must not starve behind small ones.
  while (!senders_.empty() && ProgressSend(senders_.front())) {
    Finish(senders_.front(), absl::OkStatus());
  }
  if (senders_.empty() || !senders_.front()->blocked_on_write) return;
  // Somebody must look for room to write now. A leader that is not waiting will.
  if (leader_waits_) {
    socket_->Wake();
  } else if (!leader_) {
    Watch(true);
  }
}

void Session::Enlist(Waiter* waiter) {
  waiter->epoch = epoch_;
  waiter->position = waiters_.insert(waiters_.end(), waiter);
  if (waiter->kind == Waiter::Kind::kSend) {
    waiter->sender_position = senders_.insert(senders_.end(), waiter);
    // A leader that is already waiting does not look for room to write.
    if (leader_waits_) socket_->Wake();
  } else if (waiter->kind == Waiter::Kind::kLook || waiter->url.session_index().has_value() ||
             !waiter->inbox->open_ended_ || waiter->inbox->over_ ||
             waiter->url.index().value_or(kNoIndex) < waiter->inbox->announced_) {
    // It is in the socket or lost, and one look from now on tells which. A look that is under way
    // began too early.
    look_again_ = true;
    if (leader_waits_) socket_->Wake();
  }
  waiter->listed = true;
}

void Session::RunWaiter(Waiter* waiter, const WaitOptions& options, Trash* trash) {
  Enlist(waiter);
  const absl::Time deadline = options.deadline == absl::InfiniteFuture()
                                  ? absl::Now() + options.patience
                                  : options.deadline;
  const auto slice = [&options, deadline] {
    return options.cancelled == nullptr ? deadline : std::min(deadline, absl::Now() + kCancelSlice);
  };
  int looks = 0;
  while (!waiter->done) {
    if (!leader_) {
      leader_ = true;
      waiter->promoted = true;
    }
    bool cancelled = false;
    if (waiter->promoted) {
      const PumpResult result = Pump(std::min(kMaxBatch, waiters_.size()), trash);
      if (waiter->done) break;
      if (result == PumpResult::kDead) {
        Finish(waiter, dead_);
        break;
      }
      // A peer that never stops sending must not hold this thread beyond its deadline.
      if (result == PumpResult::kProgress && ++looks % kLooksPerWait != 0) continue;
      if (!trash->empty() || !finished_async_.empty()) {
        // This may be a long wait; what others get, or get rid of, through this thread is not to
        // wait with it.
        Leave(trash);
        if (waiter->done) break;
      }
      if (absl::Now() >= deadline) {
        Finish(waiter, DeadlineError(*waiter));
        break;
      }
      const bool wait = result == PumpResult::kEmpty && !look_again_;
      if (wait) socket_->PrepareWait();
      leader_waits_ = wait;
      const bool want_write = !senders_.empty() && senders_.front()->blocked_on_write;
      mutex_.Unlock();
      if (wait) socket_->Wait(want_write, slice());
      cancelled = options.cancelled != nullptr && (*options.cancelled)();
      mutex_.Lock();
      leader_waits_ = false;
      if (want_write) ProgressSenders();
    } else {
      waiter->wake.WaitUntil(&mutex_, slice());
      if (waiter->done || waiter->promoted) continue;
      if (absl::Now() >= deadline) {
        // However late it is, what is in the socket is found: also if somebody else leads, who may
        // not have looked since.
        if (waiter->kind == Waiter::Kind::kReceive && !waiter->looked && !waiter->wants_look) {
          const absl::Time limit = absl::Now() + kLookPatience;
          waiter->wants_look = true;
          look_again_ = true;
          if (leader_waits_) socket_->Wake();
          while (!waiter->done && !waiter->promoted && !waiter->looked) {
            if (!waiter->wake.WaitUntil(&mutex_, limit)) break;
          }
          if (waiter->done || waiter->promoted) continue;
        }
        Finish(waiter, DeadlineError(*waiter));
        break;
      }
      if (options.cancelled != nullptr) {
        mutex_.Unlock();
        cancelled = (*options.cancelled)();
        mutex_.Lock();
      }
    }
    if (cancelled && !waiter->done) Finish(waiter, absl::CancelledError("the call was cancelled"));
  }
  // The next sender in line has not been tried yet, or not with the room that this one leaves.
  if (waiter->kind == Waiter::Kind::kSend) ProgressSenders();
  if (waiter->promoted) HandOver();
}

void Session::HandOver() {
  for (Waiter* waiter : waiters_) {
    if (waiter->self != nullptr) continue;
    waiter->promoted = true;
    waiter->wake.NotifyOne();
    return;
  }
  leader_ = false;
  if (!waiters_.empty() || watch_again_) Watch(true);
  if (look_again_ && !waiters_.empty() && config_.poller != nullptr) {
    // Somebody asynchronous came during the last look, and may be waiting for what is lost: the
    // socket will not tell.
    config_.poller->RunAt(absl::InfinitePast(), [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->Sweep();
    });
  }
}

void Session::EnlistAsync(const std::shared_ptr<Waiter>& waiter, absl::Time deadline,
                          Trash* trash) {
  waiter->self = waiter;
  Enlist(waiter.get());
  if (deadline != absl::InfiniteFuture()) SetTimer(waiter, deadline);
  // If somebody leads it will see to this waiter too; if not, look once, and then let the poller
  // watch.
  Drain(trash);
}

void Session::SetTimer(const std::shared_ptr<Waiter>& waiter, absl::Time when) {
  if (config_.poller == nullptr) return;
  std::weak_ptr<Session> weak_session = weak_from_this();
  std::weak_ptr<Waiter> weak_waiter = waiter;
  waiter->timer = config_.poller->RunAt(when, [weak_session, weak_waiter] {
    auto session = weak_session.lock();
    auto late = weak_waiter.lock();
    if (session == nullptr || late == nullptr) return;
    Trash trash;
    MutexLock session_lock(&session->mutex_);
    session->OnLate(late, &trash);
    session->Leave(&trash);
  });
}

void Session::OnLate(const std::shared_ptr<Waiter>& late, Trash* trash) {
  if (!late->done && late->kind == Waiter::Kind::kReceive && !late->looked && !late->wants_look) {
    // As in RunWaiter: what is in the socket is found, however late it is.
    late->wants_look = true;
    if (!Drain(trash)) {
      look_again_ = true;
      if (leader_waits_) socket_->Wake();
      return SetTimer(late, absl::Now() + kLookPatience);
    }
  }
  if (late->done) return;
  Finish(late.get(), DeadlineError(*late));
  // The next sender in line has not been tried yet.
  if (late->kind == Waiter::Kind::kSend) ProgressSenders();
}

bool Session::Drain(Trash* trash) {
  if (leader_) return false;
  leader_ = true;
  ended_since_drain_ = 0;
  for (int looks = 0; looks < kLooksPerDrain; ++looks) {
    const PumpResult result = Pump(kMaxBatch, trash);
    if (result == PumpResult::kDead || (result == PumpResult::kEmpty && !look_again_)) break;
    // Enough for now: a peer that never stops sending must not keep this thread. The poller comes
    // back to it.
    if (looks + 1 == kLooksPerDrain) watch_again_ = true;
  }
  HandOver();
  return true;
}

}  // namespace internal
}  // namespace grpcfd
