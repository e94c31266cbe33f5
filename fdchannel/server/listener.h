// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Listener: one of a server's listening sockets. It accepts connections, reads their first
// bytes, keeps hellos and hands all other connections on.
//
// The first bytes are read, not peeked: a peer that sends one byte and stalls would make a
// level-triggered poll return at once, for ever. Connections that are still silent are
// counted and timed. When there are too many, the user who has most of them loses the
// oldest.
#ifndef GRPCFD_FDCHANNEL_SERVER_LISTENER_H_
#define GRPCFD_FDCHANNEL_SERVER_LISTENER_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <array>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/accept_watch.h"
#include "fdchannel/os/bind.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/server/server_core.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/peer_credentials.h"

namespace grpcfd {
namespace internal {

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
  // Takes no new clients from now on: removes the socket's file, and closes the listening socket
  // and the connections that have not said what they are, soon, on the poller's thread. Never
  // blocks. Sessions go on.
  //
  // Clients whose gRPC connection was accepted before may still lack the session for it. Calls of
  // theirs may be here already. So while there are such connections the socket goes on listening,
  // for hellos alone, for at most hello_timeout. They have a handle of its file. A socket that was
  // adopted is closed at once: others may accept from it, and what this one took would be lost.
  void StopAsync();
  // Closes all at once; all is closed when it returns. Not to be called on the poller's thread.
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
           const Wires& wires, ConnectionHandler handler);

  // On the poller's thread.
  void Accept(uint32_t events);
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
  void DrainOnPoller();
  void StopOnPoller();
  // What Stop() was called for, or a drain's end.
  void StopOnceDrained();

  const std::shared_ptr<ServerCore> core_;
  const std::shared_ptr<Poller> poller_;
  const Wires wires_;
  const ConnectionHandler handler_;
  const std::shared_ptr<AcceptWatch> watch_;

  enum class State { kOpen, kDraining, kStopped };

  Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kOpen;

  // Touched by the poller's thread only, once Start() was called.
  bool draining_ = false;
  Poller::Id drain_timer_ = 0;
  BoundSocket socket_;
  // Given up for a moment, when no descriptor is left, to accept a connection and say so.
  UniqueFd reserve_;
  MonotonicTime exhausted_since_ = MonotonicTime::InfiniteFuture();
  std::list<std::unique_ptr<HalfOpen>> half_open_;  // Oldest first.
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SERVER_LISTENER_H_
