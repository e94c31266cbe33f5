// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/linger.h"

namespace grpcfd {
namespace internal {
namespace {

// How long frames that nobody waits for stay in the socket before a sweep looks at them.
constexpr absl::Duration kSweepDelay = absl::Milliseconds(100);
// How often a waiter asks whether its call was cancelled.
constexpr absl::Duration kCancelSlice = absl::Milliseconds(10);
// Ended calls that are remembered (as many again, for a while), to close what still comes for them
// at once. One that is forgotten costs early_timeout, no more.
constexpr size_t kEndedMemory = 64;
constexpr size_t kDiscardMemory = 1024;
// The wire has no such index: first_index + fd_count fits 32 bits.
constexpr uint32_t kNoIndex = 0xffffffff;
// Taken slots that are remembered one by one.
constexpr size_t kTakenMemory = 64;
constexpr uint32_t kForgottenAtOnce = 64;
// Slots of one call, gone ones included. They are forgotten from the lowest index up, so a peer
// that leaves one out could have the list grow for ever.
constexpr size_t kMostSlots = 1 << 16;
// A client reads unasked after this many calls: a server may have sent what nobody asks for.
constexpr uint32_t kCallsPerDrain = 16;
// Early calls without descriptors (refused ones) kept to tell their RPC why.
constexpr size_t kMaxEarly = 1024;
// How often one turn looks at the socket before it minds its deadline, or the poller's other
// sessions, again. More than a socket's buffer holds: only a peer that never stops sending gets
// there.
constexpr int kLooksPerWait = 1024;
// How long a receive whose deadline has passed waits for the leader to look at the socket once: the
// look takes microseconds, but its thread may have to get a processor first, or be in a callback
// that asks for a cancellation.
constexpr absl::Duration kLookPatience = absl::Milliseconds(500);
// The same for a forwarder, which cannot go on without.
constexpr absl::Duration kForwardPatience = absl::Seconds(10);
constexpr int kLooksPerDrain = 128;

std::string CallName(const CallKey& key) {
  return key.attempt == 0 ? absl::StrCat("call ", key.id)
                          : absl::StrCat("call ", key.id, " attempt ", key.attempt);
}

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

// Somebody who waits: for a descriptor, for room to send, or just for the next look at the socket.
// Guarded by the session's mutex.
struct Session::Waiter {
  enum class Kind { kReceive, kSend, kLook };
  explicit Waiter(Kind k) : kind(k) {}

  const Kind kind;
  // kReceive and kLook
  CallInbox* inbox = nullptr;
  // kReceive
  InodeUrl url;
  Op op = Op::kTake;
  // kSend
  CallKey call;
  Indices indices = 0;
  absl::Span<const int> fds;
  size_t sent = 0;
  bool reserved = false;
  bool blocked_on_write = false;

  // The look at the socket (Session::epoch_) that was under way or last when this waiter came.
  uint64_t epoch = 0;
  bool listed = false;
  std::list<Waiter*>::iterator position;
  std::list<Waiter*>::iterator sender_position;
  bool done = false;
  // It has the lead, or was given it.
  bool promoted = false;
  // A look that began after it came found the socket empty; whether it waits for that only.
  bool looked = false;
  bool wants_look = false;
  absl::Status status;
  UniqueFd fd;
  CondVar wake;

  // Asynchronous ones own themselves while they are listed.
  std::shared_ptr<Waiter> self;
  std::vector<int> owned_fds;
  Poller::Id timer = 0;
  FdCallback fd_callback;
  StatusCallback status_callback;

  absl::StatusOr<UniqueFd> TakeFd() {
    if (!status.ok()) return std::move(status);
    return std::move(fd);
  }
  void Call() {
    if (kind == Kind::kReceive) {
      fd_callback(TakeFd());
    } else {
      status_callback(std::move(status));
    }
  }
};

// Descriptors to be closed once the lock is released.
struct Session::Trash {
  FdVector fds;
  size_t charged = 0;    // of those, counted in held_ and in the quota
  size_t uncharged = 0;  // arrived or lost on arrival, never counted there
  size_t scoped = 0;     // session-scoped: counted in the quota only

