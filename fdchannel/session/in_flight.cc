// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/in_flight.h"

#include <algorithm>
#include <utility>

namespace grpcfd {
namespace internal {
namespace {

// A look at all sessions is at most so often, and at most a tenth of the time: with a hundred
// thousand sessions it takes milliseconds.
constexpr absl::Duration kTrimInterval = absl::Milliseconds(1);
constexpr int kTrimShare = 10;
// A session's grant grows by this part of its window.
constexpr uint64_t kSteps = 4;

// What one of several may have of `whole`: at most so much, so that the next one finds something.
uint64_t MostOf(uint64_t whole) { return whole - whole / 4; }

}  // namespace

// --- InFlight ---

InFlight::InFlight(std::shared_ptr<FrameSocket> socket, uint32_t window,
                   std::shared_ptr<InFlightBudget> budget, uid_t uid, std::function<void()> on_room)
    : socket_(std::move(socket)),
      window_(window),
      budget_(std::move(budget)),
      uid_(uid),
      on_room_(std::move(on_room)) {
  if (budget_ != nullptr) {
    budget_->Add(this);
  } else {
    MutexLock lock(&mutex_);
    granted_ = window_;
  }
}

InFlight::~InFlight() {
  if (budget_ != nullptr) budget_->Remove(this);
}

InFlight::Room InFlight::Reserve(size_t n) {
  {
    MutexLock lock(&mutex_);
    if (used() + n > granted_) LookLocked();
    short_ = used() + n > granted_;
    if (used() + n > window_) return Room::kUnread;
    if (!short_) {
      reserved_ += n;
      return Room::kYes;
    }
  }
  return budget_->Grant(this, n);
}

bool InFlight::Sent(size_t n) {
  MutexLock lock(&mutex_);
  reserved_ -= n;
  frames_.Add(static_cast<uint32_t>(n));
  return short_;
}

void InFlight::Return(size_t n) {
  MutexLock lock(&mutex_);
  reserved_ -= n;
}

void InFlight::MayHaveRoom() {
  if (budget_ == nullptr || !budget_->anybody_waits_.load(std::memory_order_relaxed)) return;
  budget_->Trim(this);
}

uint64_t InFlight::fds() const {
  MutexLock lock(&mutex_);
  return used();
}

uint64_t InFlight::Look() {
  MutexLock lock(&mutex_);
  LookLocked();
  return used();
}

// --- InFlightBudget ---

InFlightBudget::InFlightBudget(uint64_t total, Shares shares, uint64_t max_sessions)
    : total_(total),
      shares_(shares),
      sure_(max_sessions == 0 ? 0 : total / 3 / max_sessions),
      shared_total_(total - sure_ * max_sessions) {}

uint64_t InFlightBudget::MostForOne(uint64_t window) const {
  return std::min(window, sure_ + MostOf(MostOf(shared_total_)));
}

uint64_t InFlightBudget::ShareOf(const InFlight& session, uint64_t granted) const {
  const auto it = by_user_.find(session.uid_);
  const uint64_t of_user = it == by_user_.end() ? 0 : it->second;
  const uint64_t own = Shared(granted);
  if (shares_ == Shares::kNone) return std::min(session.window_, shared_total_ - (shared_ - own));
  const uint64_t for_user = MostOf(shared_total_ - (shared_ - of_user));
  const uint64_t of_its_others = of_user - own;
  if (of_its_others >= for_user) return std::min(session.window_, sure_);
  const uint64_t room = for_user - of_its_others;
  // Rounded up: what little there is may be had. No overflow: both are below 2^32.
  const uint64_t window = std::min(session.window_, MostOf(for_user));
  return std::min(session.window_, sure_ + (window * room + for_user - 1) / for_user);
}

void InFlightBudget::Change(uid_t uid, uint64_t from, uint64_t to) {
  from = Shared(from);
  to = Shared(to);
  shared_ = shared_ - from + to;
  uint64_t& of_user = by_user_[uid];
  of_user = of_user - from + to;
  if (of_user == 0) by_user_.erase(uid);
}

void InFlightBudget::Add(InFlight* session) {
  MutexLock lock(&mutex_);
  sessions_.insert(session);
}

void InFlightBudget::Remove(InFlight* session) {
  Wakes wakes;
  {
    MutexLock lock(&mutex_);
    sessions_.erase(session);
    SetWaiting(session, false);
    MutexLock session_lock(&session->mutex_);
    if (session->granted_ != 0) {
      Change(session->uid_, std::exchange(session->granted_, 0), 0);
      wakes = WakeAll();
    }
  }
  for (auto& wake : wakes) wake();
}

InFlight::Room InFlightBudget::Grant(InFlight* session, size_t n) {
  Wakes wakes;
  InFlight::Room room = InFlight::Room::kShared;
  {
    MutexLock lock(&mutex_);
    for (bool trimmed = false;; trimmed = true) {
      {
        MutexLock session_lock(&session->mutex_);
        const uint64_t need = session->used() + n;
        const uint64_t granted = session->granted_;
        const uint64_t share = std::max(granted, ShareOf(*session, granted));
        if (need <= share) {
          const uint64_t step = std::max<uint64_t>(1, session->window_ / kSteps);
          const uint64_t now = std::min(share, std::max(need, granted + step));
          Change(session->uid_, granted, now);
          session->granted_ = now;
          session->reserved_ += n;
          session->short_ = false;
          room = InFlight::Room::kYes;
          break;
        }
      }
      if (trimmed || !TrimAll()) break;
      wakes = WakeAll();
    }
    SetWaiting(session, room == InFlight::Room::kShared);
  }
  for (auto& wake : wakes) wake();
  return room;
}

void InFlightBudget::Trim(InFlight* session) {
  Wakes wakes;
  {
    MutexLock lock(&mutex_);
    if (TrimOne(session) != 0) wakes = WakeAll();
  }
  for (auto& wake : wakes) wake();
}

uint64_t InFlightBudget::TrimOne(InFlight* session) {
  MutexLock lock(&session->mutex_);
  session->LookLocked();
  const uint64_t used = session->used();
  const uint64_t granted = session->granted_;
  if (used >= granted) return 0;
  Change(session->uid_, granted, used);
  session->granted_ = used;
  return granted - used;
}

bool InFlightBudget::TrimAll() {
  const MonotonicTime start = MonotonicTime::Now();
  if (shares_ == Shares::kFair && start < next_trim_) return false;
  uint64_t freed = 0;
  for (InFlight* session : sessions_) freed += TrimOne(session);
  const MonotonicTime end = MonotonicTime::Now();
  // If that was worth its while, the next one may be, too.
  next_trim_ = freed > total_ / 8 ? end : end + std::max(kTrimInterval, (end - start) * kTrimShare);
  return freed != 0;
}

void InFlightBudget::SetWaiting(InFlight* session, bool waits) {
  if (waits) {
    waiting_.insert(session);
  } else {
    waiting_.erase(session);
  }
  anybody_waits_.store(!waiting_.empty(), std::memory_order_relaxed);
}

InFlightBudget::Wakes InFlightBudget::WakeAll() {
  Wakes wakes;
  for (const InFlight* session : waiting_) {
    if (session->on_room_) wakes.push_back(session->on_room_);
  }
  waiting_.clear();
  anybody_waits_.store(false, std::memory_order_relaxed);
  return wakes;
}

uint64_t InFlightBudget::Look() {
  uint64_t sum = 0;
  MutexLock lock(&mutex_);
  for (InFlight* session : sessions_) sum += session->Look();
  return sum;
}

}  // namespace internal
}  // namespace grpcfd
