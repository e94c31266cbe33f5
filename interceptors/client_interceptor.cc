// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The client's interceptor factories, and the channel that has them.
//
// A factory's CreateClientInterceptor runs when the call is made, before anything of it exists in
// gRPC's core. That is the moment at which a call's descriptors are sent: before the metadata that
// counts them. If the session is there, which it nearly always is, the factory sends, writes the
// metadata into the context and makes no interceptor at all. If not, it makes one that holds the
// call's first operation back until the poller has connected and sent.
//
// That moment is too early for a call that gRPC may make again, or late: such calls are sent for
// each attempt, by what attempts.h is about. The factory then only prepares that.
#include <grpcpp/alarm.h>
#include <grpcpp/create_channel.h>

#include <string.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fdchannel/calls/call_start.h"
#include "fdchannel/client/channel_core.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/socket_address.h"
#include "fdchannel/server/server_core.h"
#include "grpcfd/client.h"
#include "grpcfd/credentials.h"
#include "grpcfd/in_process.h"
#include "inband/dialer.h"
#include "inband/in_band_start.h"
#include "interceptors/attempts.h"
#include "interceptors/call_credentials.h"
#include "interceptors/deadline.h"
#include "interceptors/grpc/core_calls.h"
#include "interceptors/grpc/foreign_cast.h"
#include "interceptors/grpc/private_access.h"
#include "interceptors/grpc/socket_mutator.h"

namespace grpcfd {
namespace internal {
namespace {

using grpc::experimental::ClientInterceptorFactoryInterface;
using grpc::experimental::ClientRpcInfo;
using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;

void SetOnlyEntry(std::multimap<std::string, std::string>* metadata, const char* key,
                  absl::string_view value) {
  // The usual call has no other entries.
  if (metadata->size() == 1 && metadata->begin()->first == key) {
    metadata->begin()->second.assign(value.data(), value.size());
    return;
  }
  auto range = metadata->equal_range(key);
  if (range.first == range.second) {
    metadata->emplace(key, std::string(value));
    return;
  }
  // Into the placeholder's memory.
  range.first->second.assign(value.data(), value.size());
  metadata->erase(std::next(range.first), range.second);
}

// What the RPC says so that the server finds the descriptors.
void WriteMetadata(const CallMetadata& call, const std::string& urls,
                   std::multimap<std::string, std::string>* metadata) {
  const auto bytes = EncodeCallMetadata(call);
  SetOnlyEntry(metadata, kCallMetadataKey, absl::string_view(bytes.data(), bytes.size()));
  if (!urls.empty()) SetOnlyEntry(metadata, kUrlsMetadataKey, urls);
}

// Tells those who wait for the descriptors of a stream that it was cancelled, or has ended. Not for
// unary calls: most of them have no interceptor, and all are to behave alike.
void WatchEnd(InterceptorBatchMethods* methods, ClientRpcInfo::Type type, ClientCall* call) {
  if (type == ClientRpcInfo::Type::UNARY) return;
  // Nothing else may be asked at this one.
  if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_CANCEL)) {
    call->OnCancelled();
    return;
  }
  if (!methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_STATUS)) return;
  const grpc::Status* const status = methods->GetRecvStatus();
  // Their own limit is the call's deadline.
  if (status == nullptr || status->error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) return;
  if (status->error_code() == grpc::StatusCode::CANCELLED) {
    call->OnCancelled();
  } else {
    call->OnEnded();
  }
}

// For streams, whose receivers may wait while the call runs.
class EndWatch final : public Interceptor {
 public:
  EndWatch(std::shared_ptr<ClientCall> call, ClientRpcInfo::Type type)
      : call_(std::move(call)), type_(type) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    WatchEnd(methods, type_, call_.get());
    methods->Proceed();
  }

 private:
  const std::shared_ptr<ClientCall> call_;
  const ClientRpcInfo::Type type_;
};