  bool empty() const { return fds.empty() && charged + uncharged + scoped == 0; }
  void AddCharged(UniqueFd fd) {
    fds.push_back(std::move(fd));
    ++charged;
  }
  void AddScoped(FdVector more) {
    for (UniqueFd& fd : more) {
      if (!fd.valid()) continue;
      fds.push_back(std::move(fd));
      ++scoped;
    }
  }
  void AddUncharged(FdVector* more, size_t count) {
    for (UniqueFd& fd : *more) fds.push_back(std::move(fd));
    more->clear();
    uncharged += count;
  }
};

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
        "send "
        "fewer",
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
  Leave(&trash);
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

// --- Waiting ---

bool Session::ProgressReceive(Waiter* waiter, bool drained) {
  if (waiter->url.session_index().has_value()) return ProgressScoped(waiter, drained);
  CallInbox* inbox = waiter->inbox;
  const InodeUrl& url = waiter->url;
  if (!inbox->failure_.ok()) {
    waiter->status = inbox->failure_;
    return true;
  }

  CallInbox::Slot* slot = nullptr;
  const CallInbox::Slot* refused = nullptr;
  bool taken = false;
  if (url.index().has_value()) {
    const uint32_t index = *url.index();
    slot = inbox->Find(index);
    taken = index < inbox->forgotten_below_ || (slot != nullptr && slot->taken);
    if (slot != nullptr && slot->dev_ino != url.dev_ino()) {
      waiter->status = absl::InvalidArgumentError(absl::StrFormat(
          "%s names another file than the call's descriptor %d, which is inode://%d/%d",
          url.ToString(), index, slot->dev_ino.dev, slot->dev_ino.ino));
      return true;
    }
    if (slot != nullptr && slot->refused) refused = slot;
  } else {
    for (CallInbox::Slot& candidate : inbox->slots_) {
      if (candidate.dev_ino != url.dev_ino()) continue;
      if (!candidate.gone()) {
        slot = &candidate;
        break;
      }
      if (candidate.taken) taken = true;
      if (candidate.refused) refused = &candidate;
    }
    if (slot != nullptr) {
      taken = false;
      refused = nullptr;
    }
  }
  if (refused != nullptr) {
    const absl::Status why = Judge(*inbox->policy_, refused->facts, refused->index);
    waiter->status = absl::Status(
        why.code(), absl::StrCat(url.ToString(), " of ", CallName(inbox->key_), " from ",
                                 config_.peer, " was closed: ", why.message()));
    return true;
  }

  if (slot != nullptr && !taken) {
    if (waiter->op == Op::kDup) {
      // fcntl(F_DUPFD_CLOEXEC) does not block, so it may be done under the lock.
      auto copy = BorrowedFd(slot->fd).Dup();
      waiter->status = copy.status();
      if (copy.ok()) waiter->fd = *std::move(copy);
      return true;
    }
    waiter->fd = Take(inbox, slot);
    return true;
  }
  // Without an index it may mean one that is still to come, or still in the socket. Once nothing
  // more can come it means the one that was taken.
  const bool complete = drained || (inbox->AnnouncedCame() && !inbox->over_);
  const bool open_ended = inbox->open_ended_ && !inbox->over_;
  if (taken && (url.index().has_value() || (complete && !open_ended))) {
    waiter->status = absl::FailedPreconditionError(
        absl::StrCat(url.ToString(), " was taken from this call before; DupFd copies and leaves"));
    return true;
  }
  if (!dead_.ok()) {
    waiter->status = dead_;
    return true;
  }
  if (inbox->cancelled_) {
    waiter->status = absl::CancelledError("the call was cancelled");
    return true;
  }
  if (url.index().has_value()) {
    if (*url.index() >= inbox->announced_) {
      if (open_ended || (inbox->over_ && !drained)) return false;
      if (inbox->over_) {
        waiter->status = absl::NotFoundError(absl::StrCat(url.ToString(), " was not sent, and ",
                                                          config_.peer, " has ended the call"));
        return true;
      }
      waiter->status = absl::NotFoundError(
          absl::StrCat(url.ToString(), " was not sent: ", config_.peer, " sent ", inbox->announced_,
                       " descriptors with this call and can send no more"));
      return true;
    }
    if (inbox->holes_ != 0 && inbox->AnnouncedCame()) {
      waiter->status = absl::NotFoundError(
          absl::StrCat(url.ToString(), " was not sent: whoever forwarded the call left it out"));
      return true;
    }
    if (!drained) return false;
    waiter->status = absl::UnavailableError(absl::StrCat(
        url.ToString(), " was announced by ", config_.peer,
        " but never came: it was lost, or dropped by the sender; a new call brings it anew"));
    return true;
  }
  if (!drained || open_ended) return false;
  if (inbox->over_) {
    waiter->status =
        absl::NotFoundError(absl::StrCat("no descriptor of ", url.ToString(), " was sent, and ",
                                         config_.peer, " has ended the call"));
    return true;
  }
  waiter->status = absl::NotFoundError(
      absl::StrCat("no descriptor of ", url.ToString(), " was sent with this call (it brought ",
                   inbox->announced_, " from ", config_.peer, ")"));
  return true;
}

UniqueFd Session::Take(CallInbox* inbox, CallInbox::Slot* slot) {
  UniqueFd fd = std::move(slot->fd);
  slot->taken = true;
  counters_->Add(Counter::kFdsTaken);
  --held_;
  if (config_.quota != nullptr) config_.quota->Release(1);
  Disposed(1);
  if (inbox->slots_.size() > kTakenMemory) inbox->ForgetTaken();
  return fd;
}

bool Session::ProgressScoped(Waiter* waiter, bool drained) {
  // A call's own misfortunes are not the session's; its end is.
  if (waiter->inbox != nullptr && waiter->inbox->ended_) {
    waiter->status = waiter->inbox->failure_;
    return true;
  }
  if (!dead_.ok()) {
    waiter->status = dead_;
    return true;
  }
  // It went out before what names it, and so did its withdrawal: only an empty socket tells.
  if (!drained) return false;
  const ReceivePolicy* policy =
      waiter->inbox != nullptr ? waiter->inbox->policy_.get() : config_.policy.get();
  auto copy = scoped_.Dup(waiter->url, policy, config_.peer);
  waiter->status = copy.status();
  if (copy.ok()) waiter->fd = *std::move(copy);
  return true;
}

void Session::Finish(Waiter* waiter, absl::Status status) {
  waiter->done = true;
  if (!status.ok()) waiter->status = std::move(status);
  if (waiter->kind == Waiter::Kind::kSend && waiter->reserved) {
    counters_->Add(Counter::kFdsSent, waiter->sent);
    const size_t left = waiter->fds.size() - waiter->sent;  // What never went out.
    sent_total_ -= left;
    in_flight_->Return(left);
    waiter->reserved = false;
  }
  if (waiter->listed) {
    waiters_.erase(waiter->position);
    if (waiter->kind == Waiter::Kind::kSend) senders_.erase(waiter->sender_position);
    waiter->listed = false;
  }
  if (waiter->self != nullptr) {
    finished_async_.push_back(std::move(waiter->self));
  } else {
    waiter->wake.NotifyOne();
    if (leader_waits_ && waiter->promoted) socket_->Wake();
  }
}

absl::Status Session::DeadlineError(const Waiter& waiter) const {
  if (waiter.kind == Waiter::Kind::kLook) {
    return absl::DeadlineExceededError(
        "another thread reads the session's socket, and did not get to it in time");
  }
  if (waiter.kind == Waiter::Kind::kSend) {
    if (room_ == InFlight::Room::kShared) {
      counters_->Add(Counter::kSendsRefusedInFlight);
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%d descriptors for %s did not fit until the deadline beside %d that it has not read: "
          "its share of max_fds_in_flight = %d, which falls as more peers do not read what they "
          "were sent; end those, or raise the limit and RLIMIT_NOFILE with it",
          waiter.fds.size(), config_.peer, in_flight_->fds(), config_.in_flight->total()));
    }
    counters_->Add(Counter::kSendsRefusedWindow);
    if (room_ == InFlight::Room::kUnread) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s has not read %d descriptors that were sent to it, whatever it gave credit for, until "
          "the deadline; the limit is session_window = %d",
          config_.peer, in_flight_->fds(), config_.remote.window));
    }
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s has not taken enough of the descriptors sent before, until the "
                        "deadline: it must take or "
                        "drop them, or its session_window (%d) be larger",
                        config_.peer, config_.remote.window));
  }
  if (waiter.url.session_index().has_value()) {
    return absl::DeadlineExceededError(
        absl::StrCat("the session's socket was not looked at in time for ", waiter.url.ToString()));
  }
  const auto& slots = waiter.inbox->slots_;
  const bool taken = std::any_of(slots.begin(), slots.end(), [&](const CallInbox::Slot& slot) {
    return slot.dev_ino == waiter.url.dev_ino() && !waiter.url.index().has_value();
  });
  if (taken) {
    return absl::FailedPreconditionError(absl::StrCat(
        waiter.url.ToString(), " was taken from this call before, and no other one came"));
  }
  return absl::DeadlineExceededError(absl::StrCat(waiter.url.ToString(), " did not come from ",
                                                  config_.peer, " before the deadline"));
}

