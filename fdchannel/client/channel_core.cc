// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/client/channel_core.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/own_credentials.h"
#include "fdchannel/session/session_handle.h"
#include "grpcfd/fd_server.h"
#include "grpcfd/peer_credentials.h"

namespace grpcfd {
namespace internal {
namespace {

// The kernel has no event for "a server has bound the path".
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(5);
constexpr absl::Duration kMaxBackoff = absl::Seconds(1);
// How long gRPC may take to begin a connection that it was asked for. Then a session is opened for
// none: the server asks for what lands elsewhere.
constexpr absl::Duration kConnectionPatience = absl::Seconds(1);
// The same for a session of gRPC's connection, which may land elsewhere for a while, or be one that
// the server has not noticed as such. Short, since calls fail, or wait, until there is a session.
constexpr absl::Duration kNamedPatience = absl::Milliseconds(30);

// Two messages at least: what the last attempt left does not keep the next one waiting.
std::shared_ptr<ReadRoom> MakeRoom() {
  rlimit nofile{};
  if (::getrlimit(RLIMIT_NOFILE, &nofile) != 0) nofile.rlim_cur = RLIM_INFINITY;
  const uint64_t limit =
      std::min<uint64_t>(std::max<uint64_t>(nofile.rlim_cur / 8, 2 * kMaxFdsPerMessage),
                         kMaxBatch * kMaxFdsPerMessage);
  return std::make_shared<ReadRoom>(limit);
}

absl::Status CheckLimits(const SessionLimits& limits) {
  if (limits.max_fds_per_call != 0 && limits.session_window >= limits.max_fds_per_call) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("max_fds_per_call = ", limits.max_fds_per_call,
                   " must be at least 1 and at most session_window = ", limits.session_window));
}

}  // namespace

absl::StatusOr<std::shared_ptr<ChannelCore>> ChannelCore::Create(const SocketAddress& address,
                                                                 const FdChannelOptions& options) {
  const absl::Status limits = CheckLimits(options.limits);
  if (!limits.ok()) return limits;
  auto token = Token::Mint();
  if (!token.ok()) return token.status();
  return std::make_shared<ChannelCore>(address, *token, options);
}

absl::StatusOr<std::shared_ptr<ChannelCore>> ChannelCore::CreateInProcess(
    const std::shared_ptr<InProcessServer>& server, const FdChannelOptions& options) {
  const absl::Status limits = CheckLimits(options.limits);
  if (!limits.ok()) return limits;
  auto token = Token::Mint();
  if (!token.ok()) return token.status();
  return std::make_shared<ChannelCore>(server, *token, options);
}

ChannelCore::~ChannelCore() {
  std::list<std::shared_ptr<Pending>> pending;
  {
    MutexLock lock(&mutex_);
    pending.swap(pending_);
  }
  openers_.clear();
  for (auto& p : pending) {
    p->done(absl::UnavailableError("the channel was destroyed"), /*made=*/false);
  }
}

uint64_t ChannelCore::session_id() const {
  MutexLock lock(&mutex_);
  return session_ != nullptr && session_->alive() ? session_->id() : 0;
}

FdChannelStats ChannelCore::stats() const {
  FdChannelStats stats;
  stats.sessions = ToSessionStats(session_counters_->Values());
  stats.sessions_opened = session_counters_->opened();
  stats.connect_attempts = connect_attempts_.load(std::memory_order_relaxed);
  stats.connect_failures = connect_failures_.load(std::memory_order_relaxed);
  stats.fds_in_flight_now = in_flight_->Look();
  std::vector<std::shared_ptr<Session>> sessions;  // Dropped without the lock.
  {
    MutexLock lock(&mutex_);
    for (const auto& weak : sessions_) sessions.push_back(weak.lock());
  }
  for (const auto& session : sessions) {
    if (session != nullptr) stats.fds_held_now += session->held();
  }
  return stats;
}

std::shared_ptr<Session> ChannelCore::LivingSession() const {
  std::shared_ptr<Session> session;
  std::shared_ptr<Session> last;  // Dropped after the lock.
  MutexLock lock(&mutex_);
  if (session_ == nullptr) return nullptr;
  if (session_->alive()) return session_;
  for (auto it = named_.rbegin(); it != named_.rend(); ++it) {
    if (it->session == nullptr || !it->session->alive() || !it->connection.alive()) continue;
    session = it->session;
    last = std::exchange(session_, session);
    session_order_ = it->order;
    break;
  }
  return session;
}

void ChannelCore::AddConnection(const ConnectionId& id, int number) {
  Named named;
  named.connection.id = id;
  named.connection.number = number;
  if (address_.has_value() && address_->kind() == SocketAddress::Kind::kPath) {
    auto handle = std::make_shared<UniqueFd>(::open(address_->name().c_str(), O_PATH | O_CLOEXEC));
    if (handle->valid()) named.connection.handle = std::move(handle);
  }
  std::vector<Named> gone;
  MutexLock lock(&mutex_);
  named.order = ++last_order_;
  const uint64_t order = named.order;
  named_.push_back(std::move(named));
  if (poller_ == nullptr) return Prune(&gone);
  poller_->Post([weak = weak_from_this(), order] {
    if (auto self = weak.lock()) self->OnConnection(order);
  });
}

void ChannelCore::AddConnector(std::function<bool()> connector) {
  MutexLock lock(&mutex_);
  if (connectors_.size() < 2) connectors_.push_back(std::move(connector));  // More say no more.
}

void ChannelCore::Prune(std::vector<Named>* gone) {
  const auto alive = std::stable_partition(named_.begin(), named_.end(),
                                           [](const Named& n) { return n.connection.alive(); });
  std::move(alive, named_.end(), std::back_inserter(*gone));
  named_.erase(alive, named_.end());
  const auto used = std::remove_if(sessions_.begin(), sessions_.end(),
                                   [](const auto& session) { return session.expired(); });
  sessions_.erase(used, sessions_.end());
}

ChannelCore::Named ChannelCore::Newest() {
  std::vector<Named> gone;  // Dropped after the lock.
  MutexLock lock(&mutex_);
  Prune(&gone);
  return named_.empty() ? Named{0, {}, nullptr} : named_.back();
}

absl::Status ChannelCore::EnsureThreads() {
  if (poller_ != nullptr) return absl::OkStatus();
  auto poller = Poller::Start("grpcfd-channel");
  if (!poller.ok()) return poller.status();
  poller_ = *std::move(poller);
  reaper_ = std::make_shared<Reaper>();
  room_ = MakeRoom();
  return absl::OkStatus();
}

void ChannelCore::AwaitSession(const SessionRequest& request, SessionCallback done) {
  absl::StatusOr<std::shared_ptr<Session>> now;
  {
    MutexLock lock(&mutex_);
    if (session_ != nullptr && session_->alive()) {
      now = session_;
    } else if (absl::Status status = EnsureThreads(); !status.ok()) {
      now = std::move(status);
    } else {
      auto pending = std::make_shared<Pending>();
      pending->request = request;
      pending->done = std::move(done);
      pending->timer = 0;
      if (request.deadline != absl::InfiniteFuture()) {
        pending->timer = poller_->RunAt(
            request.deadline, [weak = weak_from_this(), late = std::weak_ptr<Pending>(pending)] {
              auto self = weak.lock();
              auto expired = late.lock();
              if (self != nullptr && expired != nullptr) self->Expire(expired.get());
            });
      }
      pending_.push_back(std::move(pending));
      const bool first = !std::exchange(connecting_, true);
      poller_->Post(
          [weak = weak_from_this(), first, after_failure = request.before == Before::kFailed] {
            if (auto self = weak.lock()) self->Begin(first, after_failure);
          });
      return;
    }
  }
  done(std::move(now), /*made=*/false);
}

void ChannelCore::GiveUp(const std::weak_ptr<const void>& owner) {
  std::list<std::shared_ptr<Pending>> given_up;
  {
    MutexLock lock(&mutex_);
    for (auto it = pending_.begin(); it != pending_.end();) {
      const auto next = std::next(it);
      const std::weak_ptr<const void>& other = (*it)->request.owner;
      if (!other.owner_before(owner) && !owner.owner_before(other)) {
        if ((*it)->timer != 0) poller_->CancelTimer((*it)->timer);
        given_up.splice(given_up.end(), pending_, it);
      }
      it = next;
    }
  }
  for (auto& p : given_up) p->done(absl::CancelledError("the call was given up"), /*made=*/false);
}

void ChannelCore::Expire(const Pending* late) {
  std::shared_ptr<Pending> expired;
  {
    MutexLock lock(&mutex_);
    auto it = std::find_if(pending_.begin(), pending_.end(),
                           [late](const auto& p) { return p.get() == late; });
    if (it == pending_.end()) return;
    expired = std::move(*it);
    pending_.erase(it);
  }
  expired->done(absl::DeadlineExceededError(
                    absl::StrCat("no session with ", name_, " before the call's deadline")),
                /*made=*/false);
}

void ChannelCore::Begin(bool first, bool after_failure) {
  if (after_failure) {
    if (!first) return;  // Under way, or soon.
    attempt_deadline_ = MonotonicTime::Now() + (backoff_ + options_.connect_timeout);
    return RetryLater();
  }
  if (first) {
    backoff_ = kFirstBackoff;
  } else if (retry_timer_ == 0) {
    return;  // Under way.
  }
  // A call that came while others wait for the next attempt does not wait with them: it may want to
  // know at once.
  attempt_deadline_ = MonotonicTime::Now() + options_.connect_timeout;
  Connect();
}

void ChannelCore::Connect() {
  {
    MutexLock lock(&mutex_);
    if (retry_timer_ != 0) poller_->CancelTimer(std::exchange(retry_timer_, 0));
    if (pending_.empty()) {  // All requests were given up meanwhile.
      connecting_ = false;
      return;
    }
  }
  if (!address_.has_value()) return ConnectInProcess();
  if (!openers_.empty()) {  // Under way.
    if (openers_.count(0) == 0) AwaitUntil(kNamedPatience);
    return;
  }
  const Named newest = Newest();
  if (newest.order == 0 && AwaitConnection()) return;
  Open(newest.order, newest.connection);
}

bool ChannelCore::AwaitConnection() {
  std::function<bool()> connector;
  {
    MutexLock lock(&mutex_);
    // With several it is not known whose connection this call needs.
    if (connectors_.size() == 1) connector = connectors_.front();
  }
  if (!connector || !connector()) return false;
  AwaitUntil(kConnectionPatience);  // Made meanwhile, it has been posted.
  return true;
}

void ChannelCore::AwaitUntil(absl::Duration patience) {
  const MonotonicTime now = MonotonicTime::Now();
  if (connection_due_ < now) connection_due_ = now + patience;
  RetryIn(connection_due_ - now, /*awaited=*/true);
}

void ChannelCore::OnConnection(uint64_t order) {
  const Named newest = Newest();
  if (openers_.count(newest.order) != 0) return;
  bool wanted;
  {
    MutexLock lock(&mutex_);
    if (retry_timer_ != 0) poller_->CancelTimer(std::exchange(retry_timer_, 0));
    wanted = !pending_.empty();
  }
  connection_due_ = MonotonicTime();
  // If gRPC has given it up already, the server's answer to a hello says more.
  if (newest.order == order || (wanted && openers_.empty())) Open(newest.order, newest.connection);
}

void ChannelCore::Open(uint64_t order, const GrpcConnection& connection) {
  SessionOpener::Config config{PollerOf(),         nullptr,    *address_,
                               OwnHello(),         connection, options_.connect_timeout,
                               &connect_attempts_, nullptr};
  {
    MutexLock lock(&mutex_);
    config.reaper = reaper_;
    config.room = room_;
  }
  // A server that answers each hello with descriptors whose closes block gets no other.
  const size_t messages = config.room->Reserve(1);
  if (messages == 0) {
    if (!openers_.empty()) return;  // That one may bring a session.
    const uint64_t closing = config.room->closing();
    return Failed(
        absl::ResourceExhaustedError(
            closing != 0 ? absl::StrCat("no session with ", name_, " for now: ", closing,
                                        " descriptors that it sent and nobody took are not closed")
                         : absl::StrCat("no session with ", name_,
                                        " for now: this process is near its RLIMIT_NOFILE")),
        /*may_pass=*/true);
  }
  config.room->Return(messages, 0);
  config.hello.connection = connection.id;
  auto opener = std::make_shared<SessionOpener>(
      std::move(config),
      [weak = weak_from_this(), order](Handshake::Outcome outcome, const Handshake& handshake) {
        if (auto self = weak.lock()) {
          self->OnOpened(order, std::move(outcome), handshake.connection());
        }
      });
  openers_[order] = opener;
  if (order != 0) AwaitUntil(kNamedPatience);
  opener->Start();
}

Hello ChannelCore::OwnHello() const {
  Hello hello;
  hello.token = token_;
  hello.limits = OwnLimits();
  return hello;
}

void ChannelCore::ConnectInProcess() {
  connect_attempts_.fetch_add(1, std::memory_order_relaxed);
  const auto server = in_process_.lock();
  if (server == nullptr) {
    return Failed(absl::UnavailableError("the FdServer of the in-process channel is gone"),
                  /*may_pass=*/false);
  }
  const absl::Status asked = server->AnswerInProcess(
      OwnHello(),
      [weak = weak_from_this(), poller = PollerOf()](const HelloReply& reply, UniqueFd client_end) {
        auto socket = std::make_shared<UniqueFd>(std::move(client_end));
        poller->Post([weak, reply, socket] {
          auto self = weak.lock();
          if (self == nullptr) return;
          FdVector fds;
          if (socket->valid()) fds.push_back(std::move(*socket));
          self->OnOpened(0, Handshake::Judge(self->name_, reply, &fds), std::nullopt);
        });
      });
  if (!asked.ok()) Failed(asked, /*may_pass=*/false);
}

std::shared_ptr<Poller> ChannelCore::PollerOf() const {
  MutexLock lock(&mutex_);
  return poller_;
}

void ChannelCore::OnOpened(uint64_t order, Handshake::Outcome outcome,
                           std::optional<BorrowedFd> connection) {
  openers_.erase(order);
  if (outcome.status.ok()) {
    PeerCredentials server;
    outcome.status = AuthorizeServer(connection, &server);
    if (outcome.status.ok()) {
      return Established(order, outcome.reply, std::move(outcome.session), std::move(server));
    }
    outcome.may_pass = false;
  }
  // A server of version 1 knows no names.
  const bool unnamed = order != 0 && outcome.reply.status == HelloStatus::kMalformed &&
                       outcome.reply.version < kNamesVersion;
  // gRPC has closed the connection meanwhile, and calls go by another one.
  const bool replaced = order != 0 && Newest().order != order;
  if (!unnamed && !(replaced && MonotonicTime::Now() < attempt_deadline_)) {
    if (openers_.empty()) Failed(outcome.status, outcome.may_pass);
    return;
  }
  connect_failures_.fetch_add(1, std::memory_order_relaxed);
  bool wanted;
  {
    MutexLock lock(&mutex_);
    wanted = !pending_.empty();
    if (!wanted) connecting_ = false;
  }
  if (!wanted || !openers_.empty()) return;
  if (unnamed) {
    Open(0, GrpcConnection());
  } else {
    RetryIn(kFirstBackoff, /*awaited=*/false);
  }
}

absl::Status ChannelCore::AuthorizeServer(std::optional<BorrowedFd> connection,
                                          PeerCredentials* server) const {
  // It costs a descriptor, so only if the program asks.
  if (!options_.authorize_session && !options_.on_session && !options_.on_session_end) {
    return absl::OkStatus();
  }
  auto credentials = connection.has_value() ? GetPeerCredentials(*connection, PidfdMode::kWanted)
                                            : GetOwnCredentials();
  if (!credentials.ok()) return credentials.status();
  *server = *std::move(credentials);
  if (!options_.authorize_session) return absl::OkStatus();
  const absl::Status decision = options_.authorize_session(*server);
  if (decision.ok()) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("this program's authorize_session refused the server at ", name_, " (pid ",
                   server->pid, ", uid ", server->uid, "): ", decision.message()));
}

