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
//
// There are two kinds of plugin. A grpc::MetadataCredentialsPlugin brings a pool of one thread per
// processor, which is more than a whole call costs (docs/decisions/0016). The plugin of gRPC's core
// API has none, may answer later, and costs next to nothing; but C++ cannot combine it with other
// credentials. So the first kind is only for calls that have others.
#ifndef GRPCFD_INTERCEPTORS_ATTEMPTS_H_
#define GRPCFD_INTERCEPTORS_ATTEMPTS_H_

#include <grpc/grpc_security.h>
#include <grpcpp/security/credentials.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/client/channel_core.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/wire/call_metadata.h"
#include "inband/in_band_start.h"

namespace grpcfd {
namespace internal {

// Sends what each attempt of one call brings. Thread-safe. Does not keep the descriptors: what no
// ClientContext and no handle hold is not sent again.
class Attempts : public std::enable_shared_from_this<Attempts> {
 public:
  virtual ~Attempts() = default;

  // Has `core_call` ask this for each attempt, and nothing else.
  void ApplyTo(grpc_call* core_call);
  // The same as credentials that gRPC can combine with others. Dear: see above.
  std::shared_ptr<grpc::CallCredentials> AsCredentials(grpc_call* core_call);
  // The context goes: ends what waits.
  virtual void Detach() {}

  // Metadata by key.
  using Entries = std::vector<std::pair<const char*, std::string>>;
  using Callback = std::function<void(absl::StatusOr<Entries>)>;
  // Starts an attempt. Never blocks. `done` gets what it must say, on this thread or another one;
  // on this one unless it MayWait().
  virtual void Start(Callback done) = 0;
  virtual bool MayWait() const = 0;

 private:
  // Before anything asks for an attempt of it. May come twice for one call: an interceptor that
  // chains credentials has gRPC apply the slot again.
  virtual void Attach(grpc_call* /*core_call*/) {}
};

// Of a call that goes by a session. Keeps `core_call`, to end it, until Detach.
class SessionAttempts final : public Attempts {
 public:
  struct Config {
    bool wait_for_ready = false;
    bool urls_in_metadata = true;
  };
  SessionAttempts(std::shared_ptr<ChannelCore> core, const std::shared_ptr<ClientCall>& call,
                  const Config& config)
      : core_(std::move(core)), call_(call), config_(config) {}

  void Detach() override;
  // With a status that is not UNAVAILABLE the whole call has been ended: gRPC reports every failure
  // of a plugin as UNAVAILABLE, and might retry it.
  void Start(Callback done) override;
  bool MayWait() const override { return true; }

 private:
  void Attach(grpc_call* core_call) override;
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
  void Start(Callback done) override;
  bool MayWait() const override { return false; }

 private:
  const std::shared_ptr<InBandStart> start_;
};

// Calls `function` on a thread of gRPC's, soon: what gRPC is told may run the program's callbacks,
// and those belong on its threads, not on the poller's.
void RunOnGrpcThread(std::function<void()> function);

// Ends `call` on this side with `status`.
void CancelWithStatus(grpc_call* call, const absl::Status& status);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_ATTEMPTS_H_