void Session::FinishAll(const CallInbox* inbox, const absl::Status& status) {
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    Waiter* waiter = *it++;
    if (waiter->kind == Waiter::Kind::kSend || waiter->inbox != inbox) continue;
    Finish(waiter, status);
  }
}

void Session::ProgressAll(uint64_t before_epoch, bool drained) {
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    Waiter* waiter = *it++;
    if (waiter->epoch >= before_epoch || waiter->kind == Waiter::Kind::kSend) continue;
    if (waiter->kind == Waiter::Kind::kLook ? drained : ProgressReceive(waiter, drained)) {
      Finish(waiter, absl::OkStatus());
    } else if (drained) {
      waiter->looked = true;
      if (waiter->wants_look) waiter->wake.NotifyOne();
    }
  }
}

void Session::ProgressSenders() {
  // Strictly in their order: a large send must not starve behind small ones.
  while (!senders_.empty() && ProgressSend(senders_.front())) {
    Finish(senders_.front(), absl::OkStatus());
  }
  if (senders_.empty() || !senders_.front()->blocked_on_write) return;
  // Somebody must look for room to write now. A leader that is not waiting will.
  if (leader_waits_) {
    socket_->Wake();
  } else if (!leader_) {
    Watch(true);
  }
}

void Session::Enlist(Waiter* waiter) {
  waiter->epoch = epoch_;
  waiter->position = waiters_.insert(waiters_.end(), waiter);
  if (waiter->kind == Waiter::Kind::kSend) {
    waiter->sender_position = senders_.insert(senders_.end(), waiter);
    // A leader that is already waiting does not look for room to write.
    if (leader_waits_) socket_->Wake();
  } else if (waiter->kind == Waiter::Kind::kLook || waiter->url.session_index().has_value() ||
             !waiter->inbox->open_ended_ || waiter->inbox->over_ ||
             waiter->url.index().value_or(kNoIndex) < waiter->inbox->announced_) {
    // It is in the socket or lost, and one look from now on tells which. A look that is under way
    // began too early.
    look_again_ = true;
    if (leader_waits_) socket_->Wake();
  }
  waiter->listed = true;
}

