// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/session.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/session/linger.h"
#include "fdchannel/session/session_parts.h"

namespace grpcfd {
namespace internal {
namespace {

// How long frames that nobody waits for stay in the socket before a sweep looks at them.
constexpr absl::Duration kSweepDelay = absl::Milliseconds(100);
// Ended calls that are remembered (as many again, for a while), to close what still comes for them
// at once. One that is forgotten costs early_timeout, no more.
constexpr size_t kEndedMemory = 64;
constexpr size_t kDiscardMemory = 1024;
// A client reads unasked after this many calls: a server may have sent what nobody asks for.
constexpr uint32_t kCallsPerDrain = 16;

// Drops the oldest of twice as many as are to be remembered: not one by one, for all others move
// up.
template <typename T>
void KeepLatest(size_t count, std::vector<T>* all) {
  if (all->size() == 2 * count) {
    all->erase(all->begin(), all->begin() + static_cast<ptrdiff_t>(count));
  }
}

// How much is owed before credit is sent. The sender keeps to the lower of both ends' windows, so
// that is what it goes by. Never so much that a full call would not fit beside what is owed.
uint64_t CreditStep(const Session::Config& config) {
  const uint64_t window = std::min(config.local.window, config.remote.window);
  const uint64_t call = std::min<uint64_t>(window, config.local.max_fds_per_call);
  return std::max<uint64_t>(1, std::min(window / 4, window - call + 1));
}

// Each call ends with it, and hardly any call asks: one for all of them.
const absl::Status& CallHasEnded() {
  static const auto* const status = new absl::Status(
      absl::FailedPreconditionError("the call has ended, and its descriptors with it"));
  return *status;
}

}  // namespace

std::string CallName(const CallKey& key) {
  return key.attempt == 0 ? absl::StrCat("call ", key.id)
                          : absl::StrCat("call ", key.id, " attempt ", key.attempt);
}

std::shared_ptr<Session> Session::Create(std::unique_ptr<FrameSocket> socket, Config config,
                                         std::function<void()> on_dead) {
  auto session = std::shared_ptr<Session>(
      new Session(std::move(socket), std::move(config), std::move(on_dead)));
  std::weak_ptr<Session> weak = session;
  std::function<void()> on_room;
  if (session->config_.poller != nullptr) {
    // Not posted: a poller that has stopped would run it here, under somebody's locks.
    on_room = [weak_poller = std::weak_ptr<Poller>(session->config_.poller), weak] {
      auto poller = weak_poller.lock();
      if (poller == nullptr) return;
      poller->RunAt(absl::InfinitePast(), [weak] {
        if (auto self = weak.lock()) self->OnRoom();
      });
    };
  }
  session->in_flight_ = std::make_shared<InFlight>(session->socket_, session->config_.remote.window,
                                                   session->config_.in_flight, session->config_.uid,
                                                   std::move(on_room));
  if (session->config_.poller != nullptr) {
    // The peer may have sent something already: the handler must find registration_ written.
    MutexLock lock(&session->mutex_);
    auto id = session->config_.poller->Add(
        session->socket_->fd(), EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, [weak](uint32_t events) {
          if (auto self = weak.lock()) self->OnPollerEvent(events);
        });
    if (id.ok()) {
      session->registration_ = *id;
    } else {
      // Nobody would see the peer hang up: rather no session than one that stays for ever.
      Trash none;
      session->KillLocked(
          CloseCode::kResourceExhausted,
          absl::ResourceExhaustedError(absl::StrCat("cannot watch the session's socket: ",
                                                    std::string(id.status().message()))),
          &none);
      session->Leave(&none);
    }
  }
  return session;
}

Session::Session(std::unique_ptr<FrameSocket> socket, Config config, std::function<void()> on_dead)
    : socket_(std::move(socket)),
      config_(std::move(config)),
      credit_step_(CreditStep(config_)),
      counters_(config_.counters != nullptr ? config_.counters : std::make_shared<Counters>()),
      on_dead_(std::move(on_dead)) {}

Session::~Session() {
  if (config_.poller != nullptr && registration_ != 0) config_.poller->Remove(registration_);
  // Nobody else is left: attached calls and blocked waiters keep the session. What remains is early
  // descriptors and asynchronous senders.
  FdVector fds;
  size_t charged = 0;
  std::vector<std::shared_ptr<Waiter>> waiters;
  std::function<void()> on_dead;
  {
    MutexLock lock(&mutex_);
    on_dead.swap(on_dead_);
    for (auto& inbox : early_) {
      for (CallInbox::Slot& slot : inbox->slots_) {
        if (slot.gone()) continue;
        fds.push_back(std::move(slot.fd));
        ++charged;
        counters_->Add(Counter::kFdsUnclaimed);
      }
    }
    for (UniqueFd& fd : scoped_.Clear()) {
      fds.push_back(std::move(fd));
      ++charged;
    }
    if (dead_.ok()) counters_->Add(Counter::kCutHere);
    while (!waiters_.empty()) {
      Finish(waiters_.front(), absl::UnavailableError("the session was closed"));
    }
    waiters.swap(finished_async_);
  }
  if (!fds.empty() || charged != 0) {
    config_.reaper->Close(std::move(fds), [quota = config_.quota, charged] {
      if (quota != nullptr) quota->Release(charged);
    });
  }
  // The socket too: its last close drops what the peer sent and nobody read, descriptors included,
  // and closing those may block. The peer is told at once, whatever the reaper is busy with. If it
  // has not read what it was sent, the socket stays for that long.
  socket_->ShutDown();
  Lingering rest;
  rest.socket = std::move(socket_);
  rest.in_flight = std::move(in_flight_);
  rest.account = config_.quota;
  rest.reaper = config_.reaper;
  Linger(config_.poller, std::move(rest));
  for (auto& waiter : waiters) {
    if (config_.poller != nullptr) {
      config_.poller->Post([waiter] { waiter->Call(); });
    } else {
      waiter->Call();
    }
  }
  if (!on_dead) return;
  if (config_.poller != nullptr) {
    config_.poller->Post(std::move(on_dead));
  } else {
    on_dead();
  }
}

uint32_t Session::held() const {
  MutexLock lock(&mutex_);
  return held_;
}

// --- Calls ---

void Session::Attach(CallInbox* inbox, uint32_t announced, bool open_ended, uint32_t holes) {
  Trash trash;
  MutexLock lock(&mutex_);
  inbox->attached_ = true;
  inbox->announced_ = announced;
  inbox->holes_ = holes;
  inbox->open_ended_ = open_ended;
  if (announced - holes > config_.local.max_fds_per_call) {
    inbox->failure_ = absl::ResourceExhaustedError(absl::StrFormat(
        "%s from %s announces %d descriptors, max_fds_per_call is %d: raise it at both ends, or "
        "send fewer",
        CallName(inbox->key_), config_.peer, announced - holes, config_.local.max_fds_per_call));
  }
  const auto [it, inserted] = calls_.try_emplace(inbox->key_, inbox);
  if (inserted) return;
  CallInbox* const earlier = it->second;
  if (earlier->attached_) {
    inbox->failure_ = absl::FailedPreconditionError(
        absl::StrCat(CallName(inbox->key_),
                     " of this session is already being served: a call id names one call"));
    return;
  }
  auto early =
      std::find_if(early_.begin(), early_.end(), [&](const auto& e) { return e.get() == earlier; });
  inbox->slots_ = std::move((*early)->slots_);
  if (inbox->failure_.ok()) inbox->failure_ = std::move((*early)->failure_);
  it->second = inbox;
  early_.erase(early);
  if (!inbox->failure_.ok()) {
    EmptyInbox(inbox, Counter::kFdsRefusedCall, &trash);
  } else {
    for (CallInbox::Slot& slot : inbox->slots_) ApplyPolicy(inbox, &slot, &trash);
  }
  if (!trash.empty()) Leave(&trash);
}

void Session::End(CallInbox* inbox, bool sent) {
  Trash trash;
  MutexLock lock(&mutex_);
  if (inbox->ended_) return Leave(&trash);
  // All that the peer announced is in the socket by now, if it was not lost. Read here, it is
  // closed at once; later it would first have to be told from the descriptors of a call that is yet
  // to come.
  if (config_.role == Role::kServer && inbox->attached_ && dead_.ok() && inbox->failure_.ok() &&
      !inbox->AnnouncedCame()) {
    Drain(&trash);
  }
  inbox->ended_ = true;
  auto it = calls_.find(inbox->key_);
  if (it != calls_.end() && it->second == inbox) {
    if (!senders_.empty()) FinishSenders(inbox, CallHasEnded());
    calls_.erase(it);
    if (config_.role == Role::kServer) {
      ended_.push_back(inbox->key_);
      KeepLatest(kEndedMemory, &ended_);
    }
  }
  EmptyInbox(inbox, Counter::kFdsUnclaimed, &trash);
  inbox->failure_ = CallHasEnded();
  FinishAll(inbox, inbox->failure_);
  if (config_.role == Role::kClient && dead_.ok()) {
    if (sent) {
      discardable_.push_back(inbox->key_.id);
      KeepLatest(kDiscardMemory, &discardable_);
    }
    if (++ended_since_drain_ >= kCallsPerDrain) Drain(&trash);
  }
  Leave(&trash);
}

void Session::Cancel(CallInbox* inbox) {
  Trash trash;
  MutexLock lock(&mutex_);
  if (!inbox->ended_ && inbox->failure_.ok()) {
    inbox->cancelled_ = true;  // What is there may still be taken; nothing is waited for any more.
    // Each call of a gRPC server comes here when it closes, and hardly any is waiting then.
    if (!waiters_.empty()) FinishAll(inbox, absl::CancelledError("the call was cancelled"));
  }
  CancelSendsLocked(inbox);
  Leave(&trash);
}

void Session::CancelSends(CallInbox* inbox) {
  Trash none;
  MutexLock lock(&mutex_);
  CancelSendsLocked(inbox);
  Leave(&none);
}

void Session::CancelSendsLocked(CallInbox* inbox) {
  if (inbox->ended_) return;
  inbox->sends_cancelled_ = true;
  if (!senders_.empty()) FinishSenders(inbox, absl::CancelledError("the call was cancelled"));
}

absl::Status Session::SendsOver(const CallKey& call) const {
  const auto it = calls_.find(call);
  if (it != calls_.end() && it->second->sends_cancelled_) {
    return absl::CancelledError("the call was cancelled");
  }
  if (std::find(ended_.begin(), ended_.end(), call) != ended_.end()) return CallHasEnded();
  return absl::OkStatus();
}

void Session::Complete(CallInbox* inbox) {
  Trash trash;
  MutexLock lock(&mutex_);
  if (!inbox->ended_ && inbox->failure_.ok() && !inbox->over_) {
    inbox->over_ = true;
    // One look from now on tells what was sent. One that is under way began too early.
    bool anybody = false;
    for (Waiter* waiter : waiters_) {
      if (waiter->inbox != inbox || waiter->done) continue;
      waiter->epoch = epoch_;
      anybody = true;
    }
    if (anybody) {
      look_again_ = true;
      if (!Drain(&trash) && leader_waits_) socket_->Wake();
    }
  }
  Leave(&trash);
}

void Session::EmptyInbox(CallInbox* inbox, Counter why, Trash* trash) {
  for (CallInbox::Slot& slot : inbox->slots_) {
    if (slot.gone()) continue;
    trash->AddCharged(std::move(slot.fd));
    counters_->Add(why);
  }
  inbox->slots_.clear();
}

void Session::ApplyPolicy(CallInbox* inbox, CallInbox::Slot* slot, Trash* trash) {
  if (inbox->policy_ == nullptr || Accepts(*inbox->policy_, slot->facts, slot->index)) return;
  slot->refused = true;
  counters_->Add(Counter::kFdsRefusedPolicy);
  trash->AddCharged(std::move(slot->fd));
}

void Session::FailInbox(CallInbox* inbox, absl::Status status, Counter why, Trash* trash) {
  EmptyInbox(inbox, why, trash);
  inbox->failure_ = std::move(status);
  FinishAll(inbox, inbox->failure_);
}

// --- Life and death ---

void Session::MarkDead(const absl::Status& status, Counter why) {
  if (!dead_.ok()) return;
  dead_ = status;
  usable_.store(false, std::memory_order_release);
  counters_->Add(why);
  socket_->ShutDown();
  while (!senders_.empty()) Finish(senders_.front(), dead_);
  ProgressAll(++epoch_, /*drained=*/true);
  if (leader_waits_) socket_->Wake();
}

void Session::KillLocked(CloseCode code, const absl::Status& status, Trash* trash) {
  if (dead_.ok()) {
    Frame frame;
    frame.type = FrameType::kClose;
    frame.close_code = code;
    frame.close_text = std::string(status.message()).substr(0, kMaxCloseText);
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    // A courtesy: the hang-up says enough.
    if (socket_->Send(buffer, {}).ok()) in_flight_->Sent(0);
  }
  for (auto& [key, inbox] : calls_) {
    EmptyInbox(inbox, Counter::kFdsDiscarded, trash);
    if (inbox->failure_.ok()) inbox->failure_ = status;
  }
  for (auto& inbox : early_) calls_.erase(inbox->key_);
  early_.clear();
  MarkDead(status, code == CloseCode::kProtocolError ? Counter::kCutProtocol : Counter::kCutHere);
}

void Session::Kill(CloseCode code, const absl::Status& status) {
  Trash trash;
  MutexLock lock(&mutex_);
  KillLocked(code, status, &trash);
  Leave(&trash);
}

void Session::Leave(Trash* trash) {
  SendCreditIfDue();
  // The usual case. Letting go of the lock for nothing costs as much as the look at it.
  if (trash->empty() && finished_async_.empty() && dead_.ok()) return;
  if (!dead_.ok() && scoped_.size() != 0) trash->AddScoped(scoped_.Clear());
  std::vector<std::shared_ptr<Waiter>> finished;
  finished.swap(finished_async_);
  std::function<void()> on_dead;
  if (!dead_.ok()) on_dead = std::exchange(on_dead_, nullptr);
  mutex_.Unlock();

  if (!trash->empty()) {
    config_.reaper->Close(
        std::move(trash->fds),
        [self = shared_from_this(), charged = trash->charged, uncharged = trash->uncharged,
         scoped = trash->scoped] { self->OnClosed(charged, uncharged, scoped); });
    *trash = Trash();
  }
  for (auto& waiter : finished) {
    if (config_.poller == nullptr) {
      waiter->Call();
      continue;
    }
    if (waiter->timer != 0) config_.poller->CancelTimer(waiter->timer);
    config_.poller->Post([waiter = std::move(waiter)] { waiter->Call(); });
  }
  if (on_dead) {
    if (config_.poller == nullptr) {
      on_dead();
    } else {
      config_.poller->Remove(registration_);
      config_.poller->Post(std::move(on_dead));
    }
  }
  // What the program's functions have captured may use the session when it goes.
  finished.clear();
  on_dead = nullptr;
  mutex_.Lock();
}

void Session::OnClosed(size_t charged, size_t uncharged, size_t scoped) {
  MutexLock lock(&mutex_);
  held_ -= static_cast<uint32_t>(charged);
  if (config_.quota != nullptr && charged + scoped != 0) config_.quota->Release(charged + scoped);
  Disposed(charged + uncharged);
  SendCreditIfDue();
}

// --- The poller's part ---

void Session::Watch(bool for_input) {
  watch_again_ = false;
  if (config_.poller == nullptr || registration_ == 0 || !dead_.ok()) return;
  uint32_t events = EPOLLRDHUP | EPOLLONESHOT;
  if (for_input) events |= EPOLLIN;
  if (!senders_.empty() && senders_.front()->blocked_on_write) events |= EPOLLOUT;
  config_.poller->Modify(registration_, events);
}

void Session::ScheduleSweep() {
  if (sweep_scheduled_ || config_.poller == nullptr) return;
  sweep_scheduled_ = true;
  config_.poller->RunAt(absl::Now() + kSweepDelay, [weak = weak_from_this(), epoch = epoch_] {
    if (auto self = weak.lock()) self->SweepIfQuiet(epoch);
  });
}

void Session::SweepIfQuiet(uint64_t epoch) {
  Trash trash;
  MutexLock lock(&mutex_);
  sweep_scheduled_ = false;
  watch_again_ = true;
  if (epoch_ == epoch || !dead_.ok()) {
    Drain(&trash);
  } else if (!leader_) {
    // Somebody has looked since. What is there now is fresh, and its reader is likely on the way.
    Watch(/*for_input=*/true);
  }
  ExpireEarly(absl::Now(), &trash);
  SendWithdrawals();
  if (room_ != InFlight::Room::kYes) ProgressSenders();
  if (!early_.empty()) ScheduleSweep();
  Leave(&trash);
}

void Session::OnPollerEvent(uint32_t events) {
  Trash trash;
  MutexLock lock(&mutex_);
  if (leader_) {
    watch_again_ = true;  // It reads what there is; it need not reach the end, though.
  } else if ((events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0 || !waiters_.empty()) {
    if ((events & EPOLLOUT) != 0) ProgressSenders();
    watch_again_ = true;
    Drain(&trash);
  } else {
    // Nobody asks for what came. Somebody will, in a moment, and read it without help; if not, the
    // sweep does.
    ScheduleSweep();
    Watch(/*for_input=*/false);
  }
  Leave(&trash);
}

void Session::Sweep() {
  Trash trash;
  MutexLock lock(&mutex_);
  sweep_scheduled_ = false;
  watch_again_ = true;
  Drain(&trash);
  ExpireEarly(absl::Now(), &trash);
  SendWithdrawals();
  if (room_ != InFlight::Room::kYes) ProgressSenders();
  if (!early_.empty()) ScheduleSweep();
  Leave(&trash);
}

}  // namespace internal
}  // namespace grpcfd
