// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/session.h"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/session/session_parts.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr uint32_t kForgottenAtOnce = 64;
// Slots of one call, gone ones included. They are forgotten from the lowest index up, so a peer
// that leaves one out could have the list grow for ever.
constexpr size_t kMostSlots = 1 << 16;
// Early calls without descriptors (refused ones) kept to tell their RPC why.
constexpr size_t kMaxEarly = 1024;
// How long a forwarder, which cannot go on without, waits for another thread's look at the socket.
constexpr absl::Duration kForwardPatience = absl::Seconds(10);

}  // namespace

CallInbox::Slot* CallInbox::Find(uint32_t index) {
  // Nearly always they came in their order, and none is missing.
  const uint32_t place = index - forgotten_below_;
  if (place < slots_.size() && slots_[place].index == index) return &slots_[place];
  auto it = std::lower_bound(slots_.begin(), slots_.end(), index,
                             [](const Slot& slot, uint32_t i) { return slot.index < i; });
  return it != slots_.end() && it->index == index ? &*it : nullptr;
}

void CallInbox::ForgetTaken() {
  // Not past a hole: with several senders in one call a lower index may come after a higher one.
  // Not one by one: those that stay move up each time.
  if (slots_.size() < kForgottenAtOnce || !slots_[kForgottenAtOnce - 1].gone()) return;
  uint32_t gone = 0;
  while (gone < slots_.size() && slots_[gone].gone() &&
         slots_[gone].index == forgotten_below_ + gone) {
    ++gone;
  }
  if (gone < kForgottenAtOnce) return;
  forgotten_below_ += gone;
  slots_.erase(slots_.begin(), slots_.begin() + gone);
}

bool CallInbox::AnnouncedCame() const {
  if (forgotten_below_ >= announced_) return true;
  const auto above = std::lower_bound(slots_.begin(), slots_.end(), announced_,
                                      [](const Slot& slot, uint32_t i) { return slot.index < i; });
  const auto came = forgotten_below_ + static_cast<size_t>(above - slots_.begin());
  return came >= announced_ - holes_;
}

bool Session::LookFirst(Waiter* waiter, Trash* trash) {
  bool done = ProgressReceive(waiter, /*drained=*/false);
  if (done || leader_) return done;
  // The usual case: nobody else is here, and the frame is in the socket.
  leader_ = true;
  PumpResult result = PumpResult::kProgress;
  // Asynchronous receives come here too, so not for long if the peer never stops sending.
  const CallInbox* const inbox = waiter->inbox;
  for (int looks = 0; !done && result == PumpResult::kProgress && looks < kLooksPerDrain; ++looks) {
    const bool over = inbox != nullptr && inbox->over_;
    result = Pump(std::min(kMaxBatch, waiters_.size() + 1), trash);
    // The end of the call may have come after this look, and what was sent last with it.
    const bool drained = result == PumpResult::kEmpty && (inbox == nullptr || inbox->over_ == over);
    done = ProgressReceive(waiter, drained);
  }
  HandOver();
  return done;
}

absl::StatusOr<UniqueFd> Session::Receive(CallInbox* inbox, const InodeUrl& url, Op op,
                                          const WaitOptions& options) {
  MutexLock lock(&mutex_);
  if (op == Op::kTake && inbox != nullptr && url.index().has_value() && inbox->failure_.ok()) {
    // All but the first of a call's descriptors are here already: one frame brought them.
    CallInbox::Slot* const slot = inbox->Find(*url.index());
    if (slot != nullptr && !slot->gone() && slot->dev_ino == url.dev_ino()) {
      UniqueFd fd = Take(inbox, slot);
      Trash none;
      Leave(&none);  // Credit may be due.
      return fd;
    }
  }
  Waiter waiter(Waiter::Kind::kReceive);
  waiter.inbox = inbox;
  waiter.url = url;
  waiter.op = op;
  Trash trash;  // Empty after Leave: nothing is closed under the lock.
  if (!LookFirst(&waiter, &trash)) RunWaiter(&waiter, options, &trash);
  Leave(&trash);
  return waiter.TakeFd();
}

