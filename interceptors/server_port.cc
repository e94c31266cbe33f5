// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/server_port.h"

#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>

#include <algorithm>
#include <tuple>
#include <typeindex>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/os/bind.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/socket_address.h"
#include "fdchannel/os/token.h"
#include "grpcfd/in_process.h"
#include "interceptors/grpc/foreign_cast.h"
#include "interceptors/grpc/port_credentials.h"
#include "interceptors/grpc/private_access.h"
#include "interceptors/log.h"
#include "interceptors/server_interceptor.h"

namespace grpcfd {
namespace internal {

// --- ShutdownWatcher ---

ShutdownWatcher::ShutdownWatcher(grpc_server* server, std::function<void()> on_shutdown)
    : server_(server), on_shutdown_(std::move(on_shutdown)) {
  const auto prepare = [this](Functor* functor, auto* run) {
    *functor = Functor();
    functor->functor_run = run;
    // Neither blocks nor runs a program's callback: they set a flag, post a task, or refuse a call
    // and ask for the next one.
    functor->inlineable = 1;
    functor->watcher = this;
  };
  prepare(&request_functor_, &OnRequest);
  prepare(&queue_functor_, &OnQueueShutdown);
  // Not polled: nothing here waits for I/O, so no thread of gRPC's is bound to it.
  grpc_completion_queue_attributes attributes{};
  attributes.version = GRPC_CQ_CURRENT_VERSION;
  attributes.cq_completion_type = GRPC_CQ_CALLBACK;
  attributes.cq_polling_type = GRPC_CQ_NON_POLLING;
  attributes.cq_shutdown_cb = &queue_functor_;
  queue_ = grpc_completion_queue_create(grpc_completion_queue_factory_lookup(&attributes),
                                        &attributes, nullptr);
  grpc_server_register_completion_queue(server_, queue_, nullptr);
  // A name that no client can guess; if one calls it all the same, the call is refused.
  auto token = Token::Mint();
  const std::string secret =
      token.ok() ? std::string(token->bytes().data(), token->bytes().size()) : std::string();
  method_ = grpc_server_register_method(
      server_, absl::StrCat("/grpcfd.shutdown/", absl::BytesToHexString(secret)).c_str(), nullptr,
      GRPC_SRM_PAYLOAD_NONE, 0);
  grpc_metadata_array_init(&metadata_);
}

ShutdownWatcher::~ShutdownWatcher() {
  grpc_completion_queue_shutdown(queue_);
  {
    MutexLock lock(&mutex_);
    while (pending_ || !queue_down_) changed_.Wait(&mutex_);
  }
  grpc_completion_queue_destroy(queue_);
  grpc_metadata_array_destroy(&metadata_);
}

void ShutdownWatcher::Start() { Request(); }

void ShutdownWatcher::Request() {
  {
    MutexLock lock(&mutex_);
    pending_ = true;
  }
  const grpc_call_error error = grpc_server_request_registered_call(
      server_, method_, &call_, &deadline_, &metadata_, nullptr, queue_, queue_, &request_functor_);
  if (error != GRPC_CALL_OK) {
    MutexLock lock(&mutex_);
    pending_ = false;
  }
}

void ShutdownWatcher::OnRequest(grpc_completion_queue_functor* functor, int ok) {
  ShutdownWatcher* self = static_cast<Functor*>(functor)->watcher;
  if (ok != 0) {
    grpc_call_cancel_with_status(self->call_, GRPC_STATUS_UNIMPLEMENTED, "no such method", nullptr);
    grpc_call_unref(self->call_);
    grpc_metadata_array_destroy(&self->metadata_);
    grpc_metadata_array_init(&self->metadata_);
    self->Request();
    return;
  }
  self->on_shutdown_();
  MutexLock lock(&self->mutex_);
  self->pending_ = false;
  self->changed_.NotifyAll();
}

void ShutdownWatcher::OnQueueShutdown(grpc_completion_queue_functor* functor, int) {
  ShutdownWatcher* self = static_cast<Functor*>(functor)->watcher;
  MutexLock lock(&self->mutex_);
  self->queue_down_ = true;
  self->changed_.NotifyAll();
}

// --- ServerPort ---

absl::Status ServerPort::BindSocket() {
  if (!status_.ok()) return status_;
  auto socket = [this]() -> absl::StatusOr<BoundSocket> {
    // Only the in-band wire has descriptors come with a connection's bytes.
    const PassRights pass_rights = in_band() ? PassRights::kOn : PassRights::kOff;
    if (options_.listen_fd.has_value()) {
      return BoundSocket::Adopt(std::move(listen_fd_), pass_rights);
    }
    auto address = SocketAddress::Parse(address_);
    if (!address.ok()) return address.status();
    BindOptions options;
    options.mode = options_.mode;
    options.allow_abstract = options_.allow_abstract;
    options.backlog = options_.backlog;
    options.pass_rights = pass_rights;
    return BoundSocket::Bind(*address, options);
  }();
  if (!socket.ok()) return socket.status();
  Listener::Wires wires;
  wires.fdchannel = options_.wire != PortWire::kInBand;
  wires.in_band = in_band();
  if (in_band()) {
    auto relay = Relay::Start(options_.in_band, CoreOf(*fd_server_)->in_band_counters());
    if (!relay.ok()) return relay.status();
    relay_ = *std::move(relay);
  }
  auto listener = Listener::Create(
      CoreOf(*fd_server_), *std::move(socket), wires,
      [weak = weak_from_this(), core = CoreOf(*fd_server_)](
          UniqueFd connection, const std::string& first_bytes, FdVector fds) {
        if (auto self = weak.lock()) {
          return self->HandOver(std::move(connection), first_bytes, std::move(fds));
        }
        core->CloseClientLater(std::move(connection), std::move(fds));
      });
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  return absl::OkStatus();
}

absl::Status ServerPort::Bind(grpc_server* server) {
  absl::Status status = BindSocket();
  if (options_.bind_status != nullptr) *options_.bind_status = status;
  if (!status.ok()) {
    Log(LogReason::kCannotListen, LogLevel::kError,
        absl::StrCat("cannot listen on ", address_, ": ", status.ToString()));
  }
  if (status.ok()) {
    watcher_ = std::make_unique<ShutdownWatcher>(server,
                                                 [listener = listener_] { listener->StopAsync(); });
  }
  return status;
}

void ServerPort::Start() {
  if (listener_ == nullptr) return;
  watcher_->Start();
  (void)listener_->Start();  // Fails only if it was stopped.
}

void ServerPort::Close() {
  if (listener_ == nullptr) return;
  listener_->Stop();
  watcher_.reset();
  listener_.reset();
  if (relay_ != nullptr) relay_->Stop();
}

std::shared_ptr<InBandPeer> ServerPort::FindPeer(const std::string& peer) const {
  if (relay_ == nullptr) return nullptr;
  const std::string name = InnerNameOfPeer(peer);
  return name.empty() ? nullptr : relay_->Find(name);
}

void ServerPort::HandOver(UniqueFd connection, const std::string& first_bytes, FdVector fds) {
  if (relay_ == nullptr) {
    // It would be taken for a relayed connection of another port.
    if (HasInnerName(connection)) return CloseLater(std::move(connection));
    return GiveAway(std::move(connection), first_bytes);
  }
  auto inner = MakeInnerPair();
  auto peer = GetPeerCredentials(connection, PidfdMode::kWanted);
  const ConnectionId id = IdOfPeer(connection);
  if (!inner.ok() || !peer.ok()) {
    fds.push_back(std::move(connection));  // What it has not read may block on close, too.
    return relay_->Discard(std::move(fds));
  }
  absl::Status refusal;
  const SessionAuthorizer& authorize = CoreOf(*fd_server_)->options().authorize_session;
  if (authorize) {
    const absl::Status decision = authorize(*peer);
    if (!decision.ok()) {
      refusal = absl::PermissionDeniedError(
          absl::StrCat("the server's authorize_session refused the connection of pid ", peer->pid,
                       ", uid ", peer->uid, ": ", std::string(decision.message())));
    }
  }
  // First of all, so that the first call finds it.
  Relay::Newcomer one;
  one.name = inner->name;
  one.sockets = {std::move(connection), std::move(inner->relay_end)};
  one.arrived = std::move(fds);
  one.credentials = *std::move(peer);
  one.refusal = std::move(refusal);
  one.connection = id;
  relay_->Add(std::move(one));
  GiveAway(std::move(inner->grpc_end), first_bytes);
}

void ServerPort::GiveAway(UniqueFd connection, const std::string& first_bytes) {
  const auto before = FdToDevIno(connection);
  grpc::Slice slice(first_bytes);
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
  // gRPC's EventEngine drops a connection that came from no listener, and does not close it (gRPC
  // 1.83); earlier versions do not look. Any descriptor will do.
  parameters.listener_fd = connection.get();
  parameters.fd = connection.Release();
  parameters.read_buffer = grpc::ByteBuffer(&slice, 1);
  acceptor_->HandleNewConnection(&parameters);
  // gRPC takes the bytes out when it takes the connection. If they are still there it did not,
  // because it was shut down meanwhile, and then it neither closed the descriptor nor says so
  // (gRPC 1.51 and 1.83, ExternalConnectionAcceptorImpl). The inode tells whether the number is
  // still this connection's, in case it was closed after all.
  if (parameters.read_buffer.Length() == 0) return;
  const auto after = FdToDevIno(BorrowedFd(parameters.fd));
  if (before.ok() && after.ok() && *before == *after) CloseLater(UniqueFd(parameters.fd));
}

void ServerPort::CloseLater(UniqueFd connection) {
  CoreOf(*fd_server_)->CloseClientLater(std::move(connection), FdVector());
}

namespace {

// What the ports of one builder share until its server takes over.
struct BuilderState {
  std::shared_ptr<FdServer> fd_server;
  FdServerOptions fd_server_options;  // What it was made with, if it was made here.
  absl::Status status;                // Why there is none.
  std::vector<std::shared_ptr<ServerPort>> ports;
};

// Of functions only the kind can be compared: two lambdas from different places differ.
bool SameAs(const FdServerOptions& a, const FdServerOptions& b) {
  const auto functions = [](const FdServerOptions& options) {
    return std::make_tuple(std::type_index(options.authorize_session.target_type()),
                           std::type_index(options.authorize_call.target_type()),
                           std::type_index(options.on_session.target_type()),
                           std::type_index(options.on_session_end.target_type()));
  };
  return a.limits == b.limits && a.receive_policy == b.receive_policy &&
         a.method_policies == b.method_policies && functions(a) == functions(b);
}

// Credentials that bind a ServerPort instead of a gRPC port. The connections' own credentials went
// to the port's acceptor.
class BindingCredentials final : public PortCredentials {
 public:
  explicit BindingCredentials(std::shared_ptr<ServerPort> port) : port_(std::move(port)) {}

