// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/arrivals.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/session/keep_latest.h"

namespace grpcfd {
namespace internal {
namespace {

// Ended calls that are remembered (as many again, for a while), to close what still comes for them
// at once. One that is forgotten costs early_timeout, no more.
constexpr size_t kEndedMemory = 64;
// Calls that are remembered whose descriptors were closed before the RPC came. One that is
// forgotten fails when it comes.
constexpr size_t kExpiredMemory = 512;
// Calls whose RPC has not come, refused ones included.
constexpr size_t kMostEarly = 1024;

}  // namespace

// --- Calls ---

void Arrivals::Attach(DescriptorInbox* inbox, uint32_t announced, bool open_ended, uint32_t holes,
                      DeferredCloses* closes) {
  inbox->Begin(announced, holes, open_ended);
  if (inbox->announced() > config_.local.max_fds_per_call) {
    inbox->Fail(absl::ResourceExhaustedError(absl::StrFormat(
        "%s from %s announces %d descriptors, max_fds_per_call is %d: raise it at both ends, or "
        "send fewer",
        CallName(inbox->key()), config_.peer, inbox->announced(), config_.local.max_fds_per_call)));
  }
  DescriptorInbox* const other = calls_.Enter(inbox);
  if (other == nullptr) return;
  if (other->attached()) {
    inbox->Fail(absl::FailedPreconditionError(
        absl::StrCat(CallName(inbox->key()),
                     " of this session is already being served: a call id names one call")));
    return;
  }
  // What is not attached came early.
  auto* const early = static_cast<EarlyCall*>(other);
  inbox->Inherit(early);
  Forget(early);
  calls_.Enter(inbox);
  if (!inbox->failure().ok()) {
    Empty(inbox, Counter::kFdsRefusedCall, closes);
  } else if (inbox->policy() != nullptr) {
    inbox->ForEach([&](DescriptorInbox::Slot* slot) { ApplyPolicy(inbox, slot, closes); });
  }
}

bool Arrivals::Detach(const DescriptorInbox* inbox) {
  if (!calls_.Remove(inbox)) return false;
  if (config_.role == SessionRole::kServer) {
    ended_.push_back(inbox->key());
    KeepLatest(kEndedMemory, &ended_);
  }
  return true;
}

bool Arrivals::EndedLately(const CallKey& call) const {
  return std::find(ended_.begin(), ended_.end(), call) != ended_.end();
}

bool Arrivals::HasExpired(const CallKey& call) const {
  return std::find(expired_.begin(), expired_.end(), call) != expired_.end();
}

void Arrivals::Expect(const CallKey& call, DeferredCloses* closes) {
  DescriptorInbox* const inbox = InboxFor(call, closes);
  if (inbox != nullptr) inbox->MayRepeat();
  const auto it = std::find(expired_.begin(), expired_.end(), call);
  if (it != expired_.end()) expired_.erase(it);
}

void Arrivals::TakeAll(DescriptorInbox* inbox, Counter why, DeferredCloses* closes) {
  inbox->ForEach([&](DescriptorInbox::Slot* slot) {
    if (slot->gone()) return;
    closes->AddCharged(std::move(slot->fd));
    counters_.Add(why);
  });
  inbox->Clear();
}

UniqueFd Arrivals::Take(DescriptorInbox* inbox, DescriptorInbox::Slot* slot) {
  counters_.Add(Counter::kFdsTaken);
  --held_;
  if (config_.quota != nullptr) config_.quota->Release(1);
  return inbox->Take(slot);
}

void Arrivals::Fail(DescriptorInbox* inbox, absl::Status status, Counter why,
                    DeferredCloses* closes) {
  Empty(inbox, why, closes);
  inbox->Fail(std::move(status));
  if (inbox->attached()) return;
  auto* const early = static_cast<EarlyCall*>(inbox);
  if (early->refused) return;
  early->refused = true;
  refused_early_.splice(refused_early_.end(), early_, early->place);
}

void Arrivals::ApplyPolicy(DescriptorInbox* inbox, DescriptorInbox::Slot* slot,
                           DeferredCloses* closes) {
  if (!inbox->Refuses(*slot)) return;
  slot->refused = true;
  counters_.Add(Counter::kFdsRefusedPolicy);
  closes->AddCharged(std::move(slot->fd));
}

// --- Early calls ---

DescriptorInbox* Arrivals::InboxFor(const CallKey& call, DeferredCloses* closes) {
  if (DescriptorInbox* const inbox = Find(call); inbox != nullptr) return inbox;
  if (config_.role == SessionRole::kClient || EndedLately(call)) return nullptr;
  if (early_.size() + refused_early_.size() >= kMostEarly) {
    Drop(refused_early_.empty() ? &early_.front() : &refused_early_.front(), closes);
  }
  EarlyCall* const early = &early_.emplace_back(call);
  early->place = std::prev(early_.end());
  early->deadline = absl::Now() + config_.early_timeout;
  EarlyCall*& first = early_by_id_[call.id];
  early->next = first;
  if (first != nullptr) first->previous = early;
  first = early;
  calls_.Enter(early);
  return early;
}

void Arrivals::Forget(EarlyCall* early) {
  calls_.Remove(early);
  Unlink(early);
}

void Arrivals::Unlink(EarlyCall* early) {
  if (early->next != nullptr) early->next->previous = early->previous;
  if (early->previous != nullptr) {
    early->previous->next = early->next;
  } else if (early->next != nullptr) {
    early_by_id_[early->key().id] = early->next;
  } else {
    early_by_id_.erase(early->key().id);
  }
  (early->refused ? refused_early_ : early_).erase(early->place);
}

void Arrivals::Drop(EarlyCall* early, DeferredCloses* closes) {
  Empty(early, Counter::kFdsExpired, closes);
  Forget(early);
}

void Arrivals::Discard(absl::Span<const uint64_t> ids, DeferredCloses* closes) {
  for (const uint64_t id : ids) {
    for (auto it = early_by_id_.find(id); it != early_by_id_.end(); it = early_by_id_.find(id)) {
      Empty(it->second, Counter::kFdsDiscarded, closes);
      Forget(it->second);
    }
  }
}

bool Arrivals::DropEarly(size_t n, const DescriptorInbox* keep, DeferredCloses* closes) {
  if (n > config_.local.window) return false;
  for (auto it = early_.begin(); it != early_.end() && !Fits(n, *closes);) {
    EarlyCall* const early = &*it++;
    if (early == keep || !early->holds_any()) continue;
    Fail(early,
         absl::ResourceExhaustedError(absl::StrFormat(
             "the descriptors of %s came before the call and were closed: the session with %s "
             "reached session_window = %d; make the call sooner, or raise it at both ends",
             CallName(early->key()), config_.peer, config_.local.window)),
         Counter::kFdsRefusedWindow, closes);
  }
  return Fits(n, *closes);
}

void Arrivals::Expire(absl::Time now, DeferredCloses* closes) {
  for (std::list<EarlyCall>* list : {&early_, &refused_early_}) {
    while (!list->empty() && list->front().deadline <= now) {
      if (list == &early_) {
        expired_.push_back(list->front().key());
        KeepLatest(kExpiredMemory, &expired_);
      }
      Drop(&list->front(), closes);
    }
  }
}

// --- Frames ---

absl::Status Arrivals::Deliver(const Frame& frame, ReceivedMessage* message,
                               absl::Span<const Seen> seen, DescriptorInbox** changed,
                               DeferredCloses* closes) {
  const size_t count = frame.fd_count;
  DescriptorInbox* const inbox = InboxFor(frame.call, closes);
  if (message->control_truncated) {
    counters_.Add(Counter::kFdsTruncated, count - message->fds.size());
  }
  if (inbox == nullptr) {  // Ended, or never begun here: nobody can ask for them.
    counters_.Add(Counter::kFdsLate, message->fds.size());
    closes->AddUncharged(&message->fds, count);
    return absl::OkStatus();
  }
  absl::Status status = Validate(frame, inbox);
  if (!status.ok()) return status;
  *changed = inbox;
  Counter why = Counter::kFdsRefusedCall;
  status = Admit(frame, *message, inbox, &why, closes);
  if (status.ok()) {
    Store(frame, message, seen, inbox, closes);
    return absl::OkStatus();
  }
  counters_.Add(why, message->fds.size());
  closes->AddUncharged(&message->fds, count);
  if (inbox->failure().ok()) Fail(inbox, std::move(status), why, closes);
  return absl::OkStatus();
}

absl::Status Arrivals::ValidateEach(const Frame& frame, DescriptorInbox* inbox) const {
  for (uint32_t i = 0; i < frame.fd_count; ++i) {
    if (inbox->Came(frame.first_index + i)) {
      return absl::InvalidArgumentError(absl::StrCat("descriptor ", frame.first_index + i, " of ",
                                                     CallName(frame.call), " came twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status Arrivals::RefusedByQuota(const CallKey& call, const absl::Status& why) const {
  return absl::Status(why.code(), absl::StrCat("the descriptors of ", CallName(call), " from ",
                                               config_.peer, " were closed: ", why.message()));
}

absl::Status Arrivals::Admit(const Frame& frame, const ReceivedMessage& message,
                             DescriptorInbox* inbox, Counter* why, DeferredCloses* closes) {
  const size_t count = frame.fd_count;
  if (!inbox->failure().ok()) return inbox->failure();
  if (message.control_truncated) {
    absl::Status short_of = WhyTruncated(count);
    if (!short_of.ok()) {
      *why = Counter::kFdsRefusedQuota;
      return RefusedByQuota(frame.call, short_of);
    }
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d of %d descriptors of %s from %s could not be received: this process is at its "
        "RLIMIT_NOFILE (raise it, or take them sooner), or a security module refused one",
        count - message.fds.size(), count, CallName(frame.call), config_.peer));
  }
  // Before a call nobody can take what comes, so a call brings at most max_fds_per_call then. Later
  // ones of a stream are bounded by the window, which the sender keeps too.
  if (count > config_.local.max_fds_per_call) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s from %s brought %d descriptors at once, max_fds_per_call is %d: raise it "
        "at both ends, or send fewer",
        CallName(frame.call), config_.peer, count, config_.local.max_fds_per_call));
  }
  if (!MakeRoom(count, inbox, closes)) {
    *why = Counter::kFdsRefusedWindow;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the session with %s holds session_window = %d descriptors that nobody took; %s's %d were "
        "closed: take them sooner, or raise it at both ends",
        config_.peer, config_.local.window, CallName(frame.call), count));
  }
  absl::Status charged = Charge(count);
  if (charged.ok()) return charged;
  *why = Counter::kFdsRefusedQuota;
  return RefusedByQuota(frame.call, charged);
}

