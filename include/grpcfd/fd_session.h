// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdSession: one client process and one server process that pass each other descriptors, seen from
// either end. on_session of FdServerOptions and FdChannelOptions gets one, and SessionFromContext
// returns it in a handler.
//
// Most programs think in calls and never see a session. Use it to identify the other end, to keep
// something for each client as long as that client is there, or to register a descriptor that many
// calls use: it is sent once, not with each call.
//
// A session is not a client: one client process has a session for each of its channels, and after a
// broken connection a new one, with another id. peer() identifies the client.
#ifndef GRPCFD_FD_SESSION_H_
#define GRPCFD_FD_SESSION_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/deadline.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/peer_credentials.h"
#include "grpcfd/stats.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// A descriptor that is registered with a peer, for calls to name; see FdSession::Register and
// FdChannel::Register. Its end withdraws it: calls that name it from then on get NOT_FOUND, the
// duplicates that calls were given stay theirs. Move-only. Thread-compatible; may be destroyed on
// any thread, never blocks, and may outlive what made it.
class SessionFd {
 public:
  // Not registered.
  SessionFd() = default;
  // For implementations of FdSession; `withdraw` is called once.
  SessionFd(InodeUrl url, std::function<void()> withdraw)
      : url_(url), withdraw_(std::move(withdraw)) {}
  ~SessionFd() { Withdraw(); }
  SessionFd(SessionFd&& other) noexcept
      : url_(other.url_), withdraw_(std::exchange(other.withdraw_, nullptr)) {}
  SessionFd& operator=(SessionFd&& other) noexcept {
    if (this != &other) {
      Withdraw();
      url_ = other.url_;
      withdraw_ = std::exchange(other.withdraw_, nullptr);
    }
    return *this;
  }

  // What to write into messages: `inode://{dev}/{ino}?session={index}`.
  const InodeUrl& url() const { return url_; }
  // Whether it was not withdrawn through this handle.
  bool registered() const { return withdraw_ != nullptr; }
  void Withdraw() {
    if (withdraw_ != nullptr) std::exchange(withdraw_, nullptr)();
  }

 private:
  InodeUrl url_;
  std::function<void()> withdraw_;
};

// Thread-safe. Holding one keeps nothing alive: when the session ends, alive() turns false and the
// methods that need it say UNAVAILABLE. Abstract, so that tests of callbacks can make their own.
class FdSession {
 public:
  virtual ~FdSession() = default;

  // Unique in the server's process; both ends know the session by it. Never 0.
  virtual uint64_t id() const = 0;

  // Identifies the other end, by the kernel's word. At the server it is the process that connected,
  // at the time of its connect(2), even if it has since passed the socket on. At the client it is
  // the process that called listen(2): the service manager, with socket activation.
  virtual const PeerCredentials& peer() const = 0;

  virtual bool alive() const = 0;

  // What the session has passed on, refused and dropped; also after its end.
  virtual SessionStats Stats() const = 0;
  // Registers a duplicate of `fd` with the peer, for as long as the handle and this session are
  // there. Any message of any call of the session, in this direction, may name it by the handle's
  // URL; RecvFd and DupFd of the receiver give a duplicate each time. On its way when this returns;
  // waits until `deadline` for room in the peer's window. The default does not wait: callbacks must
  // not block.
  //   RESOURCE_EXHAUSTED  the peer's max_session_fds is reached, its window stayed full, or the
  //                       kernel is short of memory or of descriptors in flight
  //   INVALID_ARGUMENT    the descriptor is negative, closed, or of a kind the kernel does not pass
  //   UNAVAILABLE         the session has ended
  [[nodiscard]] absl::StatusOr<SessionFd> Register(BorrowedFd fd,
                                                   Deadline deadline = absl::InfinitePast()) {
    return RegisterFd(fd, deadline.time());
  }

  // A duplicate of a descriptor that the peer registered, outside any call. Waits for nothing.
  //   NOT_FOUND           no descriptor has that index: it was withdrawn, or never registered
  //   INVALID_ARGUMENT    the URL is not one of a session-scoped descriptor, or names another file
  //   PERMISSION_DENIED   the receive_policy of this end refuses it
  //   RESOURCE_EXHAUSTED  it came but this process could not take it in, or is at RLIMIT_NOFILE
  //   UNAVAILABLE         the session has ended
  virtual absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url) = 0;

  // Cuts the session. What it still holds is closed at both ends. Waits for a descriptor fail with
  // UNAVAILABLE and `reason`; the peer sees the first 40 bytes of it. The gRPC connection
  // lives on; the client's next call with descriptors makes a new session, unless authorize_session
  // refuses it.
  virtual void Close(const std::string& reason) = 0;

 private:
  virtual absl::StatusOr<SessionFd> RegisterFd(BorrowedFd fd, absl::Time deadline) = 0;
};

using SessionCallback = std::function<void(const std::shared_ptr<FdSession>& session)>;
// A status other than OK refuses; its text stays in this process.
using SessionAuthorizer = std::function<absl::Status(const PeerCredentials& peer)>;

}  // namespace grpcfd

#endif  // GRPCFD_FD_SESSION_H_