absl::StatusOr<std::vector<InodeUrl>> Session::Arrived(CallInbox* inbox) {
  Waiter waiter(Waiter::Kind::kLook);
  waiter.inbox = inbox;
  Trash trash;
  std::vector<InodeUrl> urls;
  MutexLock lock(&mutex_);
  if (dead_.ok() && inbox->failure_.ok() && !Drain(&trash)) {
    WaitOptions options;
    options.deadline = absl::Now() + kForwardPatience;
    RunWaiter(&waiter, options, &trash);
  }
  absl::Status status = !inbox->failure_.ok() ? inbox->failure_ : waiter.status;
  if (status.ok() && !inbox->AnnouncedCame()) {
    status = absl::UnavailableError(
        absl::StrFormat("%s from %s announced %d descriptors, and not all of them came: they were "
                        "lost, or dropped by the sender",
                        CallName(inbox->key_), config_.peer, inbox->announced_ - inbox->holes_));
  }
  if (status.ok()) {
    for (const CallInbox::Slot& slot : inbox->slots_) {
      if (!slot.gone()) urls.emplace_back(slot.dev_ino, slot.index);
    }
  }
  Leave(&trash);
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

void Session::ReceiveAsync(CallInbox* inbox, const InodeUrl& url, Op op, absl::Time deadline,
                           FdCallback done) {
  Waiter first(Waiter::Kind::kReceive);
  first.inbox = inbox;
  first.url = url;
  first.op = op;
  // Not destroyed under the lock, should it outlive the call of its callback: what that has
  // captured is the program's.
  std::shared_ptr<Waiter> waiter;
  Trash trash;
  MutexLock lock(&mutex_);
  // By way of the poller it would take two threads.
  if (LookFirst(&first, &trash)) {
    Leave(&trash);
    lock.Unlock();  // The callback may ask for more, or send.
    done(first.TakeFd());
    return;
  }
  waiter = std::make_shared<Waiter>(Waiter::Kind::kReceive);
  waiter->inbox = inbox;
  waiter->url = url;
  waiter->op = op;
  waiter->fd_callback = std::move(done);
  EnlistAsync(waiter, deadline, &trash);
  Leave(&trash);
}

Session::PumpResult Session::Pump(size_t max_frames, Trash* trash) {
  if (!dead_.ok()) {
    ProgressAll(++epoch_, /*drained=*/true);
    return PumpResult::kDead;
  }
  const uint64_t epoch = ++epoch_;
  const bool asked = std::exchange(look_again_, false);
  mutex_.Unlock();

  std::array<FrameBuffer, kMaxBatch> data;
  absl::InlinedVector<ReceivedMessage, kMaxBatch> messages(max_frames);
  const IoResult io = socket_->Receive(absl::MakeSpan(data), absl::MakeSpan(messages));
  // Looked at here, outside the lock. Every descriptor is owned already.
  absl::InlinedVector<Seen, 4> seen;
  if (io.ok()) {
    for (size_t i = 0; i < io.bytes; ++i) {
      counters_->Add(Counter::kFdsReceived, messages[i].fds.size());
      for (const UniqueFd& fd : messages[i].fds) {
        seen.emplace_back();
        LookAt(fd, config_.look, &seen.back().dev_ino, &seen.back().facts);
      }
    }
  }

  mutex_.Lock();
  if (!dead_.ok()) {  // Killed meanwhile.
    for (ReceivedMessage& message : messages) {
      counters_->Add(Counter::kFdsDiscarded, message.fds.size());
      trash->AddUncharged(&message.fds, message.fds.size());
    }
    ProgressAll(epoch, /*drained=*/true);
    return PumpResult::kDead;
  }
  if (!io.ok()) {
    if (io.would_block()) {
      ProgressAll(epoch, /*drained=*/true);
      return PumpResult::kEmpty;
    }
    // The peer closed with frames of ours unread. Reported once; what it had sent, and then the
    // end, follow.
    if (io.error == ECONNRESET) {
      look_again_ |= asked;
      return PumpResult::kProgress;
    }
    MarkDead(absl::UnavailableError(absl::StrCat("the session with ", config_.peer,
                                                 " broke: recvmsg: ", strerror(io.error))),
             Counter::kBroken);
    return PumpResult::kDead;
  }

  // Only an empty socket settles those who asked for the look.
  look_again_ |= asked;
  absl::Span<const Seen> rest(seen);
  for (size_t i = 0; i < io.bytes; ++i) {
    ReceivedMessage& message = messages[i];
    if (message.size == 0 && message.fds.empty() && !message.control_truncated) {
      MarkDead(absl::UnavailableError(absl::StrCat(
                   "the peer (", config_.peer, ") closed the session; a new call gets a new one")),
               Counter::kClosedByPeer);
      return PumpResult::kDead;
    }
    counters_->Add(Counter::kFramesReceived);
    const absl::Span<const Seen> mine = rest.subspan(0, message.fds.size());
    rest.remove_prefix(message.fds.size());
    absl::StatusOr<Frame> frame =
        message.data_truncated ? absl::InvalidArgumentError(absl::StrCat("a frame of more than ",
                                                                         kFrameSize, " bytes came"))
                               : DecodeFrame(absl::MakeConstSpan(data[i].data(), message.size));
    const absl::Status status =
        frame.ok() ? Deliver(*frame, &message, mine, trash) : frame.status();
    if (!status.ok()) {
      // The peer does not speak the protocol. Whatever it sent in this batch is closed with the
      // rest of the session.
      if (dead_.ok()) counters_->Add(Counter::kFramesRefused);  // Not a CLOSE.
      for (size_t k = i; k < io.bytes; ++k) {
        counters_->Add(Counter::kFdsDiscarded, messages[k].fds.size());
        trash->AddUncharged(&messages[k].fds, messages[k].fds.size());
      }
      if (dead_.ok()) {
        KillLocked(CloseCode::kProtocolError,
                   absl::UnavailableError(absl::StrCat("the session with ", config_.peer,
                                                       " was cut: ", status.message())),
                   trash);
      }
      return PumpResult::kDead;
    }
  }
  return PumpResult::kProgress;
}

absl::Status Session::Deliver(const Frame& frame, ReceivedMessage* message,
                              absl::Span<const Seen> seen, Trash* trash) {
  if (frame.type == FrameType::kData) {
    const size_t count = frame.fd_count;
    if (message->fds.size() > count ||
        (message->fds.size() < count && !message->control_truncated)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "a frame that announces %d descriptors came with %d", count, message->fds.size()));
    }
    return frame.call.id == 0 ? DeliverScoped(frame, message, seen, trash)
                              : DeliverData(frame, message, seen, trash);
  }
  if (!message->fds.empty() || message->control_truncated) {
    return absl::InvalidArgumentError("a frame that carries no descriptors came with some");
  }
  switch (frame.type) {
    case FrameType::kCredit:
      if (frame.credit_total < credit_total_) return absl::OkStatus();  // Overtaken by a newer one.
      if (frame.credit_total > sent_total_) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "credit for %d descriptors came, %d were sent", frame.credit_total, sent_total_));
      }
      credit_total_ = frame.credit_total;
      if (credit_total_ == sent_total_) discardable_.clear();
      in_flight_->MayHaveRoom();
      ProgressSenders();
      return absl::OkStatus();
    case FrameType::kDiscard:
      for (uint32_t i = 0; i < frame.discard_count; ++i) {
        const uint64_t id = frame.discard[i];
        for (auto it = early_.begin(); it != early_.end();) {
          if ((*it)->key_.id != id) {
            ++it;
            continue;
          }
          EmptyInbox(it->get(), Counter::kFdsDiscarded, trash);
          calls_.erase((*it)->key_);
          it = early_.erase(it);
        }
      }
      return absl::OkStatus();
    case FrameType::kWithdraw: {
      FdVector removed;
      for (uint32_t i = 0; i < frame.withdraw_count; ++i) {
        removed.push_back(scoped_.Remove(frame.withdraw[i]));
      }
      trash->AddScoped(std::move(removed));
      return absl::OkStatus();
    }
    case FrameType::kClose:
      MarkDead(absl::UnavailableError(absl::StrCat("the peer (", config_.peer,
                                                   ") cut the session: ", frame.close_text)),
               Counter::kClosedByPeer);
      return absl::UnavailableError("closed by the peer");
    case FrameType::kData:
      break;
  }
  return absl::InternalError("unreachable: DecodeFrame knows the types");
}

