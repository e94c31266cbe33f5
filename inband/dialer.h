// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Dialer: the client's end. gRPC connects to a private address of this process; for each such
// connection the dialer makes one to the real target, and relays between the two.
//
// Why it exists: gRPC C++ gives no access to the sockets of its channels, and a channel
// made from a connected socket cannot connect again when that breaks. So gRPC keeps doing
// what it does, handshakes, reconnects and backoff included, and the relay stands in
// between.
//
// The relay lends this process's identity (SO_PEERCRED at the target) to all who connect
// to it. So its address is random, and it serves only connections from this very process.
#ifndef GRPCFD_INBAND_DIALER_H_
#define GRPCFD_INBAND_DIALER_H_

#include <stdint.h>

#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/accept_watch.h"
#include "fdchannel/os/bind.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/os/pass_rights.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/socket_address.h"
#include "grpcfd/in_band.h"
#include "inband/relay.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
class Dialer : public std::enable_shared_from_this<Dialer> {
 public:
  // Listens for gRPC. Nothing is connected yet. RESOURCE_EXHAUSTED and others if the address or the
  // thread cannot be had. `pass_rights`: whether who connects may send descriptors; gRPC sends
  // none.
  static absl::StatusOr<std::shared_ptr<Dialer>> Start(SocketAddress target,
                                                       absl::Duration connect_timeout,
                                                       const InBandOptions& options,
                                                       PassRights pass_rights = PassRights::kOff);
  ~Dialer() { Stop(); }
  Dialer(const Dialer&) = delete;
  Dialer& operator=(const Dialer&) = delete;

  // The target for gRPC.
  std::string address() const { return address_.ToString(); }

  // The connection that was made last; null while there is none. A channel to one address has one
  // connection for new calls at a time: a second is made when the first takes no more. gRPC does
  // not say which of the two got an attempt. So while a connection drains (GOAWAY) and the
  // next one is there already, descriptors of an attempt on the first go by the second, and their
  // receiver does not find them (docs/guides/go.md).
  std::shared_ptr<InBandPeer> current() const;

  // Ends all connections. When it returns nothing runs any more. If a thread of grpcfd's calls it,
  // the relay's own threads may still be ending.
  void Stop();

 private:
  // After accept(2) failed for want of descriptors.
  static constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);

  // A connection of gRPC's whose target has a full backlog. On the poller's thread.
  struct Waiting {
    UniqueFd inner;
    MonotonicTime until;
  };

  Dialer(SocketAddress target, absl::Duration connect_timeout, SocketAddress address,
         BoundSocket socket, std::shared_ptr<Relay> relay)
      : target_(std::move(target)),
        connect_timeout_(connect_timeout),
        address_(std::move(address)),
        relay_(std::move(relay)),
        watch_(AcceptWatch::Create(relay_->poller(), kAcceptPause)),
        socket_(std::move(socket)) {}

  void Accept();
  // False if it has to be tried again.
  bool Dial(UniqueFd* inner);
  void RetryWaiting();
  void CloseAll();

  const SocketAddress target_;
  const absl::Duration connect_timeout_;
  const SocketAddress address_;
  const std::shared_ptr<Relay> relay_;
  const std::shared_ptr<AcceptWatch> watch_;

  mutable Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::string current_ ABSL_GUARDED_BY(mutex_);

  // On the poller's thread.
  BoundSocket socket_;
  std::list<Waiting> waiting_;
  uint64_t next_name_ = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_DIALER_H_
