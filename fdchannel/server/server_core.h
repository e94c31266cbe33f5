// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerCore: what an FdServer is made of: the sessions by token, their quotas, and the
// thread that looks after them. Listener: one of its listening sockets. It accepts
// connections, reads their first bytes, keeps hellos and hands all other connections on.
//
// The first bytes are read, not peeked: a peer that sends one byte and stalls would make a
// level-triggered poll return at once, for ever. Connections that are still silent are
// counted and timed. When there are too many, the user who has most of them loses the
// oldest.
#ifndef GRPCFD_FDCHANNEL_SERVER_SERVER_CORE_H_
#define GRPCFD_FDCHANNEL_SERVER_SERVER_CORE_H_

#include <stdint.h>

#include <array>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fdchannel/os/bind.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/server/quota.h"
#include "fdchannel/session/counters.h"
#include "fdchannel/session/in_flight.h"
#include "fdchannel/session/in_process_server.h"
#include "fdchannel/session/session.h"
#include "fdchannel/session/session_handle.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/fd_server.h"
#include "grpcfd/peer_credentials.h"
#include "grpcfd/stats.h"

namespace grpcfd {
namespace internal {

class Listener;

// Thread-safe.
class ServerCore : public InProcessServer, public std::enable_shared_from_this<ServerCore> {
 public:
  static absl::StatusOr<std::shared_ptr<ServerCore>> Create(const FdServerOptions& options);
  ~ServerCore() override;

  const ServerLimits& limits() const { return limits_; }
  // What calls of `method` ("/package.Service/Method") may bring. Null: everything.
  std::shared_ptr<const ReceivePolicy> PolicyFor(absl::string_view method) const;
  const FdServerOptions& options() const { return *options_; }

  // The session that a call with this token and session id belongs to. UNAVAILABLE, saying why, if
  // there is none (any more): a client names only sessions that it has had.
  absl::StatusOr<std::shared_ptr<Session>> FindSession(const Token& token,
                                                       uint64_t session_id) const;
  // The same, with what programs see of it.
  struct Entry {
    std::shared_ptr<Session> session;
    std::shared_ptr<SessionHandle> handle;
  };
  absl::StatusOr<Entry> FindEntry(const Token& token, uint64_t session_id) const;

  absl::Status AnswerInProcess(const Hello& hello, InProcessCallback done) override;

  // Cuts all sessions and refuses new ones.
  void ShutDown();

  // On a thread where it delays nobody but `uid`, who sent them. Needs a Listener.
  void CloseLater(uid_t uid, FdVector fds);
  // The same for a client's connection, and what came with it.
  void CloseClientLater(UniqueFd connection, FdVector fds);

  size_t session_count() const;
  FdServerStats stats() const;
  // For the relays of its ports.
  const std::shared_ptr<InBandCounters>& in_band_counters() const { return in_band_counters_; }
  // A call ended whose handler never asked for the descriptors that it brought.
  void CountIgnoredCall() { Count(&ignored_calls_); }
  const std::shared_ptr<QuotaLedger>& ledger() const { return ledger_; }
  const std::shared_ptr<InFlightBudget>& in_flight() const { return in_flight_; }

 private:
  friend class Listener;

  ServerCore(const FdServerOptions& options, const ServerLimits& limits);

  absl::StatusOr<std::shared_ptr<Poller>> StartPoller();

