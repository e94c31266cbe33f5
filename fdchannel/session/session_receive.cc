// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/session/session.h"

namespace grpcfd {
namespace internal {
namespace {

// How long a forwarder, which cannot go on without it, waits for another thread to look.
constexpr absl::Duration kForwardPatience = absl::Seconds(10);

}  // namespace

struct Session::Batch {
  Batch(size_t max_frames, size_t fds_per_frame) : messages(max_frames), max_fds(fds_per_frame) {}

  std::array<FrameBuffer, kMaxBatch> data;
  absl::InlinedVector<ReceivedMessage, kMaxBatch> messages;
  const size_t max_fds;               // Of a message.
  absl::InlinedVector<Seen, 4> seen;  // Of all messages, in their order.
  IoResult io;
};

// --- Requests ---

// Looks for what `request` wants without a waiter: in its inbox, and in the socket if there is no
// leader. True if it is settled.
bool Session::TryReceive(Request* request, DeferredCloses* closes) {
  bool done = ProgressReceive(request, /*drained=*/false);
  if (done || !leader_.Lead()) return done;
  // The usual case: nobody else is here, and the frame is in the socket.
  PumpResult result = PumpResult::kProgress;
  // Asynchronous receives come here too, so not for long if the peer never stops sending.
  const DescriptorInbox* const inbox = request->inbox;
  for (int looks = 0;
       !done && result == PumpResult::kProgress && looks < SocketLeader::kLooksPerTurn; ++looks) {
    const bool over = inbox != nullptr && inbox->over();
    result = Pump(std::min(kMaxBatch, leader_.waiters() + 1), closes);
    // The end of the call may have come after this look, and what was sent last with it.
    const bool drained =
        result == PumpResult::kEmpty && (inbox == nullptr || inbox->over() == over);
    done = ProgressReceive(request, drained);
  }
  if (result == PumpResult::kNoRoom) {
    PassLeadToLane(closes);
  } else {
    PassLead();
  }
  return done;
}

absl::StatusOr<UniqueFd> Session::Receive(DescriptorInbox* inbox, const InodeUrl& url, Op op,
                                          const WaitOptions& options) {
  MutexLock lock(&mutex_);
  if (op == Op::kTake && inbox != nullptr) {
    // All but the first of a call's descriptors are here already: one frame brought them.
    if (DescriptorInbox::Slot* const slot = inbox->Ready(url); slot != nullptr) {
      UniqueFd fd = Take(inbox, slot);
      RunDeferred();  // Credit may be due.
      return fd;
    }
  }
  DeferredCloses closes;  // Empty after RunDeferred: nothing is closed under the lock.
  Request request(inbox, url, op);
  if (TryReceive(&request, &closes)) {
    RunDeferred(&closes);
    return request.TakeFd();
  }
  return AwaitReceive(std::move(request), options, &closes);
}

absl::StatusOr<UniqueFd> Session::AwaitReceive(Request request, const WaitOptions& options,
                                               DeferredCloses* closes) {
  Waiter waiter(std::move(request));
  RunWaiter(&waiter, options, closes);
  RunDeferred(closes);
  return waiter.TakeFd();
}

absl::StatusOr<std::vector<InodeUrl>> Session::Arrived(DescriptorInbox* inbox) {
  Waiter waiter(Waiter::Kind::kInspect);
  waiter.inbox = inbox;
  DeferredCloses closes;
  std::vector<InodeUrl> urls;
  MutexLock lock(&mutex_);
  if (dead_.ok() && inbox->failure().ok() && !Drain(&closes)) {
    WaitOptions options;
    options.deadline = absl::Now() + kForwardPatience;
    RunWaiter(&waiter, options, &closes);
  }
  absl::Status status = !inbox->failure().ok() ? inbox->failure() : waiter.status;
  if (status.ok() && !inbox->AnnouncedCame()) {
    status = absl::UnavailableError(
        absl::StrFormat("%s from %s announced %d descriptors, and not all of them came: they were "
                        "lost, or dropped by the sender",
                        CallName(inbox->key()), config_.peer, inbox->announced()));
  }
  if (status.ok()) urls = inbox->Untaken();
  RunDeferred(&closes);
  if (!status.ok()) return status;
  return urls;
}

absl::StatusOr<UniqueFd> Session::ReceiveScoped(const InodeUrl& url) {
  if (!url.session_index().has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        url.ToString(), " names a descriptor of a call: ask that call; a session-scoped one has ",
        "?session={index}"));
  }
  WaitOptions options;
  options.deadline = absl::InfinitePast();  // One look happens all the same.
  return Receive(/*inbox=*/nullptr, url, Op::kDup, options);
}

