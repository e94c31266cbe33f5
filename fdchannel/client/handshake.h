// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Handshake: one connection to a server's socket, from connect(2) to the whole answer to a hello.
//
// It never connects on a caller's thread: a unix connect(2) blocks while the server's backlog is
// full. Here the socket is non-blocking, and all runs on the poller's thread.
#ifndef GRPCFD_FDCHANNEL_CLIENT_HANDSHAKE_H_
#define GRPCFD_FDCHANNEL_CLIENT_HANDSHAKE_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/read_room.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Used on the poller's thread only.
class Handshake : public std::enable_shared_from_this<Handshake> {
 public:
  struct Outcome {
    absl::Status status;        // Why there is no answer.
    bool may_pass = false;      // Another try may succeed.
    bool backlog_full = false;  // The server is there, and has no room to be connected to now.
    HelloReply reply;
    // What came with the answer, if its status is kOk: the session's socket.
    UniqueFd session;
  };
  using Done = std::function<void(Outcome)>;

  // `name` is the server's, for messages.
  // `room`: for what the server sends and nobody takes.
  Handshake(std::shared_ptr<Poller> poller, std::shared_ptr<Reaper> reaper,
            std::shared_ptr<ReadRoom> room, std::string name)
      : poller_(std::move(poller)),
        reaper_(std::move(reaper)),
        room_(std::move(room)),
        name_(std::move(name)) {}
  // Ends it. `done` is not called any more.
  ~Handshake();
  Handshake(const Handshake&) = delete;
  Handshake& operator=(const Handshake&) = delete;

  // Calls `done` once, perhaps before this returns. The answer has to be there within `timeout`.
  void Start(const sockaddr_un& address, socklen_t length, const Hello& hello,
             absl::Duration timeout, Done done);
  // The connection, until this object goes: who is at its other end.
  BorrowedFd connection() const { return socket_; }

  // What an answer without a connection is worth: of a server in this process.
  static Outcome Judge(const std::string& name, const HelloReply& reply, FdVector* fds);

 private:
  bool SendHello();
  uint32_t Events() const;
  void OnEvent();
  void OnReply();
  void Fail(absl::Status status, bool may_pass);
  void Finish(Outcome outcome);
  void Unwatch();

  const std::shared_ptr<Poller> poller_;
  const std::shared_ptr<Reaper> reaper_;
  const std::shared_ptr<ReadRoom> room_;
  const std::string name_;
  Done done_;
  UniqueFd socket_;
  Poller::Id registration_ = 0;
  Poller::Id timer_ = 0;
  size_t sent_ = 0;
  std::array<char, kHelloSize> hello_{};
  size_t received_ = 0;
  std::array<char, kHelloReplySize> reply_{};
  FdVector fds_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CLIENT_HANDSHAKE_H_