absl::Status Arrivals::Charge(size_t n) {
  if (config_.quota == nullptr) return absl::OkStatus();
  if (prepaid_ < n) return config_.quota->Charge(n);
  prepaid_ -= n;
  return absl::OkStatus();
}

absl::Status Arrivals::WhyTruncated(size_t n) const {
  if (!by_prepayment_ || prepaid_ >= n || config_.quota == nullptr) return absl::OkStatus();
  // The room that it was read with was what the quota gave.
  absl::Status charged = config_.quota->Charge(n - prepaid_);
  if (charged.ok()) config_.quota->Release(n - prepaid_);
  return charged;
}

void Arrivals::EndPrepaid(DeferredCloses* closes) {
  by_prepayment_ = false;
  const size_t refused = std::exchange(closes->roomed, 0);
  closes->scoped += refused;
  const size_t left = std::exchange(prepaid_, 0) - refused;
  if (config_.quota != nullptr && left != 0) config_.quota->Release(left);
}

void Arrivals::Store(const Frame& frame, ReceivedMessage* message, absl::Span<const Seen> seen,
                     DescriptorInbox* inbox, DeferredCloses* closes) {
  const size_t count = frame.fd_count;
  held_ += static_cast<uint32_t>(count);
  inbox->Reserve(count);
  // Early ones are judged when their call comes, and says by which policy.
  const bool judge = inbox->attached() && inbox->policy() != nullptr;
  for (size_t i = 0; i < count; ++i) {
    if (inbox->may_repeat() && inbox->Came(frame.first_index + static_cast<uint32_t>(i))) {
      closes->AddCharged(std::move(message->fds[i]));
      continue;
    }
    DescriptorInbox::Slot* const slot =
        inbox->Add(frame.first_index + static_cast<uint32_t>(i), seen[i].dev_ino, seen[i].facts,
                   std::move(message->fds[i]));
    if (judge) ApplyPolicy(inbox, slot, closes);
  }
  message->fds.clear();
  // No call asks for what was refused, so it has to be forgotten here.
  if (inbox->Tidy()) return;
  Fail(inbox,
       absl::ResourceExhaustedError(
           absl::StrFormat("%s from %s left out index %d, and sent %d descriptors with higher ones",
                           CallName(frame.call), config_.peer, inbox->lowest(), inbox->slots())),
       Counter::kFdsRefusedCall, closes);
}

