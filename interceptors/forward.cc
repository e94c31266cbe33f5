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
#include "inband/dialed_call.h"
#include "inband/link_call.h"
#include "interceptors/call_credentials.h"
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

// Where descriptors come from, or go to: one of the two is set. `indexed` is by an fdchannel, or
// has not been made yet.
struct End {
  explicit End(const std::shared_ptr<FdTransceiver>& call)
      : indexed(std::dynamic_pointer_cast<internal::ForwardingCall>(call)), in_band(call) {
    if (const auto client = std::dynamic_pointer_cast<internal::ClientCall>(call)) {
      in_band = client->carrier();
      if (in_band != nullptr) indexed = nullptr;
    }
    if (indexed != nullptr) in_band = nullptr;
  }
  // Whether descriptors ever came by its connection, if that is in-band.
  bool AnyCame() const {
    if (const auto call = std::dynamic_pointer_cast<internal::LinkCall>(in_band)) {
      return call->AnyCame();
    }
    const auto call = std::dynamic_pointer_cast<internal::DialedCall>(in_band);
    return call != nullptr && call->AnyCame();
  }

  std::shared_ptr<internal::ForwardingCall> indexed;
  std::shared_ptr<FdTransceiver> in_band;
};

absl::Status Forward(const End& from, const End& to, const ForwardOptions& options) {
  if (from.indexed != nullptr) {
    if (to.indexed != nullptr) {
      return internal::Forward(from.indexed, to.indexed.get(), options.filter, options.keep);
    }
    return internal::ForwardWithoutIndices(from.indexed.get(), to.in_band.get(), options.filter,
                                           options.keep);
  }
  if (!options.urls.has_value()) return from.AnyCame() ? NobodySaysWhich() : absl::OkStatus();
  auto urls = Parse(*options.urls);
  if (!urls.ok()) return urls.status();
  if (to.indexed != nullptr) {
    return internal::ForwardNamed(from.in_band.get(), *std::move(urls), to.indexed.get(),
                                  options.filter);
  }
  return internal::ForwardNamed(from.in_band.get(), *std::move(urls), to.in_band.get(),
                                options.filter);
}

}  // namespace

absl::Status ForwardFds(grpc::ServerContextBase* from, grpc::ClientContext* to,
                        const ForwardOptions& options) {
  const bool announced = internal::MayHaveFds(from);
  const bool named = options.urls.has_value() && !options.urls->empty();
  // A message that names nothing, by whatever wire.
  if (!announced && options.urls.has_value() && !named) return absl::OkStatus();
  const auto source = FromContext(from);
  if (!source.ok()) {
    // FAILED_PRECONDITION: a call that cannot have any.
    const bool plain = !announced && !named && absl::IsFailedPrecondition(source.status());
    return plain ? absl::OkStatus() : source.status();
  }
  const End end(*source);
  if (!announced && !named && !end.AnyCame()) return absl::OkStatus();
  return Forward(end, End(FromContext(to)), options);
}

absl::Status ForwardFds(grpc::ClientContext* from, grpc::ServerContextBase* to,
                        const ForwardOptions& options) {
  // Not FromContext: it would make a state for a call that had none.
  internal::FlatCredentials flat;
  flat.Add(from->credentials());
  if (flat.calls.empty()) return absl::OkStatus();
  const std::shared_ptr<internal::ClientCall>& call = flat.calls.back();
  const End source(call);
  const auto sink = FromContext(to);
  if (sink.ok()) return Forward(source, End(*sink), options);
  if (source.in_band != nullptr) {
    const bool any = options.urls.has_value() ? !options.urls->empty() : source.AnyCame();
    return any ? sink.status() : absl::OkStatus();
  }
  const auto urls = call->Arrived();
  if (!urls.ok()) return urls.status();
  return urls->empty() ? absl::OkStatus() : sink.status();
}

}  // namespace grpcfd
