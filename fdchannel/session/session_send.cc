// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "fdchannel/session/session.h"

namespace grpcfd {
namespace internal {
namespace {

// Whether sendmsg says that the peer is gone.
bool IsGone(int error) {
  // ECONNREFUSED: of a peer that is just dying, on kernels without "unix: Fix race in
  // SOCK_SEQPACKET's unix_dgram_sendmsg()".
  return error == EPIPE || error == ECONNRESET || error == ENOTCONN || error == ECONNREFUSED;
}

// Whether these go in one frame. The socket may take the first of several and be full then, and
// only a waiter can stay in the middle of a set, with its room in the window kept for the rest.
bool FitOneFrame(const Indices& indices, absl::Span<const int> fds) {
  return fds.size() <= kMaxFdsPerMessage && indices.Run(0, fds.size()) == fds.size();
}

// Sends what follows the first `*sent` descriptors, in as few frames as they fit; counts them in
// `*sent`.
IoResult SendFrames(FrameSocket* socket, const CallKey& call, const Indices& indices,
                    absl::Span<const int> fds, size_t* sent) {
  while (*sent < fds.size()) {
    const size_t count = std::min(indices.Run(*sent, fds.size()), kMaxFdsPerMessage);
    const absl::Span<const int> part = fds.subspan(*sent, count);
    FrameBuffer buffer;
    EncodeData(call, indices.at(*sent), static_cast<uint16_t>(count), &buffer);
    const IoResult io = socket->Send(buffer, part);
    if (!io.ok()) return io;
    *sent += part.size();
  }
  return IoResult();
}

absl::Status SendError(const std::string& peer, int error) {
  const std::string text = absl::StrCat("sendmsg to ", peer, ": ", strerror(error));
  switch (error) {
    case EBADF:
      return absl::InvalidArgumentError(absl::StrCat(text, ": a descriptor was closed meanwhile"));
    case EINVAL:
      return absl::InvalidArgumentError(
          absl::StrCat(text, ": a descriptor that the kernel does not pass, an io_uring one say"));
    case EPERM:
      return absl::FailedPreconditionError(
          absl::StrCat(text, ": the peer's socket does not take descriptors (SO_PASSRIGHTS)"));
    case ETOOMANYREFS:
      return absl::ResourceExhaustedError(
          absl::StrCat(text,
                       ": all processes of this user together have RLIMIT_NOFILE descriptors "
                       "in flight already; raise it, lower session_window, or end the peers "
                       "that do not read"));
    case ENOBUFS:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(absl::StrCat(text, "; try again later"));
    default:
      return absl::UnavailableError(text);
  }
}

}  // namespace

// Of CheckSend, for a count that is.
absl::Status Session::TooManyToSend(size_t count) const {
  counters_->Add(Counter::kSendsRefusedLimit);
  if (count > config_.remote.max_fds_per_call) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d descriptors are more than may be sent to %s for one call "
                        "(max_fds_per_call = %d, the lower of both ends'); raise it at both ends, "
                        "or use several calls",
                        count, config_.peer, config_.remote.max_fds_per_call));
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%d descriptors are more than may be sent to %s in one session "
                      "(session_window = %d, the lower of both ends'); raise it at both ends",
                      count, config_.peer, config_.remote.window));
}

// Room for `count` more descriptors, in the peer's window and in flight; reserves it if so.
bool Session::Reserve(size_t count) {
  if (window_.Reserve(count)) return true;
  if (window_.short_in_flight()) ScheduleSweep();  // Nothing tells when a peer reads: look again.
  return false;
}

void Session::Unreserve(size_t count) {
  const absl::Status status = window_.Return(count);
  if (status.ok()) return;
  // The caller may be in the middle of anything: RunDeferred cuts the session.
  violation_ = absl::UnavailableError(
      absl::StrCat("the session with ", config_.peer, " was cut: ", status.message()));
}

void Session::OnRoom() {
  MutexLock lock(&mutex_);
  ProgressSenders();
  RunDeferred();
}

void Session::PeerGone() {
  peer_gone_ = true;
  usable_.store(false, std::memory_order_release);
  // A peer that has shut down one direction only is to see that this end is done with it too: it
  // would take the token for that of a living session otherwise.
  socket_->ShutDown();
}

