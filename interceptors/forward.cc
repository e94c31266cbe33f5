// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/forward.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fdchannel/calls/forwarding.h"
#include "grpcfd/client.h"
#include "grpcfd/server.h"
#include "interceptors/call_credentials.h"
#include "interceptors/grpc/foreign_cast.h"
#include "interceptors/server_interceptor.h"

namespace grpcfd {
namespace {

absl::StatusOr<std::vector<InodeUrl>> Parse(const std::vector<std::string>& urls) {
  std::vector<InodeUrl> parsed;
  for (const std::string& url : urls) {
    auto one = InodeUrl::Parse(url);
    if (!one.ok()) return one.status();
    parsed.push_back(*one);
  }
  return parsed;
}

absl::Status NobodySaysWhich() {
  return absl::FailedPreconditionError(
      "the descriptors of the call belong to its connection (Wire::kInBand), and only its message "
      "knows which are its own: set ForwardOptions::urls to the URLs of the message");
}

// The internal form of what FromContext returned; null if it is not for a call.
std::shared_ptr<internal::Call> AsCall(const std::shared_ptr<FdTransceiver>& call) {
  auto* const ours = internal::ForeignCast<internal::Call>(call.get());
  if (ours == nullptr) return nullptr;
  return std::shared_ptr<internal::Call>(call, ours);
}

absl::Status Forward(const std::shared_ptr<internal::Call>& from,
                     const std::shared_ptr<internal::Call>& to, const ForwardOptions& options) {
  if (from->indexed()) {
    return to->indexed() ? internal::Forward(from, to.get(), options.filter, options.keep)
                         : internal::ForwardWithoutIndices(from.get(), to.get(), options.filter,
                                                           options.keep);
  }
  if (!options.urls.has_value()) return from->AnyCame() ? NobodySaysWhich() : absl::OkStatus();
  auto urls = Parse(*options.urls);
  if (!urls.ok()) return urls.status();
  if (to->indexed()) {
    return internal::ForwardNamed(from.get(), *std::move(urls), to.get(), options.filter);
  }
  return internal::ForwardNamed(from.get(), *std::move(urls), static_cast<FdSender*>(to.get()),
                                options.filter);
}

}  // namespace

absl::Status ForwardFds(grpc::ServerContextBase* from, grpc::ClientContext* to,
                        const ForwardOptions& options) {
  const bool announced = internal::MayHaveFds(from);
  const bool named = options.urls.has_value() && !options.urls->empty();
  // A message that names nothing, by whatever wire.
  if (!announced && options.urls.has_value() && !named) return absl::OkStatus();
  const auto source = internal::FindFds(from);
  if (!source.ok()) {
    // FAILED_PRECONDITION: a call that cannot have any.
    const bool plain = !announced && !named && absl::IsFailedPrecondition(source.status());
    return plain ? absl::OkStatus() : source.status();
  }
  const auto call = AsCall(*source);
  if (!announced && !named && !call->AnyCame()) return absl::OkStatus();
  return Forward(call, AsCall(FromContext(to)), options);
}

absl::Status ForwardFds(grpc::ClientContext* from, grpc::ServerContextBase* to,
                        const ForwardOptions& options) {
  // Not FromContext: it would make a state for a call that had none.
  internal::FlatCredentials flat;
  flat.Add(from->credentials());
  if (flat.calls.empty()) return absl::OkStatus();
  const std::shared_ptr<internal::ClientCall>& call = flat.calls.back();
  const auto sink = internal::FindFds(to);
  if (sink.ok()) return Forward(call, AsCall(*sink), options);
  if (!call->indexed()) {
    const bool any = options.urls.has_value() ? !options.urls->empty() : call->AnyCame();
    return any ? sink.status() : absl::OkStatus();
  }
  const auto urls = call->Arrived();
  if (!urls.ok()) return urls.status();
  return urls->empty() ? absl::OkStatus() : sink.status();
}

}  // namespace grpcfd
