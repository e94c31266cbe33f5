// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/server_interceptor.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/fds/refusing_transceiver.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/server/connection_table.h"
#include "fdchannel/wire/call_metadata.h"
#include "grpcfd/server.h"
#include "inband/in_band_transport.h"
#include "inband/relay.h"
#include "interceptors/deadline.h"
#include "interceptors/grpc/core_calls.h"
#include "interceptors/grpc/foreign_cast.h"
#include "interceptors/grpc/private_access.h"
#include "interceptors/log.h"
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

absl::Status NoState() {
  return absl::FailedPreconditionError(
      "the call carries no descriptors: the client did not use grpcfd::FromContext, the call came "
      "over a port that is not grpcfd's (TCP, say), or the server has no grpcfd interceptor");
}

absl::Status NoName() {
  return absl::FailedPreconditionError(
      "who calls is not known: the client's connection has no name of grpcfd's (a client without "
      "grpcfd, or ChannelOptions::name_connections is off), or the call came over a port that is "
      "not grpcfd's");
}

bool ClientStreams(const ServerRpcInfo& info) {
  return info.type() == ServerRpcInfo::Type::CLIENT_STREAMING ||
         info.type() == ServerRpcInfo::Type::BIDI_STREAMING;
}

absl::Status RefusedByAuthorizer(const char* method, const PeerCredentials& peer,
                                 const absl::Status& decision) {
  return absl::PermissionDeniedError(
      absl::StrCat("the server's authorize_call refused the descriptors of ", method, " from pid ",
                   peer.pid, ", uid ", peer.uid, ": ", decision.message()));
}

// What the entry of the metadata points to: the interceptor of the call, whichever way its
// descriptors come.
class CallState : public Interceptor {
 public:
  void Intercept(InterceptorBatchMethods* methods) final {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      Metadata* metadata = methods->GetRecvInitialMetadata();
      if (metadata != nullptr) AddTo(metadata);
      if (Land(methods)) return;
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE)) Cancel();
    methods->Proceed();
  }

  // Null if the call has none.
  static CallState* Find(grpc::ServerContextBase* context) {
    const Metadata& metadata = context->client_metadata();
    const auto range = metadata.equal_range(grpc::string_ref(kStateKey, kStateKeyLength));
    // Ports may have FdServers of their own, each with a factory. The call's session or connection
    // is at one of them.
    CallState* without = nullptr;
    for (auto it = range.first; it != range.second; ++it) {
      if (it->first.data() != kStateKey) continue;
      auto* state = reinterpret_cast<CallState*>(const_cast<char*>(it->second.data()));
      if (state->Belongs(context)) return state;
      without = state;
    }
    return without;
  }

  // What the functions of grpcfd/server.h return, for the context of this call.
  virtual absl::StatusOr<std::shared_ptr<FdTransceiver>> Get(grpc::ServerContextBase* context) = 0;
  virtual absl::StatusOr<std::shared_ptr<FdSession>> Session() = 0;
  virtual absl::StatusOr<PeerCredentials> Peer(grpc::ServerContextBase* context) = 0;

  // Whether the client said that the call may have descriptors.
  virtual bool announced() const = 0;

  // Whether its handler may wait.
  bool synchronous() const { return synchronous_; }

 protected:
  explicit CallState(bool synchronous) : synchronous_(synchronous) {}

  // A synchronous handler is told of a cancellation only when it asks. Others must not ask before
  // they are told.
  std::shared_ptr<FdTransceiver> HandOut(const std::shared_ptr<ServerCall>& call,
                                         grpc::ServerContextBase* context) const {
    if (synchronous_) call->AskOnThisThread([context] { return context->IsCancelled(); });
    return call;
  }

 private:
  void AddTo(Metadata* metadata) const {
    const grpc::string_ref key(kStateKey, kStateKeyLength);
    const grpc::string_ref value(reinterpret_cast<const char*>(this), 0);
    // The client's entry has been read, and says nothing to the program: its place will do, and
    // nothing is allocated. It is gone if the server has several factories.
    auto node = metadata->extract(kCallMetadataKey);
    if (node.empty()) {
      metadata->emplace(key, value);
      return;
    }
    node.key() = key;
    node.mapped() = value;
    metadata->insert(std::move(node));
  }

  // Has the call wait for what decides about it. True if that needs no thread, and it goes on
  // later.
  virtual bool Land(InterceptorBatchMethods* /*methods*/) { return false; }
  // Whether the call came to this state's FdServer.
  virtual bool Belongs(grpc::ServerContextBase* context) = 0;
  virtual void Cancel() = 0;

  const bool synchronous_;
};