absl::Status Session::DeliverData(const Frame& frame, ReceivedMessage* message,
                                  absl::Span<const Seen> seen, Trash* trash) {
  const size_t count = frame.fd_count;
  CallInbox* inbox = InboxFor(frame.call, trash);
  if (message->control_truncated) {
    counters_->Add(Counter::kFdsTruncated, count - message->fds.size());
  }
  if (inbox == nullptr) {  // Ended, or never begun here: nobody can ask for them.
    counters_->Add(Counter::kFdsLate, message->fds.size());
    trash->AddUncharged(&message->fds, count);
    return absl::OkStatus();
  }
  const bool above_all = inbox->slots_.empty() ? frame.first_index >= inbox->forgotten_below_
                                               : frame.first_index > inbox->slots_.back().index;
  for (size_t i = 0; !above_all && i < count; ++i) {
    const uint32_t index = frame.first_index + static_cast<uint32_t>(i);
    if (index < inbox->forgotten_below_ || inbox->Find(index) != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("descriptor ", index, " of ", CallName(frame.call), " came twice"));
    }
  }

  // From here on the call fails if the descriptors cannot be kept; the session does not. Never
  // fewer of them in silence.
  absl::Status refused = inbox->failure_;
  Counter why = Counter::kFdsRefusedCall;
  if (refused.ok() && message->control_truncated) {
    refused = absl::ResourceExhaustedError(absl::StrFormat(
        "%d of %d descriptors of %s from %s could not be received: this process is at its "
        "RLIMIT_NOFILE (raise it, or take them sooner), or a security module refused one",
        count - message->fds.size(), count, CallName(frame.call), config_.peer));
  }
  // Before a call nobody can take what comes, so a call brings at most max_fds_per_call then. Later
  // ones of a stream are bounded by the window, which the sender keeps too.
  if (refused.ok() && count > config_.local.max_fds_per_call) {
    refused = absl::ResourceExhaustedError(absl::StrFormat(
        "%s from %s brought %d descriptors at once, max_fds_per_call is %d: raise it "
        "at both ends, or send fewer",
        CallName(frame.call), config_.peer, count, config_.local.max_fds_per_call));
  }
  if (refused.ok() && !MakeRoom(count, inbox, trash)) {
    why = Counter::kFdsRefusedWindow;
    refused = absl::ResourceExhaustedError(absl::StrFormat(
        "the session with %s holds session_window = %d descriptors that nobody took; %s's %d were "
        "closed: take them sooner, or raise it at both ends",
        config_.peer, config_.local.window, CallName(frame.call), count));
  }
  if (refused.ok() && config_.quota != nullptr) {
    refused = config_.quota->Charge(count);
    if (!refused.ok()) {
      why = Counter::kFdsRefusedQuota;
      refused = absl::Status(refused.code(),
                             absl::StrCat("the descriptors of ", CallName(frame.call), " from ",
                                          config_.peer, " were closed: ", refused.message()));
    }
  }
  if (!refused.ok()) {
    counters_->Add(why, message->fds.size());
    trash->AddUncharged(&message->fds, count);
    if (inbox->failure_.ok()) FailInbox(inbox, std::move(refused), why, trash);
    return absl::OkStatus();
  }

  held_ += count;
  if (inbox->slots_.empty()) inbox->slots_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    CallInbox::Slot slot{frame.first_index + static_cast<uint32_t>(i),
                         /*taken=*/false,
                         /*refused=*/false,
                         seen[i].dev_ino,
                         seen[i].facts,
                         std::move(message->fds[i])};
    // Early ones are judged when their call comes, and says by which policy.
    if (inbox->attached_) ApplyPolicy(inbox, &slot, trash);
    if (above_all) {
      inbox->slots_.push_back(std::move(slot));
      continue;
    }
    auto at = inbox->slots_.end();
    while (at != inbox->slots_.begin() && std::prev(at)->index > slot.index) --at;
    inbox->slots_.insert(at, std::move(slot));
  }
  message->fds.clear();
  // Nobody asks for what was refused, so it has to be forgotten here.
  if (inbox->slots_.size() > kTakenMemory) inbox->ForgetTaken();
  if (inbox->slots_.size() > kMostSlots) {
    FailInbox(
        inbox,
        absl::ResourceExhaustedError(absl::StrFormat(
            "%s from %s left out index %d, and sent %d descriptors with higher ones",
            CallName(frame.call), config_.peer, inbox->forgotten_below_, inbox->slots_.size())),
        Counter::kFdsRefusedCall, trash);
  }
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    Waiter* waiter = *it++;
    if (waiter->kind != Waiter::Kind::kReceive || waiter->inbox != inbox) continue;
    if (ProgressReceive(waiter, /*drained=*/false)) Finish(waiter, absl::OkStatus());
  }
  return absl::OkStatus();
}