void ChannelCore::RetryLater() {
  RetryIn(backoff_, /*awaited=*/false);
  backoff_ = std::min(backoff_ * 2, kMaxBackoff);
}

void ChannelCore::RetryIn(absl::Duration wait, bool awaited) {
  MutexLock lock(&mutex_);
  if (retry_timer_ != 0) poller_->CancelTimer(retry_timer_);
  retry_timer_ = poller_->RunAfter(wait, [weak = weak_from_this(), awaited] {
    auto self = weak.lock();
    if (self == nullptr) return;
    self->retry_timer_ = 0;
    if (!awaited) return self->Connect();
    bool wanted;
    {
      MutexLock inner(&self->mutex_);
      wanted = !self->pending_.empty();
    }
    if (wanted && self->openers_.count(0) == 0) self->Open(0, GrpcConnection());
  });
}

void ChannelCore::Established(uint64_t order, const HelloReply& reply, UniqueFd socket,
                              PeerCredentials server) {
  Session::Config config;
  {
    MutexLock lock(&mutex_);
    config.role = Session::Role::kClient;
    config.id = reply.session_id;
    config.token = token_;
    config.version = reply.version;
    config.keeps = last_order_ != 0 || !connectors_.empty();
    config.on_resend = [weak = weak_from_this()](const std::shared_ptr<Session>& session,
                                                 const CallKey& call) {
      if (auto self = weak.lock()) return self->OnResend(session, call);
      session->AnswerResend(call, ResendOutcome::kGone);
    };
    config.local = OwnLimits();
    config.remote = SendLimits(reply.limits, config.local);
    config.counters = session_counters_->Open();
    config.in_flight = in_flight_;
    config.look = LookFor(options_.receive_policy);
    config.policy = policy_;
    config.peer = name_;
    config.poller = poller_;
    config.reaper = reaper_;
    config.room = room_;
  }
  auto handle =
      std::make_shared<SessionHandle>(reply.session_id, std::move(server), registry_->indices());
  std::function<void()> on_dead;
  if (options_.on_session_end) {
    on_dead = [callback = options_.on_session_end, handle] { callback(handle); };
  }
  const auto session = Session::Create(std::make_unique<SeqpacketSocket>(std::move(socket)),
                                       std::move(config), std::move(on_dead));
  handle->Bind(session);
  if (options_.on_session) options_.on_session(handle);
  // The poller's thread goes on from where this leaves it, at once as a rule.
  registry_->Attach(session, absl::Now() + options_.connect_timeout,
                    [weak = weak_from_this(), order, session](const absl::Status& status) {
                      auto self = weak.lock();
                      if (self == nullptr) return;
                      if (status.ok()) return self->Publish(order, session);
                      self->Failed(status, /*may_pass=*/true);
                    });
}

