// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/server/listener.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <future>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/server/connection_table.h"

namespace grpcfd {
namespace internal {
namespace {

// Connections accepted before others get their turn.
constexpr int kAcceptBatch = 16;
// After accept(2) failed for want of descriptors.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(200);

// What a relayed connection takes: its socket, the pair that joins it to gRPC, and a pidfd.
constexpr uint32_t kFdsOfRelayed = 4;

}  // namespace

absl::StatusOr<std::shared_ptr<Listener>> Listener::Create(std::shared_ptr<ServerCore> core,
                                                           BoundSocket socket, const Wires& wires,
                                                           ConnectionHandler handler) {
  auto poller = core->StartPoller();
  if (!poller.ok()) return poller.status();
  auto listener = std::shared_ptr<Listener>(new Listener(
      std::move(core), *std::move(poller), std::move(socket), wires, std::move(handler)));
  listener->reserve_.Reset(::eventfd(0, EFD_CLOEXEC));  // If there is none now, then later.
  return listener;
}

Listener::~Listener() {
  // Start() keeps a reference with the poller until StopOnPoller(); a listener that never started
  // has nothing there.
}

Listener::Listener(std::shared_ptr<ServerCore> core, std::shared_ptr<Poller> poller,
                   BoundSocket socket, const Wires& wires, ConnectionHandler handler)
    : core_(std::move(core)),
      poller_(std::move(poller)),
      wires_(wires),
      handler_(std::move(handler)),
      watch_(AcceptWatch::Create(poller_, kAcceptPause)),
      socket_(std::move(socket)) {}

absl::Status Listener::Start() {
  MutexLock lock(&mutex_);
  if (state_ == State::kStopped) return absl::FailedPreconditionError("the listener was stopped");
  watch_->Start(socket_.fd(),
                [self = shared_from_this()](uint32_t events) { self->Accept(events); });
  return absl::OkStatus();
}

void Listener::StopAsync() {
  {
    MutexLock lock(&mutex_);
    if (state_ != State::kOpen) return;
    state_ = State::kDraining;
  }
  poller_->Post([self = shared_from_this()] { self->DrainOnPoller(); });
}

void Listener::Stop() {
  {
    MutexLock lock(&mutex_);
    state_ = State::kStopped;
  }
  poller_->Post([self = shared_from_this()] { self->StopOnPoller(); });
  // Of its own, so that the reference to this is gone by then.
  std::promise<void> done;
  poller_->Post([&done] { done.set_value(); });
  done.get_future().wait();
}

void Listener::DrainOnPoller() {
  {
    MutexLock lock(&mutex_);
    if (state_ == State::kStopped) return;  // Meanwhile.
  }
  if (!wires_.fdchannel || !socket_.has_file() || core_->CountWithoutSession() == 0) {
    return StopOnPoller();
  }
  socket_.RemoveOwnFile();
  draining_ = true;
  drain_timer_ = poller_->RunAfter(core_->limits().hello_timeout, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (self == nullptr) return;
    self->drain_timer_ = 0;
    self->StopOnPoller();
  });
}

void Listener::StopOnceDrained() {
  if (!draining_ || core_->CountWithoutSession() != 0) return;
  // Not from here: a half-open connection of this listener may be in use.
  poller_->Post([self = shared_from_this()] { self->StopOnPoller(); });
}

void Listener::StopOnPoller() {
  {
    MutexLock lock(&mutex_);
    state_ = State::kStopped;
  }
  draining_ = false;
  if (drain_timer_ != 0) poller_->CancelTimer(std::exchange(drain_timer_, 0));
  watch_->Stop();
  socket_.Close();
  reserve_.Reset();
  while (!half_open_.empty()) Drop(half_open_.front().get());
}

void Listener::Accept(uint32_t events) {
  // First, before another open takes the number that the reserve gave up.
  if (!reserve_.valid()) reserve_.Reset(::eventfd(0, EFD_CLOEXEC));
  for (int i = 0; i < kAcceptBatch; ++i) {
    {
      MutexLock lock(&mutex_);
      if (state_ == State::kStopped) return;
    }
    UniqueFd connection;
    switch (AcceptConnection(socket_.fd(), &connection)) {
      case Accepted::kConnection:
        exhausted_since_ = MonotonicTime::InfiniteFuture();
        Count(&core_->listener_counters_.accepted);
        Admit(std::move(connection));
        break;
      case Accepted::kNone:
        exhausted_since_ = MonotonicTime::InfiniteFuture();
        // An adopted socket was shut down from outside. Nothing more will come, but epoll(7) would
        // report that for ever.
        if ((events & (EPOLLHUP | EPOLLERR)) != 0) watch_->Stop();
        return;
      case Accepted::kExhausted:
        return OnExhausted();
    }
  }
}

void Listener::OnExhausted() {
  const MonotonicTime now = MonotonicTime::Now();
  exhausted_since_ = std::min(exhausted_since_, now);
  // In a short lack of descriptors clients wait in the backlog, and are served after it. If it
  // lasts longer than a client may take to say what it is, they are told.
  if (now - exhausted_since_ >= core_->limits().hello_timeout) {
    for (int i = 0; i < kAcceptBatch && RejectOne(); ++i) {
    }
  }
  Count(&core_->listener_counters_.accept_pauses);
  watch_->Pause();
}

bool Listener::RejectOne() {
  if (!reserve_.valid()) reserve_.Reset(::eventfd(0, EFD_CLOEXEC));
  if (!reserve_.valid()) return false;
  reserve_.Reset();
  UniqueFd connection;
  if (AcceptConnection(socket_.fd(), &connection) != Accepted::kConnection) {
    reserve_.Reset(::eventfd(0, EFD_CLOEXEC));
    return false;
  }
  Count(&core_->listener_counters_.accept_rejected);
  TakeOutOfBandInline(connection);
  std::array<char, kHelloSize> bytes;
  ReceivedMessage message;
  const IoResult io = ReceiveMessage(connection, bytes.data(), bytes.size(), &message);
  if (io.ok() && message.size == bytes.size() && ClassifyFirstBytes(bytes) == FirstBytes::kHello) {
    HelloReply reply;
    reply.status = HelloStatus::kOutOfDescriptors;
    Count(&core_->listener_counters_.hellos[static_cast<size_t>(reply.status)]);
    std::array<char, kHelloReplySize> answer;
    EncodeHelloReply(reply, &answer);
    (void)SendMessage(connection, answer, {});  // Whole or not at all: it must not wait.
  }
  const auto credentials = GetPeerCredentials(connection, PidfdMode::kNone);
  const uid_t uid = credentials.ok() ? credentials->uid : Reaper::kNoUser;
  // If descriptors may wait in it, its number is free again only a little later, and so this was
  // the only one for now.
  if (!message.fds.empty()) core_->CloseLater(uid, std::move(message.fds));
  CloseConnection(uid, std::move(connection));
  reserve_.Reset(::eventfd(0, EFD_CLOEXEC));
  return reserve_.valid();
}

void Listener::MakeRoomForHalfOpen() {
  if (half_open_.size() < core_->limits().max_half_open) return;
  absl::flat_hash_map<uid_t, size_t> counts;
  for (const auto& half_open : half_open_) ++counts[half_open->credentials.uid];
  const auto most =
      std::max_element(counts.begin(), counts.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto oldest = std::find_if(half_open_.begin(), half_open_.end(), [most](const auto& h) {
    return h->credentials.uid == most->first;
  });
  Count(&core_->listener_counters_.half_open_evicted);
  Drop(oldest->get());
}

void Listener::Admit(UniqueFd connection) {
  TakeOutOfBandInline(connection);
  // A failed look-up means "refuse": a client whose user is not known is not served.
  auto credentials = GetPeerCredentials(connection, PidfdMode::kNone);
  if (!credentials.ok()) {
    Count(&core_->listener_counters_.credentials_failed);
    CloseConnection(Reaper::kNoUser, std::move(connection));
    return;
  }
  MakeRoomForHalfOpen();
  auto half_open = std::make_unique<HalfOpen>();
  half_open->socket = std::move(connection);
  half_open->credentials = *std::move(credentials);
  HalfOpen* const key = half_open.get();
  half_open_.push_back(std::move(half_open));
  Count(&core_->listener_counters_.half_open_now);
  auto id = poller_->Add(key->socket, EPOLLIN | EPOLLRDHUP,
                         [self = shared_from_this(), key](uint32_t) { self->OnBytes(key); });
  if (!id.ok()) {
    Drop(key);
    return;
  }
  key->registration = *id;
  key->timer = poller_->RunAfter(core_->limits().hello_timeout, [weak = weak_from_this(), key] {
    if (auto self = weak.lock()) {
      key->timer = 0;
      Count(&self->core_->listener_counters_.half_open_expired);
      self->Drop(key);
    }
  });
  // Most have written by now. Looked at here, they cannot be crowded out by those that are accepted
  // next.
  OnBytes(key);
}

std::unique_ptr<Listener::HalfOpen> Listener::Detach(HalfOpen* half_open) {
  if (half_open->registration != 0) poller_->Remove(half_open->registration);
  if (half_open->timer != 0) poller_->CancelTimer(half_open->timer);
  const auto it = std::find_if(half_open_.begin(), half_open_.end(),
                               [half_open](const auto& h) { return h.get() == half_open; });
  std::unique_ptr<HalfOpen> detached = std::move(*it);
  half_open_.erase(it);
  core_->listener_counters_.half_open_now.fetch_sub(1, std::memory_order_relaxed);
  return detached;
}

void Listener::Drop(HalfOpen* half_open) {
  const std::unique_ptr<HalfOpen> detached = Detach(half_open);
  CloseConnection(detached->credentials.uid, std::move(detached->socket));
}

void Listener::CloseConnection(uid_t uid, UniqueFd connection) {
  if (socket_.refuses_fds()) return;  // Nothing that could block is in it.
  // The same if all was read, as after each honest hello.
  ::shutdown(connection.get(), SHUT_RDWR);
  if (NothingUnread(connection)) return;
  FdVector closing;
  closing.push_back(std::move(connection));
  core_->CloseLater(uid, std::move(closing));
}

void Listener::OnBytes(HalfOpen* half_open) {
  if (half_open->answering) return SendAnswer(half_open);
  ReceivedMessage message;
  const IoResult io =
      ReceiveMessage(half_open->socket, half_open->bytes.data() + half_open->received,
                     half_open->bytes.size() - half_open->received, &message);
  // Closing descriptors may block, which must not delay others.
  const auto close_fds = [&, uid = half_open->credentials.uid] {
    if (message.fds.empty()) return;
    Count(&core_->listener_counters_.early_fds_closed, message.fds.size());
    core_->CloseLater(uid, std::move(message.fds));
  };
  // They do not belong in a hello, and an honest client does not send them there.
  if (message.control_truncated || (!wires_.in_band && !message.fds.empty())) {
    close_fds();
    Drop(half_open);
    return;
  }
  if (io.would_block()) return;
  if (!io.ok() || message.size == 0) {
    Count(&core_->listener_counters_.half_open_gone);
    close_fds();
    Drop(half_open);
    return;
  }
  half_open->received += message.size;
  const auto bytes = absl::MakeConstSpan(half_open->bytes.data(), half_open->received);
  // Without an fdchannel, the next reader decides what a hello means.
  switch (wires_.fdchannel ? ClassifyFirstBytes(bytes) : FirstBytes::kOther) {
    case FirstBytes::kNeedMore:
      close_fds();  // The beginning of a hello, or of nothing known.
      return;
    case FirstBytes::kHello:
      close_fds();
      if (half_open->received == half_open->bytes.size()) AnswerHello(half_open);
      return;
    case FirstBytes::kOther: {
      if (draining_) {
        close_fds();
        return Drop(half_open);
      }
      if (!core_->handed_on_.Admit(half_open->credentials.uid, half_open->socket,
                                   wires_.in_band ? kFdsOfRelayed : 1)) {
        Count(&core_->listener_counters_.connections_refused);
        close_fds();
        Drop(half_open);
        return;
      }
      auto detached = Detach(half_open);
      Count(&core_->listener_counters_.handed_on);
      ConnectionTable::Process().Add(detached->socket, IdOfPeer(detached->socket), core_.get());
      handler_(std::move(detached->socket), std::string(bytes.data(), bytes.size()),
               std::move(message.fds));
      return;
    }
  }
}

void Listener::AnswerHello(HalfOpen* half_open) {
  HelloReply reply;
  auto hello = DecodeHello(half_open->bytes);
  auto credentials = GetPeerCredentials(half_open->socket, PidfdMode::kWanted);
  if (!hello.ok()) {
    reply.status = HelloStatus::kMalformed;
  } else if (!credentials.ok()) {
    reply.status = absl::IsResourceExhausted(credentials.status()) ? HelloStatus::kOutOfDescriptors
                                                                   : HelloStatus::kRefused;
  } else if (draining_ && hello->connection.zero()) {
    reply.status = HelloStatus::kShuttingDown;
  } else {
    reply = core_->OpenSession(*hello, *std::move(credentials), &half_open->client_end);
  }
  Count(&core_->listener_counters_.hellos[static_cast<size_t>(reply.status)]);
  static_assert(kHelloReplySize == kHelloSize, "the answer takes the hello's place");
  EncodeHelloReply(reply, &half_open->bytes);
  half_open->answering = true;
  half_open->received = 0;
  SendAnswer(half_open);
  StopOnceDrained();
}

// A client that went away meanwhile: its end of the session closes with the connection, and the
// hang-up removes the session.
void Listener::SendAnswer(HalfOpen* half_open) {
  while (half_open->received < half_open->bytes.size()) {
    const int number = half_open->client_end.get();
    const IoResult sent = SendMessage(
        half_open->socket, absl::MakeConstSpan(half_open->bytes).subspan(half_open->received),
        number >= 0 ? absl::MakeConstSpan(&number, 1) : absl::Span<const int>());
    if (sent.would_block()) {
      // Only then, for nearly every answer fits: a fresh socket has room.
      poller_->Modify(half_open->registration, EPOLLOUT);
      return;
    }
    if (!sent.ok()) {
      if (!half_open->client_end.valid() || sent.error == EPIPE) break;
      // The kernel does not pass descriptors now: too many are in flight, or memory is short.
      half_open->client_end.Reset();
      HelloReply reply;
      reply.status = HelloStatus::kOutOfDescriptors;
      Count(&core_->listener_counters_.hellos[static_cast<size_t>(reply.status)]);
      EncodeHelloReply(reply, &half_open->bytes);
      continue;
    }
    half_open->client_end.Reset();  // It went with the first byte.
    half_open->received += sent.bytes;
  }
  Drop(half_open);
}

}  // namespace internal
}  // namespace grpcfd
