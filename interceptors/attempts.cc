// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/attempts.h"

#include <string>

#include "fdchannel/calls/call_start.h"
#include "interceptors/grpc/core_calls.h"

namespace grpcfd {
namespace internal {

// --- By a session ---

void SessionAttempts::Keep(grpc_call* core_call) {
  MutexLock lock(&mutex_);
  if (core_call_ == core_call) return;
  if (core_call_ != nullptr) grpc_call_unref(core_call_);
  grpc_call_ref(core_call);
  core_call_ = core_call;
}

void SessionAttempts::Detach() {
  grpc_call* core_call;
  {
    MutexLock lock(&mutex_);
    core_call = std::exchange(core_call_, nullptr);
  }
  if (core_call == nullptr) return;
  GiveUp(*core_, call_);
  grpc_call_unref(core_call);
}

void SessionAttempts::Cancel(const absl::Status& status) {
  grpc_call* core_call;
  {
    MutexLock lock(&mutex_);
    core_call = core_call_;
    if (core_call == nullptr) return;
    grpc_call_ref(core_call);
  }
  CancelWithStatus(core_call, status);
  grpc_call_unref(core_call);
}

void SessionAttempts::StartAttempt(Callback done) {
  const std::shared_ptr<ClientCall> call = call_.lock();
  if (call == nullptr) return done(absl::CancelledError("the call was given up"));
  // The usual case: the session is there, and has room.
  absl::StatusOr<CallMetadata> sent;
  if (TryStart(*core_, call.get(), &sent)) return OnSent(std::move(sent), done);
  StartAsync(core_, call, config_.wait_for_ready,
             [self = shared_from_this(), done = std::move(done)](
                 absl::StatusOr<CallMetadata> late) { self->OnSent(std::move(late), done); });
}

void SessionAttempts::OnSent(absl::StatusOr<CallMetadata> sent, const Callback& done) {
  const std::shared_ptr<ClientCall> call = call_.lock();
  if (call == nullptr) return done(absl::CancelledError("the call was given up"));
  if (!sent.ok()) {
    if (call->has_descriptors()) {
      if (!absl::IsUnavailable(sent.status())) {
        call->FailStart(sent.status());
        Cancel(sent.status());
      }
      return done(sent.status());
    }
    // A call that brings nothing can be made; what it cannot do is get something back.
    call->FailStart(sent.status());
    sent = CallMetadata();
  }
  Entries entries;
  const auto bytes = EncodeCallMetadata(*sent);
  entries.emplace_back(kCallMetadataKey, std::string(bytes.data(), bytes.size()));
  std::string urls;
  if (config_.urls_in_metadata) urls = EncodeMetadataUrls(call->queued_urls());
  if (!urls.empty()) entries.emplace_back(kUrlsMetadataKey, std::move(urls));
  done(std::move(entries));
}

// --- By a connection ---

void InBandAttempts::StartAttempt(Callback done) {
  absl::Status status = start_->StartAttempt();
  done(status.ok() ? absl::StatusOr<Entries>(Entries()) : std::move(status));
}

}  // namespace internal
}  // namespace grpcfd
