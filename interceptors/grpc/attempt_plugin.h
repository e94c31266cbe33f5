// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Call credentials that are asked for metadata once for each attempt of a call.
//
// Why it exists: gRPC asks nobody else anew for each attempt (docs/decisions/0016). These are
// plugins of gRPC's core. They have no threads, may answer later, and cost next to nothing; a
// grpc::MetadataCredentialsPlugin brings a pool of one thread per processor, and is destroyed on
// another thread, which has to be woken for each call.
#ifndef GRPCFD_INTERCEPTORS_GRPC_ATTEMPT_PLUGIN_H_
#define GRPCFD_INTERCEPTORS_GRPC_ATTEMPT_PLUGIN_H_

#include <grpc/grpc_security.h>
#if __has_include(<grpc/credentials.h>)
#include <grpc/credentials.h>  // Newer gRPC has the plugins there.
#endif

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "fdchannel/os/mutex.h"

namespace grpcfd {
namespace internal {

// Who is asked. Thread-safe.
class AttemptSource {
 public:
  // Metadata by key; at most GRPC_METADATA_CREDENTIALS_PLUGIN_SYNC_MAX entries.
  using Entries = std::vector<std::pair<const char*, std::string>>;
  using Callback = std::function<void(absl::StatusOr<Entries>)>;

  virtual ~AttemptSource() = default;
  // An attempt begins. Never blocks. `done` gets what the attempt must say, on this thread or
  // another one. gRPC reports each failure as UNAVAILABLE.
  virtual void StartAttempt(Callback done) = 0;
  // Whether StartAttempt always calls `done` before it returns.
  virtual bool answers_at_once() const { return false; }
};

// One outcome on its way from whoever has it to whoever asked.
struct AttemptHandOver {
  Mutex mutex;
  CondVar arrived;
  std::optional<absl::StatusOr<AttemptSource::Entries>> result ABSL_GUARDED_BY(mutex);
  // Who asked has left; the outcome has to be brought.
  bool left ABSL_GUARDED_BY(mutex) = false;
};

// Credentials that ask `source`. The caller releases them. They ask for no more security than a
// call has without them.
grpc_call_credentials* MakeAttemptCredentials(std::shared_ptr<AttemptSource> source);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_ATTEMPT_PLUGIN_H_
