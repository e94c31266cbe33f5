// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/session.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/session/linger.h"

namespace grpcfd {
namespace internal {
namespace {

// How long frames that nobody waits for stay in the socket before a sweep looks at them.
constexpr absl::Duration kSweepDelay = absl::Milliseconds(100);
// The same at a client whose server may ask for a call again, or say that it has one.
constexpr absl::Duration kClientSweepDelay = absl::Milliseconds(5);

// Each call ends with it, and hardly any call asks: one for all of them.
const absl::Status& CallHasEnded() {
  static const auto* const status = new absl::Status(
      absl::FailedPreconditionError("the call has ended, and its descriptors with it"));
  return *status;
}

// The same for cancellation, which gRPC also tells of where a call has ended well.
const absl::Status& CallWasCancelled() {
  static const auto* const status =
      new absl::Status(absl::CancelledError("the call was cancelled"));
  return *status;
}

// What a session's socket counts for: a session of its user, or, where no user has an account, a
// descriptor that is to be closed.
std::shared_ptr<void> HeldUntilClosed(const SessionConfig& config) {
  if (config.quota != nullptr || config.room == nullptr) return config.quota;
  config.room->Keep(1);
  return std::shared_ptr<void>(static_cast<void*>(nullptr),
                               [room = config.room](void*) { room->Closed(1); });
}

}  // namespace

std::shared_ptr<Session> Session::Create(std::unique_ptr<FrameSocket> socket, Config config,
                                         std::function<void()> on_dead) {
  auto session = std::shared_ptr<Session>(
      new Session(std::move(socket), std::move(config), std::move(on_dead)));
  std::weak_ptr<Session> weak = session;
  std::function<void()> on_room;
  if (session->config_.poller != nullptr) {
    // Not posted: a poller that has stopped would run it here, under the caller's locks.
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
  // The peer may have sent something already: the handler must find registration_ written.
  MutexLock lock(&session->mutex_);
  session->window_.Bind(session->in_flight_);
  if (session->config_.poller != nullptr) {
    auto id = session->config_.poller->Add(
        session->socket_->fd(), EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, [weak](uint32_t events) {
          if (auto self = weak.lock()) self->OnPollerEvent(events);
        });
    if (id.ok()) {
      session->registration_ = *id;
    } else {
      // A hang-up of the peer would go unseen: fail, rather than keep a session for ever.
      DeferredCloses none;
      session->KillLocked(
          CloseCode::kResourceExhausted,
          absl::ResourceExhaustedError(absl::StrCat("cannot watch the session's socket: ",
                                                    std::string(id.status().message()))),
          &none);
      session->RunDeferred(&none);
    }
  }
  return session;
}

Session::Session(std::unique_ptr<FrameSocket> socket, Config config, std::function<void()> on_dead)
    : socket_(std::move(socket)),
      config_(std::move(config)),
      most_at_once_(std::min<size_t>(kMaxFdsPerMessage, std::max(config_.local.max_fds_per_call,
                                                                 config_.local.max_session_fds))),
      counters_(config_.counters != nullptr ? config_.counters : std::make_shared<Counters>()),
      on_dead_(std::move(on_dead)),
      leader_(socket_.get()),
      arrivals_(&config_, counters_.get()),
      // The peer keeps to the lower of both ends' windows, so that is what credit goes by.
      owed_(std::min(config_.local.window, config_.remote.window), config_.local.max_fds_per_call),
      window_(config_.remote.window) {}

Session::~Session() {
  if (config_.poller != nullptr && registration_ != 0) config_.poller->Remove(registration_);
  // Nobody else is left: attached calls and blocked waiters keep the session. What remains is early
  // descriptors and asynchronous senders.
  FdVector fds;
  size_t charged = 0;
  std::vector<std::shared_ptr<Waiter>> waiters;
  Landings::Outcome outcome;
  std::function<void()> on_dead;
  {
    MutexLock lock(&mutex_);
    landings_.FailAll(absl::UnavailableError("the session was closed"));
    outcome = landings_.TakeOutcome();
    on_dead.swap(on_dead_);
    charged = arrivals_.TakeRest(&fds);
    if (dead_.ok()) counters_->Add(Counter::kCutHere);
    while (Waiter* const waiter = leader_.Any()) {
      Finish(waiter, absl::UnavailableError("the session was closed"));
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
  rest.account = HeldUntilClosed(config_);
  rest.reaper = config_.reaper;
  Linger(config_.poller, std::move(rest));
  for (auto& waiter : waiters) {
    if (config_.poller != nullptr) {
      config_.poller->Post([waiter] { waiter->Call(); });
    } else {
      waiter->Call();
    }
  }
  for (auto& [done, status] : outcome.answered) {
    if (config_.poller == nullptr) {
      done(std::move(status));
    } else {
      config_.poller->Post([done = std::move(done), status = std::move(status)] { done(status); });
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
  return arrivals_.held();
}

bool Session::has_calls() const {
  MutexLock lock(&mutex_);
  return arrivals_.has_calls();
}

// --- Calls ---

void Session::Attach(DescriptorInbox* inbox, uint32_t announced, bool open_ended, uint32_t holes) {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  arrivals_.Attach(inbox, announced, open_ended, holes, &closes);
  NoteLanding(*inbox, open_ended);
  if (!closes.empty()) RunDeferred(&closes);
}

void Session::End(DescriptorInbox* inbox, bool sent) {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  if (inbox->ended()) return RunDeferred(&closes);
  // All that the peer announced is in the socket by now, if it was not lost. Read here, it is
  // closed at once; later it would first have to be told from the descriptors of a call that is yet
  // to come.
  if (config_.role == Role::kServer && inbox->attached() && dead_.ok() && inbox->failure().ok() &&
      !inbox->AnnouncedCame()) {
    Drain(&closes);
  }
  if (!window_.nobody_waits()) FinishSenders(inbox, CallHasEnded());
  arrivals_.Detach(inbox);
  arrivals_.Empty(inbox, Counter::kFdsUnclaimed, &closes);
  inbox->End(CallHasEnded());
  if (!inbox->waiters()->empty()) FinishCall(inbox, CallHasEnded());
  if (config_.role == Role::kClient && dead_.ok()) {
    if (sent) {
      window_.MayDiscard(inbox->key().id);
      if (!window_.nobody_waits()) SendDiscards();  // They may wait for what this call has there.
    }
    // The server may have sent what nobody asked for, and wait for room.
    owed_.MayHaveSent();
    if (owed_.ShouldRead()) Drain(&closes);
  }
  RunDeferred(&closes);
}

void Session::Cancel(DescriptorInbox* inbox) {
  MutexLock lock(&mutex_);
  if (!inbox->ended() && inbox->failure().ok()) {
    inbox->Cancel();  // What is there may still be taken; nothing is waited for any more.
    if (!inbox->waiters()->empty()) FinishCall(inbox, CallWasCancelled());
  }
  CancelSendsLocked(inbox);
  RunDeferred();
}

void Session::CancelSends(DescriptorInbox* inbox) {
  MutexLock lock(&mutex_);
  CancelSendsLocked(inbox);
  RunDeferred();
}

void Session::CancelSendsLocked(DescriptorInbox* inbox) {
  if (inbox->ended()) return;
  inbox->CancelSends();
  if (!window_.nobody_waits()) {
    FinishSenders(inbox, CallWasCancelled());
  }
}

absl::Status Session::SendsOver(const CallKey& call) const {
  const DescriptorInbox* const inbox = arrivals_.Find(call);
  if (inbox != nullptr && inbox->sends_cancelled()) {
    return CallWasCancelled();
  }
  return arrivals_.EndedLately(call) ? CallHasEnded() : absl::OkStatus();
}

void Session::Complete(DescriptorInbox* inbox) {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  if (!inbox->ended() && inbox->failure().ok() && !inbox->over()) {
    inbox->Complete();
    // One look from now on tells what was sent. One that is under way began too early.
    Waiter* waiter = inbox->waiters()->front();
    const bool anybody = waiter != nullptr;
    for (; waiter != nullptr; waiter = WaiterList<&Waiter::in_inbox>::Next(waiter)) {
      leader_.AskAgain(waiter);
    }
    if (anybody) {
      leader_.OweLook();
      Drain(&closes);
    }
  }
  RunDeferred(&closes);
}

// --- Life and death ---

void Session::MarkDead(const absl::Status& status, Counter why) {
  if (!dead_.ok()) return;
  dead_ = status;
  usable_.store(false, std::memory_order_release);
  counters_->Add(why);
  socket_->ShutDown();
  SettleAll();
  leader_.Wake();
}

void Session::KillLocked(CloseCode code, const absl::Status& status, DeferredCloses* closes) {
  if (dead_.ok()) {
    Frame frame;
    frame.type = FrameType::kClose;
    frame.close_code = code;
    frame.close_text = std::string(status.message()).substr(0, kMaxCloseText);
    SendControl(frame);  // A courtesy: the hang-up says enough.
  }
  arrivals_.FailAll(status, closes);
  MarkDead(status, code == CloseCode::kProtocolError ? Counter::kCutProtocol : Counter::kCutHere);
}

void Session::Kill(CloseCode code, const absl::Status& status) {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  KillLocked(code, status, &closes);
  RunDeferred(&closes);
}

void Session::DoDeferred(DeferredCloses* closes) {
  if (!violation_.ok()) {
    KillLocked(CloseCode::kProtocolError, std::exchange(violation_, absl::OkStatus()), closes);
  }
  if (owed_.due()) {
    GiveCredit();
  } else if (owed_.needs_sweep()) {
    ScheduleSweep();
  }
  if (closes->empty() && finished_async_.empty() && landings_.quiet() && dead_.ok()) return;
  if (!dead_.ok()) {
    arrivals_.ClearScoped(closes);
    landings_.FailAll(dead_);
  }
  Landings::Outcome outcome = landings_.TakeOutcome();
  std::vector<std::shared_ptr<Waiter>> finished;
  finished.swap(finished_async_);
  std::function<void()> on_dead;
  if (!dead_.ok()) on_dead = std::exchange(on_dead_, nullptr);
  mutex_.Unlock();

  if (!closes->empty()) {
    config_.reaper->Close(
        std::move(closes->fds),
        [self = shared_from_this(), charged = closes->charged, uncharged = closes->uncharged,
         scoped = closes->scoped,
         roomed = closes->roomed] { self->OnClosed(charged, uncharged, scoped, roomed); });
    *closes = DeferredCloses();
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
  if (!outcome.empty() && config_.poller != nullptr) {
    config_.poller->Post(
        [self = shared_from_this(), outcome = std::move(outcome)] { self->RunOutcome(outcome); });
  } else {
    RunOutcome(outcome);
  }
  // What the program's functions have captured may use the session when it goes.
  finished.clear();
  on_dead = nullptr;
  mutex_.Lock();
}

void Session::OnClosed(size_t charged, size_t uncharged, size_t scoped, size_t roomed) {
  if (config_.room != nullptr) config_.room->Closed(roomed);
  MutexLock lock(&mutex_);
  arrivals_.Closed(charged, scoped);
  owed_.Disposed(charged + uncharged);
  RunDeferred();
}

// --- The poller's part ---

void Session::Watch(bool for_input) {
  leader_.Watched();
  if (config_.poller == nullptr || registration_ == 0 || !dead_.ok()) return;
  uint32_t events = EPOLLRDHUP | EPOLLONESHOT;
  if (for_input) events |= EPOLLIN;
  if (window_.blocked_on_write()) events |= EPOLLOUT;
  config_.poller->Modify(registration_, events);
}

void Session::ScheduleSweep() {
  if (config_.poller == nullptr || !leader_.ScheduleSweep()) return;
  config_.poller->RunAfter(keeps() ? kClientSweepDelay : kSweepDelay,
                           [weak = weak_from_this(), number = leader_.number()] {
                             if (auto self = weak.lock()) self->SweepIfQuiet(number);
                           });
}

void Session::SweepIfQuiet(uint64_t number) {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  leader_.SweepBegins();
  if (leader_.number() == number || !dead_.ok()) {
    Drain(&closes);
  } else if (!leader_.led()) {
    // Another thread has looked since. What is there now is new, and its reader likely on the way.
    Watch(/*for_input=*/true);
  }
  Upkeep(&closes);
  RunDeferred(&closes);
}

void Session::Sweep() {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  leader_.SweepBegins();
  Drain(&closes);
  Upkeep(&closes);
  RunDeferred(&closes);
}

void Session::Upkeep(DeferredCloses* closes) {
  arrivals_.Expire(absl::Now(), closes);
  if (arrivals_.any_expired()) any_expired_.store(true, std::memory_order_release);
  SendWithdrawals();
  if (window_.short_in_flight()) ProgressSenders();
  if (arrivals_.has_early()) ScheduleSweep();
  SendLandings();
  GiveCredit();
}

void Session::OnPollerEvent(uint32_t events) {
  DeferredCloses closes;
  MutexLock lock(&mutex_);
  if (leader_.led()) {
    leader_.WatchAgain();  // It reads what there is; it need not reach the end, though.
  } else if ((events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0 || leader_.waiters() != 0 ||
             landings_.awaits_answers()) {
    if ((events & EPOLLOUT) != 0) ProgressSenders();
    leader_.WatchAgain();
    Drain(&closes);
  } else {
    // Nobody asks for what came. A call soon will, and reads it without help; if not, the
    // sweep does. Until then nothing tells what else comes, so nothing is owed from here on.
    ScheduleSweep();
    Watch(/*for_input=*/false);
    GiveCredit();
  }
  RunDeferred(&closes);
}

}  // namespace internal
}  // namespace grpcfd