void Session::ReceiveAsync(DescriptorInbox* inbox, const InodeUrl& url, Op op, absl::Time deadline,
                           FdCallback done) {
  Request request(inbox, url, op);
  // Not destroyed under the lock, if it outlives the call of its callback: what that captured is
  // the program's.
  std::shared_ptr<Waiter> waiter;
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  // By way of the poller it would take two threads.
  if (TryReceive(&request, &closes)) {
    RunDeferred(&closes);
    lock.Unlock();  // The callback may ask for more, or send.
    done(request.TakeFd());
    return;
  }
  waiter = std::make_shared<Waiter>(std::move(request));
  waiter->fd_callback = std::move(done);
  EnlistAsync(waiter, deadline, &closes);
  RunDeferred(&closes);
}

UniqueFd Session::Take(DescriptorInbox* inbox, DescriptorInbox::Slot* slot) {
  owed_.Disposed(1);
  return arrivals_.Take(inbox, slot);
}

// --- The leader's work ---

bool Session::Drain(DeferredCloses* closes) {
  if (!leader_.Lead()) return false;
  for (int looks = 0; looks < SocketLeader::kLooksPerTurn; ++looks) {
    // There is nothing, as a rule, and the first look is a small one.
    const PumpResult result = Pump(looks == 0 ? 1 : kMaxBatch, closes);
    if (result == PumpResult::kNoRoom) {
      PassLeadToLane(closes);
      return false;
    }
    if (result == PumpResult::kDead) break;
    if (result == PumpResult::kEmpty && !leader_.look_owed()) break;
    // Enough for now: a peer that never stops sending must not keep this thread. The poller comes
    // back to it.
    if (looks + 1 == SocketLeader::kLooksPerTurn) leader_.WatchAgain();
  }
  PassLead();
  return true;
}

// Looks at the socket once, without the lock.
Session::PumpResult Session::Pump(size_t max_frames, DeferredCloses* closes) {
  if (!dead_.ok()) {
    SettleAll();
    return PumpResult::kDead;
  }
  const SocketLeader::Look look = leader_.BeginLook();
  mutex_.Unlock();
  ReadRoom* const room = config_.room.get();
  const size_t frames = room != nullptr ? room->Reserve(max_frames) : max_frames;
  if (frames == 0) {
    mutex_.Lock();
    leader_.FoundSomething(look);  // It has not looked.
    return PumpResult::kNoRoom;
  }
  Batch batch(frames, kMaxFdsPerMessage);
  ReadBatch(&batch);
  mutex_.Lock();
  const size_t before = closes->roomed;
  const PumpResult result = SortLook(look, &batch, closes);
  if (room != nullptr) room->Return(frames, closes->roomed - before);
  return result;
}

// The same for one message, where a close may block: with room for no more than the user may hold.
// What does not fit is closed within the look.
Session::PumpResult Session::PumpOnLane(DeferredCloses* closes) {
  if (!dead_.ok()) {
    SettleAll();
    return PumpResult::kDead;
  }
  const SocketLeader::Look look = leader_.BeginLook();
  mutex_.Unlock();
  size_t max_fds = most_at_once_;
  if (config_.quota != nullptr) max_fds = config_.quota->ChargeUpTo(max_fds);
  Batch batch(/*max_frames=*/1, max_fds);
  ReadBatch(&batch);
  mutex_.Lock();
  arrivals_.Prepay(max_fds);
  const PumpResult result = SortLook(look, &batch, closes);
  arrivals_.EndPrepaid(closes);
  return result;
}

