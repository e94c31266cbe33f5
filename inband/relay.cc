// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/relay.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "fdchannel/os/token.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr char kNamePrefix[] = "grpcfd-in-band-";
// As gRPC 1.51 writes the address of a socket with an abstract name (grpc_sockaddr_to_uri).
constexpr char kPeerPrefix[] = "unix-abstract:";

absl::Status Check(const InBandOptions& options) {
  const struct {
    const char* name;
    bool valid;
  } needed[] = {
      {"max_fds_per_connection", options.max_fds_per_connection > 0},
      {"max_queued_fds", options.max_queued_fds > 0},
      {"max_fds_burst", options.max_fds_burst > 0},
      {"relay_threads", options.relay_threads > 0},
      {"buffer_size", options.buffer_size > 0},
      {"linger", options.linger >= absl::ZeroDuration()},
  };
  for (const auto& one : needed) {
    if (one.valid) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "InBandOptions::", one.name, " is too small: expected more than 0 (linger: not ",
        "less); leave the default, or set what a connection needs"));
  }
  return absl::OkStatus();
}

InBandOptions Resolve(InBandOptions options) {
  if (options.max_fds_total == 0) {
    rlimit nofile{};
    if (::getrlimit(RLIMIT_NOFILE, &nofile) != 0) nofile.rlim_cur = 1024;
    options.max_fds_total = static_cast<uint32_t>(
        std::max<rlim_t>(1, std::min<rlim_t>(nofile.rlim_cur / 8, uint32_t{1} << 20)));
  }
  return options;
}

// The timer of `thread` has expired.
void TidyUp(RelayThread* thread) {
  uint64_t expirations;
  [[maybe_unused]] const ssize_t got =
      ::read(thread->tidy_timer.get(), &expirations, sizeof(expirations));
  for (const auto& weak : std::exchange(thread->untidy, {})) {
    if (const auto connection = weak.lock()) connection->TidyUp();
  }
}

}  // namespace

absl::StatusOr<InnerPair> MakeInnerPair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  InnerPair pair;
  pair.relay_end = UniqueFd(ends[0]);
  pair.grpc_end = UniqueFd(ends[1]);
  auto token = Token::Mint();
  if (!token.ok()) return token.status();
  pair.name = absl::StrCat(kNamePrefix, absl::BytesToHexString(std::string(token->bytes().data(),
                                                                           token->bytes().size())));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path + 1, pair.name.data(), pair.name.size());
  const auto length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + pair.name.size());
  if (::bind(pair.relay_end.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return absl::ErrnoToStatus(errno, "bind of the relay's end to an abstract name");
  }
  return pair;
}

bool HasInnerName(BorrowedFd connection) {
  sockaddr_un address{};
  socklen_t length = sizeof(address);
  if (::getpeername(connection.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return false;
  }
  const size_t prefix = sizeof(kNamePrefix) - 1;
  return address.sun_family == AF_UNIX && length >= offsetof(sockaddr_un, sun_path) + 1 + prefix &&
         address.sun_path[0] == '\0' && memcmp(address.sun_path + 1, kNamePrefix, prefix) == 0;
}

std::string InnerNameOfPeer(const std::string& peer) {
  const std::string prefix = absl::StrCat(kPeerPrefix, kNamePrefix);
  return absl::StartsWith(peer, prefix) ? peer.substr(sizeof(kPeerPrefix) - 1) : std::string();
}

absl::StatusOr<std::shared_ptr<Relay>> Relay::Start(
    const InBandOptions& options, const std::shared_ptr<InBandCounters>& counters) {
  absl::Status checked = Check(options);
  if (!checked.ok()) return checked;
  const InBandOptions resolved = Resolve(options);
  auto reaper = std::make_shared<Reaper>();
  std::vector<std::shared_ptr<RelayThread>> threads;
  for (uint32_t i = 0; i < resolved.relay_threads; ++i) {
    auto poller = Poller::Start("grpcfd-relay");
    if (!poller.ok()) return poller.status();
    auto thread = std::make_shared<RelayThread>();
    thread->poller = *std::move(poller);
    thread->reaper = reaper;
    thread->counters = counters;
    thread->buffer.resize(resolved.buffer_size);
    thread->tidy_timer = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!thread->tidy_timer.valid()) {
      return absl::ResourceExhaustedError(absl::StrCat("timerfd_create: ", strerror(errno)));
    }
    // Weak: a relay that is dropped on a thread of grpcfd's leaves its own threads to themselves,
    // and this may be about to run on one.
    const auto watch =
        thread->poller->Add(thread->tidy_timer, EPOLLIN,
                            [weak = std::weak_ptr<RelayThread>(thread)](uint32_t /*events*/) {
                              if (const auto alive = weak.lock()) TidyUp(alive.get());
                            });
    if (!watch.ok()) return watch.status();
    threads.push_back(std::move(thread));
  }
  return std::shared_ptr<Relay>(new Relay(resolved, std::move(threads)));
}