// A call whose descriptors come by a session.
class SessionCall final : public CallState {
 public:
  // `session` is null if the call names none that is there, and `bound` false if it says that it
  // has none.
  SessionCall(absl::StatusOr<std::shared_ptr<ServerCall>> call, std::shared_ptr<FdSession> session,
              bool synchronous, bool bound = true)
      : CallState(synchronous),
        call_(std::move(call)),
        session_(std::move(session)),
        bound_(bound) {}
  ~SessionCall() override {
    if (!call_.ok()) return;
    if (!asked_ && owner_.factory != nullptr) CountIfIgnored();
    (*call_)->End();
  }

  // A call that names a session which is not here: its client may not have known that the call
  // would come to this process. That is decided once the call's connection is known. Or the call
  // waited in gRPC for so long that its descriptors were closed: then `entry` is its session.
  struct Landing {
    const ServerFactory* factory = nullptr;  // Outlives the calls of its server.
    ServerRpcInfo* info = nullptr;           // Stays with the call.
    CallMetadata said;
    std::optional<ServerCore::Entry> entry;
  };
  void SetLanding(const Landing& landing) { landing_ = landing; }

  // To be told if the handler never asks for descriptors that came.
  struct Owner {
    const ServerFactory* factory = nullptr;  // Outlives the calls of its server.
    const char* method = nullptr;            // Stays as long as the factory.
    uint32_t announced = 0;
    bool client_streams = false;
  };
  void SetOwner(const Owner& owner) { owner_ = owner; }

  absl::StatusOr<std::shared_ptr<FdTransceiver>> Get(grpc::ServerContextBase* context) override {
    if (!call_.ok()) return call_.status();
    asked_ = true;
    return HandOut(*call_, context);
  }
  absl::StatusOr<std::shared_ptr<FdSession>> Session() override {
    if (session_ == nullptr) return call_.status();
    return session_;
  }
  absl::StatusOr<PeerCredentials> Peer(grpc::ServerContextBase*) override {
    if (session_ == nullptr) return call_.status();
    return session_->peer().Dup();
  }
  bool announced() const override { return bound_; }

 private:
  void CountIfIgnored() const {
    size_t count = owner_.announced;
    if (owner_.client_streams) {
      const auto arrived = (*call_)->Arrived();
      if (arrived.ok()) count = std::max(count, arrived->size());
    }
    if (count == 0) return;
    CoreOf(*owner_.factory->fd_server())->CountIgnoredCall();
    Log(LogReason::kIgnoredDescriptors, LogLevel::kWarning,
        absl::StrCat("the handler of ", owner_.method, " did not ask for the ", count,
                     " descriptors that came with a call: it must call "
                     "grpcfd::FromContext(context), and take them"));
  }
  bool Belongs(grpc::ServerContextBase*) override { return session_ != nullptr; }
  void Cancel() override {
    if (call_.ok()) (*call_)->Cancel();
  }
  bool Land(InterceptorBatchMethods* methods) override;
  void Settle(absl::StatusOr<ServerCore::Entry> entry);

  // Written before the handler runs.
  absl::StatusOr<std::shared_ptr<ServerCall>> call_;
  std::shared_ptr<FdSession> session_;
  const bool bound_;
  Landing landing_;
  std::atomic<bool> asked_{false};
  Owner owner_;
};