Session::PumpResult Session::SortLook(const SocketLeader::Look& look, Batch* batch,
                                      DeferredCloses* closes) {
  if (!dead_.ok()) {  // Killed meanwhile.
    DropBatch(batch, 0, closes);
    SettleAll();
    return PumpResult::kDead;
  }
  if (batch->io.ok()) {
    leader_.FoundSomething(look);
    return SortBatch(batch, closes);
  }
  if (batch->io.would_block()) {
    owed_.NothingUnread();
    SettleAsking(look.number);
    return PumpResult::kEmpty;
  }
  // The peer closed with frames of ours unread. Reported once; what it had sent, and then the end,
  // follow.
  if (batch->io.error == ECONNRESET) {
    leader_.FoundSomething(look);
    return PumpResult::kProgress;
  }
  MarkDead(absl::UnavailableError(absl::StrCat("the session with ", config_.peer,
                                               " broke: recvmsg: ", strerror(batch->io.error))),
           Counter::kBroken);
  return PumpResult::kDead;
}

// What this thread has collected must not wait for the lane: it may be what the lane waits for.
void Session::PassLeadToLane(DeferredCloses* closes) {
  RunDeferred(closes);
  mutex_.Unlock();
  // After the closes that leave no room.
  config_.reaper->Close(FdVector(), [self = shared_from_this()] { self->ReadOnLane(); });
  mutex_.Lock();
}

void Session::ReadOnLane() {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  for (int looks = 0; looks < SocketLeader::kLooksPerTurn; ++looks) {
    const PumpResult result = PumpOnLane(&closes);
    CloseOnLane(&closes);
    if (result != PumpResult::kProgress) break;
  }
  leader_.WatchAgain();
  PassLead();
  RunDeferred(&closes);
}

// Not queued: other looks may be in the queue, and each is to find the quota as this one did.
void Session::CloseOnLane(DeferredCloses* closes) {
  DeferredCloses mine = std::exchange(*closes, DeferredCloses());
  RunDeferred(closes);  // Nobody else waits for what follows.
  if (mine.empty()) return;
  mutex_.Unlock();
  mine.fds.clear();
  mutex_.Lock();
  arrivals_.Closed(mine.charged, mine.scoped);
  owed_.Disposed(mine.charged + mine.uncharged);
}

// Every descriptor is owned when this looks at it.
void Session::ReadBatch(Batch* batch) const {
  batch->io = socket_->Receive(absl::MakeSpan(batch->data), absl::MakeSpan(batch->messages),
                               batch->max_fds);
  if (!batch->io.ok()) return;
  for (size_t i = 0; i < batch->io.bytes; ++i) {
    const FdVector& fds = batch->messages[i].fds;
    counters_->Add(Counter::kFdsReceived, fds.size());
    const size_t seen = batch->seen.size() + fds.size();
    if (seen > batch->seen.capacity()) batch->seen.reserve(seen);
    for (const UniqueFd& fd : fds) {
      Seen& one = batch->seen.emplace_back();
      LookAt(fd, config_.look, &one.dev_ino, &one.facts);
    }
    if (config_.room != nullptr && !fds.empty()) config_.room->Saw(fds.back().get());
  }
}