 private:
  int Bind(grpc_server* server) override { return port_->Bind(server).ok() ? 1 : 0; }

  const std::shared_ptr<ServerPort> port_;
};

class Plugin final : public grpc::ServerBuilderPlugin {
 public:
  explicit Plugin(std::shared_ptr<BuilderState> state) : state_(std::move(state)) {}

  std::string name() override { return "grpcfd"; }

  // After the program's last word on interceptors, before the builder takes them.
  void UpdateServerBuilder(grpc::ServerBuilder* builder) override {
    ServerInterceptorCreators& creators = InterceptorCreators(builder);
    ServerFactory* factory = nullptr;
    for (auto& creator : creators) {
      auto* ours = ForeignCast<ServerFactory>(creator.get());
      if (ours != nullptr && ours->fd_server() == state_->fd_server) factory = ours;
    }
    if (factory == nullptr) {
      // Appended: hooks for what is received run last to first, so that the program's interceptors
      // find the call's state.
      auto made = std::make_unique<ServerFactory>(state_->fd_server);
      factory = made.get();
      creators.push_back(std::move(made));
    }
    factory->SetMethods(MethodsOf(*builder));
    for (const auto& port : state_->ports) factory->OwnPort(port);
  }

  void InitServer(grpc::ServerInitializer*) override {}
  void Finish(grpc::ServerInitializer*) override {
    for (const auto& port : state_->ports) port->Start();
  }
  void ChangeArguments(const std::string&, void*) override {}

