// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/client/session_opener.h"

#include <stddef.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {
namespace {

// The kernel has no event for "the backlog has room again": connect(2) just says EAGAIN. The server
// is there, so this interval does not grow: in a storm of connects room is taken again at once, and
// a client that asks seldom would never find any.
constexpr absl::Duration kBacklogInterval = absl::Milliseconds(5);
// The server may not have noticed yet that the last session of this token is gone.
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(5);
constexpr absl::Duration kMaxBackoff = absl::Seconds(1);
// Another process may accept the next try; or this one is about to accept gRPC's connection.
constexpr absl::Duration kFirstElsewhere = absl::Milliseconds(1);
constexpr absl::Duration kMaxElsewhere = absl::Milliseconds(20);
constexpr absl::Duration kNoMore = -absl::InfiniteDuration();

socklen_t PathOfHandle(const UniqueFd& handle, sockaddr_un* out) {
  const std::string path = absl::StrCat("/proc/self/fd/", handle.get());
  *out = sockaddr_un{};
  out->sun_family = AF_UNIX;
  memcpy(out->sun_path, path.data(), path.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
}

}  // namespace

SessionOpener::~SessionOpener() {
  if (timer_ != 0) config_.poller->CancelTimer(timer_);
}

void SessionOpener::Try() {
  config_.tries->fetch_add(1, std::memory_order_relaxed);
  handshake_ = std::make_shared<Handshake>(config_.poller, config_.reaper, config_.room,
                                           config_.address.ToString());
  by_path_ = config_.connection.handle == nullptr || !by_path_;
  sockaddr_un address;
  const socklen_t length = by_path_ ? config_.address.ToSockaddr(&address)
                                    : PathOfHandle(*config_.connection.handle, &address);
  handshake_->Start(address, length, config_.hello,
                    std::max(give_up_ - MonotonicTime::Now(), absl::ZeroDuration()),
                    [weak = weak_from_this()](Handshake::Outcome outcome) {
                      if (auto self = weak.lock()) self->OnOutcome(std::move(outcome));
                    });
}

absl::Duration SessionOpener::WaitAfter(const Handshake::Outcome& outcome) {
  if (outcome.backlog_full) return kBacklogInterval;
  const auto grow = [this](absl::Duration first, absl::Duration most) {
    backoff_ = std::min(std::max(backoff_ * 2, first), most);
    return backoff_;
  };
  switch (outcome.reply.status) {
    case HelloStatus::kTokenInUse:
      return grow(kFirstBackoff, kMaxBackoff);
    case HelloStatus::kElsewhere:
      return grow(kFirstElsewhere, kMaxElsewhere);
    default:
      break;
  }
  // Nobody listens behind the handle, or behind the path: the other one is worth a try.
  const bool other = config_.connection.handle != nullptr && outcome.may_pass && !by_path_;
  return other ? absl::ZeroDuration() : kNoMore;
}

absl::Status SessionOpener::GaveUp(const absl::Status& last) const {
  return absl::UnavailableError(
      absl::StrCat("no session for this channel's gRPC connection within ",
                   absl::FormatDuration(config_.timeout), ": ", last.message()));
}

void SessionOpener::OnOutcome(Handshake::Outcome outcome) {
  const std::shared_ptr<SessionOpener> self = shared_from_this();  // `done` may drop it.
  const bool elsewhere = outcome.reply.status == HelloStatus::kElsewhere;
  if (!outcome.status.ok()) {
    const absl::Duration wait = WaitAfter(outcome);
    const bool alive = config_.hello.connection.zero() || config_.connection.alive();
    if (wait != kNoMore && alive && MonotonicTime::Now() + wait < give_up_) {
      timer_ = config_.poller->RunAfter(wait, [weak = weak_from_this()] {
        auto later = weak.lock();
        if (later == nullptr) return;
        later->timer_ = 0;
        later->Try();
      });
      return;
    }
    if (elsewhere) outcome.status = GaveUp(outcome.status);
  }
  const std::shared_ptr<Handshake> handshake = std::move(handshake_);
  const Done done = std::move(done_);
  done(std::move(outcome), *handshake);
}

}  // namespace internal
}  // namespace grpcfd
