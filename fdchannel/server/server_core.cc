// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/server/server_core.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/own_credentials.h"
#include "fdchannel/os/user_function.h"
#include "fdchannel/server/connection_table.h"

namespace grpcfd {
namespace internal {
namespace {

// How long what a dead session holds waits for calls: long enough for a call that is already in
// gRPC's socket; no other can come. The dead sessions of a user may hold a quarter of what the user
// may; beyond that the oldest go at once, but not the one that died last.
constexpr absl::Duration kLinger = absl::Milliseconds(500);

// How often sessions are looked at whose gRPC connection may have ended. gRPC says nothing of it,
// and each look is a system call.
constexpr absl::Duration kUpkeepInterval = absl::Seconds(10);

std::shared_ptr<const FdServerOptions> GuardedOptions(const FdServerOptions& options) {
  auto guarded = std::make_shared<FdServerOptions>(WithGuardedFunctions(options));
  guarded->authorize_call = Guarded(std::move(guarded->authorize_call), "authorize_call");
  return guarded;
}

// Unique beyond this process: not by luck, by 64 random bits.
absl::StatusOr<uint64_t> MintSessionId() {
  for (;;) {
    auto bits = Token::Mint();
    if (!bits.ok()) return bits.status();
    uint64_t id;
    memcpy(&id, bits->bytes().data(), sizeof(id));
    if (id != 0) return id;  // Zero means no session.
  }
}

std::string PeerName(const PeerCredentials& credentials) {
  return absl::StrCat("pid ", credentials.pid, ", uid ", credentials.uid);
}

// Who waits for a call to land: told of the session or of the time-out, whichever is first.
struct Landing {
  Mutex mutex;
  ServerCore::EntryCallback done ABSL_GUARDED_BY(mutex);
  std::shared_ptr<Session> asked ABSL_GUARDED_BY(mutex);