void Session::RunWaiter(Waiter* waiter, const WaitOptions& options, Trash* trash) {
  Enlist(waiter);
  const absl::Time deadline = options.deadline == absl::InfiniteFuture()
                                  ? absl::Now() + options.patience
                                  : options.deadline;
  const auto slice = [&options, deadline] {
    return options.cancelled == nullptr ? deadline : std::min(deadline, absl::Now() + kCancelSlice);
  };
  int looks = 0;
  while (!waiter->done) {
    if (!leader_) {
      leader_ = true;
      waiter->promoted = true;
    }
    bool cancelled = false;
    if (waiter->promoted) {
      const PumpResult result = Pump(std::min(kMaxBatch, waiters_.size()), trash);
      if (waiter->done) break;
      if (result == PumpResult::kDead) {
        Finish(waiter, dead_);
        break;
      }
      // A peer that never stops sending must not hold this thread beyond its deadline.
      if (result == PumpResult::kProgress && ++looks % kLooksPerWait != 0) continue;
      if (!trash->empty() || !finished_async_.empty()) {
        // This may be a long wait; what others get, or get rid of, through this thread is not to
        // wait with it.
        Leave(trash);
        if (waiter->done) break;
      }
      if (absl::Now() >= deadline) {
        Finish(waiter, DeadlineError(*waiter));
        break;
      }
      const bool wait = result == PumpResult::kEmpty && !look_again_;
      if (wait) socket_->PrepareWait();
      leader_waits_ = wait;
      const bool want_write = !senders_.empty() && senders_.front()->blocked_on_write;
      mutex_.Unlock();
      if (wait) socket_->Wait(want_write, slice());
      cancelled = options.cancelled != nullptr && (*options.cancelled)();
      mutex_.Lock();
      leader_waits_ = false;
      if (want_write) ProgressSenders();
    } else {
      waiter->wake.WaitUntil(&mutex_, slice());
      if (waiter->done || waiter->promoted) continue;
      if (absl::Now() >= deadline) {
        // However late it is, what is in the socket is found: also if somebody else leads, who may
        // not have looked since.
        if (waiter->kind == Waiter::Kind::kReceive && !waiter->looked && !waiter->wants_look) {
          const absl::Time limit = absl::Now() + kLookPatience;
          waiter->wants_look = true;
          look_again_ = true;
          if (leader_waits_) socket_->Wake();
          while (!waiter->done && !waiter->promoted && !waiter->looked) {
            if (!waiter->wake.WaitUntil(&mutex_, limit)) break;
          }
          if (waiter->done || waiter->promoted) continue;
        }
        Finish(waiter, DeadlineError(*waiter));
        break;
      }
      if (options.cancelled != nullptr) {
        mutex_.Unlock();
        cancelled = (*options.cancelled)();
        mutex_.Lock();
      }
    }
    if (cancelled && !waiter->done) Finish(waiter, absl::CancelledError("the call was cancelled"));
  }
  // The next sender in line has not been tried yet, or not with the room that this one leaves.
  if (waiter->kind == Waiter::Kind::kSend) ProgressSenders();
  if (waiter->promoted) HandOver();
}