bool SessionCall::Land(InterceptorBatchMethods* methods) {
  if (landing_.factory == nullptr) return false;
  grpc::ServerContextBase* const context = landing_.info->server_context();
  ConnectionId id;
  if (!landing_.entry.has_value()) {
    id = landing_.factory->ConnectionOf(context->peer());
    if (id.zero()) return false;
  }
  ServerCore& core = *CoreOf(*landing_.factory->fd_server());
  const absl::Duration timeout =
      std::min(core.limits().hello_timeout, ToAbslTime(context->deadline()) - absl::Now());
  const CallMetadata& said = landing_.said;
  if (!synchronous()) {
    core.Land(said.token, id, landing_.entry, said.key(), timeout,
              [this, methods](absl::StatusOr<ServerCore::Entry> entry) {
                // The program's functions follow.
                RunOnGrpcThread([this, methods, entry = std::move(entry)] {
                  Settle(entry);
                  methods->Proceed();
                });
              });
    return true;
  }
  // The handler's own thread: another one would have to run the handler.
  struct Arrival {
    Mutex mutex;
    CondVar changed;
    std::optional<absl::StatusOr<ServerCore::Entry>> entry ABSL_GUARDED_BY(mutex);
  };
  const auto arrival = std::make_shared<Arrival>();
  core.Land(said.token, id, landing_.entry, said.key(), timeout,
            [arrival](absl::StatusOr<ServerCore::Entry> entry) {
              MutexLock lock(&arrival->mutex);
              arrival->entry = std::move(entry);
              arrival->changed.NotifyAll();
            });
  std::optional<absl::StatusOr<ServerCore::Entry>> entry;
  {
    MutexLock lock(&arrival->mutex);
    while (!arrival->entry.has_value()) arrival->changed.Wait(&arrival->mutex);
    entry = std::move(arrival->entry);
  }
  Settle(*std::move(entry));
  return false;
}

void SessionCall::Settle(absl::StatusOr<ServerCore::Entry> entry) {
  if (!entry.ok()) {
    call_ = entry.status();
    return;
  }
  ServerFactory::Served served =
      landing_.factory->Serve(*std::move(entry), landing_.said, landing_.info);
  call_ = std::move(served.call);
  session_ = std::move(served.session);
}

// A call whose connection may carry descriptors itself. Nothing in its metadata says so: that is
// looked up when the handler asks, so that calls without descriptors need not pay for it.
class InBandCall final : public CallState {
 public:
  // `factory` outlives the calls of its server, and `info` this call.
  InBandCall(const ServerFactory* factory, const ServerRpcInfo* info, bool synchronous)
      : CallState(synchronous), factory_(factory), info_(info) {}
  ~InBandCall() override {
    if (call_ != nullptr) call_->End();
  }

  absl::StatusOr<std::shared_ptr<FdTransceiver>> Get(grpc::ServerContextBase* context) override {
    auto peer = FindPeer(context);
    if (!peer.ok()) return peer.status();
    if (!(*peer)->refusal.ok()) return (*peer)->refusal;
    MutexLock lock(&mutex_);
    if (call_ != nullptr) return HandOut(call_, context);
    const auto& core = *CoreOf(*factory_->fd_server());
    ServerCall::Config config;
    config.deadline = ToAbslTime(context->deadline());
    config.recv_timeout = core.limits().session.recv_timeout;
    config.never_block = !synchronous();
    const CallAuthorizer& authorize = core.options().authorize_call;
    if (authorize) {
      lock.Unlock();  // The program's function.
      // Nobody counts descriptors on this wire.
      const absl::Status decision =
          authorize(CallDescription{info_->method(), &(*peer)->credentials, /*fd_count=*/0});
      lock.Lock();
      if (!decision.ok()) {
        return RefusedByAuthorizer(info_->method(), (*peer)->credentials, decision);
      }
    }
    if (call_ == nullptr) {
      call_ = std::make_shared<ServerCall>(
          std::make_shared<InBandTransport>(*std::move(peer), core.PolicyFor(info_->method())),
          config);
    }
    if (cancelled_) call_->Cancel();
    return HandOut(call_, context);
  }
  absl::StatusOr<std::shared_ptr<FdSession>> Session() override {
    return absl::FailedPreconditionError(
        "the call's descriptors come on gRPC's own connection (Wire::kInBand): it has no session");
  }
  absl::StatusOr<PeerCredentials> Peer(grpc::ServerContextBase* context) override {
    auto peer = FindPeer(context);
    if (!peer.ok()) return peer.status();
    return (*peer)->credentials.Dup();
  }
  bool announced() const override { return false; }