void ChannelCore::Publish(uint64_t order, const std::shared_ptr<Session>& made) {
  std::list<std::shared_ptr<Pending>> pending;
  std::shared_ptr<Session> session;
  std::shared_ptr<Session> last;  // These two are dropped after the lock.
  std::vector<Named> gone;
  {
    MutexLock lock(&mutex_);
    Prune(&gone);
    sessions_.push_back(made);
    for (Named& named : named_) {
      if (named.order != order) continue;
      named.session = made;
      named.connection.handle = nullptr;
    }
    if (session_ == nullptr || !session_->alive() || order >= session_order_) {
      last = std::exchange(session_, made);
      session_order_ = order;
    }
    session = session_;
    if (retry_timer_ != 0) poller_->CancelTimer(std::exchange(retry_timer_, 0));
    connecting_ = false;
    pending.swap(pending_);
    for (auto& p : pending) {
      if (p->timer != 0) poller_->CancelTimer(p->timer);
    }
  }
  for (auto& p : pending) p->done(session, /*made=*/true);
}

void ChannelCore::OnResend(const std::shared_ptr<Session>& session, const CallKey& call) {
  std::vector<std::weak_ptr<Session>> sessions;
  {
    MutexLock lock(&mutex_);
    sessions = sessions_;
  }
  for (const auto& weak : sessions) {
    const std::shared_ptr<Session> one = weak.lock();
    const auto owner = one != nullptr ? one->OwnerOf(call) : nullptr;
    if (owner != nullptr) return owner->SendAgain(session, call);
  }
  session->AnswerResend(call, ResendOutcome::kGone);
}

