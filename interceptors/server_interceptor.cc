// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/server_interceptor.h"

#include <grpcpp/server_context.h>

#include <iterator>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "fdchannel/call_metadata.h"
#include "grpcfd/server.h"
#include "interceptors/deadline.h"
#include "interceptors/server_port.h"

namespace grpcfd {
namespace internal {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;
using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

// Its address is the proof, its text only sorts it.
constexpr char kStateKey[] = "grpcfd-state";
constexpr size_t kStateKeyLength = sizeof(kStateKey) - 1;

class ServerInterceptor final : public Interceptor {
 public:
  // `session` is null if the call names none that is there.
  ServerInterceptor(absl::StatusOr<std::shared_ptr<ServerCall>> call,
                    std::shared_ptr<FdSession> session, bool synchronous)
      : call_(std::move(call)), session_(std::move(session)), synchronous_(synchronous) {}
  ~ServerInterceptor() override {
    if (call_.ok()) (*call_)->End();
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      Metadata* metadata = methods->GetRecvInitialMetadata();
      if (metadata != nullptr) {
        metadata->emplace(grpc::string_ref(kStateKey, kStateKeyLength),
                          grpc::string_ref(reinterpret_cast<const char*>(this), 0));
      }
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE) &&
        call_.ok()) {
      (*call_)->Cancel();
    }
    methods->Proceed();
  }

  static const ServerInterceptor* Find(const Metadata& metadata) {
    const auto range = metadata.equal_range(grpc::string_ref(kStateKey, kStateKeyLength));
    // Ports may have FdServers of their own, each with a factory. The call's session is at one of
    // them.
    const ServerInterceptor* without = nullptr;
    for (auto it = range.first; it != range.second; ++it) {
      if (it->first.data() != kStateKey) continue;
      const auto* state = reinterpret_cast<const ServerInterceptor*>(it->second.data());
      if (state->session() != nullptr) return state;
      without = state;
    }
    return without;
  }

  const absl::StatusOr<std::shared_ptr<ServerCall>>& call() const { return call_; }
  const std::shared_ptr<FdSession>& session() const { return session_; }
  bool synchronous() const { return synchronous_; }

 private:
  const absl::StatusOr<std::shared_ptr<ServerCall>> call_;
  const std::shared_ptr<FdSession> session_;
  const bool synchronous_;
};

}  // namespace

ServerFactory::~ServerFactory() {
  for (auto& port : ports_) port->Close();
}

Interceptor* ServerFactory::CreateServerInterceptor(ServerRpcInfo* info) {
  grpc::ServerContextBase* context = info->server_context();
  const Metadata& metadata = context->client_metadata();
  const auto range = metadata.equal_range(kCallMetadataKey);
  if (range.first == range.second) return nullptr;  // The plain call.

  // Served in a way that lets RecvFd and SendFd wait. What is not known may be a generic service,
  // and that is asynchronous.
  const auto method = methods_.find(absl::string_view(info->method()));
  const bool synchronous = method != methods_.end() && method->second == ApiType::SYNC;
  const auto refuse = [synchronous](absl::Status status) {
    return new ServerInterceptor(std::move(status), /*session=*/nullptr, synchronous);
  };
  if (std::next(range.first) != range.second) {
    return refuse(absl::InvalidArgumentError(
        absl::StrCat("the call has several metadata entries \"", kCallMetadataKey, "\"")));
  }
  const grpc::string_ref& entry = range.first->second;
  const auto call = DecodeCallMetadata(absl::MakeConstSpan(entry.data(), entry.size()));
  if (!call.ok()) return refuse(call.status());
  if (!call->bound()) {
    return refuse(absl::FailedPreconditionError(
        "the client used grpcfd::FromContext, but had no session for the call: its channel has no "
        "grpcfd factory, or could not reach this server's fdchannel"));
  }
  auto found = fd_server_->core()->FindEntry(call->token, call->session_id);
  if (!found.ok()) return refuse(found.status());

  ServerCall::Config config;
  config.key = call->key();
  config.announced = call->count;
  config.holes = call->holes;
  config.client_streams = info->type() == ServerRpcInfo::Type::CLIENT_STREAMING ||
                          info->type() == ServerRpcInfo::Type::BIDI_STREAMING;
  config.server_streams = info->type() == ServerRpcInfo::Type::SERVER_STREAMING ||
                          info->type() == ServerRpcInfo::Type::BIDI_STREAMING;
  config.deadline = ToAbslTime(context->deadline());
  config.recv_timeout = fd_server_->core()->limits().session.recv_timeout;
  config.never_block = !synchronous;
  config.policy = fd_server_->core()->PolicyFor(info->method());
  auto server_call = std::make_shared<ServerCall>(std::move(found->session), config);
  const CallAuthorizer& authorize = fd_server_->core()->options().authorize_call;
  if (authorize) {
    const absl::Status decision =
        authorize(CallDescription{info->method(), found->handle->peer(), call->count});
    if (!decision.ok()) {
      // Closes what has come, and what is still to come as it comes.
      server_call->End();
      return new ServerInterceptor(absl::PermissionDeniedError(absl::StrCat(
                                       "the server's authorize_call refused the descriptors of ",
                                       info->method(), ": ", decision.message())),
                                   std::move(found->handle), synchronous);
    }
  }
  return new ServerInterceptor(std::move(server_call), std::move(found->handle), synchronous);
}

}  // namespace internal

namespace {

absl::Status NoState() {
  return absl::FailedPreconditionError(
      "the call carries no descriptors: the client did not use grpcfd::FromContext, the call came "
      "over a port that is not grpcfd's (TCP, say), or the server has no grpcfd interceptor");
}

}  // namespace

absl::StatusOr<std::shared_ptr<FdSession>> SessionFromContext(grpc::ServerContextBase* context) {
  const auto* state = internal::ServerInterceptor::Find(context->client_metadata());
  if (state == nullptr) return NoState();
  if (state->session() == nullptr) return state->call().status();
  return state->session();
}

absl::StatusOr<PeerCredentials> PeerFromContext(grpc::ServerContextBase* context) {
  auto session = SessionFromContext(context);
  if (!session.ok()) return session.status();
  return (*session)->peer().Dup();
}

absl::StatusOr<std::shared_ptr<FdTransceiver>> FromContext(grpc::ServerContextBase* context) {
  const auto* state = internal::ServerInterceptor::Find(context->client_metadata());
  if (state == nullptr) return NoState();
  if (!state->call().ok()) return state->call().status();
  const std::shared_ptr<internal::ServerCall>& call = *state->call();
  // A synchronous handler is told of a cancellation only when it asks. Others must not ask before
  // they are told.
  if (state->synchronous()) call->AskOnThisThread([context] { return context->IsCancelled(); });
  return std::shared_ptr<FdTransceiver>(call);
}

absl::StatusOr<std::vector<InodeUrl>> UrlsFromContext(const grpc::ServerContextBase* context) {
  const auto& metadata = context->client_metadata();
  const auto it = metadata.find(internal::kUrlsMetadataKey);
  if (it == metadata.end()) return std::vector<InodeUrl>();
  return internal::DecodeMetadataUrls(std::string(it->second.data(), it->second.size()));
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerInterceptorFactory(
    std::shared_ptr<FdServer> fd_server) {
  return std::make_unique<internal::ServerFactory>(std::move(fd_server));
}

}  // namespace grpcfd
