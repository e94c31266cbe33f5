// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "absl/strings/str_cat.h"
#include "fdchannel/session/session.h"

namespace grpcfd {
namespace internal {
namespace {

// How long a server collects the calls that have landed before it says so: a reader of a pipe may
// wait for it, and each frame costs both ends a system call.
constexpr absl::Duration kLandedDelay = absl::Milliseconds(5);

}  // namespace

bool Session::HasExpired(const CallKey& call) const {
  if (!any_expired_.load(std::memory_order_acquire) || !resends()) return false;
  MutexLock lock(&mutex_);
  return dead_.ok() && arrivals_.HasExpired(call);
}

void Session::AskToResend(const CallKey& call, StatusCallback done) {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  landings_.Ask(call, std::move(done));
  arrivals_.Expect(call, &closes);
  if (!dead_.ok()) {
    landings_.FailAll(dead_);
  } else {
    SendLandings();
    // Nobody waits for what comes, so the poller has to.
    if (leader_.led()) {
      leader_.WatchAgain();
    } else {
      Watch(/*for_input=*/true);
    }
  }
  RunDeferred(&closes);
}

void Session::GiveUpResend(const CallKey& call) {
  MutexLock lock(&mutex_);
  landings_.GiveUp(call);
}

void Session::AnswerResend(const CallKey& call, ResendOutcome outcome) {
  DeferredCloses none;
  MutexLock lock(&mutex_);
  if (!dead_.ok()) return;
  landings_.Answer(call, outcome);
  SendLandings();
  RunDeferred(&none);
}

void Session::TellDiscards() {
  MutexLock lock(&mutex_);
  SendDiscards();
}

std::shared_ptr<InboxOwner> Session::OwnerOf(const CallKey& call) const {
  MutexLock lock(&mutex_);
  const DescriptorInbox* const inbox = arrivals_.Find(call);
  return inbox != nullptr ? inbox->owner() : nullptr;
}

absl::Status Session::DeliverLanding(const Frame& frame) {
  const bool to_server = frame.type == FrameType::kResent;
  if (!resends() || to_server != (config_.role == Role::kServer)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame of type ", static_cast<int>(frame.type),
                     " came, which this end of the session does not take"));
  }
  switch (frame.type) {
    case FrameType::kLanded:
      for (uint32_t i = 0; i < frame.landed_count; ++i) {
        const DescriptorInbox* const inbox = arrivals_.Find(CallKey{frame.landed[i], 0});
        auto owner = inbox != nullptr ? inbox->owner() : nullptr;
        if (owner != nullptr) landings_.Landed(std::move(owner));
      }
      break;
    case FrameType::kResend:
      landings_.Asked(frame.call);
      break;
    default:
      landings_.Answered(frame.call, frame.outcome);
  }
  return absl::OkStatus();
}

// Never blocks. What the socket does not take goes with the next sweep.
void Session::SendLandings() {
  while (landings_.has_frame() && dead_.ok() && !peer_gone_) {
    if (!SendControl(landings_.Next()).ok()) return ScheduleSweep();
    landings_.Sent();
  }
}

// A call has begun here. Others than first attempts are kept until gRPC makes no other one, and
// what brings nothing is not kept.
void Session::NoteLanding(const DescriptorInbox& inbox, bool open_ended) {
  if (config_.role != Role::kServer || !resends() || config_.poller == nullptr ||
      inbox.key().attempt != 0 || (inbox.announced() == 0 && !open_ended)) {
    return;
  }
  if (!landings_.HasLanded(inbox.key().id)) return;
  config_.poller->RunAfter(kLandedDelay, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->TellLanded();
  });
}

void Session::TellLanded() {
  MutexLock lock(&mutex_);
  landings_.TellSoon();
  SendLandings();
}

void Session::RunOutcome(const Landings::Outcome& outcome) {
  for (const auto& owner : outcome.landed) owner->OnLanded();
  for (const CallKey& call : outcome.resends) {
    if (config_.on_resend) {
      config_.on_resend(shared_from_this(), call);
    } else {
      AnswerResend(call, ResendOutcome::kGone);
    }
  }
  for (const auto& [done, status] : outcome.answered) done(status);
}

}  // namespace internal
}  // namespace grpcfd
