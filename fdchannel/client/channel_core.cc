// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/client/channel_core.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
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
// It has none for "the backlog has room again" either: connect(2) just says EAGAIN. The server is
// there, so this interval does not grow: in a storm of connects room is taken again at once, and a
// client that asks seldom would never find any.
constexpr absl::Duration kBacklogInterval = absl::Milliseconds(5);

bool IsSessionSocket(const UniqueFd& fd) {
  int domain = 0, type = 0;
  socklen_t size = sizeof(int);
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
         ::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0 && domain == AF_UNIX &&
         type == SOCK_SEQPACKET;
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
  bool connected_before = false;
  {
    MutexLock lock(&mutex_);
    pending.swap(pending_);
    connected_before = poller_ != nullptr;
  }
  if (connected_before) EndAttempt();
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
  MutexLock lock(&mutex_);
  if (session_ != nullptr) stats.fds_held_now = session_->held();
  return stats;
}

std::shared_ptr<Session> ChannelCore::LivingSession() const {
  std::shared_ptr<Session> session;
  {
    MutexLock lock(&mutex_);
    session = session_;
  }
  return session != nullptr && session->alive() ? session : nullptr;
}

absl::Status ChannelCore::EnsureThreads() {
  if (poller_ != nullptr) return absl::OkStatus();
  auto poller = Poller::Start("grpcfd-channel");
  if (!poller.ok()) return poller.status();
  poller_ = *std::move(poller);
  reaper_ = std::make_shared<Reaper>();
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
    attempt_deadline_ = absl::Now() + backoff_ + options_.connect_timeout;
    return RetryLater();
  }
  if (first) {
    backoff_ = kFirstBackoff;
  } else if (retry_timer_ == 0) {
    return;  // Under way.
  }
  // A call that came while others wait for the next attempt does not wait with them: it may want to
  // know at once.
  attempt_deadline_ = absl::Now() + options_.connect_timeout;
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
  connect_attempts_.fetch_add(1, std::memory_order_relaxed);
  attempt_ = Attempt();
  if (!address_.has_value()) return ConnectInProcess();
  attempt_.socket = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!attempt_.socket.valid()) {
    return Failed(absl::ResourceExhaustedError(
                      absl::StrCat("no socket to connect to ", name_, " with: ", strerror(errno),
                                   "; raise this process's RLIMIT_NOFILE, or close some")),
                  /*may_pass=*/false);
  }
  TakeOutOfBandInline(attempt_.socket);
  sockaddr_un address;
  const socklen_t length = address_->ToSockaddr(&address);
  int result;
  do {
    result = ::connect(attempt_.socket.get(), reinterpret_cast<const sockaddr*>(&address), length);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    const int error = errno;
    if (error == EAGAIN && absl::Now() + kBacklogInterval < attempt_deadline_) {
      return RetryIn(kBacklogInterval);
    }
    return Failed(
        absl::UnavailableError(absl::StrCat("cannot connect to ", name_, ": ", strerror(error))),
        /*may_pass=*/true);
  }

  EncodeHello(OwnHello(), &attempt_.hello);
  if (!SendHello()) return;
  MutexLock lock(&mutex_);
  auto id = poller_->Add(attempt_.socket, AttemptEvents(), [weak = weak_from_this()](uint32_t) {
    if (auto self = weak.lock()) self->OnAttemptEvent();
  });
  if (!id.ok()) {
    lock.Unlock();
    // The status is replaced: the caller did nothing wrong, and a socket can be watched.
    Failed(absl::ResourceExhaustedError(id.status().message()), /*may_pass=*/false);
    lock.Lock();
    return;
  }
  attempt_.registration = *id;
  attempt_.timer = poller_->RunAt(attempt_deadline_, [weak = weak_from_this()] {
    if (auto self = weak.lock()) {
      self->attempt_.timer = 0;
      self->Failed(absl::UnavailableError(
                       absl::StrCat(self->name_, " did not answer the hello within ",
                                    absl::FormatDuration(self->options_.connect_timeout))),
                   /*may_pass=*/true);
    }
  });
}

Hello ChannelCore::OwnHello() const {
  Hello hello;
  hello.token = token_;
  hello.limits = OwnLimits();
  return hello;
}