// Holds a call back until its descriptors are sent, or it is clear that they cannot be.
//
// The call goes on (Proceed) from a gRPC thread, by way of an alarm that is due at once: what
// follows may run the program's callbacks, and those belong on gRPC's threads, not on the poller's.
class DeferredStart final : public Interceptor {
 public:
  DeferredStart(std::shared_ptr<ChannelCore> core, std::shared_ptr<ClientCall> call,
                grpc::ClientContext* context, ClientRpcInfo::Type type, std::string urls)
      : state_(std::make_shared<State>()), core_(std::move(core)), context_(context), type_(type) {
    state_->call = std::move(call);
    state_->urls = std::move(urls);
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    WatchEnd(methods, type_, state_->call.get());
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_CANCEL)) {
      // The call may be one that is held back: let it go and be cancelled.
      state_->Cancel();
      methods->Proceed();
      return;
    }
    if (!methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA) ||
        begun_ || !state_->call->starting()) {
      methods->Proceed();
      return;
    }
    begun_ = true;
    // The call may be over, and this object gone, before StartAsync returns.
    const std::shared_ptr<State> state = state_;
    const std::shared_ptr<ChannelCore> core = core_;
    const bool wait_for_ready = WaitsForReady(context_);
    state->core_call = context_->c_call();
    state->methods = methods;
    state->armed = true;
    if (state->cancelled) return state->Cancel();
    StartAsync(core, state->call, wait_for_ready,
               [state](absl::StatusOr<CallMetadata> said) { state->Finish(std::move(said)); });
  }

 private:
  struct State : std::enable_shared_from_this<State> {
    std::shared_ptr<ClientCall> call;
    std::string urls;
    grpc_call* core_call = nullptr;
    InterceptorBatchMethods* methods = nullptr;
    // The call is being held back; it was cancelled; it was let go. The order of the first
    // two matters: whichever of Intercept and Cancel comes second sees what the other has set.
    std::atomic<bool> armed{false};
    std::atomic<bool> cancelled{false};
    std::atomic<bool> finished{false};
    std::unique_ptr<grpc::Alarm> alarm;

    void Cancel() {
      cancelled = true;
      if (armed) {
        Finish(absl::CancelledError("the call was cancelled before its session was there"));
      }
    }

    void Finish(absl::StatusOr<CallMetadata> said) {
      if (finished.exchange(true)) return;
      alarm = std::make_unique<grpc::Alarm>();
      alarm->Set(std::chrono::system_clock::now(),
                 [self = shared_from_this(), said = std::move(said)](bool) { self->Go(said); });
    }

    void Go(const absl::StatusOr<CallMetadata>& said) {
      // The alarm keeps the function that called this, and that keeps this object. gRPC holds the
      // function until it returns.
      const std::unique_ptr<grpc::Alarm> done = std::move(alarm);
      if (said.ok()) {
        WriteMetadata(*said, urls, methods->GetSendInitialMetadata());
      } else {
        const bool had_descriptors = call->has_queued();
        call->FailStart(said.status());
        // A call that brings nothing can be made; what it cannot do is get something back.
        if (had_descriptors) CancelWithStatus(core_call, said.status());
      }
      methods->Proceed();
    }
  };

  const std::shared_ptr<State> state_;
  const std::shared_ptr<ChannelCore> core_;
  grpc::ClientContext* const context_;
  const ClientRpcInfo::Type type_;
  bool begun_ = false;
};