void Session::HandOver() {
  for (Waiter* waiter : waiters_) {
    if (waiter->self != nullptr) continue;
    waiter->promoted = true;
    waiter->wake.NotifyOne();
    return;
  }
  leader_ = false;
  if (!waiters_.empty() || watch_again_) Watch(true);
  if (look_again_ && !waiters_.empty() && config_.poller != nullptr) {
    // Somebody asynchronous came during the last look, and may be waiting for what is lost: the
    // socket will not tell.
    config_.poller->RunAt(absl::InfinitePast(), [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->Sweep();
    });
  }
}

void Session::EnlistAsync(const std::shared_ptr<Waiter>& waiter, absl::Time deadline,
                          Trash* trash) {
  waiter->self = waiter;
  Enlist(waiter.get());
  if (config_.poller != nullptr && deadline != absl::InfiniteFuture()) {
    std::weak_ptr<Session> weak_session = weak_from_this();
    std::weak_ptr<Waiter> weak_waiter = waiter;
    waiter->timer = config_.poller->RunAt(deadline, [weak_session, weak_waiter] {
      auto session = weak_session.lock();
      auto late = weak_waiter.lock();
      if (session == nullptr || late == nullptr) return;
      Trash expired;
      MutexLock session_lock(&session->mutex_);
      if (!late->done) {
        session->Finish(late.get(), session->DeadlineError(*late));
        // The next sender in line has not been tried yet.
        if (late->kind == Waiter::Kind::kSend) session->ProgressSenders();
      }
      session->Leave(&expired);
    });
  }
  // If somebody leads it will see to this waiter too; if not, look once, and then let the poller
  // watch.
  Drain(trash);
}