  // Makes a session for a hello. On success `*client_end` is to be sent with the reply. On the
  // poller's thread: calls the program's functions.
  HelloReply OpenSession(const Hello& hello, PeerCredentials credentials, UniqueFd* client_end);
  // Its last step, under the lock.
  std::shared_ptr<SessionHandle> AddSession(const Token& token, std::unique_ptr<FrameSocket> socket,
                                            Session::Config config, PeerCredentials credentials,
                                            HelloReply* reply)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets a session that has died, a while later if calls may still come for what it holds.
  void OnSessionDead(const Token& token, uint64_t session_id);
  void RemoveSession(const Token& token, uint64_t session_id);
  // Null if it is gone already. To be dropped without the lock.
  Entry Take(const Token& token, uint64_t session_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ServerLimits limits_;
  // Shared with the death notices of the sessions, which may come after the core's end. Its limits
  // are as they were given.
  const std::shared_ptr<const FdServerOptions> options_;
  const std::shared_ptr<QuotaLedger> ledger_;
  const std::shared_ptr<InFlightBudget> in_flight_;
  // Null for what accepts all, here and in the map.
  std::shared_ptr<const ReceivePolicy> policy_;
  absl::flat_hash_map<std::string, std::shared_ptr<const ReceivePolicy>> method_policies_;
  unsigned look_ = kLookNothing;
  const std::shared_ptr<CounterSum> session_counters_ = std::make_shared<CounterSum>();
  ListenerCounters listener_counters_;
  const std::shared_ptr<InBandCounters> in_band_counters_ = std::make_shared<InBandCounters>();
  std::atomic<uint64_t> ignored_calls_{0};

  mutable Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Poller> poller_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Reaper> reaper_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_session_id_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<Token, Entry> sessions_ ABSL_GUARDED_BY(mutex_);
  // The dead ones of sessions_, of each user, oldest first, with what they held when they died.
  // Calls may have taken some since: what the program is slow to take counts as long as what no
  // call asks for.
  struct Dead {
    Token token;
    uint64_t session_id;
    uint64_t held;
  };
  struct DeadOfUser {
    std::deque<Dead> sessions;
    uint64_t held = 0;
  };
  absl::flat_hash_map<uid_t, DeadOfUser> dead_ ABSL_GUARDED_BY(mutex_);
};

// Thread-safe.
class Listener : public std::enable_shared_from_this<Listener> {
 public:
  // Receives a connection that is not a hello, non-blocking and close-on-exec, the bytes read from
  // it so far (at least one), and the descriptors that came with them, if they are wanted. Called
  // on the poller's thread.
  using ConnectionHandler =
      std::function<void(UniqueFd connection, std::string first_bytes, FdVector fds)>;

  struct Wires {
    bool fdchannel = true;  // Serve hellos. If not, they are handed on like anything else.
    bool in_band = false;  // Hand on the descriptors that come with other connections' first bytes.
  };

  static absl::StatusOr<std::shared_ptr<Listener>> Create(std::shared_ptr<ServerCore> core,
                                                          BoundSocket socket, const Wires& wires,
                                                          ConnectionHandler handler);
  ~Listener();

  // Begins to accept. Clients that connected before are waiting in the backlog. If the kernel lacks
  // the memory for it now, it begins when there is some: the caller may have a running server
  // already, and nobody to report the failure to. FAILED_PRECONDITION if it was stopped.
  absl::Status Start();
  // Stops accepting, and closes the listening socket and the connections that have not said what
  // they are: soon, on the poller's thread. Never blocks. Sessions go on.
  void StopAsync();
  // The same; all is closed when it returns. Not to be called on the poller's thread.
  void Stop();

 private:
  // A connection that has not said what it is. Its address is its name.
  struct HalfOpen {
    UniqueFd socket;
    PeerCredentials credentials;
    Poller::Id registration = 0;
    Poller::Id timer = 0;
    size_t received = 0;
    std::array<char, kHelloSize> bytes;
    // Once the hello is complete: `bytes` is the answer, and `received` how much of it was sent.
    bool answering = false;
    UniqueFd client_end;
  };

  Listener(std::shared_ptr<ServerCore> core, std::shared_ptr<Poller> poller, BoundSocket socket,
           const Wires& wires, ConnectionHandler handler)
      : core_(std::move(core)),
        poller_(std::move(poller)),
        wires_(wires),
        handler_(std::move(handler)),
        socket_(std::move(socket)) {}

  // On the poller's thread.
  void Accept(uint32_t events);
  absl::Status StartAccepting();
  void StopAccepting();
  void Pause();
  void TryAgainLater();
  // After accept(2) failed for want of a descriptor or memory.
  void OnExhausted();
  bool RejectOne();
  void Admit(UniqueFd connection);
  void MakeRoomForHalfOpen();
  void OnBytes(HalfOpen* half_open);
  void AnswerHello(HalfOpen* half_open);
  void SendAnswer(HalfOpen* half_open);
  std::unique_ptr<HalfOpen> Detach(HalfOpen* half_open);
  // Detaches and closes it where that delays nobody: unread data may hold descriptors.
  void Drop(HalfOpen* half_open);
  void CloseConnection(uid_t uid, UniqueFd connection);
  void StopOnPoller();

  const std::shared_ptr<ServerCore> core_;
  const std::shared_ptr<Poller> poller_;
  const Wires wires_;
  const ConnectionHandler handler_;

  Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Poller::Id registration_ ABSL_GUARDED_BY(mutex_) = 0;

  // Touched by the poller's thread only, once Start() was called.
  BoundSocket socket_;
  // Given up for a moment, when no descriptor is left, to accept a connection and say so.
  UniqueFd reserve_;
  absl::Time exhausted_since_ = absl::InfiniteFuture();
  std::list<std::unique_ptr<HalfOpen>> half_open_;  // Oldest first.
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SERVER_SERVER_CORE_H_
