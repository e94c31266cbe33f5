// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ChannelCore: the inside of an FdChannel. It keeps a session for each connection of gRPC's that it
// is told of, one at least, and makes a new one when there is none. It does not know calls: they
// ask it for the session.
//
// Which connection gRPC picks for a call is not known when its descriptors are sent. The newest is
// the likeliest; where that is wrong, the server asks for them again (Session::AskToResend).
//
// It never connects on the calling thread. That thread may be gRPC's own, and a unix connect(2)
// blocks while the server's backlog is full. A request that finds no session is put aside; the
// poller has a session opened and then completes the request.
#ifndef GRPCFD_FDCHANNEL_CLIENT_CHANNEL_CORE_H_
#define GRPCFD_FDCHANNEL_CLIENT_CHANNEL_CORE_H_

#include <stdint.h>

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/client/fd_registry.h"
#include "fdchannel/client/handshake.h"
#include "fdchannel/client/session_opener.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/os/socket_address.h"
#include "fdchannel/os/token.h"
#include "fdchannel/os/user_function.h"
#include "fdchannel/session/counters.h"
#include "fdchannel/session/in_flight.h"
#include "fdchannel/session/in_process_server.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/fd_channel.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
//
// Long because connecting is a chain of short steps on the poller's thread, each a method.
class ChannelCore : public std::enable_shared_from_this<ChannelCore> {
 public:
  // With a new token. INVALID_ARGUMENT if the limits contradict each other.
  static absl::StatusOr<std::shared_ptr<ChannelCore>> Create(const SocketAddress& address,
                                                             const FdChannelOptions& options);
  // The same, to a server of this process.
  static absl::StatusOr<std::shared_ptr<ChannelCore>> CreateInProcess(
      const std::shared_ptr<InProcessServer>& server, const FdChannelOptions& options);

  ChannelCore(const SocketAddress& address, Token token, const FdChannelOptions& options)
      : ChannelCore(address.ToString(), address, {}, token, options) {}
  // To a server of this process.
  ChannelCore(const std::shared_ptr<InProcessServer>& server, Token token,
              const FdChannelOptions& options)
      : ChannelCore("in-process", std::nullopt, server, token, options) {}
  ~ChannelCore();

  // The server, for messages: its address, or "in-process".
  const std::string& name() const { return name_; }
  bool in_process() const { return !address_.has_value(); }
  // Whether it is an in-process channel to this server.
  bool IsTo(const std::shared_ptr<InProcessServer>& server) const {
    return in_process() && in_process_.lock() == server;
  }
  const FdChannelOptions& options() const { return options_; }
  uint64_t session_id() const;
  FdRegistry& registry() { return *registry_; }
  FdChannelStats stats() const;

  // --- The connections that gRPC makes ---

  // One is about to be made, with the socket `number`, which has the name of `id`. Once the channel
  // is in use each gets a session at once; the last one, when it comes into use. Never blocks.
  void AddConnection(const ConnectionId& id, int number);
  // Has gRPC connect if it is idle, so that the first session is one for its connection; false if
  // it does not connect now. Called on the poller's thread. A channel with several gRPC channels
  // does without.
  void AddConnector(std::function<bool()> connector);

  // The session that calls start on; null if there is none or it is dead.
  std::shared_ptr<Session> LivingSession() const;
  // A new id for a call in the sessions of this channel.
  uint64_t NextCallId() { return next_call_id_.fetch_add(1, std::memory_order_relaxed); }

  // What the call experienced before it asked for a session.
  enum class Before {
    kNothing,
    kLost,    // A session that existed ended: any call may see that.
    kFailed,  // The session was dead when it came. The next one is not made at once.
  };
  struct SessionRequest {
    std::weak_ptr<const void> owner;  // The call: for GiveUp. Not tried again once it is gone.
    absl::Time deadline = absl::InfiniteFuture();
    // If true, connects again until the deadline. If false, the first failed attempt to connect is
    // UNAVAILABLE.
    bool wait_for_ready = false;
    Before before = Before::kNothing;
  };
  // `made`: the session is new, made for those who waited for it.
  using SessionCallback = std::function<void(absl::StatusOr<std::shared_ptr<Session>>, bool made)>;

  // Finds the session, connecting first if need be. Never blocks; `done` is called once, on the
  // poller's thread, or on this one if the outcome is at hand. The session may be dead when it is
  // used.
  //   FAILED_PRECONDITION  what answers there is not a grpcfd server
  //   DEADLINE_EXCEEDED    not there by the deadline
  //   CANCELLED            GiveUp
  //   others               as HelloStatusToStatus
  void AwaitSession(const SessionRequest& request, SessionCallback done);
  // Ends the requests of `owner`, which are CANCELLED on this thread.
  void GiveUp(const std::weak_ptr<const void>& owner);

 private:
  struct Pending {
    SessionRequest request;
    SessionCallback done;
    Poller::Id timer;
  };
  // A connection of gRPC's, with its session once it has one. The higher `order`, the newer; 0 is
  // the order of sessions for no connection.
  struct Named {
    uint64_t order;
    GrpcConnection connection;
    std::shared_ptr<Session> session;
  };