bool Session::Drain(Trash* trash) {
  if (leader_) return false;
  leader_ = true;
  ended_since_drain_ = 0;
  for (int looks = 0; looks < kLooksPerDrain; ++looks) {
    const PumpResult result = Pump(kMaxBatch, trash);
    if (result == PumpResult::kDead || (result == PumpResult::kEmpty && !look_again_)) break;
    // Enough for now: a peer that never stops sending must not keep this thread. The poller comes
    // back to it.
    if (looks + 1 == kLooksPerDrain) watch_again_ = true;
  }
  HandOver();
  return true;
}

// --- Receiving ---

bool Session::LookFirst(Waiter* waiter, Trash* trash) {
  bool done = ProgressReceive(waiter, /*drained=*/false);
  if (done || leader_) return done;
  // The usual case: nobody else is here, and the frame is in the socket.
  leader_ = true;
  PumpResult result = PumpResult::kProgress;
  // Asynchronous receives come here too, so not for long if the peer never stops sending.
  for (int looks = 0; !done && result == PumpResult::kProgress && looks < kLooksPerDrain; ++looks) {
    result = Pump(std::min(kMaxBatch, waiters_.size() + 1), trash);
    done = ProgressReceive(waiter, /*drained=*/result == PumpResult::kEmpty);
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
  Trash trash;
  MutexLock lock(&mutex_);
  // By way of the poller it would take two threads.
  if (LookFirst(&first, &trash)) {
    Leave(&trash);
    lock.Unlock();  // The callback may ask for more, or send.
    done(first.TakeFd());
    return;
  }
  auto waiter = std::make_shared<Waiter>(Waiter::Kind::kReceive);
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
  look_again_ = false;
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
    if (io.error == ECONNRESET) return PumpResult::kProgress;
    MarkDead(absl::UnavailableError(absl::StrCat("the session with ", config_.peer,
                                                 " broke: recvmsg: ", strerror(io.error))),
             Counter::kBroken);
    return PumpResult::kDead;
  }

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

// --- Sending ---

absl::Status Session::CheckSend(size_t count) const {
  if (count > config_.remote.max_fds_per_call) {
    counters_->Add(Counter::kSendsRefusedLimit);
    return absl::InvalidArgumentError(
        absl::StrFormat("%d descriptors are more than may be sent to %s for one call "
                        "(max_fds_per_call = %d, the lower of both ends'); raise it at both ends, "
                        "or use several calls",
                        count, config_.peer, config_.remote.max_fds_per_call));
  }
  if (count > config_.remote.window) {
    counters_->Add(Counter::kSendsRefusedLimit);
    return absl::InvalidArgumentError(
        absl::StrFormat("%d descriptors are more than may be sent to %s in one session "
                        "(session_window = %d, the lower of both ends'); raise it at both ends",
                        count, config_.peer, config_.remote.window));
  }
  return absl::OkStatus();
}

bool Session::ReserveRoom(size_t count) {
  room_ = InFlight::Room::kYes;
  if (sent_total_ - credit_total_ + count > config_.remote.window) return false;
  // Credit says yes. A peer that tells the truth has read what it gives credit for; the kernel
  // knows.
  room_ = in_flight_->Reserve(count);
  if (room_ != InFlight::Room::kYes) {
    ScheduleSweep();  // Nothing tells when a peer reads: look again.
    return false;
  }
  sent_total_ += count;
  return true;
}

void Session::OnRoom() {
  Trash none;
  MutexLock lock(&mutex_);
  ProgressSenders();
  Leave(&none);
}

IoResult Session::SendFrames(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                             size_t* sent) {
  while (*sent < fds.size()) {
    const size_t count = std::min(indices.Run(*sent, fds.size()), kMaxFdsPerMessage);
    const absl::Span<const int> part = fds.subspan(*sent, count);
    Frame frame;
    frame.type = FrameType::kData;
    frame.call = call;
    frame.first_index = indices.at(*sent);
    frame.fd_count = static_cast<uint16_t>(part.size());
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    const IoResult io = socket_->Send(buffer, part);
    if (!io.ok()) return io;
    *sent += part.size();
  }
  return IoResult();
}

absl::Status Session::SendError(int error) const {
  const std::string text = absl::StrCat("sendmsg to ", config_.peer, ": ", strerror(error));
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

void Session::PeerGone() {
  peer_gone_ = true;
  usable_.store(false, std::memory_order_release);
  // A peer that has shut down one direction only is to see that this end is done with it too: it
  // would take the token for that of a living session otherwise.
  socket_->ShutDown();
}

bool Session::ProgressSend(Waiter* waiter) {
  if (!dead_.ok() || peer_gone_) {
    waiter->status = dead_.ok() ? SendError(EPIPE) : dead_;
    return true;
  }
  if (!waiter->reserved) {
    if (!ReserveRoom(waiter->fds.size())) return false;
    waiter->reserved = true;
  }
  // Never blocks, so it may be done under the lock; only senders that had to wait come here.
  size_t entered = waiter->sent;
  const IoResult io = SendFrames(waiter->call, waiter->indices, waiter->fds, &waiter->sent);
  while (entered < waiter->sent) {
    const size_t frame =
        std::min(waiter->indices.Run(entered, waiter->fds.size()), kMaxFdsPerMessage);
    in_flight_->Sent(frame);
    entered += frame;
  }
  waiter->blocked_on_write = io.would_block();
  if (io.would_block()) return false;
  if (!io.ok()) {
    if (io.error == EPIPE || io.error == ECONNRESET || io.error == ENOTCONN) PeerGone();
    counters_->Add(Counter::kSendsFailed);
    waiter->status = SendError(io.error);
  }
  return true;
}

bool Session::TrySend(const CallKey& call, const Indices& indices, absl::Span<const int> fds,
                      absl::Status* status) {
  *status = CheckSend(fds.size());
  if (!status->ok() || fds.empty()) return true;
  // The socket may take the first frame and be full then. Only a waiter can stay in the middle of
  // a set, with its room in the window kept for the rest.
  if (std::min(indices.Run(0, fds.size()), kMaxFdsPerMessage) < fds.size()) return false;
  MutexLock lock(&mutex_);
  if (!dead_.ok() || peer_gone_) {
    *status = dead_.ok() ? SendError(EPIPE) : dead_;
    return true;
  }
  if (!senders_.empty() || !ReserveRoom(fds.size())) return false;
  lock.Unlock();
  size_t sent = 0;
  const IoResult io = SendFrames(call, indices, fds, &sent);
  if (io.ok()) {
    in_flight_->Sent(sent);  // One frame.
  } else {
    in_flight_->Return(fds.size());
  }
  lock.Lock();
  if (io.ok()) {
    counters_->Add(Counter::kFdsSent, sent);
    if (room_ != InFlight::Room::kYes) {
      // By this one, perhaps, which the peer may have read meanwhile.
      Trash none;
      ProgressSenders();
      Leave(&none);
    }
    return true;
  }
  sent_total_ -= fds.size();
  if (io.error == EPIPE || io.error == ECONNRESET || io.error == ENOTCONN) PeerGone();
  // Others may have found the window full because of this one.
  Trash none;
  ProgressSenders();
  Leave(&none);
  if (io.would_block()) return false;
  counters_->Add(Counter::kSendsFailed);
  *status = SendError(io.error);
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
  Trash trash;
  MutexLock lock(&mutex_);
  SendDiscards();
  if (!senders_.empty() || !ProgressSend(&waiter)) {
    RunWaiter(&waiter, options, &trash);
  } else {
    Finish(&waiter, absl::OkStatus());  // Gives back what an error left reserved.
  }
  Leave(&trash);
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
  Trash trash;
  MutexLock lock(&mutex_);
  SendDiscards();
  EnlistAsync(waiter, deadline, &trash);
  // Not tried yet; and another may stand behind it by now, so its place in the line says nothing.
  ProgressSenders();
  Leave(&trash);
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
  Trash none;
  MutexLock lock(&mutex_);
  if (!dead_.ok()) return;
  withdrawn_.push_back(index);
  SendWithdrawals();
  Leave(&none);
}

void Session::SendWithdrawals() {
  while (!withdrawn_.empty() && dead_.ok()) {
    Frame frame;
    frame.type = FrameType::kWithdraw;
    while (frame.withdraw_count < kMaxWithdrawIndices && frame.withdraw_count < withdrawn_.size()) {
      frame.withdraw[frame.withdraw_count] = withdrawn_[frame.withdraw_count];
      ++frame.withdraw_count;
    }
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    if (!socket_->Send(buffer, {}).ok()) return ScheduleSweep();
    in_flight_->Sent(0);
    withdrawn_.erase(withdrawn_.begin(), withdrawn_.begin() + frame.withdraw_count);
    scoped_sent_ -= frame.withdraw_count;
  }
}

void Session::SendDiscards() {
  while (!discardable_.empty() && dead_.ok()) {
    Frame frame;
    frame.type = FrameType::kDiscard;
    while (frame.discard_count < kMaxDiscardIds && frame.discard_count < discardable_.size()) {
      frame.discard[frame.discard_count] = discardable_[frame.discard_count];
      ++frame.discard_count;
    }
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    if (!socket_->Send(buffer, {}).ok()) return;
    in_flight_->Sent(0);
    discardable_.erase(discardable_.begin(), discardable_.begin() + frame.discard_count);
  }
}

void Session::Disposed(size_t n) { disposed_total_ += n; }

void Session::SendCreditIfDue() {
  if (disposed_total_ - credit_sent_ < credit_step_ || !dead_.ok() || peer_gone_) return;
  const uint64_t before = credit_sent_;
  Frame frame;
  frame.type = FrameType::kCredit;
  frame.credit_total = disposed_total_;
  credit_sent_ = disposed_total_;
  mutex_.Unlock();
  FrameBuffer buffer;
  EncodeFrame(frame, &buffer);
  const IoResult io = socket_->Send(buffer, {});
  mutex_.Lock();
  if (io.ok()) in_flight_->Sent(0);
  // The peer does not read its own socket, or the kernel is short of memory. The next descriptor
  // tries again; if none comes because the peer waits for this very credit, the sweep does.
  if ((io.would_block() || io.error == ENOBUFS || io.error == ENOMEM) &&
      credit_sent_ == frame.credit_total) {
    credit_sent_ = before;
    ScheduleSweep();
  }
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