// For calls that are sent for each attempt: notices when there can be no other one. What was kept
// for it is closed then; a pipe's reader would wait for the end of a writer that is only kept.
class AttemptWatch final : public Interceptor {
 public:
  AttemptWatch(std::shared_ptr<ClientCall> call, std::shared_ptr<Attempts> attempts,
               grpc::ClientContext* context, ClientRpcInfo::Type type)
      : call_(std::move(call)), attempts_(std::move(attempts)), context_(context), type_(type) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      Begin();
    }
    // gRPC shows what comes back only when it has decided against another attempt.
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA) ||
        methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) ||
        methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_STATUS)) {
      call_->Commit(absl::UnavailableError(
          "the call ended before its session was there, and nothing can have come back"));
    }
    WatchEnd(methods, type_, call_.get());
    methods->Proceed();
  }

 private:
  // No attempt has begun yet.
  void Begin() {
    FlatCredentials flat;
    flat.Add(context_->credentials());
    // They end what is kept when they go.
    if (flat.attempts == attempts_) return attempts_->Keep(context_->c_call());
    const absl::Status why = absl::FailedPreconditionError(
        "ClientContext::set_credentials replaced what the channel's grpcfd factory had set, and "
        "the call's descriptors with it: interceptor factories that set credentials chain them "
        "(grpcfd::ChainCallCredentials), or come before grpcfd's");
    call_->FailStart(why);
    CancelWithStatus(context_->c_call(), why);
  }

  const std::shared_ptr<ClientCall> call_;
  const std::shared_ptr<Attempts> attempts_;
  grpc::ClientContext* const context_;
  const ClientRpcInfo::Type type_;
};

// Ends a call that must not be made, before anything of it is sent. A status from its credentials
// might reach the program as UNAVAILABLE (slot_credentials.h).
class RefusedCall final : public Interceptor {
 public:
  RefusedCall(absl::Status why, grpc::ClientContext* context)
      : why_(std::move(why)), context_(context) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      CancelWithStatus(context_->c_call(), why_);
    }
    methods->Proceed();
  }

 private:
  const absl::Status why_;
  grpc::ClientContext* const context_;
};

// Refuses a call to whose credentials a chain factory has added a set that no later factory has
// given to the call.
class SetsWatch final : public Interceptor {
 public:
  explicit SetsWatch(grpc::ClientContext* context) : context_(context) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      FlatCredentials flat;
      flat.Add(context_->credentials());
      const absl::Status status = CheckSets(flat);
      if (!status.ok()) CancelWithStatus(context_->c_call(), status);
    }
    methods->Proceed();
  }

 private:
  grpc::ClientContext* const context_;
};

// Whether calls of a channel with these arguments may be retried by policy.
bool HasRetryPolicy(const grpc::ChannelArguments& arguments) {
  const grpc_channel_args all = arguments.c_channel_args();
  bool policy = false;
  bool enabled = true;
  for (size_t i = 0; i < all.num_args; ++i) {
    const grpc_arg& one = all.args[i];
    if (one.type == GRPC_ARG_STRING && strcmp(one.key, GRPC_ARG_SERVICE_CONFIG) == 0) {
      // A key of the configuration, if not of the method: the price of being wrong is small.
      policy = strstr(one.value.string, "\"retryPolicy\"") != nullptr;
    } else if (one.type == GRPC_ARG_INTEGER && strcmp(one.key, GRPC_ARG_ENABLE_RETRIES) == 0) {
      enabled = one.value.integer != 0;
    }
  }
  return policy && enabled;
}

// Finds the call whose descriptors an RPC brings, and begins its start. Those below know how the
// descriptors go from there.
class ClientFactory : public ClientInterceptorFactoryInterface {
 public:
  Interceptor* CreateClientInterceptor(ClientRpcInfo* info) final {
    grpc::ClientContext* context = info->client_context();
    const std::shared_ptr<grpc::CallCredentials> slot = context->credentials();
    if (slot == nullptr && MetadataToSend(context).empty()) return nullptr;  // The plain call.

    std::shared_ptr<ClientCall> call;
    if (ClientCall* const only = ContextCredentials::OnlyCall(slot.get())) {
      call = only->shared_from_this();
    } else {
      Interceptor* refused = nullptr;
      call = FindCall(info, slot, &refused);
      if (call == nullptr) return refused;
    }

    ClientCall::Start start;
    start.rpc = info;
    start.client_streams = info->type() == ClientRpcInfo::Type::CLIENT_STREAMING ||
                           info->type() == ClientRpcInfo::Type::BIDI_STREAMING;
    start.deadline = ToAbslTime(context->deadline());
    Describe(context, &start);
    const absl::Status status = call->BeginStart(start);
    if (absl::IsAlreadyExists(status)) return nullptr;  // A second factory of the same channel.
    if (status.ok()) return Begin(call, start, info);
    if (call->begun_for(info)) call->FailStart(status);  // If not, it is another RPC's.
    return Refuse(context, status);
  }

