// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// For a gRPC whose CallCredentials::ApplyToCall is virtual.
#include <grpc/grpc_security.h>

#include <map>
#include <string>

#include "absl/types/span.h"
#include "grpcfd/status.h"
#include "interceptors/grpc/core_calls.h"
#include "interceptors/grpc/slot_credentials.h"

namespace grpcfd {
namespace internal {
namespace {

// The plugin of gRPC's C++, for calls that have other credentials as well: C++ cannot combine
// those with the core's.
class CombinablePlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit CombinablePlugin(std::shared_ptr<AttemptSource> source) : source_(std::move(source)) {}

  // What has to wait must not do so on a thread of gRPC's. The plugin's own threads are there
  // anyway.
  bool IsBlocking() const override { return !source_->answers_at_once(); }
  const char* GetType() const override { return "grpcfd"; }
  grpc::string DebugString() override { return "grpcfd attempt credentials"; }

  grpc::Status GetMetadata(grpc::string_ref /*service_url*/, grpc::string_ref /*method_name*/,
                           const grpc::AuthContext& /*channel_auth_context*/,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    auto hand_over = std::make_shared<AttemptHandOver>();
    source_->StartAttempt([hand_over](absl::StatusOr<AttemptSource::Entries> result) {
      MutexLock lock(&hand_over->mutex);
      hand_over->result = std::move(result);
      hand_over->arrived.NotifyAll();
    });
    MutexLock lock(&hand_over->mutex);
    while (!hand_over->result.has_value()) hand_over->arrived.Wait(&hand_over->mutex);
    if (!(*hand_over->result).ok()) return ToGrpcStatus(hand_over->result->status());
    for (auto& [key, value] : **hand_over->result) metadata->emplace(key, std::move(value));
    return grpc::Status::OK;
  }

 private:
  const std::shared_ptr<AttemptSource> source_;
};

// gRPC's own composite of several; null if one is of a class that gRPC cannot combine.
Slot Combine(absl::Span<const Slot> credentials) {
  Slot all = credentials.front();
  for (size_t i = 1; i < credentials.size() && all != nullptr; ++i) {
    all = grpc::CompositeCallCredentials(all, credentials[i]);
  }
  return all;
}

}  // namespace

bool SlotCredentials::ApplyToCall(grpc_call* call) {
  if (AdmitAtOnce(call)) return true;
  Terms terms;
  absl::Status refusal = Admit(call, &terms);
  Slot all;
  if (refusal.ok() && !terms.plain.empty()) {
    if (terms.source != nullptr) {
      terms.plain.push_back(grpc::experimental::MetadataCredentialsFromPlugin(
          std::make_unique<CombinablePlugin>(std::move(terms.source)), GRPC_SECURITY_NONE));
      terms.source = nullptr;
    }
    all = Combine(terms.plain);
    if (all == nullptr) {
      refusal = absl::FailedPreconditionError(
          "the call has several credentials, and one of them is of a class that neither gRPC nor "
          "grpcfd can combine with others");
    }
  }
  if (!refusal.ok()) {
    // A call that is held back until its session is there need not wait for it now.
    for (const auto& fd_call : terms.bound) fd_call->FailStart(refusal);
    CancelWithStatus(call, refusal);
    return true;
  }
  if (all != nullptr) return all->ApplyToCall(call);
  if (terms.source != nullptr) {
    grpc_call_credentials* const credentials = MakeAttemptCredentials(std::move(terms.source));
    grpc_call_set_credentials(call, credentials);
    grpc_call_credentials_release(credentials);
  }
  return true;
}

}  // namespace internal
}  // namespace grpcfd