 private:
  absl::StatusOr<std::shared_ptr<InBandPeer>> FindPeer(grpc::ServerContextBase* context) {
    MutexLock lock(&mutex_);
    if (peer_ == nullptr) {
      const std::string name = context->peer();
      if (InnerNameOfPeer(name).empty()) return NoState();
      peer_ = factory_->FindPeer(name);
    }
    if (peer_ == nullptr) {
      return absl::UnavailableError(
          "the connection of the call is gone: a new call gets a new one");
    }
    return peer_;
  }
  bool Belongs(grpc::ServerContextBase* context) override { return FindPeer(context).ok(); }
  void Cancel() override {
    std::shared_ptr<ServerCall> call;
    {
      MutexLock lock(&mutex_);
      cancelled_ = true;
      call = call_;
    }
    if (call != nullptr) call->Cancel();
  }

  const ServerFactory* const factory_;
  const ServerRpcInfo* const info_;
  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<InBandPeer> peer_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ServerCall> call_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

ServerFactory::~ServerFactory() {
  for (auto& port : ports_) port->Close();
}

void ServerFactory::OwnPort(std::shared_ptr<ServerPort> port) {
  in_band_ |= port->in_band();
  ports_.push_back(std::move(port));
}

std::shared_ptr<InBandPeer> ServerFactory::FindPeer(const std::string& peer) const {
  for (const auto& port : ports_) {
    if (auto found = port->FindPeer(peer)) return found;
  }
  return nullptr;
}

bool MayHaveFds(grpc::ServerContextBase* context) {
  if (const CallState* state = CallState::Find(context)) return state->announced();
  // The server has no factory.
  const auto entry = context->client_metadata().find(kCallMetadataKey);
  if (entry == context->client_metadata().end()) return false;
  const auto call =
      DecodeCallMetadata(absl::MakeConstSpan(entry->second.data(), entry->second.size()));
  return !call.ok() || call->bound();
}

absl::StatusOr<std::shared_ptr<FdTransceiver>> FindFds(grpc::ServerContextBase* context) {
  CallState* const state = CallState::Find(context);
  if (state == nullptr) return NoState();
  return state->Get(context);
}

Interceptor* ServerFactory::CreateServerInterceptor(ServerRpcInfo* info) {
  grpc::ServerContextBase* context = info->server_context();
  const Metadata& metadata = context->client_metadata();
  const auto range = metadata.equal_range(kCallMetadataKey);
  if (range.first == range.second && !in_band_) return nullptr;  // The plain call.

  const bool synchronous = IsSynchronous(*info);
  const auto refuse = [synchronous](absl::Status status, bool bound = true) {
    return new SessionCall(std::move(status), /*session=*/nullptr, synchronous, bound);
  };
  if (range.first == range.second) return new InBandCall(this, info, synchronous);
  if (std::next(range.first) != range.second) {
    return refuse(absl::InvalidArgumentError(
        absl::StrCat("the call has several metadata entries \"", kCallMetadataKey, "\"")));
  }
  const grpc::string_ref& entry = range.first->second;
  const auto call = DecodeCallMetadata(absl::MakeConstSpan(entry.data(), entry.size()));
  if (!call.ok()) return refuse(call.status());
  if (!call->bound()) {
    return refuse(
        absl::FailedPreconditionError("the client used grpcfd::FromContext, but had no session for "
                                      "the call: its channel has no grpcfd factory, or could not "
                                      "reach this server's fdchannel"),
        /*bound=*/false);
  }
  auto found = CoreOf(*fd_server_)->FindEntry(call->token, call->session_id);
  SessionCall* made;
  if (found.ok() && call->count != 0 && found->session->HasExpired(call->key())) {
    made = new SessionCall(absl::UnavailableError("the call's descriptors are not there yet"),
                           /*session=*/nullptr, synchronous);
    made->SetLanding({this, info, *call, *found});
  } else if (found.ok()) {
    Served served = Serve(*std::move(found), *call, info);
    made = new SessionCall(std::move(served.call), std::move(served.session), synchronous);
  } else {
    made = new SessionCall(found.status(), /*session=*/nullptr, synchronous);
    made->SetLanding({this, info, *call, std::nullopt});
  }
  const auto method = methods_.find(absl::string_view(info->method()));
  made->SetOwner({this, method == methods_.end() ? "a generic method" : method->first.c_str(),
                  call->count, ClientStreams(*info)});
  return made;
}

ServerFactory::Served ServerFactory::Serve(ServerCore::Entry entry, const CallMetadata& said,
                                           ServerRpcInfo* info) const {
  const ServerCore& core = *CoreOf(*fd_server_);
  ServerCall::Config config;
  config.key = said.key();
  config.announced = said.count;
  config.holes = said.holes;
  config.client_streams = ClientStreams(*info);
  config.server_streams = info->type() == ServerRpcInfo::Type::SERVER_STREAMING ||
                          info->type() == ServerRpcInfo::Type::BIDI_STREAMING;
  config.deadline = ToAbslTime(info->server_context()->deadline());
  config.recv_timeout = core.limits().session.recv_timeout;
  config.never_block = !IsSynchronous(*info);
  config.policy = core.PolicyFor(info->method());
  auto call = std::make_shared<ServerCall>(std::move(entry.session), config);
  const CallAuthorizer& authorize = core.options().authorize_call;
  if (!authorize) return {std::move(call), std::move(entry.handle)};
  const absl::Status decision =
      authorize(CallDescription{info->method(), &entry.handle->peer(), said.count});
  if (decision.ok()) return {std::move(call), std::move(entry.handle)};
  // Closes what has come, and what is still to come as it comes.
  call->End();
  return {RefusedByAuthorizer(info->method(), entry.handle->peer(), decision),
          std::move(entry.handle)};
}

bool ServerFactory::IsSynchronous(const ServerRpcInfo& info) const {
  // Served in a way that lets RecvFd and SendFd wait. What is not known may be a generic service,
  // and that is asynchronous.
  const auto method = methods_.find(absl::string_view(info.method()));
  return method != methods_.end() && method->second == ApiType::SYNC;
}

ConnectionId ServerFactory::ConnectionOf(const std::string& peer) const {
  ConnectionId id = IdInPeerName(peer);
  if (in_band_) {
    if (const auto relayed = FindPeer(peer)) id = relayed->connection;
  }
  const bool here = !id.zero() && ConnectionTable::Process().Has(id, CoreOf(*fd_server_).get());
  return here ? id : ConnectionId();
}

}  // namespace internal