 protected:
  // Null for unary calls.
  static Interceptor* WatchFor(const std::shared_ptr<ClientCall>& call, ClientRpcInfo* info) {
    return info->type() == ClientRpcInfo::Type::UNARY ? nullptr : new EndWatch(call, info->type());
  }
  // The descriptors cannot go. A call that brings none can be made all the same; what it cannot do
  // is get something back.
  static Interceptor* Fail(const std::shared_ptr<ClientCall>& call, grpc::ClientContext* context,
                           const absl::Status& status) {
    call->FailStart(status);
    return call->has_descriptors() ? Refuse(context, status) : nullptr;
  }
  static Interceptor* Refuse(grpc::ClientContext* context, const absl::Status& status) {
    context->set_credentials(MakeSlot<RefusingCredentials>(status, context->credentials()));
    return new RefusedCall(status, context);
  }
  // Has `attempts` asked for each attempt of the call.
  static void SendPerAttempt(std::shared_ptr<Attempts> attempts, grpc::ClientContext* context) {
    // gRPC would send this as well, and the peer of a connection may be Go.
    MetadataToSend(context).erase(kCallMetadataKey);
    context->set_credentials(
        MakeSlot<AttemptCredentials>(std::move(attempts), context->credentials()));
  }

 private:
  // What else is known of the start.
  virtual void Describe(const grpc::ClientContext* context, ClientCall::Start* start) const = 0;
  // Sends the call's descriptors, or has them sent. Null if nothing has to be
  // watched.
  virtual Interceptor* Begin(const std::shared_ptr<ClientCall>& call,
                             const ClientCall::Start& start, ClientRpcInfo* info) const = 0;

  // The call that a slot stands for which holds more than a call's descriptors, or none. Null if
  // there is nothing to be started: no call of grpcfd's, or one that was refused before, or here,
  // which sets `*refused`.
  std::shared_ptr<ClientCall> FindCall(ClientRpcInfo* info, const Slot& slot,
                                       Interceptor** refused) const {
    grpc::ClientContext* const context = info->client_context();
    FlatCredentials flat;
    flat.Add(slot);
    if (!flat.refusal.ok()) return nullptr;
    if (flat.calls.empty() && flat.sets.empty()) {
      if (MetadataToSend(context).count(kCallMetadataKey) != 0) {
        *refused =
            Refuse(context,
                   absl::FailedPreconditionError(
                       "ClientContext::set_credentials (or CompositeCallCredentials, which cannot "
                       "combine them) replaced what grpcfd::FromContext had set, and the call's "
                       "descriptors with it: set credentials before FromContext, or use "
                       "grpcfd::ChainCallCredentials(context.credentials(), more)"));
      }
      return nullptr;
    }
    if (flat.calls.size() > 1) {
      *refused =
          Refuse(context, absl::FailedPreconditionError(
                              "the call's credentials hold the descriptors of two contexts"));
      return nullptr;
    }

    std::shared_ptr<ContextCredentials> made;
    if (flat.calls.empty()) made = MakeSlot<ContextCredentials>(slot);
    std::shared_ptr<ClientCall> call = made != nullptr ? made : flat.calls.front();
    if (call->begun_for(info)) return nullptr;  // A second factory of the same channel.
    for (const auto& set : flat.sets) {
      absl::Status joined = set->Join(call);
      if (!joined.ok()) {
        *refused = Refuse(context, joined);
        return nullptr;
      }
    }
    // Only sets: the call's copies of them take their place in the slot, around what was there.
    if (made != nullptr) context->set_credentials(made);
    return call;
  }
};