Session::PumpResult Session::SortBatch(Batch* batch, DeferredCloses* closes) {
  absl::Span<const Seen> rest(batch->seen);
  for (size_t i = 0; i < batch->io.bytes; ++i) {
    ReceivedMessage& message = batch->messages[i];
    if (message.size == 0 && message.fds.empty() && !message.control_truncated) {
      DropBatch(batch, i, closes);  // Nothing follows an honest end.
      MarkDead(absl::UnavailableError(absl::StrCat(
                   "the peer (", config_.peer, ") closed the session; a new call gets a new one")),
               Counter::kClosedByPeer);
      return PumpResult::kDead;
    }
    counters_->Add(Counter::kFramesReceived);
    const absl::Span<const Seen> mine = rest.subspan(0, message.fds.size());
    rest.remove_prefix(message.fds.size());
    Frame frame;
    absl::Status status =
        message.data_truncated
            ? absl::InvalidArgumentError(
                  absl::StrCat("a frame of more than ", kFrameSize, " bytes came"))
            : DecodeFrame(absl::MakeConstSpan(batch->data[i].data(), message.size), &frame);
    if (status.ok()) status = Deliver(frame, &message, mine, closes);
    if (status.ok()) continue;
    // The peer does not speak the protocol. Whatever it sent in this batch is closed with the rest
    // of the session.
    if (dead_.ok()) counters_->Add(Counter::kFramesRefused);  // Not a CLOSE.
    DropBatch(batch, i, closes);
    if (dead_.ok()) {
      KillLocked(CloseCode::kProtocolError,
                 absl::UnavailableError(absl::StrCat("the session with ", config_.peer,
                                                     " was cut: ", status.message())),
                 closes);
    }
    return PumpResult::kDead;
  }
  return PumpResult::kProgress;
}

void Session::DropBatch(Batch* batch, size_t from, DeferredCloses* closes) const {
  for (size_t i = from; i < batch->messages.size(); ++i) {
    FdVector* const fds = &batch->messages[i].fds;
    counters_->Add(Counter::kFdsDiscarded, fds->size());
    closes->AddUncharged(fds, fds->size());
  }
}

absl::Status Session::Deliver(const Frame& frame, ReceivedMessage* message,
                              absl::Span<const Seen> seen, DeferredCloses* closes) {
  if (frame.type == FrameType::kData) return DeliverData(frame, message, seen, closes);
  if (!message->fds.empty() || message->control_truncated) {
    return absl::InvalidArgumentError("a frame that carries no descriptors came with some");
  }
  switch (frame.type) {
    case FrameType::kCredit: {
      absl::Status credited = window_.Credit(frame.credit_total);
      if (credited.ok()) ProgressSenders();
      return credited;
    }
    case FrameType::kDiscard:
      arrivals_.Discard(absl::MakeConstSpan(frame.discard).subspan(0, frame.discard_count), closes);
      return absl::OkStatus();
    case FrameType::kWithdraw:
      arrivals_.Withdraw(absl::MakeConstSpan(frame.withdraw).subspan(0, frame.withdraw_count),
                         closes);
      return absl::OkStatus();
    case FrameType::kClose:
      MarkDead(absl::UnavailableError(absl::StrCat("the peer (", config_.peer,
                                                   ") cut the session: ", frame.close_text)),
               Counter::kClosedByPeer);
      return absl::UnavailableError("closed by the peer");
    case FrameType::kLanded:
    case FrameType::kResend:
    case FrameType::kResent:
      return DeliverLanding(frame);
    case FrameType::kData:
      break;
  }
  return absl::InternalError("unreachable: DecodeFrame knows the types");
}

absl::Status Session::DeliverData(const Frame& frame, ReceivedMessage* message,
                                  absl::Span<const Seen> seen, DeferredCloses* closes) {
  const size_t count = frame.fd_count;
  if (message->fds.size() > count || (message->fds.size() < count && !message->control_truncated)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a frame that announces %d descriptors came with %d", count, message->fds.size()));
  }
  // A sender knows this end's limits from the hello. Who sends more wants it to be at its own.
  if (count > most_at_once_) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d descriptors came at once, this end takes at most %d", count, most_at_once_));
  }
  owed_.Received(count);
  if (frame.call.id == 0) {
    bool kept = false;
    absl::Status status = arrivals_.DeliverScoped(frame, message, seen, &kept, closes);
    if (kept) owed_.Disposed(count);  // Of the window: they have a limit of their own.
    return status;
  }
  DescriptorInbox* changed = nullptr;
  absl::Status status = arrivals_.Deliver(frame, message, seen, &changed, closes);
  if (changed != nullptr && !changed->waiters()->empty()) ProgressCall(changed);
  if (arrivals_.has_early()) ScheduleSweep();
  return status;
}

}  // namespace internal
}  // namespace grpcfd