absl::Status Session::DeliverScoped(const Frame& frame, ReceivedMessage* message,
                                    absl::Span<const Seen> seen, Trash* trash) {
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
  // Fails for who names it; the session lives on.
  absl::Status refused;
  Counter why = Counter::kFdsRefusedCall;
  if (message->control_truncated) {
    counters_->Add(Counter::kFdsTruncated, count - message->fds.size());
    refused = absl::ResourceExhaustedError(absl::StrFormat(
        "%d of %d session-scoped descriptors from %s could not be received: this process is at its "
        "RLIMIT_NOFILE (raise it), or a security module refused one",
        count - message->fds.size(), count, config_.peer));
  } else if (config_.quota != nullptr) {
    refused = config_.quota->Charge(count);
    if (!refused.ok()) {
      why = Counter::kFdsRefusedQuota;
      refused = absl::Status(refused.code(),
                             absl::StrCat("the session-scoped descriptors of ", config_.peer,
                                          " were closed: ", refused.message()));
    }
  }
  counters_->Add(refused.ok() ? Counter::kFdsRegistered : why, message->fds.size());
  for (size_t i = 0; i < count; ++i) {
    const uint32_t index = frame.first_index + static_cast<uint32_t>(i);
    if (refused.ok()) {
      scoped_.Add(index, seen[i].dev_ino, seen[i].facts, std::move(message->fds[i]));
    } else {
      scoped_.AddFailed(index, refused);
    }
  }
  if (refused.ok()) {
    message->fds.clear();
    Disposed(count);  // Of the window: they have a limit of their own.
  } else {
    trash->AddUncharged(&message->fds, count);
  }
  return absl::OkStatus();
}

