// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/call_start.h"

#include <utility>

namespace grpcfd {
namespace internal {
namespace {

// One start that has to wait.
class Starter final : public std::enable_shared_from_this<Starter> {
 public:
  Starter(const std::shared_ptr<ChannelCore>& channel, const std::shared_ptr<ClientCall>& call,
          bool wait_for_ready, ClientCall::StartCallback done)
      : channel_(channel),
        call_(call),
        kept_(call->start().per_attempt ? nullptr : call),
        done_(std::move(done)) {
    request_.owner = call_;
    request_.deadline = call->start().deadline;
    request_.wait_for_ready = wait_for_ready;
  }

  void Ask() {
    const auto channel = channel_.lock();
    if (channel == nullptr) return done_(absl::UnavailableError("the channel was destroyed"));
    channel->AwaitSession(request_, [self = shared_from_this()](
                                        absl::StatusOr<std::shared_ptr<Session>> session,
                                        bool made) { self->OnSession(std::move(session), made); });
  }

 private:
  void OnSession(absl::StatusOr<std::shared_ptr<Session>> session, bool made) {
    if (!session.ok()) return done_(session.status());
    const auto channel = channel_.lock();
    if (channel == nullptr) return done_(absl::UnavailableError("the channel was destroyed"));
    const auto call = call_.lock();
    if (call == nullptr) return done_(absl::CancelledError("the call was given up"));
    // What the next request met with, if there is one.
    request_.before = made || request_.before != ChannelCore::Before::kNothing
                          ? ChannelCore::Before::kFailed
                          : ChannelCore::Before::kLost;
    call->StartOnAsync(
        *session, channel->NextCallId(),
        [self = shared_from_this(), session = *session](absl::StatusOr<CallMetadata> result) {
          self->OnSent(*session, std::move(result));
        });
  }

  void OnSent(const Session& session, absl::StatusOr<CallMetadata> result) {
    const bool last = request_.before == ChannelCore::Before::kFailed && !request_.wait_for_ready;
    if (last || !MetDeadSession(result.status(), session) || channel_.expired() ||
        call_.expired()) {
      return done_(std::move(result));
    }
    Ask();
  }

  const std::weak_ptr<ChannelCore> channel_;
  const std::weak_ptr<ClientCall> call_;
  const std::shared_ptr<ClientCall> kept_;  // Null for calls that are started per attempt.
  const ClientCall::StartCallback done_;
  ChannelCore::SessionRequest request_;
};

}  // namespace

bool MetDeadSession(const absl::Status& status, const Session& session) {
  return absl::IsUnavailable(status) && !session.alive();
}

bool TryStart(ChannelCore& channel, ClientCall* call, absl::StatusOr<CallMetadata>* result) {
  const std::shared_ptr<Session> session = channel.LivingSession();
  return session != nullptr && call->TryStartOn(session, channel.NextCallId(), result) &&
         !MetDeadSession(result->status(), *session);
}

void StartAsync(const std::shared_ptr<ChannelCore>& channel,
                const std::shared_ptr<ClientCall>& call, bool wait_for_ready,
                ClientCall::StartCallback done) {
  std::make_shared<Starter>(channel, call, wait_for_ready, std::move(done))->Ask();
}

void GiveUp(ChannelCore& channel, const std::weak_ptr<ClientCall>& call) {
  channel.GiveUp(call);
  // It may have its session, and wait for room in it.
  if (const std::shared_ptr<ClientCall> alive = call.lock()) alive->GiveUp();
}

}  // namespace internal
}  // namespace grpcfd