 private:
  // Names ServerBuilder's protected views.
  class View : public grpc::ServerBuilder {
   public:
    static std::vector<grpc::Service*> Services(grpc::ServerBuilder& builder) {
      std::vector<grpc::Service*> services;
      for (const NamedService* named : (builder.*&View::services)()) {
        services.push_back(named->service);
      }
      return services;
    }
  };

  static absl::flat_hash_map<std::string, ServerFactory::ApiType> MethodsOf(
      grpc::ServerBuilder& builder) {
    absl::flat_hash_map<std::string, ServerFactory::ApiType> methods;
    for (const grpc::Service* service : View::Services(builder)) {
      for (const auto& method : Methods(service)) {
        // Null: a generic method, served elsewhere.
        if (method != nullptr) methods[method->name()] = method->api_type();
      }
    }
    return methods;
  }

  const std::shared_ptr<BuilderState> state_;
};

class Option final : public grpc::ServerBuilderOption {
 public:
  explicit Option(std::shared_ptr<BuilderState> state) : state_(std::move(state)) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<Plugin>(state_));
  }

  const std::shared_ptr<BuilderState>& state() const { return state_; }

  // Whether a port with these options may share the FdServer of `state`.
  static absl::Status CheckOptions(const BuilderState& state, const ListenOptions& options) {
    if (options.fd_server != nullptr || SameAs(options.fd_server_options, FdServerOptions()) ||
        SameAs(options.fd_server_options, state.fd_server_options)) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        "ListenOptions::fd_server_options differ from those of the builder's first port, whose "
        "FdServer serves all ports: set them for the first port, or give this one an FdServer of "
        "its own (ListenOptions::fd_server)");
  }