void ChannelCore::Failed(const absl::Status& status, bool may_pass) {
  connect_failures_.fetch_add(1, std::memory_order_relaxed);
  std::vector<std::shared_ptr<Pending>> given_up;
  bool retry = false;
  {
    MutexLock lock(&mutex_);
    for (auto it = pending_.begin(); it != pending_.end();) {
      if (may_pass && (*it)->request.wait_for_ready && !(*it)->request.owner.expired()) {
        ++it;
        continue;
      }
      if ((*it)->timer != 0) poller_->CancelTimer((*it)->timer);
      given_up.push_back(std::move(*it));
      it = pending_.erase(it);
    }
    retry = !pending_.empty();
    if (!retry) connecting_ = false;
  }
  if (retry) {
    attempt_deadline_ = MonotonicTime::Now() + (backoff_ + options_.connect_timeout);
    RetryLater();
  }
  for (auto& p : given_up) p->done(status, /*made=*/false);
}

}  // namespace internal

// --- FdChannel ---

absl::StatusOr<std::shared_ptr<FdChannel>> FdChannel::Create(const std::string& target,
                                                             const FdChannelOptions& options) {
  auto address = internal::SocketAddress::ParseTarget(target);
  if (!address.ok()) return address.status();
  auto core = internal::ChannelCore::Create(*address, options);
  if (!core.ok()) return core.status();
  return std::shared_ptr<FdChannel>(new FdChannel(*std::move(core)));
}

FdChannel::~FdChannel() = default;

std::string FdChannel::target() const { return core_->name(); }

absl::StatusOr<SessionFd> FdChannel::Register(BorrowedFd fd, Deadline deadline) {
  return core_->registry().Register(fd, deadline.time());
}

uint64_t FdChannel::session_id() const { return core_->session_id(); }

FdChannelStats FdChannel::Stats() const { return core_->stats(); }

}  // namespace grpcfd