  ChannelCore(std::string name, std::optional<SocketAddress> address,
              std::weak_ptr<InProcessServer> in_process, Token token,
              const FdChannelOptions& options)
      : name_(std::move(name)),
        address_(std::move(address)),
        in_process_(std::move(in_process)),
        token_(token),
        options_(WithGuardedFunctions(options)),
        policy_(options.receive_policy.accepts_all()
                    ? nullptr
                    : std::make_shared<ReceivePolicy>(options.receive_policy)),
        registry_(std::make_shared<FdRegistry>(options.limits.max_session_fds)),
        in_flight_(std::make_shared<InFlightBudget>(options.limits.session_window,
                                                    InFlightBudget::Shares::kNone)) {}

  ReceiveLimits OwnLimits() const {
    ReceiveLimits limits;
    limits.max_fds_per_call = options_.limits.max_fds_per_call;
    limits.window = options_.limits.session_window;
    limits.max_session_fds = options_.limits.max_session_fds;
    return limits;
  }
  Hello OwnHello() const;
  absl::Status EnsureThreads() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // On the poller's thread.
  void Begin(bool first, bool after_failure);
  void Connect();
  void ConnectInProcess();
  void OnConnection(uint64_t order);
  // Has gRPC make a connection to open a session for. False if none is to be expected.
  bool AwaitConnection();
  // If calls still wait for a session then, opens one for no connection. Calls that come meanwhile
  // do not put it off.
  void AwaitUntil(absl::Duration patience);
  // The newest connection that is there; its order is 0 if there is none.
  Named Newest();
  void Open(uint64_t order, const GrpcConnection& connection);
  // `connection`: who is at its other end is the server; none in-process.
  void OnOpened(uint64_t order, Handshake::Outcome outcome, std::optional<BorrowedFd> connection);
  // Who the server is, if the program asks, and whether the program takes it.
  absl::Status AuthorizeServer(std::optional<BorrowedFd> connection, PeerCredentials* server) const;
  void Established(uint64_t order, const HelloReply& reply, UniqueFd socket,
                   PeerCredentials server);
  // The session has all registered descriptors: calls may start on it.
  void Publish(uint64_t order, const std::shared_ptr<Session>& session);
  // Moves those whose connection has ended to `gone`, to be dropped without the lock.
  void Prune(std::vector<Named>* gone) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The server of `session` has a call that it has not got the descriptors of.
  void OnResend(const std::shared_ptr<Session>& session, const CallKey& call);
  void Failed(const absl::Status& status, bool may_pass);
  void Expire(const Pending* pending);
  void RetryLater();
  // Connects later; `awaited`: for none, if calls still wait for a session then.
  void RetryIn(absl::Duration wait, bool awaited);
  std::shared_ptr<Poller> PollerOf() const;

  const std::string name_;
  // One of the two: where the server listens, or the server.
  const std::optional<SocketAddress> address_;
  const std::weak_ptr<InProcessServer> in_process_;
  const Token token_;
  const FdChannelOptions options_;
  const std::shared_ptr<const ReceivePolicy> policy_;  // Null: accepts all.
  const std::shared_ptr<FdRegistry> registry_;
  // Over all sessions of the channel: what a server did not read of the last one counts in the
  // next.
  const std::shared_ptr<InFlightBudget> in_flight_;
  std::atomic<uint64_t> next_call_id_{1};
  const std::shared_ptr<CounterSum> session_counters_ = std::make_shared<CounterSum>();
  std::atomic<uint64_t> connect_attempts_{0};
  std::atomic<uint64_t> connect_failures_{0};
  // Touched by the poller's thread only.
  std::map<uint64_t, std::shared_ptr<SessionOpener>> openers_;  // By the order of the connection.
  MonotonicTime attempt_deadline_;
  MonotonicTime connection_due_;  // Until when gRPC's connection is waited for.
  absl::Duration backoff_ = absl::ZeroDuration();
  Poller::Id retry_timer_ = 0;  // 0 while nothing is waited for, or an attempt is under way.

  mutable Mutex mutex_;
  std::shared_ptr<Poller> poller_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Reaper> reaper_ ABSL_GUARDED_BY(mutex_);
  // For what the server sends, in all sessions and before.
  std::shared_ptr<ReadRoom> room_ ABSL_GUARDED_BY(mutex_);
  // What calls start on, and the order of its connection.
  mutable std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  mutable uint64_t session_order_ ABSL_GUARDED_BY(mutex_) = 0;
  // The newest last.
  std::vector<Named> named_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_order_ ABSL_GUARDED_BY(mutex_) = 0;
  // All that are alive or have calls.
  std::vector<std::weak_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<bool()>> connectors_ ABSL_GUARDED_BY(mutex_);
  bool connecting_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<std::shared_ptr<Pending>> pending_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CLIENT_CHANNEL_CORE_H_