bool Session::ProgressSend(Waiter* waiter) {
  if (!dead_.ok() || peer_gone_) {
    waiter->status = dead_.ok() ? SendError(config_.peer, EPIPE) : dead_;
    return true;
  }
  if (!waiter->reserved) {
    if (!Reserve(waiter->fds.size())) return false;
    waiter->reserved = true;
  }
  // Never blocks, so it may run under the lock. Only senders that could not send without it get
  // here.
  size_t entered = waiter->sent;
  const IoResult io =
      SendFrames(socket_.get(), waiter->call, waiter->indices, waiter->fds, &waiter->sent);
  while (entered < waiter->sent) {
    const size_t frame =
        std::min(waiter->indices.Run(entered, waiter->fds.size()), kMaxFdsPerMessage);
    in_flight_->Sent(frame);
    entered += frame;
  }
  waiter->blocked_on_write = io.would_block();
  if (io.would_block()) return false;
  if (!io.ok()) {
    if (IsGone(io.error)) PeerGone();
    counters_->Add(Counter::kSendsFailed);
    waiter->status = SendError(config_.peer, io.error);
  }
  return true;
}

bool Session::TrySend(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                      absl::Status* status) {
  *status = CheckSend(fds.size());
  if (!status->ok() || fds.empty()) return true;
  if (!FitOneFrame(indices, fds)) return false;
  mutex_.Lock();
  return SendOneFrame(call, indices, fds, status);
}

bool Session::TryBegin(DescriptorInbox* inbox, const Indices& indices, absl::Span<const int> fds,
                       absl::Status* status) {
  *status = CheckSend(fds.size());
  const bool send = status->ok() && !fds.empty();
  const bool fit = FitOneFrame(indices, fds);
  DeferredCloses none;  // A client keeps nothing for calls that are yet to come.
  mutex_.Lock();
  // A server announces nothing beforehand, and the client cannot know that it has sent its last.
  arrivals_.Attach(inbox, /*announced=*/0, /*open_ended=*/true, /*holes=*/0, &none);
  if (send && fit) return SendOneFrame(inbox->key(), indices, fds, status);
  mutex_.Unlock();
  return !send;
}

bool Session::SendOneFrame(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                           absl::Status* status) {
  if (!dead_.ok() || peer_gone_) {
    *status = dead_.ok() ? SendError(config_.peer, EPIPE) : dead_;
    mutex_.Unlock();
    return true;
  }
  const bool room = window_.nobody_waits() && Reserve(fds.size());
  mutex_.Unlock();
  if (!room) return false;
  FrameBuffer frame;
  EncodeData(call, indices.at(0), static_cast<uint16_t>(fds.size()), &frame);
  const IoResult io = socket_->Send(frame, fds);
  if (io.ok()) {
    counters_->Add(Counter::kFdsSent, fds.size());
    // Others may have found too much in flight because of this one, which the peer may have read
    // meanwhile.
    if (!in_flight_->Sent(fds.size())) return true;
    MutexLock lock(&mutex_);
    ProgressSenders();
    RunDeferred();
    return true;
  }
  in_flight_->Return(fds.size());
  MutexLock lock(&mutex_);
  Unreserve(fds.size());
  if (IsGone(io.error)) PeerGone();
  // Others may have found the window full because of this one.
  ProgressSenders();
  RunDeferred();
  if (io.would_block()) return false;
  counters_->Add(Counter::kSendsFailed);
  *status = SendError(config_.peer, io.error);
  return true;
}

absl::Status Session::Send(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                           const WaitOptions& options) {
  absl::Status status;
  if (TrySend(call, indices, fds, &status)) return status;
  Waiter waiter(Waiter::Kind::kSend);
  waiter.call = call;
  waiter.indices = indices;
  waiter.fds = fds;
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  SendDiscards();
  if (!window_.nobody_waits() || !ProgressSend(&waiter)) {
    absl::Status over = SendsOver(call);
    if (over.ok()) {
      RunWaiter(&waiter, options, &closes);
    } else {
      Finish(&waiter, std::move(over));
    }
  } else {
    Finish(&waiter, absl::OkStatus());  // Gives back what an error left reserved.
  }
  RunDeferred(&closes);
  return std::move(waiter.status);
}