absl::Status Arrivals::DeliverScoped(const Frame& frame, ReceivedMessage* message,
                                     absl::Span<const Seen> seen, bool* kept,
                                     DeferredCloses* closes) {
  const size_t count = frame.fd_count;
  if (scoped_.size() + count > config_.local.max_session_fds) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d session-scoped descriptors came beside %d, max_session_fds is %d",
                        count, scoped_.size(), config_.local.max_session_fds));
  }
  for (size_t i = 0; i < count; ++i) {
    if (scoped_.Contains(frame.first_index + static_cast<uint32_t>(i))) {
      return absl::InvalidArgumentError(absl::StrCat(
          "session-scoped descriptor ", frame.first_index + i, " came while there is one"));
    }
  }
  // A call that names it fails; the session lives on.
  absl::Status refused;
  Counter why = Counter::kFdsRefusedCall;
  if (message->control_truncated) {
    counters_.Add(Counter::kFdsTruncated, count - message->fds.size());
    refused = absl::ResourceExhaustedError(absl::StrFormat(
        "%d of %d session-scoped descriptors from %s could not be received: this process is at its "
        "RLIMIT_NOFILE (raise it), or a security module refused one",
        count - message->fds.size(), count, config_.peer));
  } else {
    refused = Charge(count);
    if (!refused.ok()) {
      why = Counter::kFdsRefusedQuota;
      refused = absl::Status(refused.code(),
                             absl::StrCat("the session-scoped descriptors of ", config_.peer,
                                          " were closed: ", refused.message()));
    }
  }
  *kept = refused.ok();
  counters_.Add(*kept ? Counter::kFdsRegistered : why, message->fds.size());
  for (size_t i = 0; i < count; ++i) {
    const uint32_t index = frame.first_index + static_cast<uint32_t>(i);
    if (*kept) {
      scoped_.Add(index, seen[i].dev_ino, seen[i].facts, std::move(message->fds[i]));
    } else {
      scoped_.AddFailed(index, refused);
    }
  }
  if (*kept) {
    message->fds.clear();
  } else {
    closes->AddUncharged(&message->fds, count);
  }
  return absl::OkStatus();
}

