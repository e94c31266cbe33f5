// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ChannelCore: the inside of an FdChannel. It keeps one session with the server and makes a new one
// when there is none. It does not know calls: they ask it for the session.
//
// It never connects on the calling thread. That thread may be gRPC's own, and a unix connect(2)
// blocks while the server's backlog is full. A request that finds no session is put aside; the
// poller connects, shakes hands and then completes the request.
#ifndef GRPCFD_FDCHANNEL_CLIENT_CHANNEL_CORE_H_
#define GRPCFD_FDCHANNEL_CLIENT_CHANNEL_CORE_H_

#include <stdint.h>

#include <array>
#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/client/fd_registry.h"
#include "fdchannel/os/cmsg.h"
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
  // A connection that is shaking hands. Touched by the poller's thread only.
  struct Attempt {
    UniqueFd socket;
    Poller::Id registration = 0;
    Poller::Id timer = 0;
    size_t sent = 0;
    std::array<char, kHelloSize> hello{};
    size_t received = 0;
    std::array<char, kHelloReplySize> reply{};
    FdVector fds;
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
  // Sends what is left of the hello, if the socket takes it. False if the attempt has failed.
  bool SendHello();
  uint32_t AttemptEvents() const;
  void OnAttemptEvent();
  void OnReply();
  void ConnectInProcess();
  // The server's answer is whole, and what came with it is in attempt_.fds.
  void Decide(const HelloReply& reply);
  void EndAttempt();
  // Who the server is, if the program asks, and whether the program takes it.
  absl::Status AuthorizeServer(PeerCredentials* server) const;
  void Established(const HelloReply& reply, UniqueFd socket, PeerCredentials server);
  // The session has all registered descriptors: calls may start on it.
  void Publish(const std::shared_ptr<Session>& session);
  void Failed(const absl::Status& status, bool may_pass);
  void Expire(const Pending* pending);
  void RetryLater();
  void RetryIn(absl::Duration wait);

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
  Attempt attempt_;
  absl::Time attempt_deadline_ = absl::InfinitePast();
  absl::Duration backoff_ = absl::ZeroDuration();
  Poller::Id retry_timer_ = 0;  // 0 while nothing is waited for, or an attempt is under way.

  mutable Mutex mutex_;
  std::shared_ptr<Poller> poller_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Reaper> reaper_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  bool connecting_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<std::shared_ptr<Pending>> pending_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CLIENT_CHANNEL_CORE_H_