void Session::SendAsync(const CallKey& call, const Indices& indices, std::vector<int> fds,
                        absl::Time deadline, StatusCallback done) {
  absl::Status status;
  if (TrySend(call, indices, fds, &status)) return done(std::move(status));
  auto waiter = std::make_shared<Waiter>(Waiter::Kind::kSend);
  waiter->call = call;
  waiter->indices = indices;
  waiter->owned_fds = std::move(fds);
  waiter->fds = waiter->owned_fds;
  waiter->status_callback = std::move(done);
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  SendDiscards();
  if (config_.role == Role::kClient) {
    absl::Status over = SendsOver(call);
    if (!over.ok()) {
      lock.Unlock();
      return waiter->status_callback(std::move(over));
    }
  }
  EnlistAsync(waiter, deadline, &closes);
  // Not tried yet; and another may stand behind it by now, so its place in the line says nothing.
  ProgressSenders();
  RunDeferred(&closes);
}

absl::Status Session::ReserveScoped() {
  MutexLock lock(&mutex_);
  if (!dead_.ok()) return dead_;
  SendWithdrawals();
  if (scoped_sent_ >= config_.remote.max_session_fds) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s takes no more than max_session_fds = %d session-scoped descriptors: withdraw some, or "
        "raise the limit at both ends",
        config_.peer, config_.remote.max_session_fds));
  }
  ++scoped_sent_;
  return absl::OkStatus();
}

void Session::UnreserveScoped() {
  MutexLock lock(&mutex_);
  --scoped_sent_;
}

bool Session::TrySendScoped(uint32_t index, int fd, absl::Status* status) {
  *status = ReserveScoped();
  if (!status->ok()) return true;
  const bool done = TrySend(CallKey{}, index, absl::MakeConstSpan(&fd, 1), status);
  if (!done || !status->ok()) UnreserveScoped();
  return done;
}

absl::Status Session::SendScoped(uint32_t index, int fd, const WaitOptions& options) {
  absl::Status status = ReserveScoped();
  if (!status.ok()) return status;
  status = Send(CallKey{}, index, absl::MakeConstSpan(&fd, 1), options);
  if (!status.ok()) UnreserveScoped();
  return status;
}

void Session::SendScopedAsync(uint32_t index, int fd, absl::Time deadline, StatusCallback done) {
  absl::Status status = ReserveScoped();
  if (!status.ok()) return done(std::move(status));
  SendAsync(CallKey{}, index, {fd}, deadline,
            [self = shared_from_this(), done = std::move(done)](absl::Status sent) {
              if (!sent.ok()) self->UnreserveScoped();
              done(std::move(sent));
            });
}

void Session::WithdrawScoped(uint32_t index) {
  MutexLock lock(&mutex_);
  if (!dead_.ok()) return;
  withdrawn_.push_back(index);
  SendWithdrawals();
  RunDeferred();
}

// Of a frame without descriptors. Never blocks.
IoResult Session::SendControl(const Frame& frame) const {
  FrameBuffer buffer;
  EncodeFrame(frame, &buffer);
  const IoResult io = socket_->Send(buffer, {});
  if (io.ok()) in_flight_->Sent(0);
  return io;
}

void Session::SendWithdrawals() {
  while (!withdrawn_.empty() && dead_.ok()) {
    Frame frame;
    frame.type = FrameType::kWithdraw;
    while (frame.withdraw_count < kMaxWithdrawIndices && frame.withdraw_count < withdrawn_.size()) {
      frame.withdraw[frame.withdraw_count] = withdrawn_[frame.withdraw_count];
      ++frame.withdraw_count;
    }
    if (!SendControl(frame).ok()) return ScheduleSweep();
    withdrawn_.erase(withdrawn_.begin(), withdrawn_.begin() + frame.withdraw_count);
    scoped_sent_ -= frame.withdraw_count;
  }
}

void Session::SendDiscards() {
  while (window_.has_discards() && dead_.ok()) {
    const Frame frame = window_.NextDiscard();
    if (!SendControl(frame).ok()) return;
    window_.Discarded(frame);
  }
}

// All that is owed.
void Session::GiveCredit() {
  if (!owed_.owes() || !dead_.ok() || peer_gone_) return;
  const uint64_t before = owed_.told();
  Frame frame;
  frame.type = FrameType::kCredit;
  frame.credit_total = owed_.Tell();
  mutex_.Unlock();
  const IoResult io = SendControl(frame);
  mutex_.Lock();
  // The peer does not read its own socket, or the kernel is short of memory. The next descriptor
  // tries again; if none comes because the peer waits for this very credit, the sweep does.
  if (io.would_block() || io.error == ENOBUFS || io.error == ENOMEM) {
    owed_.TakeBack(frame.credit_total, before);
    ScheduleSweep();
  }
}

}  // namespace internal
}  // namespace grpcfd
