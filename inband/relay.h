// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Relay: the relayed connections of one port or channel, by name, and the threads that move their
// bytes.
//
// How a call finds its connection: gRPC tells a server's handler the address of its peer. Each
// connection goes to gRPC by a socket pair whose other end has an address of its own, a random
// abstract name, so peer() identifies the connection.
//
// The kernel does not choose the names (autobind): it has a million, and a call that outlives its
// connection could find the descriptors of another one.
#ifndef GRPCFD_INBAND_RELAY_H_
#define GRPCFD_INBAND_RELAY_H_

#include <stddef.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/session/counters.h"
#include "grpcfd/in_band.h"
#include "grpcfd/unique_fd.h"
#include "inband/connection.h"

namespace grpcfd {
namespace internal {

// A socket pair to gRPC; both ends non-blocking and close-on-exec.
struct InnerPair {
  UniqueFd relay_end;
  UniqueFd grpc_end;
  std::string name;  // Of the relay's end, without the leading NUL.
};
absl::StatusOr<InnerPair> MakeInnerPair();
// Whether the peer of `connection` has a name of the form that MakeInnerPair() gives. A client of
// another network namespace can take one that is in use in this one.
bool HasInnerName(BorrowedFd connection);

// What gRPC's peer() calls the peer of a relayed connection.
std::string InnerNameOfPeer(const std::string& peer);

// Thread-safe.
class Relay : public std::enable_shared_from_this<Relay> {
 public:
  // INVALID_ARGUMENT for options out of range; RESOURCE_EXHAUSTED if the descriptors of the
  // threads cannot be had. Several relays may share `counters`.
  static absl::StatusOr<std::shared_ptr<Relay>> Start(
      const InBandOptions& options,
      const std::shared_ptr<InBandCounters>& counters = std::make_shared<InBandCounters>());
  ~Relay() { Stop(); }

  // A new connection.
  struct Newcomer {
    std::string name;
    Connection::Sockets sockets;
    FdVector arrived;  // Came with bytes that were read before.
    // As InBandPeer's.
    PeerCredentials credentials;
    absl::Status refusal;
    ConnectionId connection;
  };
  // Relays between its two sockets. What has arrived is there when this returns. Null after Stop().
  std::shared_ptr<InBandPeer> Add(Newcomer one);
  // Null if there is none of this name (any more).
  std::shared_ptr<InBandPeer> Find(const std::string& name) const;

  // Closes these, on a thread that may wait for the close.
  void Discard(FdVector fds);

  // Ends all connections, after writing what can be written at once. When it returns nothing runs
  // any more. If a thread of grpcfd's calls it, the relay's own threads may still be ending.
  void Stop();

  size_t connection_count() const;
  const InBandOptions& options() const { return options_; }
  const std::shared_ptr<Poller>& poller() const { return threads_.front()->poller; }

 private:
  struct Entry {
    std::shared_ptr<InBandPeer> peer;
    std::shared_ptr<Connection> connection;
    RelayThread* thread;
  };

  Relay(const InBandOptions& options, std::vector<std::shared_ptr<RelayThread>> threads)
      : options_(options), threads_(std::move(threads)) {}
  size_t Share(size_t connections) const;
  // Tells all how much each may keep, if that has changed.
  void Divide() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const std::string& name);

  const InBandOptions options_;
  const std::vector<std::shared_ptr<RelayThread>> threads_;

  mutable Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  size_t share_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t next_thread_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, Entry> connections_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_RELAY_H_
