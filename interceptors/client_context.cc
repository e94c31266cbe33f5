// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The client's FromContext: puts a call's descriptors into its context.
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "fdchannel/wire/call_metadata.h"
#include "grpcfd/client.h"
#include "interceptors/call_credentials.h"
#include "interceptors/grpc/private_access.h"

namespace grpcfd {
namespace internal {
namespace {

// What FromContext leaves in a context's metadata, so that a factory notices when the slot was
// replaced.
const std::string& MetadataPlaceholder() {
  static const auto* const placeholder = [] {
    const auto bytes = EncodeCallMetadata(CallMetadata());
    return new std::string(bytes.data(), bytes.size());
  }();
  return *placeholder;
}

}  // namespace
}  // namespace internal

std::shared_ptr<FdTransceiver> FromContext(grpc::ClientContext* context) {
  const std::shared_ptr<grpc::CallCredentials> slot = context->credentials();
  std::shared_ptr<internal::ContextCredentials> call;
  if (slot == nullptr) {
    call = internal::MakeSlot<internal::ContextCredentials>(nullptr);
  } else {
    internal::FlatCredentials flat;
    flat.Add(slot);
    if (!flat.calls.empty()) return flat.calls.back();
    call = internal::MakeSlot<internal::ContextCredentials>(slot);
    for (const auto& set : flat.sets) {
      absl::Status joined = set->Join(call);
      // The call cannot be made as it was meant; it says so when it is made, and each SendFd until
      // then.
      if (!joined.ok()) call->FailStart(joined);
    }
  }
  context->set_credentials(call);
  // Not by AddMetadata, which copies both strings.
  auto& metadata = internal::MetadataToSend(context);
  if (metadata.empty() || metadata.count(internal::kCallMetadataKey) == 0) {
    metadata.emplace(internal::kCallMetadataKey, internal::MetadataPlaceholder());
  }
  return call;
}

}  // namespace grpcfd