// By the session of an FdChannel.
class SessionFactory final : public ClientFactory {
 public:
  SessionFactory(std::shared_ptr<FdChannel> fd_channel, const ClientInterceptorOptions& options)
      : fd_channel_(std::move(fd_channel)), core_(CoreOf(*fd_channel_)), options_(options) {}

  const std::shared_ptr<FdChannel>& fd_channel() const { return fd_channel_; }

 private:
  void Describe(const grpc::ClientContext* context, ClientCall::Start* start) const override {
    // In-process calls are made once, and gRPC asks nobody's credentials for them.
    start->per_attempt =
        !core_->in_process() && (options_.send_per_attempt || WaitsForReady(context));
    start->limits = core_->options().limits;
  }

  Interceptor* Begin(const std::shared_ptr<ClientCall>& call, const ClientCall::Start& start,
                     ClientRpcInfo* info) const override {
    grpc::ClientContext* const context = info->client_context();
    if (start.per_attempt) {
      SessionAttempts::Config config;
      config.wait_for_ready = WaitsForReady(context);
      config.urls_in_metadata = options_.urls_in_metadata;
      const auto attempts = std::make_shared<SessionAttempts>(core_, call, config);
      SendPerAttempt(attempts, context);
      return new AttemptWatch(call, attempts, context, info->type());
    }
    std::string urls;
    if (options_.urls_in_metadata) urls = EncodeMetadataUrls(call->queued_urls());
    absl::StatusOr<CallMetadata> said;
    const std::shared_ptr<Session> session = core_->LivingSession();
    if (session == nullptr || !call->TryStartOn(session, core_->NextCallId(), &said) ||
        MetDeadSession(said.status(), *session)) {
      return new DeferredStart(core_, call, context, info->type(), std::move(urls));
    }
    if (!said.ok()) return Fail(call, context, said.status());
    WriteMetadata(*said, urls, &MetadataToSend(context));
    return WatchFor(call, info);
  }

  const std::shared_ptr<FdChannel> fd_channel_;
  const std::shared_ptr<ChannelCore> core_;
  const ClientInterceptorOptions options_;
};

// By gRPC's own connection, which `dialer` relays.
class InBandFactory final : public ClientFactory {
 public:
  InBandFactory(std::shared_ptr<Dialer> dialer, const FdChannelOptions& options)
      : dialer_(std::move(dialer)),
        limits_(options.limits),
        policy_(options.receive_policy.accepts_all()
                    ? nullptr
                    : std::make_shared<ReceivePolicy>(options.receive_policy)) {}
  // The channel is gone, and its calls are.
  ~InBandFactory() override { dialer_->Stop(); }

 private:
  void Describe(const grpc::ClientContext* /*context*/, ClientCall::Start* start) const override {
    start->by_connection = true;
    start->limits = limits_;
  }

  Interceptor* Begin(const std::shared_ptr<ClientCall>& call, const ClientCall::Start& /*start*/,
                     ClientRpcInfo* info) const override {
    auto in_band = std::make_shared<InBandStart>(dialer_, call, policy_);
    const absl::Status status = in_band->Check();
    SendPerAttempt(std::make_shared<InBandAttempts>(std::move(in_band)), info->client_context());
    if (status.ok()) return WatchFor(call, info);
    call->FailStart(status);
    return Refuse(info->client_context(), status);
  }

  const std::shared_ptr<Dialer> dialer_;
  const SessionLimits limits_;
  const std::shared_ptr<const ReceivePolicy> policy_;  // Null: accepts all.
};

// The channel cannot carry descriptors (the target is not a unix socket, or several, for example):
// calls that have any fail.
class WithoutFactory final : public ClientFactory {
 public:
  explicit WithoutFactory(absl::Status why) : why_(std::move(why)) {}

 private:
  void Describe(const grpc::ClientContext* /*context*/,
                ClientCall::Start* /*start*/) const override {}
  Interceptor* Begin(const std::shared_ptr<ClientCall>& call, const ClientCall::Start& /*start*/,
                     ClientRpcInfo* info) const override {
    return Fail(call, info->client_context(), why_);
  }

