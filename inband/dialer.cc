// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/dialer.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "fdchannel/os/token.h"
#include "grpcfd/peer_credentials.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr int kBacklog = 16;
// The kernel has no event for "a connection was accepted" (connect(2), EAGAIN).
constexpr absl::Duration kRetryInterval = absl::Milliseconds(10);

}  // namespace

absl::StatusOr<std::shared_ptr<Dialer>> Dialer::Start(SocketAddress target,
                                                      absl::Duration connect_timeout,
                                                      const InBandOptions& options,
                                                      PassRights pass_rights) {
  auto token = Token::Mint();
  if (!token.ok()) return token.status();
  // Abstract: nothing is left behind if the process is killed.
  auto address = SocketAddress::Parse(absl::StrCat(
      "unix-abstract:grpcfd-relay-",
      absl::BytesToHexString(std::string(token->bytes().data(), token->bytes().size()))));
  if (!address.ok()) return address.status();
  BindOptions bind;
  bind.allow_abstract = true;
  bind.backlog = kBacklog;
  bind.pass_rights = pass_rights;
  auto socket = BoundSocket::Bind(*address, bind);
  if (!socket.ok()) return socket.status();
  auto relay = Relay::Start(options);
  if (!relay.ok()) return relay.status();
  auto dialer =
      std::shared_ptr<Dialer>(new Dialer(std::move(target), connect_timeout, *std::move(address),
                                         *std::move(socket), *std::move(relay)));
  dialer->relay_->poller()->Post([weak = dialer->weak_from_this()] {
    auto self = weak.lock();
    if (self == nullptr) return;
    {
      MutexLock lock(&self->mutex_);
      if (self->stopped_) return;
    }
    self->watch_->Start(self->socket_.fd(), [weak](uint32_t) {
      if (auto accepting = weak.lock()) accepting->Accept();
    });
  });
  return dialer;
}

std::shared_ptr<InBandPeer> Dialer::current() const {
  std::string name;
  {
    MutexLock lock(&mutex_);
    name = current_;
  }
  return relay_->Find(name);
}

void Dialer::Accept() {
  while (socket_.fd().valid()) {
    UniqueFd inner;
    const Accepted accepted = AcceptConnection(socket_.fd(), &inner);
    if (accepted == Accepted::kExhausted) watch_->Pause();
    if (accepted != Accepted::kConnection) return;
    const auto peer = GetPeerCredentials(inner, PidfdMode::kNone);
    // A failed look-up means "refuse".
    if (!peer.ok() || peer->pid != ::getpid()) {
      // It may have sent descriptors, whose close can block.
      FdVector closing;
      closing.push_back(std::move(inner));
      relay_->Discard(std::move(closing));
      continue;
    }
    if (Dial(&inner)) continue;
    if (waiting_.empty()) {
      relay_->poller()->RunAfter(kRetryInterval, [weak = weak_from_this()] {
        if (auto self = weak.lock()) self->RetryWaiting();
      });
    }
    waiting_.push_back(Waiting{std::move(inner), MonotonicTime::Now() + connect_timeout_});
  }
}

bool Dialer::Dial(UniqueFd* inner) {
  UniqueFd outer(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // No descriptor, or no server: gRPC sees its connection close, and reacts as usual.
  if (!outer.valid()) return true;
  sockaddr_un address;
  const socklen_t length = target_.ToSockaddr(&address);
  int result;
  do {
    result = ::connect(outer.get(), reinterpret_cast<const sockaddr*>(&address), length);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return errno != EAGAIN;
  std::string name = absl::StrCat(++next_name_);
  {
    MutexLock lock(&mutex_);
    current_ = name;
  }
  // After Stop() it closes them, where the target cannot hold anybody up.
  Relay::Newcomer one;
  one.name = std::move(name);
  one.sockets = {std::move(outer), std::move(*inner)};
  relay_->Add(std::move(one));
  return true;
}

void Dialer::RetryWaiting() {
  const MonotonicTime now = MonotonicTime::Now();
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    char byte;
    // gRPC has given up.
    const bool gone = ::recv(it->inner.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
    if (gone || it->until < now || Dial(&it->inner)) {
      it = waiting_.erase(it);
    } else {
      ++it;
    }
  }
  if (waiting_.empty()) return;
  relay_->poller()->RunAfter(kRetryInterval, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->RetryWaiting();
  });
}

void Dialer::CloseAll() {
  watch_->Stop();
  socket_.Close();
  waiting_.clear();
}

void Dialer::Stop() {
  {
    MutexLock lock(&mutex_);
    if (stopped_) return;
    stopped_ = true;
  }
  // On the poller's thread, which may be in the middle of an accept, and which a thread of grpcfd's
  // does not wait for. In the destructor nobody else is in here.
  const std::shared_ptr<Dialer> self = weak_from_this().lock();
  if (self != nullptr) relay_->poller()->Post([self] { self->CloseAll(); });
  // Drops the registration and the timers with the threads.
  relay_->Stop();
}

}  // namespace internal
}  // namespace grpcfd
