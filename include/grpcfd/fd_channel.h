// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdChannel: the client's end of the companion channel, which carries descriptors beside a gRPC
// channel.
//
// gRPC drops descriptors that arrive on its own connection. So a client that passes some opens a
// second connection to the same socket path, which the server (grpcfd::AddListeningPort) tells
// apart by its first bytes. One FdChannel serves all calls and threads of a channel. Most programs
// never see it: grpcfd::CreateCustomChannel makes one. Programs with interceptors of their own make
// it themselves and hand it to grpcfd::MakeClientInterceptorFactory.
//
// Connecting is lazy and repeated: the first call that has descriptors connects, and after a
// restart of the server the next one connects again.
#ifndef GRPCFD_FD_CHANNEL_H_
#define GRPCFD_FD_CHANNEL_H_

#include <stdint.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/deadline.h"
#include "grpcfd/fd_session.h"
#include "grpcfd/limits.h"
#include "grpcfd/receive_policy.h"
#include "grpcfd/stats.h"

namespace grpcfd {

class FdServer;

namespace internal {
class ChannelCore;
struct CoreAccess;
}  // namespace internal

struct FdChannelOptions {
  SessionLimits limits;

  // How long one attempt to connect and shake hands may take. A call's own deadline may end it
  // earlier.
  absl::Duration connect_timeout = absl::Seconds(5);

  // Which descriptors the server may send back. The default accepts all.
  ReceivePolicy receive_policy;
  // The functions may be unset. They run on the thread `grpcfd-channel`, under no lock of grpcfd's,
  // and may not block: calls wait for a session meanwhile. They may drop the FdChannel. An
  // exception ends in grpcfd: authorize_session refuses if it throws, with the exception's text;
  // what the others throw is dropped.

  // Asked when a server has answered, before there is a session with it; what is not OK refuses the
  // server: calls with descriptors fail with PERMISSION_DENIED and nothing is sent. For sockets at
  // paths where others might listen.
  SessionAuthorizer authorize_session;

  // A session was made: the first, one for each further connection of gRPC's that has a name, and a
  // new one when the last was lost and a call needs one. Runs before any call is started on it.
  SessionCallback on_session;
  // It has ended: for each session that on_session was called for, once.
  SessionCallback on_session_end;
};

// Thread-safe. Descriptors of calls that are under way stay with the calls when the FdChannel goes.
class FdChannel {
 public:
  // `target` is a gRPC target: `unix:path`, `unix:///path` or `unix-abstract:name`. Nothing is
  // connected yet.
  //   INVALID_ARGUMENT     the target names a unix socket, but wrongly
  //   FAILED_PRECONDITION  the target is not a unix socket: descriptors never leave the host; or it
  //                        is a list of them (`unix:/a,/b`), of which gRPC picks one for each call
  //   UNAVAILABLE          the kernel has no random bits for the channel's token
  static absl::StatusOr<std::shared_ptr<FdChannel>> Create(const std::string& target,
                                                           const FdChannelOptions& options = {});
  // To a server of this process, without a socket path; grpcfd::InProcessChannel makes one. The
  // channel does not keep `fd_server`. INVALID_ARGUMENT if that is null, or for limits; UNAVAILABLE
  // as above. Both ends' callbacks see this process as the peer.
  static absl::StatusOr<std::shared_ptr<FdChannel>> CreateInProcess(
      const std::shared_ptr<FdServer>& fd_server, const FdChannelOptions& options = {});
  ~FdChannel();
  FdChannel(const FdChannel&) = delete;
  FdChannel& operator=(const FdChannel&) = delete;

  // Registers a duplicate of `fd` for all calls of the channel: a memory pool, say, that each of
  // them uses. Any message of a call that was made with FromContext may name it by the handle's
  // URL, and the handler's RecvFd and DupFd give a duplicate each time. It stays until the handle
  // goes (what calls were given stays theirs), and outlives sessions: before there is one, and
  // after a loss or a restart of the server, it is registered with the next one, under the same
  // URL, before a call is started there. If a session is there it is on its way when this returns,
  // and waits until `deadline` for room in the server's window; by default it does not wait.
  //   RESOURCE_EXHAUSTED  max_session_fds of this end or, if a session is there, of the server is
  //                       reached, its window stayed full, or this process is at RLIMIT_NOFILE
  //   INVALID_ARGUMENT    the descriptor is negative, closed, or of a kind the kernel does not pass
  // A server that takes fewer than there are gets the earliest; for others its calls say NOT_FOUND.
  [[nodiscard]] absl::StatusOr<SessionFd> Register(BorrowedFd fd,
                                                   Deadline deadline = absl::InfinitePast());

  // The target as Create() understood it; "in-process" for one of CreateInProcess().
  std::string target() const;

  // The id of the living session with the server, unique in the server's process; 0 while there is
  // none.
  uint64_t session_id() const;

  // What this channel has passed on, refused and dropped since it was made, over all its sessions.
  FdChannelStats Stats() const;

 private:
  friend struct internal::CoreAccess;
  explicit FdChannel(std::shared_ptr<internal::ChannelCore> core) : core_(std::move(core)) {}

  const std::shared_ptr<internal::ChannelCore> core_;
};

}  // namespace grpcfd

#endif  // GRPCFD_FD_CHANNEL_H_