  const absl::Status why_;
};

std::unique_ptr<ClientInterceptorFactoryInterface> MakeSessionFactory(
    absl::StatusOr<std::shared_ptr<FdChannel>> fd_channel,
    const ClientInterceptorOptions& options) {
  if (!fd_channel.ok()) return std::make_unique<WithoutFactory>(fd_channel.status());
  return std::make_unique<SessionFactory>(*std::move(fd_channel), options);
}

class ChainFactory final : public ClientInterceptorFactoryInterface {
 public:
  ChainFactory(std::shared_ptr<grpc::CallCredentials> defaults, bool unary)
      : defaults_(std::move(defaults)), unary_(unary) {
    flat_.Add(defaults_);
  }

  Interceptor* CreateClientInterceptor(ClientRpcInfo* info) override {
    if (defaults_ == nullptr || (info->type() == ClientRpcInfo::Type::UNARY) != unary_) {
      return nullptr;
    }
    grpc::ClientContext* context = info->client_context();
    const std::shared_ptr<grpc::CallCredentials> slot = context->credentials();
    FlatCredentials present;
    present.Add(slot);
    if (!present.refusal.ok() || Contains(present)) return nullptr;
    context->set_credentials(ChainCallCredentials(defaults_, slot));
    // Otherwise the credentials notice.
    return kSlotAdmitsAtOnce || flat_.sets.empty() ? nullptr : new SetsWatch(context);
  }

 private:
  // Whether the defaults are in there already, by this factory or another.
  bool Contains(const FlatCredentials& present) const {
    const auto all_in = [](const auto& some, const auto& all) {
      for (const auto& one : some) {
        if (std::find(all.begin(), all.end(), one) == all.end()) return false;
      }
      return true;
    };
    return all_in(flat_.plain, present.plain) && all_in(flat_.sets, present.sets) &&
           all_in(flat_.calls, present.calls);
  }

  const std::shared_ptr<grpc::CallCredentials> defaults_;
  const bool unary_;
  FlatCredentials flat_;
};

absl::StatusOr<std::shared_ptr<Dialer>> StartDialer(const std::string& target,
                                                    const ChannelOptions& options) {
  auto address = SocketAddress::ParseTarget(target);
  if (!address.ok()) return address.status();
  return Dialer::Start(*std::move(address), options.fd_channel_options.connect_timeout,
                       options.in_band);
}

}  // namespace
}  // namespace internal

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientInterceptorFactory(
    std::shared_ptr<FdChannel> fd_channel, const ClientInterceptorOptions& options) {
  if (fd_channel == nullptr) {
    return internal::MakeSessionFactory(
        absl::FailedPreconditionError("the channel has no FdChannel"), options);
  }
  return internal::MakeSessionFactory(std::move(fd_channel), options);
}

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> ChainUnaryInterceptorFactory(
    std::shared_ptr<grpc::CallCredentials> defaults) {
  return std::make_unique<internal::ChainFactory>(std::move(defaults), /*unary=*/true);
}

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>
ChainStreamInterceptorFactory(std::shared_ptr<grpc::CallCredentials> defaults) {
  return std::make_unique<internal::ChainFactory>(std::move(defaults), /*unary=*/false);
}