  // Whom to call, once.
  ServerCore::EntryCallback Take(std::shared_ptr<Session>* session) {
    MutexLock lock(&mutex);
    *session = std::move(asked);
    return std::exchange(done, nullptr);
  }
  void Finish(absl::StatusOr<ServerCore::Entry> entry) {
    std::shared_ptr<Session> session;
    if (const ServerCore::EntryCallback callback = Take(&session)) callback(std::move(entry));
  }
};

}  // namespace

absl::StatusOr<std::shared_ptr<ServerCore>> ServerCore::Create(const FdServerOptions& options) {
  rlimit nofile{};
  if (::getrlimit(RLIMIT_NOFILE, &nofile) != 0) return absl::ErrnoToStatus(errno, "getrlimit");
  auto limits = ResolveLimits(options.limits, nofile.rlim_cur);
  if (!limits.ok()) return limits.status();
  for (const auto& [method, policy] : options.method_policies) {
    const size_t slash = method.rfind('/');
    if (method.empty() || method[0] != '/' || slash < 2 || slash + 1 == method.size()) {
      return absl::InvalidArgumentError(absl::StrCat("method_policies names the method \"",
                                                     absl::CEscape(method),
                                                     "\"; the form is /package.Service/Method"));
    }
  }
  return std::shared_ptr<ServerCore>(new ServerCore(options, *limits, nofile.rlim_cur));
}

ServerCore::ServerCore(const FdServerOptions& options, const ServerLimits& limits, uint64_t nofile)
    : limits_(limits),
      options_(GuardedOptions(options)),
      ledger_(std::make_shared<QuotaLedger>(limits, nofile)),
      in_flight_(std::make_shared<InFlightBudget>(
          limits.max_fds_in_flight, InFlightBudget::Shares::kFair, limits.max_sessions)),
      handed_on_(limits.max_connections_per_uid) {
  const auto keep = [this](const ReceivePolicy& policy) -> std::shared_ptr<const ReceivePolicy> {
    if (policy.accepts_all()) return nullptr;
    look_ |= LookFor(policy);
    return std::make_shared<ReceivePolicy>(policy);
  };
  policy_ = keep(options.receive_policy);
  for (const auto& [method, policy] : options.method_policies) {
    method_policies_[method] = keep(policy);
  }
}

std::shared_ptr<const ReceivePolicy> ServerCore::PolicyFor(absl::string_view method) const {
  if (method_policies_.empty()) return policy_;
  const auto it = method_policies_.find(method);
  return it != method_policies_.end() ? it->second : policy_;
}

ServerCore::~ServerCore() { ShutDown(); }

absl::StatusOr<std::shared_ptr<Poller>> ServerCore::StartPoller() {
  MutexLock lock(&mutex_);
  if (poller_ == nullptr) {
    auto poller = Poller::Start("grpcfd-server");
    if (!poller.ok()) return poller.status();
    poller_ = *std::move(poller);
    reaper_ = std::make_shared<Reaper>();
  }
  return poller_;
}

void ServerCore::CloseLater(uid_t uid, FdVector fds) {
  std::shared_ptr<Reaper> reaper;
  {
    MutexLock lock(&mutex_);
    reaper = reaper_;
  }
  reaper->Lane(uid)->Close(std::move(fds), /*after=*/nullptr);
}

void ServerCore::CloseClientLater(UniqueFd connection, FdVector fds) {
  const auto credentials = GetPeerCredentials(connection, PidfdMode::kNone);
  fds.push_back(std::move(connection));
  CloseLater(credentials.ok() ? credentials->uid : Reaper::kNoUser, std::move(fds));
}

void ServerCore::ShutDown() {
  absl::flat_hash_map<uint64_t, Entry> sessions;
  std::vector<std::shared_ptr<Waiting>> waiting;
  const absl::Status down = absl::UnavailableError("the server was shut down");
  {
    MutexLock lock(&mutex_);
    shut_down_ = true;
    sessions.swap(sessions_);
    for (auto& [owner, all] : waiting_) {
      for (auto& one : all) {
        poller_->CancelTimer(one->timer);
        waiting.push_back(std::move(one));
      }
    }
    waiting_.clear();
    ids_.clear();
    dead_.clear();
  }
  for (auto& [id, entry] : sessions) entry.session->Kill(CloseCode::kShutdown, down);
  for (const auto& one : waiting) one->done(down);
}

size_t ServerCore::session_count() const {
  // Dead ones stay for a while if calls may still come for what they hold.
  MutexLock lock(&mutex_);
  return static_cast<size_t>(
      std::count_if(sessions_.begin(), sessions_.end(),
                    [](const auto& entry) { return entry.second.session->alive(); }));
}

FdServerStats ServerCore::stats() const {
  FdServerStats stats;
  const CounterValues values = session_counters_->Values();
  stats.sessions = ToSessionStats(values);
  FillSessionEnds(values, &stats);
  stats.sessions_now = session_count();
  stats.fds_held_now = ledger_->held_total() + ledger_->closing_total();
  stats.fds_in_flight_now = in_flight_->Look();
  stats.in_band = ToInBandStats(*in_band_counters_);
  stats.calls_ignored = ignored_calls_.load(std::memory_order_relaxed);
  FillListenerStats(listener_counters_, &stats);
  return stats;
}

absl::StatusOr<std::shared_ptr<Session>> ServerCore::FindSession(const Token& token,
                                                                 uint64_t session_id) const {
  auto entry = FindEntry(token, session_id);
  if (!entry.ok()) return entry.status();
  return std::move(entry->session);
}

absl::StatusOr<ServerCore::Entry> ServerCore::FindEntry(const Token& token,
                                                        uint64_t session_id) const {
  {
    MutexLock lock(&mutex_);
    auto it = sessions_.find(session_id);
    if (it != sessions_.end() && it->second.session->token() == token) return it->second;
  }
  return absl::UnavailableError(absl::StrCat(
      "the call names session ", session_id,
      ", which is gone, and its descriptors with it (the client lost the session, or this "
      "server was restarted): a new call gets a new session"));
}

void ServerCore::AwaitEntry(const Token& token, const ConnectionId& id, absl::Duration timeout,
                            EntryCallback done) {
  const Owner owner(token, id);
  absl::StatusOr<Entry> now = absl::UnavailableError("the server was shut down");
  {
    MutexLock lock(&mutex_);
    const auto it = ids_.find(owner);
    if (it != ids_.end() && sessions_[it->second].session->alive()) {
      now = sessions_[it->second];
    } else if (!shut_down_ && poller_ != nullptr) {
      auto waiting = std::make_shared<Waiting>();
      waiting->owner = owner;
      waiting->done = std::move(done);
      waiting->timer = poller_->RunAfter(
          timeout, [weak = weak_from_this(), late = std::weak_ptr<Waiting>(waiting)] {
            auto self = weak.lock();
            auto expired = late.lock();
            if (self == nullptr || expired == nullptr) return;
            {
              MutexLock inner(&self->mutex_);
              const auto found = self->waiting_.find(expired->owner);
              if (found == self->waiting_.end()) return;
              auto& all = found->second;
              all.erase(std::remove(all.begin(), all.end(), expired), all.end());
              if (all.empty()) self->waiting_.erase(found);
            }
            expired->done(absl::UnavailableError(
                "the call's descriptors went to another process, and the client opened no session "
                "for the connection that the call came by: a new call brings them anew"));
          });
      waiting_[owner].push_back(std::move(waiting));
      return;
    }
  }
  done(std::move(now));
}

void ServerCore::Land(const Token& token, const ConnectionId& id, const std::optional<Entry>& known,
                      const CallKey& call, absl::Duration timeout, EntryCallback done) {
  auto landing = std::make_shared<Landing>();
  std::shared_ptr<Poller> poller;
  {
    MutexLock lock(&mutex_);
    poller = poller_;
  }
  if (poller == nullptr) return done(absl::UnavailableError("the server does not listen"));
  {
    MutexLock lock(&landing->mutex);
    landing->done = std::move(done);
  }
  const Poller::Id timer = poller->RunAfter(timeout, [landing, call] {
    std::shared_ptr<Session> session;
    const EntryCallback late = landing->Take(&session);
    if (session != nullptr) session->GiveUpResend(call);
    if (!late) return;
    late(absl::UnavailableError(
        "the call's descriptors went to another process, and the client did not send them again in "
        "time: a new call brings them anew"));
  });
  EntryCallback ask = [landing, poller, timer, call](absl::StatusOr<Entry> entry) {
    if (!entry.ok()) {
      poller->CancelTimer(timer);
      return landing->Finish(entry.status());
    }
    const std::shared_ptr<Session> session = entry->session;
    {
      MutexLock lock(&landing->mutex);
      if (!landing->done) return;  // Too late.
      landing->asked = session;
    }
    session->AskToResend(
        call, [landing, poller, timer, entry = *std::move(entry)](const absl::Status& status) {
          poller->CancelTimer(timer);
          landing->Finish(status.ok() ? absl::StatusOr<Entry>(entry) : status);
        });
  };
  if (known.has_value()) return ask(*known);
  AwaitEntry(token, id, timeout, std::move(ask));
}

void ServerCore::Announce(const Owner& owner, const Entry& entry) {
  std::vector<std::shared_ptr<Waiting>> called;
  {
    MutexLock lock(&mutex_);
    const auto found = waiting_.find(owner);
    if (found == waiting_.end()) return;
    called.swap(found->second);
    waiting_.erase(found);
    for (const auto& one : called) poller_->CancelTimer(one->timer);
  }
  for (const auto& one : called) one->done(entry);
}

absl::Status ServerCore::AnswerInProcess(const Hello& hello, InProcessCallback done) {
  auto poller = StartPoller();
  if (!poller.ok()) return poller.status();
  // There, because the program's functions are promised that thread.
  (*poller)->Post([self = shared_from_this(), hello, done = std::move(done)] {
    HelloReply reply;
    UniqueFd client_end;
    auto own = GetOwnCredentials();
    if (own.ok()) {
      reply = self->OpenSession(hello, *std::move(own), &client_end);
    } else {
      reply.status = HelloStatus::kOutOfDescriptors;
    }
    Count(&self->listener_counters_.hellos[static_cast<size_t>(reply.status)]);
    done(reply, std::move(client_end));
  });
  return absl::OkStatus();
}

HelloStatus ServerCore::Admit(const Hello& hello, const PeerCredentials& credentials) {
  std::shared_ptr<Session> former;
  {
    MutexLock lock(&mutex_);
    if (shut_down_) return HelloStatus::kShuttingDown;
    auto it = ids_.find(Owner(hello.token, hello.connection));
    if (it != ids_.end()) former = sessions_[it->second].session;
  }
  // The client says a hello as soon as it knows of a connection, so it may come before that is
  // accepted; then it says it again. Where only another process has the name, the client's
  // connection is not.
  if (!hello.connection.zero() &&
      !ConnectionTable::Process().HasOf(credentials, hello.connection, this)) {
    return HelloStatus::kElsewhere;
  }
  if (former != nullptr) {
    // Its hang-up may be in the socket, unread.
    former->Sweep();
    if (former->alive()) return HelloStatus::kTokenInUse;
    RemoveSession(former->id());
  }
  const SessionAuthorizer& authorize = options_->authorize_session;
  return authorize && !authorize(credentials).ok() ? HelloStatus::kRefused : HelloStatus::kOk;
}

Session::Config ServerCore::ConfigFor(const Hello& hello, const PeerCredentials& credentials,
                                      std::shared_ptr<DescriptorQuota> quota) const {
  Session::Config config;
  config.role = Session::Role::kServer;
  config.token = hello.token;
  config.local.max_fds_per_call = limits_.session.max_fds_per_call;
  config.local.window = limits_.session.session_window;
  config.local.max_session_fds = limits_.session.max_session_fds;
  config.remote = SendLimits(hello.limits, config.local);
  config.early_timeout = limits_.early_timeout;
  config.look = look_;
  config.policy = policy_;
  config.peer = PeerName(credentials);
  config.quota = std::move(quota);
  config.room = ledger_->RoomOf(credentials.uid);
  config.counters = session_counters_->Open();
  config.in_flight = in_flight_;
  config.uid = credentials.uid;
  return config;
}

HelloReply ServerCore::OpenSession(const Hello& hello, PeerCredentials credentials,
                                   UniqueFd* client_end) {
  HelloReply reply;
  const auto refuse = [&reply](HelloStatus status) {
    reply.status = status;
    return reply;
  };
  reply.version = NegotiateVersion(hello.min_version, hello.max_version);
  if (reply.version == 0) {
    reply.version = kMaxVersion;
    return refuse(HelloStatus::kUnsupportedVersion);
  }
  const HelloStatus admitted = Admit(hello, credentials);
  if (admitted != HelloStatus::kOk) return refuse(admitted);
  auto quota = ledger_->OpenSession(credentials.uid);
  if (!quota.ok()) {
    EndOrphans();
    quota = ledger_->OpenSession(credentials.uid);
  }
  if (!quota.ok()) return refuse(HelloStatus::kTooManySessions);
  auto sockets = MakeSessionSockets();
  if (!sockets.ok()) return refuse(HelloStatus::kOutOfDescriptors);
  auto id = MintSessionId();
  if (!id.ok()) return refuse(HelloStatus::kOutOfDescriptors);
  Session::Config config = ConfigFor(hello, credentials, *std::move(quota));
  config.id = *id;
  config.version = reply.version;
  const Owner owner(hello.token, hello.connection);
  std::shared_ptr<SessionHandle> handle;
  {
    MutexLock lock(&mutex_);
    if (shut_down_) return refuse(HelloStatus::kShuttingDown);  // Meanwhile.
    handle = AddSession(owner, std::make_unique<SeqpacketSocket>(std::move(sockets->first)),
                        std::move(config), std::move(credentials), &reply);
  }
  *client_end = std::move(sockets->second);
  if (options_->on_session) options_->on_session(handle);
  // Calls that came before it.
  if (!hello.connection.zero()) {
    auto entry = FindEntry(hello.token, reply.session_id);
    if (entry.ok()) Announce(owner, *entry);
  }
  return reply;
}

std::shared_ptr<SessionHandle> ServerCore::AddSession(const Owner& owner,
                                                      std::unique_ptr<FrameSocket> socket,
                                                      Session::Config config,
                                                      PeerCredentials credentials,
                                                      HelloReply* reply) {
  config.poller = poller_;
  config.reaper = reaper_->Lane(config.uid);
  reply->session_id = config.id;
  reply->limits = config.local;
  const uint64_t id = config.id;
  auto handle = std::make_shared<SessionHandle>(id, std::move(credentials),
                                                std::make_shared<ScopedIndices>());
  auto session = Session::Create(std::move(socket), std::move(config),
                                 [weak = weak_from_this(), options = options_, handle, id] {
                                   if (auto self = weak.lock()) self->OnSessionDead(id);
                                   if (options->on_session_end) options->on_session_end(handle);
                                 });
  handle->Bind(session);
  sessions_[id] = Entry{std::move(session), handle, owner.second};
  ids_[owner] = id;
  ScheduleUpkeep();
  return handle;
}

void ServerCore::OnSessionDead(uint64_t session_id) {
  std::vector<Entry> removed;  // Outlives the lock.
  std::shared_ptr<Poller> poller;
  {
    MutexLock lock(&mutex_);
    auto it = sessions_.find(session_id);
    if (it == sessions_.end()) return;
    // A client may send descriptors, start the call and exit. The call comes by another socket; it
    // finds them for a moment.
    const uint64_t held = it->second.session->held();
    if (held == 0) {
      removed.push_back(Take(session_id));
      return;
    }
    poller = poller_;
    // Not at the expense of living sessions: what a user's dead ones hold counts as the user's.
    DeadOfUser& dead = dead_[it->second.handle->peer().uid];
    dead.sessions.push_back(Dead{session_id, held});
    dead.held += held;
    while (dead.held > ledger_->most_per_uid() / 4 && dead.sessions.size() > 1) {
      const Dead oldest = dead.sessions.front();
      dead.sessions.pop_front();
      dead.held -= oldest.held;
      removed.push_back(Take(oldest.session_id));
    }
  }
  poller->RunAfter(std::min(limits_.early_timeout, kLinger), [weak = weak_from_this(), session_id] {
    if (auto self = weak.lock()) self->RemoveSession(session_id);
  });
}

void ServerCore::RemoveSession(uint64_t session_id) {
  Entry removed;  // Outlives the lock.
  MutexLock lock(&mutex_);
  removed = Take(session_id);
}

void ServerCore::EndOrphans() {
  std::vector<Entry> named;
  {
    MutexLock lock(&mutex_);
    for (const auto& [id, entry] : sessions_) {
      if (!entry.connection.zero()) named.push_back(entry);
    }
  }
  for (const Entry& entry : named) {
    if (ConnectionTable::Process().Has(entry.connection, this)) continue;
    // What the client sent by it before may be for a call that has landed already.
    entry.session->Sweep();
    if (entry.session->has_calls()) continue;
    entry.session->Kill(CloseCode::kConnectionEnded,
                        absl::UnavailableError("its gRPC connection has ended"));
    RemoveSession(entry.session->id());
  }
}

void ServerCore::ScheduleUpkeep() {
  if (upkeep_due_) return;
  upkeep_due_ = std::any_of(sessions_.begin(), sessions_.end(),
                            [](const auto& entry) { return !entry.second.connection.zero(); });
  if (!upkeep_due_) return;
  poller_->RunAfter(kUpkeepInterval, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (self == nullptr) return;
    self->EndOrphans();
    MutexLock lock(&self->mutex_);
    self->upkeep_due_ = false;
    self->ScheduleUpkeep();
  });
}

size_t ServerCore::CountWithoutSession() const {
  const std::vector<ConnectionId> names = ConnectionTable::Process().NamesOf(this);
  absl::flat_hash_set<ConnectionId> have;
  MutexLock lock(&mutex_);
  for (const auto& [id, entry] : sessions_) have.insert(entry.connection);
  return static_cast<size_t>(std::count_if(
      names.begin(), names.end(), [&have](const ConnectionId& id) { return !have.contains(id); }));
}

ServerCore::Entry ServerCore::Take(uint64_t session_id) {
  auto it = sessions_.find(session_id);
  if (it == sessions_.end()) return Entry();
  Entry taken = std::move(it->second);
  sessions_.erase(it);
  const auto id = ids_.find(Owner(taken.session->token(), taken.connection));
  if (id != ids_.end() && id->second == session_id) ids_.erase(id);
  const auto dead = dead_.find(taken.handle->peer().uid);
  if (dead == dead_.end()) return taken;
  std::deque<Dead>& sessions = dead->second.sessions;
  // The oldest, as a rule.
  const auto one = std::find_if(sessions.begin(), sessions.end(),
                                [session_id](const Dead& d) { return d.session_id == session_id; });
  if (one == sessions.end()) return taken;
  dead->second.held -= one->held;
  sessions.erase(one);
  if (sessions.empty()) dead_.erase(dead);
  return taken;
}

}  // namespace internal

// --- FdServer ---

absl::StatusOr<std::shared_ptr<FdServer>> FdServer::Create(const FdServerOptions& options) {
  auto core = internal::ServerCore::Create(options);
  if (!core.ok()) return core.status();
  return std::shared_ptr<FdServer>(new FdServer(*std::move(core)));
}

FdServer::~FdServer() { core_->ShutDown(); }

FdServerStats FdServer::Stats() const { return core_->stats(); }

size_t FdServer::session_count() const { return core_->session_count(); }

size_t FdServer::held_fds() const { return core_->ledger()->held_total(); }

}  // namespace grpcfd