CallInbox* Session::InboxFor(const CallKey& key, Trash* trash) {
  auto it = calls_.find(key);
  if (it != calls_.end()) return it->second;
  if (config_.role == Role::kClient) return nullptr;
  if (std::find(ended_.begin(), ended_.end(), key) != ended_.end()) return nullptr;
  if (early_.size() >= kMaxEarly) {
    EmptyInbox(early_.front().get(), Counter::kFdsExpired, trash);
    calls_.erase(early_.front()->key_);
    early_.pop_front();
  }
  auto inbox = std::make_unique<CallInbox>(key);
  inbox->early_deadline_ = absl::Now() + config_.early_timeout;
  CallInbox* result = inbox.get();
  early_.push_back(std::move(inbox));
  calls_.emplace(key, result);
  ScheduleSweep();
  return result;
}

bool Session::MakeRoom(size_t n, const CallInbox* keep, Trash* trash) {
  if (n > config_.local.window) return false;
  for (auto& inbox : early_) {
    // What is in the trash already is as good as closed, though still counted.
    if (held_ - trash->charged + n <= config_.local.window) break;
    if (inbox.get() == keep || inbox->slots_.empty()) continue;
    FailInbox(inbox.get(),
              absl::ResourceExhaustedError(absl::StrFormat(
                  "the descriptors of %s came before the call and were closed: the session with %s "
                  "reached session_window = %d; make the call sooner, or raise it at both ends",
                  CallName(inbox->key_), config_.peer, config_.local.window)),
              Counter::kFdsRefusedWindow, trash);
  }
  return held_ - trash->charged + n <= config_.local.window;
}

void Session::ExpireEarly(absl::Time now, Trash* trash) {
  while (!early_.empty() && early_.front()->early_deadline_ <= now) {
    EmptyInbox(early_.front().get(), Counter::kFdsExpired, trash);
    calls_.erase(early_.front()->key_);
    early_.pop_front();
  }
}

}  // namespace internal
}  // namespace grpcfd
