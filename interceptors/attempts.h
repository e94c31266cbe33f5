// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attempts: sends a call's descriptors once for each attempt that gRPC makes of it.
//
// Why it exists: gRPC may make a call several times (its retry policy, transparent retries), or
// late (wait for ready), and by then the server is another process, or the first attempt's handler
// has taken the descriptors. What a ClientContext says is fixed before the first attempt. Only a
// call-credentials plugin is asked anew for each one, once it has a connection; so the descriptors
// are sent from there, and the metadata that names them is what the plugin returns.
#ifndef GRPCFD_INTERCEPTORS_ATTEMPTS_H_
#define GRPCFD_INTERCEPTORS_ATTEMPTS_H_

#include <grpc/grpc.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/client/channel_core.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/wire/call_metadata.h"
#include "inband/in_band_start.h"
#include "interceptors/grpc/attempt_plugin.h"

namespace grpcfd {
namespace internal {

// Sends what each attempt of one call brings. Thread-safe. Does not keep the descriptors: what no
// ClientContext and no handle hold is not sent again.
class Attempts : public AttemptSource {
 public:
  // Before the first attempt: keeps `core_call`, if it may have to be ended, until Detach.
  virtual void Keep(grpc_call* /*core_call*/) {}
  // The context goes: ends what waits.
  virtual void Detach() {}
};

// Of a call that goes by a session.
class SessionAttempts final : public Attempts,
                              public std::enable_shared_from_this<SessionAttempts> {
 public:
  struct Config {
    bool wait_for_ready = false;
    bool urls_in_metadata = true;
  };
  SessionAttempts(std::shared_ptr<ChannelCore> core, const std::shared_ptr<ClientCall>& call,
                  const Config& config)
      : core_(std::move(core)), call_(call), config_(config) {}

  void Keep(grpc_call* core_call) override;
  void Detach() override;
  // With a status that is not UNAVAILABLE the whole call has been ended: gRPC reports every failure
  // as UNAVAILABLE, and might retry it.
  void StartAttempt(Callback done) override;

 private:
  void OnSent(absl::StatusOr<CallMetadata> sent, const Callback& done);
  void Cancel(const absl::Status& status);

  const std::shared_ptr<ChannelCore> core_;
  const std::weak_ptr<ClientCall> call_;
  const Config config_;

  Mutex mutex_;
  grpc_call* core_call_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// Of a call that goes by gRPC's own connection. gRPC asks once an attempt has been given to one;
// there is nothing to say in metadata.
class InBandAttempts final : public Attempts {
 public:
  explicit InBandAttempts(std::shared_ptr<InBandStart> start) : start_(std::move(start)) {}
  void StartAttempt(Callback done) override;
  bool answers_at_once() const override { return true; }

 private:
  const std::shared_ptr<InBandStart> start_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_ATTEMPTS_H_
