// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// For a gRPC whose CallCredentials::ApplyToCall is not virtual.
#include <grpc/grpc_security.h>

#include "interceptors/grpc/private_access.h"
#include "interceptors/grpc/slot_credentials.h"

namespace grpcfd {
namespace internal {

// Speaks for a slot's credentials, which it does not keep: gRPC's core may hold it for longer than
// the context.
class SlotSource final : public AttemptSource {
 public:
  void Adopt(const std::shared_ptr<SlotCredentials>& owner) {
    MutexLock lock(&mutex_);
    owner_ = owner;
  }

  void StartAttempt(Callback done) override {
    std::shared_ptr<SlotCredentials> owner;
    absl::Status refusal;
    {
      MutexLock lock(&mutex_);
      owner = owner_.lock();
      refusal = refusal_;
    }
    if (owner == nullptr) return done(absl::CancelledError("the call was given up"));
    if (refusal.ok() && owner->AdmitAtOnce(this)) return done(Entries());
    SlotCredentials::Terms terms;
    if (refusal.ok()) refusal = owner->Admit(this, &terms);
    if (!refusal.ok()) {
      for (const auto& fd_call : terms.bound) fd_call->FailStart(refusal);
      // For all attempts: without its descriptors the call might pass at the next one.
      MutexLock lock(&mutex_);
      refusal_ = refusal;
    }
    if (!refusal.ok()) return done(refusal);
    if (terms.source == nullptr) return done(Entries());
    terms.source->StartAttempt(std::move(done));
  }

 private:
  Mutex mutex_;
  std::weak_ptr<SlotCredentials> owner_ ABSL_GUARDED_BY(mutex_);
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
};

namespace {

// What is plain, and then `source`.
grpc_call_credentials* Compose(const std::shared_ptr<SlotSource>& source, const Slots& plain) {
  grpc_call_credentials* all = MakeAttemptCredentials(source);
  for (auto one = plain.rbegin(); one != plain.rend(); ++one) {
    grpc_call_credentials* const rest = all;
    all = grpc_composite_call_credentials_create(CoreCredentials(one->get()), rest, nullptr);
    grpc_call_credentials_release(rest);
  }
  return all;
}

}  // namespace

// gRPC's core has to be up before CallCredentials, which sees to that, is.
SlotPlugin::SlotPlugin() : source_((grpc_init(), std::make_shared<SlotSource>())) {}

SlotPlugin::~SlotPlugin() { grpc_shutdown(); }

SlotCredentials::SlotCredentials(const Slot& first, const Slot& second,
                                 Slots (*plain_of)(const Slot& first, const Slot& second))
    : grpc::CallCredentials(Compose(source_, plain_of(first, second))) {}

void SlotCredentials::Adopt(const std::shared_ptr<SlotCredentials>& self) { source_->Adopt(self); }

}  // namespace internal
}  // namespace grpcfd
