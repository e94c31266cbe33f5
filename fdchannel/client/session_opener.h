// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SessionOpener: has a server open one session, and tries again as long as that makes sense.
//
// A session for a connection of gRPC's must be opened by the process that has this connection.
// Where several processes accept from one socket, a hello reaches any of them; one that has not got
// the connection says so (ELSEWHERE), and the next try may reach the right one. The file at the
// server's path may be another server's by now. So a handle of the file that was there when gRPC
// connected is tried as well: it leads to the socket that gRPC has connected to.
#ifndef GRPCFD_FDCHANNEL_CLIENT_SESSION_OPENER_H_
#define GRPCFD_FDCHANNEL_CLIENT_SESSION_OPENER_H_

#include <stdint.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "fdchannel/client/handshake.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/os/socket_address.h"
#include "fdchannel/session/read_room.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// A connection of gRPC's, before or after its connect(2). A plain value.
struct GrpcConnection {
  ConnectionId id;  // Zero: none.
  int number = -1;  // Its descriptor is gRPC's, which may close it at any time.
  // Of the socket file at the time; invalid if there is none.
  std::shared_ptr<const UniqueFd> handle;

  // Whether it is still there: no other socket has its name.
  bool alive() const { return number >= 0 && IdOfSocket(BorrowedFd(number)) == id; }
};

// Used on the poller's thread only.
class SessionOpener : public std::enable_shared_from_this<SessionOpener> {
 public:
  struct Config {
    std::shared_ptr<Poller> poller;
    std::shared_ptr<Reaper> reaper;
    SocketAddress address;
    Hello hello;
    GrpcConnection connection;     // For which the session is; hello.connection is its id.
    absl::Duration timeout;        // For all tries.
    std::atomic<uint64_t>* tries;  // Counted there.
    std::shared_ptr<ReadRoom> room;
  };
  // `handshake` is the one that succeeded.
  using Done = std::function<void(Handshake::Outcome outcome, const Handshake& handshake)>;

  SessionOpener(Config config, Done done)
      : config_(std::move(config)),
        done_(std::move(done)),
        give_up_(MonotonicTime::Now() + config_.timeout) {}
  ~SessionOpener();
  SessionOpener(const SessionOpener&) = delete;
  SessionOpener& operator=(const SessionOpener&) = delete;

  // `done` is called once, perhaps before this returns, unless the object goes first.
  void Start() { Try(); }

 private:
  void Try();
  void OnOutcome(Handshake::Outcome outcome);
  // How long to wait before another try; negative if there is none.
  absl::Duration WaitAfter(const Handshake::Outcome& outcome);
  absl::Status GaveUp(const absl::Status& last) const;

  const Config config_;
  Done done_;
  const MonotonicTime give_up_;
  std::shared_ptr<Handshake> handshake_;
  Poller::Id timer_ = 0;
  absl::Duration backoff_ = absl::ZeroDuration();
  bool by_path_ = false;  // The last try was not by the handle.
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CLIENT_SESSION_OPENER_H_