  // The state of an earlier AddListeningPort of `builder` with the same FdServer (null: the shared
  // one), or a new one.
  static std::shared_ptr<BuilderState> StateOf(grpc::ServerBuilder* builder,
                                               const ListenOptions& options) {
    for (grpc::ServerBuilderOption* option : View::Options(*builder)) {
      auto* ours = ForeignCast<Option>(option);
      if (ours == nullptr) continue;
      if (options.fd_server == nullptr ? ours->shared_
                                       : ours->state_->fd_server == options.fd_server) {
        return ours->state_;
      }
    }
    auto state = std::make_shared<BuilderState>();
    state->fd_server = options.fd_server;
    if (state->fd_server == nullptr) {
      state->fd_server_options = options.fd_server_options;
      auto made = FdServer::Create(options.fd_server_options);
      if (made.ok()) {
        state->fd_server = *std::move(made);
      } else {
        state->status = made.status();
      }
    }
    auto option = std::make_unique<Option>(state);
    option->shared_ = options.fd_server == nullptr;
    builder->SetOption(std::move(option));
    return state;
  }

 private:
  class View : public grpc::ServerBuilder {
   public:
    static std::vector<grpc::ServerBuilderOption*> Options(grpc::ServerBuilder& builder) {
      return (builder.*&View::options)();
    }
  };

  const std::shared_ptr<BuilderState> state_;
  bool shared_ = false;
};

}  // namespace
}  // namespace internal

void AddFdServer(grpc::ServerBuilder* builder, std::shared_ptr<FdServer> fd_server) {
  ListenOptions options;
  options.fd_server = std::move(fd_server);
  internal::Option::StateOf(builder, options);
}

void AddListeningPort(grpc::ServerBuilder* builder, const std::string& address,
                      const std::shared_ptr<grpc::ServerCredentials>& credentials,
                      const ListenOptions& options) {
  const auto state = internal::Option::StateOf(builder, options);
  absl::Status status = state->status;
  if (status.ok()) status = internal::Option::CheckOptions(*state, options);
  UniqueFd listen_fd;
  if (options.listen_fd.has_value()) {
    auto copy = options.listen_fd->Dup();
    status.Update(copy.status());
    if (copy.ok()) listen_fd = *std::move(copy);
  }
  auto acceptor = builder->experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, credentials);
  auto port = std::make_shared<internal::ServerPort>(address, options, std::move(listen_fd),
                                                     state->fd_server, std::move(status),
                                                     std::move(acceptor));
  state->ports.push_back(port);
  builder->AddListeningPort(absl::StrCat("grpcfd:", address),
                            std::make_shared<internal::BindingCredentials>(std::move(port)));
}

}  // namespace grpcfd