size_t Relay::Share(size_t connections) const {
  const size_t share = options_.max_fds_total / std::max<size_t>(1, connections);
  return std::max<size_t>(1, std::min<size_t>(options_.max_fds_per_connection, share));
}

void Relay::Divide() {
  const size_t share = Share(connections_.size());
  if (share == share_) return;
  share_ = share;
  for (auto& [name, entry] : connections_) {
    (void)name;
    entry.peer->SetLimit(share);
  }
}

std::shared_ptr<InBandPeer> Relay::Add(Newcomer one) {
  std::shared_ptr<InBandPeer> peer;
  std::shared_ptr<Connection> connection;
  std::shared_ptr<RelayThread> thread;
  {
    MutexLock lock(&mutex_);
    if (stopped_) {
      lock.Unlock();
      one.arrived.push_back(std::move(one.sockets.outer));  // What is unread in it may block, too.
      Discard(std::move(one.arrived));
      lock.Lock();
      return nullptr;
    }
    thread = threads_[next_thread_++ % threads_.size()];
    peer = std::make_shared<InBandPeer>(thread, options_, Share(connections_.size() + 1),
                                        std::move(one.credentials), std::move(one.refusal));
    peer->connection = one.connection;
    connection = std::make_shared<Connection>(thread, peer, std::move(one.sockets), options_,
                                              [weak = weak_from_this(), name = one.name] {
                                                if (auto self = weak.lock()) self->Remove(name);
                                              });
    connections_[one.name] = Entry{peer, connection, thread.get()};
    Divide();
  }
  Count(&thread->counters->connections);
  Count(&thread->counters->fds_received, one.arrived.size());
  FdVector closing;
  peer->received.Keep(std::move(one.arrived), &closing);
  peer->Close(std::move(closing));
  thread->poller->Post([connection = std::move(connection)] { connection->Start(); });
  return peer;
}

std::shared_ptr<InBandPeer> Relay::Find(const std::string& name) const {
  MutexLock lock(&mutex_);
  const auto it = connections_.find(name);
  return it == connections_.end() ? nullptr : it->second.peer;
}

void Relay::Remove(const std::string& name) {
  Entry removed;  // Outlives the lock.
  MutexLock lock(&mutex_);
  const auto it = connections_.find(name);
  if (it == connections_.end()) return;
  removed = std::move(it->second);
  connections_.erase(it);
  Divide();
  lock.Unlock();
  removed = Entry();
  lock.Lock();
}

void Relay::Discard(FdVector fds) {
  if (!fds.empty()) threads_.front()->reaper->Close(std::move(fds), /*after=*/nullptr);
}

void Relay::Stop() {
  absl::flat_hash_map<std::string, Entry> connections;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    connections.swap(connections_);
  }
  const absl::Status status = absl::UnavailableError(
      "the connection of the call is gone (the server or channel is): a new call gets a new one");
  for (auto& [name, entry] : connections) {
    (void)name;
    entry.thread->poller->Post(
        [connection = std::move(entry.connection), status] { connection->Finish(status); });
  }
  connections.clear();
  for (const auto& thread : threads_) thread->poller->Stop();
  // Descriptors that are still with calls go inline from now on.
  threads_.front()->reaper->Stop();
}

size_t Relay::connection_count() const {
  MutexLock lock(&mutex_);
  return connections_.size();
}

}  // namespace internal
}  // namespace grpcfd