void ChannelCore::ConnectInProcess() {
  const auto server = in_process_.lock();
  if (server == nullptr) {
    return Failed(absl::UnavailableError("the FdServer of the in-process channel is gone"),
                  /*may_pass=*/false);
  }
  std::shared_ptr<Poller> poller;
  {
    MutexLock lock(&mutex_);
    poller = poller_;
  }
  const absl::Status asked = server->AnswerInProcess(
      OwnHello(), [weak = weak_from_this(), poller](const HelloReply& reply, UniqueFd client_end) {
        auto socket = std::make_shared<UniqueFd>(std::move(client_end));
        poller->Post([weak, reply, socket] {
          auto self = weak.lock();
          if (self == nullptr) return;
          if (socket->valid()) self->attempt_.fds.push_back(std::move(*socket));
          self->Decide(reply);
        });
      });
  if (!asked.ok()) Failed(asked, /*may_pass=*/false);
}

uint32_t ChannelCore::AttemptEvents() const {
  const bool unsent = attempt_.sent < attempt_.hello.size();
  return EPOLLIN | EPOLLRDHUP | (unsent ? static_cast<uint32_t>(EPOLLOUT) : 0u);
}

bool ChannelCore::SendHello() {
  while (attempt_.sent < attempt_.hello.size()) {
    const IoResult sent = SendMessage(
        attempt_.socket, absl::MakeConstSpan(attempt_.hello).subspan(attempt_.sent), {});
    if (sent.would_block()) return true;
    if (!sent.ok()) {
      Failed(absl::UnavailableError(
                 absl::StrCat("cannot send a hello to ", name_, ": ", strerror(sent.error))),
             /*may_pass=*/true);
      return false;
    }
    attempt_.sent += sent.bytes;
  }
  return true;
}

void ChannelCore::OnAttemptEvent() {
  if (!attempt_.socket.valid()) return;
  if (attempt_.sent < attempt_.hello.size()) {
    if (!SendHello()) return;
    MutexLock lock(&mutex_);
    poller_->Modify(attempt_.registration, AttemptEvents());
  }
  OnReply();
}

void ChannelCore::OnReply() {
  ReceivedMessage message;
  const IoResult io = ReceiveMessage(attempt_.socket, attempt_.reply.data() + attempt_.received,
                                     attempt_.reply.size() - attempt_.received, &message);
  for (UniqueFd& fd : message.fds) attempt_.fds.push_back(std::move(fd));
  if (!io.ok()) {
    if (io.would_block()) return;
    return Failed(
        absl::UnavailableError(absl::StrCat(name_, " broke the hello off: ", strerror(io.error))),
        /*may_pass=*/true);
  }
  // Not later: a server could send 253 with each byte.
  if (attempt_.fds.size() > 1) {
    return Failed(
        absl::InternalError(absl::StrCat(name_, " answered the hello with ", attempt_.fds.size(),
                                         " descriptors instead of one")),
        /*may_pass=*/false);
  }
  if (message.control_truncated) {
    return Failed(absl::ResourceExhaustedError(
                      absl::StrCat("the socket of the session with ", name_,
                                   " could not be received: this process is at its RLIMIT_NOFILE; "
                                   "raise it, or close some descriptors")),
                  /*may_pass=*/false);
  }
  if (message.size == 0) {
    return Failed(
        absl::UnavailableError(absl::StrCat(
            name_,
            " closed the connection during the hello: it is shutting down, or no grpcfd server")),
        /*may_pass=*/true);
  }
  attempt_.received += message.size;
  const size_t compared = std::min(attempt_.received, kMagicSize);
  if (memcmp(attempt_.reply.data(), kHelloReplyMagic, compared) != 0) {
    return Failed(
        absl::FailedPreconditionError(absl::StrCat(
            "the server at ", name_,
            " is not a grpcfd server (grpcfd::AddListeningPort): it answers a hello with \"",
            absl::CEscape(std::string(attempt_.reply.data(), compared)), "\"")),
        /*may_pass=*/false);
  }
  if (attempt_.received < attempt_.reply.size()) return;

  auto reply = DecodeHelloReply(attempt_.reply);
  if (!reply.ok()) {
    return Failed(
        absl::Status(reply.status().code(), absl::StrCat(name_, ": ", reply.status().message())),
        /*may_pass=*/false);
  }
  Decide(*reply);
}