std::shared_ptr<grpc::Channel> CreateCustomChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
    const grpc::ChannelArguments& arguments,
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>
        interceptor_creators,
    const ChannelOptions& options) {
  if (options.wire != Wire::kFdChannel) {
    auto dialer = internal::StartDialer(target, options);
    std::string address = target;
    if (dialer.ok()) {
      address = (*dialer)->address();
      interceptor_creators.push_back(std::make_unique<internal::InBandFactory>(
          *std::move(dialer), options.fd_channel_options));
    } else {
      interceptor_creators.push_back(std::make_unique<internal::WithoutFactory>(dialer.status()));
    }
    return grpc::experimental::CreateCustomChannelWithInterceptors(address, credentials, arguments,
                                                                   std::move(interceptor_creators));
  }
  auto fd_channel = FdChannel::Create(target, options.fd_channel_options);
  if (options.fd_channel != nullptr && fd_channel.ok()) {
    if (options.fd_channel->target() == (*fd_channel)->target()) {
      fd_channel = options.fd_channel;
    } else {
      fd_channel = absl::InvalidArgumentError(
          absl::StrCat("ChannelOptions::fd_channel was made for ", options.fd_channel->target(),
                       ", the channel is for ", (*fd_channel)->target()));
    }
  }
  ClientInterceptorOptions interceptor = options.interceptor;
  if (internal::HasRetryPolicy(arguments)) interceptor.send_per_attempt = true;
  grpc::ChannelArguments named = arguments;
  std::shared_ptr<internal::ChannelCore> core;
  if (fd_channel.ok() && options.name_connections) {
    core = internal::CoreOf(**fd_channel);
    NameConnections(*fd_channel, &named);
  }
  interceptor_creators.push_back(internal::MakeSessionFactory(std::move(fd_channel), interceptor));
  auto channel = grpc::experimental::CreateCustomChannelWithInterceptors(
      target, credentials, named, std::move(interceptor_creators));
  if (core != nullptr) {
    core->AddConnector([weak = std::weak_ptr<grpc::Channel>(channel)] {
      const auto alive = weak.lock();
      if (alive == nullptr) return false;
      const grpc_connectivity_state state = alive->GetState(/*try_to_connect=*/true);
      return state == GRPC_CHANNEL_IDLE || state == GRPC_CHANNEL_CONNECTING;
    });
  }
  return channel;
}

void NameConnections(const std::shared_ptr<FdChannel>& fd_channel,
                     grpc::ChannelArguments* arguments) {
  // gRPC may keep what is called for longer than the channel.
  internal::OnEachSocket(
      arguments,
      [weak = std::weak_ptr<internal::ChannelCore>(internal::CoreOf(*fd_channel))](int socket) {
        const auto core = weak.lock();
        if (core == nullptr) return;
        const auto id = internal::ConnectionId::Mint();
        if (!id.ok() || !internal::NameSocket(BorrowedFd(socket), *id)) return;
        core->AddConnection(*id, socket);
      });
}

std::shared_ptr<grpc::Channel> InProcessChannel(
    grpc::Server* server, const std::shared_ptr<FdServer>& fd_server,
    const grpc::ChannelArguments& arguments,
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>
        interceptor_creators,
    const ChannelOptions& options) {
  auto fd_channel = FdChannel::CreateInProcess(fd_server, options.fd_channel_options);
  if (options.fd_channel != nullptr && fd_channel.ok()) {
    if (internal::CoreOf(*options.fd_channel)->IsTo(internal::CoreOf(*fd_server))) {
      fd_channel = options.fd_channel;
    } else {
      fd_channel = absl::InvalidArgumentError(
          absl::StrCat("ChannelOptions::fd_channel was made for ", options.fd_channel->target(),
                       ", and not for the FdServer of this in-process channel"));
    }
  }
  interceptor_creators.push_back(
      internal::MakeSessionFactory(std::move(fd_channel), options.interceptor));
  return server->experimental().InProcessChannelWithInterceptors(arguments,
                                                                 std::move(interceptor_creators));
}

std::shared_ptr<FdChannel> GetFdChannel(const grpc::Channel& channel) {
  for (const auto& creator : internal::InterceptorCreators(channel)) {
    const auto* ours = internal::ForeignCast<const internal::SessionFactory>(creator.get());
    if (ours != nullptr) return ours->fd_channel();
  }
  return nullptr;
}

std::shared_ptr<grpc::Channel> CreateChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  // Qualified: the arguments' namespace has a function of this name too.
  return grpcfd::CreateCustomChannel(target, credentials, grpc::ChannelArguments());
}

}  // namespace grpcfd