absl::StatusOr<std::shared_ptr<FdSession>> SessionFromContext(grpc::ServerContextBase* context) {
  auto* state = internal::CallState::Find(context);
  if (state == nullptr) return internal::NoState();
  return state->Session();
}

absl::StatusOr<PeerCredentials> PeerFromContext(grpc::ServerContextBase* context) {
  auto* state = internal::CallState::Find(context);
  absl::StatusOr<PeerCredentials> peer = internal::NoName();
  if (state != nullptr) peer = state->Peer(context);
  if (peer.ok() || absl::IsResourceExhausted(peer.status())) return peer;
  // A call that has no session here. What it said does not matter: the kernel knows the connection.
  const internal::ConnectionId id = internal::IdInPeerName(context->peer());
  return id.zero() ? std::move(peer) : internal::ConnectionTable::Process().Peer(id);
}

std::shared_ptr<FdTransceiver> FromContext(grpc::ServerContextBase* context) {
  auto fds = internal::FindFds(context);
  if (fds.ok()) return *std::move(fds);
  return std::make_shared<internal::RefusingTransceiver>(fds.status());
}

absl::StatusOr<std::vector<InodeUrl>> UrlsFromContext(const grpc::ServerContextBase* context) {
  const auto& metadata = context->client_metadata();
  const auto it = metadata.find(internal::kUrlsMetadataKey);
  if (it == metadata.end()) return std::vector<InodeUrl>();
  return internal::DecodeMetadataUrls(std::string(it->second.data(), it->second.size()));
}

std::shared_ptr<FdServer> GetFdServer(const grpc::Server& server) {
  for (const auto& creator : internal::InterceptorCreators(server)) {
    const auto* ours = internal::ForeignCast<const internal::ServerFactory>(creator.get());
    if (ours != nullptr) return ours->fd_server();
  }
  return nullptr;
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerInterceptorFactory(
    std::shared_ptr<FdServer> fd_server) {
  return std::make_unique<internal::ServerFactory>(std::move(fd_server));
}

}  // namespace grpcfd