void Arrivals::Withdraw(absl::Span<const uint32_t> indices, DeferredCloses* closes) {
  for (const uint32_t index : indices) closes->AddScoped(scoped_.Remove(index));
}

// --- Upkeep ---

void Arrivals::Closed(size_t charged, size_t scoped) {
  held_ -= static_cast<uint32_t>(charged);
  if (config_.quota != nullptr && charged + scoped != 0) config_.quota->Release(charged + scoped);
}

void Arrivals::FailAll(const absl::Status& status, DeferredCloses* closes) {
  calls_.ForEach([&](DescriptorInbox* inbox) {
    Empty(inbox, Counter::kFdsDiscarded, closes);
    inbox->Fail(status);
  });
  for (std::list<EarlyCall>* list : {&early_, &refused_early_}) {
    while (!list->empty()) Forget(&list->front());
  }
}

void Arrivals::ClearScoped(DeferredCloses* closes) {
  if (scoped_.size() == 0) return;
  for (UniqueFd& fd : scoped_.Clear()) closes->AddScoped(std::move(fd));
}

size_t Arrivals::TakeRest(FdVector* fds) {
  DeferredCloses rest;
  for (EarlyCall& early : early_) Empty(&early, Counter::kFdsUnclaimed, &rest);
  ClearScoped(&rest);
  *fds = std::move(rest.fds);
  return rest.charged + rest.scoped;
}

}  // namespace internal
}  // namespace grpcfd
