// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// InBandStart: sends what a call of a relayed channel has queued, once the call has a connection.
//
// That is when gRPC asks the call's credentials for metadata: the call has been given to a
// connection and its headers are about to be written. Before that, a call may wait for the channel
// to be ready, and a descriptor that was sent by an earlier connection is lost. Go uses the same
// moment (GetRequestMetadata).
#ifndef GRPCFD_INBAND_IN_BAND_START_H_
#define GRPCFD_INBAND_IN_BAND_START_H_

#include <stddef.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/receive_policy.h"
#include "inband/dialer.h"
#include "inband/in_band_transport.h"

namespace grpcfd {
namespace internal {

// Thread-safe. Does not keep the call.
class InBandStart final {
 public:
  // `call` was started by_connection. `policy` decides what it may have; null accepts all.
  InBandStart(std::shared_ptr<Dialer> dialer, const std::shared_ptr<ClientCall>& call,
              std::shared_ptr<const ReceivePolicy> policy)
      : dialer_(std::move(dialer)), call_(call), policy_(std::move(policy)) {}

  // Whether what is queued could leave by the connection there is now, so that a call that cannot
  // be made fails with the right status. Errors as SendQueue::Push.
  absl::Status Check();
  // The call has been given to the channel's connection: sends what is queued, or says why the call
  // must fail. A second attempt by another connection cannot bring what went with the first:
  // UNAVAILABLE.
  absl::Status StartAttempt();

 private:
  const std::shared_ptr<Dialer> dialer_;
  const std::weak_ptr<ClientCall> call_;
  const std::shared_ptr<const ReceivePolicy> policy_;

  Mutex mutex_;
  // How many at the front of the queue were checked.
  SendQueue::Checked checked_ ABSL_GUARDED_BY(mutex_);
  size_t checked_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::weak_ptr<InBandTransport> transport_ ABSL_GUARDED_BY(mutex_);  // The latest attempt's.
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_IN_BAND_START_H_
