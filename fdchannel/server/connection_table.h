// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ConnectionTable: the gRPC connections of this process that have names (os/connection_id.h), and
// who is at their other ends.
//
// A record lives as long as its connection: gRPC closes the descriptor when it likes, so each use
// compares the socket's cookie before and after. It never holds a duplicate: gRPC's epoll would go
// on reporting a closed number. A number that is used again overwrites its record, so there are
// never more records than descriptors, and none is given up for another.
//
// Two connections may have one name: abstract names are per network namespace. Then a name alone
// says nothing about who calls.
#ifndef GRPCFD_FDCHANNEL_SERVER_CONNECTION_TABLE_H_
#define GRPCFD_FDCHANNEL_SERVER_CONNECTION_TABLE_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/peer_credentials.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
class ConnectionTable {
 public:
  // Of the process: peer() says a name, and not which server's connection it is.
  static ConnectionTable& Process();

  // `connection` has this name, and belongs to `server`, of which only the address counts. If it
  // has none, its number's last record goes.
  void Add(BorrowedFd connection, const ConnectionId& id, const void* server);

  // Whether `server` has a connection of this name that is still there.
  bool Has(const ConnectionId& id, const void* server) const;
  // The same, of the process `owner`: another one may have bound the name in a network namespace of
  // its own. A process that is not known (pid 0) may be any.
  bool HasOf(const PeerCredentials& owner, const ConnectionId& id, const void* server) const;

  // The names of the connections that `server` has.
  std::vector<ConnectionId> NamesOf(const void* server) const;

  // Who is at the other end of the connection of this name.
  //   UNAVAILABLE          it is gone
  //   FAILED_PRECONDITION  several connections have the name
  //   RESOURCE_EXHAUSTED   this process is at RLIMIT_NOFILE
  absl::StatusOr<PeerCredentials> Peer(const ConnectionId& id) const;

 private:
  struct Record {
    ConnectionId id;
    uint64_t cookie;
    const void* server;
  };

  std::vector<std::pair<int, Record>> Living(const ConnectionId& id) const;

  mutable Mutex mutex_;
  absl::flat_hash_map<int, Record> records_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<ConnectionId, absl::InlinedVector<int, 1>> numbers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SERVER_CONNECTION_TABLE_H_