void ChannelCore::Decide(const HelloReply& reply) {
  if (reply.status != HelloStatus::kOk) {
    // The server may not have noticed yet that the last session of this token is gone.
    if (reply.status == HelloStatus::kTokenInUse && absl::Now() + backoff_ < attempt_deadline_) {
      EndAttempt();
      return RetryLater();
    }
    const absl::Status refused = HelloStatusToStatus(reply);
    const absl::Status status(refused.code(), absl::StrCat(name_, ": ", refused.message()));
    return Failed(status, /*may_pass=*/absl::IsUnavailable(status));
  }
  // Anything else would be taken for a session that cannot be used and never ends.
  if (attempt_.fds.empty() || !IsSessionSocket(attempt_.fds[0])) {
    return Failed(absl::InternalError(
                      absl::StrCat(name_, " answered the hello ",
                                   attempt_.fds.empty() ? "without" : "with something else than",
                                   " the session's SOCK_SEQPACKET unix socket")),
                  /*may_pass=*/false);
  }
  if (reply.version < kMinVersion || reply.version > kMaxVersion) {
    return Failed(absl::InternalError(absl::StrCat(name_, " chose protocol version ", reply.version,
                                                   ", which was not offered")),
                  /*may_pass=*/false);
  }
  PeerCredentials server;
  const absl::Status authorized = AuthorizeServer(&server);
  if (!authorized.ok()) return Failed(authorized, /*may_pass=*/false);
  UniqueFd socket = std::move(attempt_.fds[0]);
  attempt_.fds.clear();
  EndAttempt();
  Established(reply, std::move(socket), std::move(server));
}

absl::Status ChannelCore::AuthorizeServer(PeerCredentials* server) const {
  // It costs a descriptor, so only if the program asks.
  if (!options_.authorize_session && !options_.on_session && !options_.on_session_end) {
    return absl::OkStatus();
  }
  auto credentials = address_.has_value() ? GetPeerCredentials(attempt_.socket, PidfdMode::kWanted)
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

void ChannelCore::EndAttempt() {
  MutexLock lock(&mutex_);
  if (attempt_.registration != 0) poller_->Remove(attempt_.registration);
  if (attempt_.timer != 0) poller_->CancelTimer(attempt_.timer);
  const std::shared_ptr<Reaper> reaper = reaper_;
  lock.Unlock();
  // What a server should not have sent, read or not: closing it may block.
  if (attempt_.socket.valid()) attempt_.fds.push_back(std::move(attempt_.socket));
  if (!attempt_.fds.empty()) reaper->Close(std::move(attempt_.fds), /*after=*/nullptr);
  attempt_ = Attempt();
  lock.Lock();
}

void ChannelCore::RetryLater() {
  RetryIn(backoff_);
  backoff_ = std::min(backoff_ * 2, kMaxBackoff);
}

void ChannelCore::RetryIn(absl::Duration wait) {
  const absl::Time when = absl::Now() + wait;
  MutexLock lock(&mutex_);
  retry_timer_ = poller_->RunAt(when, [weak = weak_from_this()] {
    if (auto self = weak.lock()) {
      self->retry_timer_ = 0;
      self->Connect();
    }
  });
}

void ChannelCore::Established(const HelloReply& reply, UniqueFd socket, PeerCredentials server) {
  Session::Config config;
  {
    MutexLock lock(&mutex_);
    config.role = Session::Role::kClient;
    config.id = reply.session_id;
    config.token = token_;
    config.local = OwnLimits();
    config.remote = SendLimits(reply.limits, config.local);
    config.counters = session_counters_->Open();
    config.in_flight = in_flight_;
    config.look = LookFor(options_.receive_policy);
    config.policy = policy_;
    config.peer = name_;
    config.poller = poller_;
    config.reaper = reaper_;
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
  registry_->Attach(session, attempt_deadline_,
                    [weak = weak_from_this(), session](const absl::Status& status) {
                      auto self = weak.lock();
                      if (self == nullptr) return;
                      if (status.ok()) return self->Publish(session);
                      self->Failed(status, /*may_pass=*/true);
                    });
}

void ChannelCore::Publish(const std::shared_ptr<Session>& session) {
  std::list<std::shared_ptr<Pending>> pending;
  std::shared_ptr<Session> last;  // Dropped after the lock.
  {
    MutexLock lock(&mutex_);
    last = std::exchange(session_, session);
    connecting_ = false;
    pending.swap(pending_);
    for (auto& p : pending) {
      if (p->timer != 0) poller_->CancelTimer(p->timer);
    }
  }
  for (auto& p : pending) p->done(session, /*made=*/true);
}

void ChannelCore::Failed(const absl::Status& status, bool may_pass) {
  connect_failures_.fetch_add(1, std::memory_order_relaxed);
  EndAttempt();
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
    attempt_deadline_ = absl::Now() + backoff_ + options_.connect_timeout;
    RetryLater();
  }
  for (auto& p : given_up) p->done(status, /*made=*/false);
}

}  // namespace internal

// --- FdChannel ---

absl::StatusOr<std::shared_ptr<FdChannel>> FdChannel::Create(const std::string& target,
                                                             const FdChannelOptions& options) {
  auto address = internal::SocketAddress::Parse(target);
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
