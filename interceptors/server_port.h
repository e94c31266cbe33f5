// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerPort: one address of a gRPC server that grpcfd listens on. See docs/design.md, "Start and
// shutdown".
//
// gRPC tells nobody that a server starts or shuts down; these are the moments at which a port
// learns of it:
//   bind      AddPortToServer of the credentials that AddListeningPort registers with the builder
//   start     Finish() of a builder plugin, the last thing in BuildAndStart()
//   shutdown  a pending request for a method that nobody calls fails
//   end       the interceptor factory is destroyed with the Server
#ifndef GRPCFD_INTERCEPTORS_SERVER_PORT_H_
#define GRPCFD_INTERCEPTORS_SERVER_PORT_H_

#include <grpc/grpc.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/server/listener.h"
#include "fdchannel/server/server_core.h"
#include "grpcfd/server.h"
#include "inband/relay.h"

namespace grpcfd {
namespace internal {

// Calls a function when a gRPC server begins to shut down. Thread-compatible; the function runs on
// any thread, and must not block.
class ShutdownWatcher {
 public:
  // Before `server` starts.
  ShutdownWatcher(grpc_server* server, std::function<void()> on_shutdown);
  // When the server is down, or was never started.
  ~ShutdownWatcher();
  ShutdownWatcher(const ShutdownWatcher&) = delete;
  ShutdownWatcher& operator=(const ShutdownWatcher&) = delete;

  // When the server has started.
  void Start();

 private:
  // gRPC's tag for a callback completion queue. Must stay until it has run.
  struct Functor : grpc_completion_queue_functor {
    ShutdownWatcher* watcher;
  };
  static void OnRequest(grpc_completion_queue_functor* functor, int ok);
  static void OnQueueShutdown(grpc_completion_queue_functor* functor, int ok);
  void Request();

  grpc_server* const server_;
  const std::function<void()> on_shutdown_;
  grpc_completion_queue* queue_;
  void* method_ = nullptr;
  Functor request_functor_;
  Functor queue_functor_;
  grpc_call* call_ = nullptr;
  gpr_timespec deadline_;
  grpc_metadata_array metadata_;

  Mutex mutex_;
  CondVar changed_;
  bool pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool queue_down_ ABSL_GUARDED_BY(mutex_) = false;
};

// Thread-compatible; Start and Close by gRPC's threads, one after another.
class ServerPort : public std::enable_shared_from_this<ServerPort> {
 public:
  ServerPort(std::string address, ListenOptions options, UniqueFd listen_fd,
             std::shared_ptr<FdServer> fd_server, absl::Status status,
             std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor)
      : address_(std::move(address)),
        options_(std::move(options)),
        listen_fd_(std::move(listen_fd)),
        fd_server_(std::move(fd_server)),
        status_(std::move(status)),
        acceptor_(std::move(acceptor)) {}

  // Binds. Reports the outcome where ListenOptions::bind_status says.
  absl::Status Bind(grpc_server* server);
  void Start();
  // Returns when the port is closed and nothing of it runs any more.
  void Close();

  // Whether its connections may carry descriptors themselves, and the one that gRPC calls `peer`;
  // null if that is none of this port's.
  bool in_band() const { return options_.wire != PortWire::kFdChannel; }
  std::shared_ptr<InBandPeer> FindPeer(const std::string& peer) const;

 private:
  absl::Status BindSocket();
  void HandOver(UniqueFd connection, const std::string& first_bytes, FdVector fds);
  // To gRPC.
  void GiveAway(UniqueFd connection, const std::string& first_bytes);
  // What it has not read may hold descriptors, and closing those may block: not on the listener's
  // thread.
  void CloseLater(UniqueFd connection);

  const std::string address_;
  const ListenOptions options_;
  UniqueFd listen_fd_;  // A duplicate of options_.listen_fd, until Bind().
  const std::shared_ptr<FdServer> fd_server_;
  const absl::Status status_;  // Why it cannot listen.
  const std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::shared_ptr<Relay> relay_;  // Set by Bind(), if the port is in-band.
  std::shared_ptr<Listener> listener_;
  std::unique_ptr<ShutdownWatcher> watcher_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_SERVER_PORT_H_
