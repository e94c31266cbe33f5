// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerCore: what an FdServer is made of: the sessions by token, their quotas, and the
// thread that looks after them. Its listening sockets are Listeners.
#ifndef GRPCFD_FDCHANNEL_SERVER_SERVER_CORE_H_
#define GRPCFD_FDCHANNEL_SERVER_SERVER_CORE_H_

#include <stdint.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/server/handed_on.h"
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
    ConnectionId connection;
  };
  absl::StatusOr<Entry> FindEntry(const Token& token, uint64_t session_id) const;

  // The session that the client of this token has for its connection `id`, which is one of this
  // server's. Waits for it for at most `timeout`, without a thread: the client learns of the
  // connection before this server does, and says so at once. `done` is called on the poller's
  // thread, or on this one if the outcome is at hand. UNAVAILABLE if it does not come.
  using EntryCallback = std::function<void(absl::StatusOr<Entry>)>;
  void AwaitEntry(const Token& token, const ConnectionId& id, absl::Duration timeout,
                  EntryCallback done);
  // The same, unless the session is known, and has the client send a call again by that session:
  // all that it brings is there when `done` gets OK.
  void Land(const Token& token, const ConnectionId& id, const std::optional<Entry>& known,
            const CallKey& call, absl::Duration timeout, EntryCallback done);

  absl::Status AnswerInProcess(const Hello& hello, InProcessCallback done) override;

  // Ends the sessions that no call can come for, since gRPC has closed their connections. The
  // poller calls it, and so do tests.
  void EndOrphans();
  // How many connections of gRPC's have names, and no session yet.
  size_t CountWithoutSession() const;

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

  ServerCore(const FdServerOptions& options, const ServerLimits& limits, uint64_t nofile);

  absl::StatusOr<std::shared_ptr<Poller>> StartPoller();

  // Makes a session for a hello. On success `*client_end` is to be sent with the reply. On the
  // poller's thread: calls the program's functions.
  HelloReply OpenSession(const Hello& hello, PeerCredentials credentials, UniqueFd* client_end);
  // Its parts. Whether the client may have one, before its quota is asked: kOk if so.
  HelloStatus Admit(const Hello& hello, const PeerCredentials& credentials);
  // All but its id and version.
  Session::Config ConfigFor(const Hello& hello, const PeerCredentials& credentials,
                            std::shared_ptr<DescriptorQuota> quota) const;
  // What a session is for: a client, and a connection of gRPC's, if any.
  using Owner = std::pair<Token, ConnectionId>;
  // Calls those who wait for it.
  void Announce(const Owner& owner, const Entry& entry);
  // Its last step, under the lock.
  std::shared_ptr<SessionHandle> AddSession(const Owner& owner, std::unique_ptr<FrameSocket> socket,
                                            Session::Config config, PeerCredentials credentials,
                                            HelloReply* reply)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets a session that has died, a while later if calls may still come for what it holds.
  void OnSessionDead(uint64_t session_id);
  void RemoveSession(uint64_t session_id);
  // Has it done now and then, while there are sessions that may become such.
  void ScheduleUpkeep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Null if it is gone already. To be dropped without the lock.
  Entry Take(uint64_t session_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

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
  HandedOn handed_on_;
  const std::shared_ptr<InBandCounters> in_band_counters_ = std::make_shared<InBandCounters>();
  std::atomic<uint64_t> ignored_calls_{0};

  mutable Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Poller> poller_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Reaper> reaper_ ABSL_GUARDED_BY(mutex_);
  // By id. Ids are random: a call that reaches another process must not find a session there.
  absl::flat_hash_map<uint64_t, Entry> sessions_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Owner, uint64_t> ids_ ABSL_GUARDED_BY(mutex_);
  struct Waiting {
    Owner owner;
    EntryCallback done;
    Poller::Id timer;
  };
  absl::flat_hash_map<Owner, std::vector<std::shared_ptr<Waiting>>> waiting_
      ABSL_GUARDED_BY(mutex_);
  bool upkeep_due_ ABSL_GUARDED_BY(mutex_) = false;
  // The dead ones of sessions_, of each user, oldest first, with what they held when they died.
  // Calls may have taken some since: what the program is slow to take counts as long as what no
  // call asks for.
  struct Dead {
    uint64_t session_id;
    uint64_t held;
  };
  struct DeadOfUser {
    std::deque<Dead> sessions;
    uint64_t held = 0;
  };
  absl::flat_hash_map<uid_t, DeadOfUser> dead_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SERVER_SERVER_CORE_H_
