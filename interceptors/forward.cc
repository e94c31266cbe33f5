// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/forward.h"

#include <memory>

#include "absl/types/span.h"
#include "fdchannel/call_metadata.h"
#include "fdchannel/forwarding.h"
#include "grpcfd/client.h"
#include "grpcfd/server.h"
#include "interceptors/call_credentials.h"

namespace grpcfd {
namespace {

// Whether the client said that its call may have descriptors. One that said so of a call that has
// no session (bound) can neither send nor get any.
bool MayHaveFds(const grpc::ServerContextBase& context) {
  const auto& metadata = context.client_metadata();
  const auto entry = metadata.find(internal::kCallMetadataKey);
  if (entry == metadata.end()) return false;
  const auto call =
      internal::DecodeCallMetadata(absl::MakeConstSpan(entry->second.data(), entry->second.size()));
  return !call.ok() || call->bound();
}

absl::Status Forward(const std::shared_ptr<FdTransceiver>& from,
                     const std::shared_ptr<FdTransceiver>& to, const ForwardOptions& options) {
  const auto source = std::dynamic_pointer_cast<internal::ForwardingCall>(from);
  auto* const sink = dynamic_cast<internal::ForwardingCall*>(to.get());
  if (source == nullptr || sink == nullptr) {
    return absl::FailedPreconditionError("the call is of a kind that cannot be forwarded");
  }
  return internal::Forward(source, sink, options.filter, options.keep);
}

}  // namespace

absl::Status ForwardFds(grpc::ServerContextBase* from, grpc::ClientContext* to,
                        const ForwardOptions& options) {
  if (!MayHaveFds(*from)) return absl::OkStatus();
  const auto source = FromContext(from);
  if (!source.ok()) return source.status();
  return Forward(*source, FromContext(to), options);
}

absl::Status ForwardFds(grpc::ClientContext* from, grpc::ServerContextBase* to,
                        const ForwardOptions& options) {
  // Not FromContext: it would make a state for a call that had none.
  internal::FlatCredentials flat;
  flat.Add(from->credentials());
  if (flat.calls.empty()) return absl::OkStatus();
  const std::shared_ptr<internal::ClientCall>& source = flat.calls.back();
  const auto sink = FromContext(to);
  if (sink.ok()) return Forward(source, *sink, options);
  const auto urls = source->Arrived();
  if (!urls.ok()) return urls.status();
  return urls->empty() ? absl::OkStatus() : sink.status();
}

}  // namespace grpcfd
