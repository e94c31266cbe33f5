// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The serving process of the benchmark: every peer, each at its own socket in one folder. Prints
// READY when all listen, and ends when its standard input does.
//
// Two servers of each gRPC kind ("a" and "b"): the blocks of calls take them in turn, so that the
// luck of one connection (where its buffers lie, which thread polls it) is not taken for a
// difference between the kinds.

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_callback.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "bench.grpc.pb.h"
#include "benchmarks/peer.h"
#include "grpcfd/grpcfd.h"

namespace grpcfd {
namespace benchmarks {
namespace {

// What the servers are started with; see Main.
bool g_lean = false;
int g_max_pollers = 0;

size_t OpenFds() {
  size_t count = 0;
  for (int fd = 0; fd < 20000; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

// From smaps_rollup, which counts pages. What statm says lags behind by up to 64 pages for each
// processor (the kernel's percpu_counter_read_positive).
uint64_t ResidentBytes() {
  std::ifstream smaps("/proc/self/smaps_rollup");
  std::string line;
  while (std::getline(smaps, line)) {
    unsigned long long kib = 0;
    if (sscanf(line.c_str(), "Rss: %llu kB", &kib) == 1) return kib * 1024;
  }
  Die("no Rss in /proc/self/smaps_rollup");
}

grpc::Status Read(const MemoryRequest& request, UniqueFd fd, Sum* sum) {
  const int flags = MAP_SHARED | (request.populate() ? MAP_POPULATE : 0);
  void* const memory = ::mmap(nullptr, request.size(), PROT_READ, flags, fd.get(), 0);
  if (memory == MAP_FAILED) return grpc::Status(grpc::StatusCode::INTERNAL, "mmap");
  const auto* words = static_cast<const uint64_t*>(memory);
  const size_t count = request.size() / sizeof(uint64_t);
  uint64_t total = 0;
  if (request.read_all()) {
    for (size_t i = 0; i < count; ++i) total += words[i];
  } else {
    total = words[0] + words[count - 1];
  }
  ::munmap(memory, request.size());
  sum->set_sum(total);
  return grpc::Status::OK;
}

// For servers that tell the end of a call by an interceptor, and do nothing with it.
class IdleInterceptor final : public grpc::experimental::Interceptor {
 public:
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    methods->Proceed();
  }
};

class IdleFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    // As grpcfd's: none for a plain call.
    const bool plain = info->server_context()->client_metadata().count(kIdleEntry) == 0;
    return plain ? nullptr : new IdleInterceptor();
  }
};

// What a synchronous handler does; stock servers get no URLs.
class SyncService final : public Bench::Service {
 public:
  SyncService() : memory_(::memfd_create("bench-reply", MFD_CLOEXEC)) {}

  void set_fd_server(std::shared_ptr<FdServer> fd_server) { fd_server_ = std::move(fd_server); }

  // Where the descriptors come of calls that are made by hand.
  void TakeFrom(UniqueFd socket) { by_hand_.set_value(std::move(socket)); }

  grpc::Status Call(grpc::ServerContext* context, const Request* request, Reply* reply) override {
    if (request->by_hand()) {
      std::vector<std::string> contents;
      for (const std::string& url : request->urls()) {
        if (!InodeUrl::Parse(url).ok()) Die("parse " + url);
      }
      TakeByHand(socket_.get(), request->verify() ? &contents : nullptr);
      for (std::string& content : contents) reply->add_contents(std::move(content));
      return grpc::Status::OK;
    }
    if (request->urls().empty() && !request->reply_with_fd()) return grpc::Status::OK;
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    std::vector<std::string> contents;
    for (const std::string& url : request->urls()) {
      absl::StatusOr<UniqueFd> fd = fds->RecvFd(url);
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      Inspect(fd->get(), request->verify() ? &contents : nullptr);
    }
    for (std::string& content : contents) reply->add_contents(std::move(content));
    if (request->reply_with_fd()) {
      absl::StatusOr<InodeUrl> url = fds->SendFd(memory_);
      if (!url.ok()) return ToGrpcStatus(url.status());
      reply->set_url(url->ToString());
    }
    return grpc::Status::OK;
  }

  grpc::Status ReadMemory(grpc::ServerContext* context, const MemoryRequest* request,
                          Sum* sum) override {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    absl::StatusOr<UniqueFd> fd = fds->RecvFd(request->url());
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    return Read(*request, *std::move(fd), sum);
  }

  grpc::Status Upload(grpc::ServerContext* /*context*/, grpc::ServerReader<Chunk>* reader,
                      Sum* sum) override {
    uint64_t total = 0;
    Chunk chunk;
    while (reader->Read(&chunk)) {
      const char* data = chunk.data().data();
      for (size_t at = 0; at + sizeof(uint64_t) <= chunk.data().size(); at += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, data + at, sizeof(word));
        total += word;
      }
    }
    sum->set_sum(total);
    return grpc::Status::OK;
  }

  grpc::Status GetStats(grpc::ServerContext* /*context*/, const StatsRequest* /*request*/,
                        Stats* stats) override {
    stats->set_resident_bytes(ResidentBytes());
    stats->set_open_fds(OpenFds());
    if (fd_server_ != nullptr) {
      stats->set_held_fds(fd_server_->held_fds());
      stats->set_sessions(fd_server_->session_count());
    }
    return grpc::Status::OK;
  }

 private:
  const UniqueFd memory_;
  std::promise<UniqueFd> by_hand_;
  const std::shared_future<UniqueFd> socket_ = by_hand_.get_future().share();
  std::shared_ptr<FdServer> fd_server_;
};

// A callback or completion-queue server must not block: it takes one descriptor after the other.
class Taker : public std::enable_shared_from_this<Taker> {
 public:
  static void Run(std::shared_ptr<FdTransceiver> fds, const Request* request, Reply* reply,
                  std::function<void(grpc::Status)> done) {
    auto taker = std::shared_ptr<Taker>(new Taker());
    taker->fds_ = std::move(fds);
    taker->request_ = request;
    taker->reply_ = reply;
    taker->done_ = std::move(done);
    taker->Next();
  }

 private:
  void Next() {
    if (next_ == request_->urls_size()) {
      done_(grpc::Status::OK);
      return;
    }
    fds_->RecvFdAsync(request_->urls(next_++),
                      [self = shared_from_this()](absl::StatusOr<UniqueFd> fd) {
                        if (!fd.ok()) {
                          self->done_(ToGrpcStatus(fd.status()));
                          return;
                        }
                        std::vector<std::string> contents;
                        Inspect(fd->get(), self->request_->verify() ? &contents : nullptr);
                        for (std::string& content : contents) {
                          self->reply_->add_contents(std::move(content));
                        }
                        fd->Reset();
                        self->Next();
                      });
  }

  std::shared_ptr<FdTransceiver> fds_;
  const Request* request_ = nullptr;
  Reply* reply_ = nullptr;
  std::function<void(grpc::Status)> done_;
  int next_ = 0;
};

class CallbackService final : public Bench::CallbackService {
 public:
  grpc::ServerUnaryReactor* Call(grpc::CallbackServerContext* context, const Request* request,
                                 Reply* reply) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    if (request->urls().empty()) {
      reactor->Finish(grpc::Status::OK);
      return reactor;
    }
    auto fds = FromContext(context);
    if (!fds->status().ok()) {
      reactor->Finish(ToGrpcStatus(fds->status()));
      return reactor;
    }
    Taker::Run(std::move(fds), request, reply,
               [reactor](const grpc::Status& status) { reactor->Finish(status); });
    return reactor;
  }
};

// One call of the completion-queue server, which serves one after the other and polls in the thread
// that handles.
class AsyncCall {
 public:
  AsyncCall(Bench::AsyncService* service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), responder_(&context_) {
    service_->RequestCall(&context_, &request_, &responder_, queue_, queue_, this);
  }

  void Proceed(bool ok) {
    if (finishing_ || !ok) {
      delete this;
      return;
    }
    new AsyncCall(service_, queue_);
    finishing_ = true;
    if (request_.urls().empty()) {
      responder_.Finish(reply_, grpc::Status::OK, this);
      return;
    }
    auto fds = FromContext(&context_);
    if (!fds->status().ok()) {
      responder_.Finish(reply_, ToGrpcStatus(fds->status()), this);
      return;
    }
    Taker::Run(std::move(fds), &request_, &reply_,
               [this](const grpc::Status& status) { responder_.Finish(reply_, status, this); });
  }

 private:
  Bench::AsyncService* const service_;
  grpc::ServerCompletionQueue* const queue_;
  grpc::ServerContext context_;
  Request request_;
  Reply reply_;
  grpc::ServerAsyncResponseWriter<Reply> responder_;
  bool finishing_ = false;
};

// A gRPC server with its service; they live as long as the process.
std::unique_ptr<grpc::Server> Start(grpc::ServerBuilder* builder, const std::string& path) {
  if (g_lean) builder->AddChannelArgument(GRPC_ARG_MINIMAL_STACK, 1);
  if (g_max_pollers > 0) {
    builder->SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MAX_POLLERS, g_max_pollers);
  }
  builder->SetMaxReceiveMessageSize(-1);
  std::unique_ptr<grpc::Server> server = builder->BuildAndStart();
  if (server == nullptr) Die("start a server at " + path);
  return server;
}

ListenOptions RaisedLimits() {
  ListenOptions options;
  ServerLimits& limits = options.fd_server_options.limits;
  limits.session.max_fds_per_call = 253;
  limits.session.session_window = 1024;
  limits.max_fds_total = 4096;
  limits.max_fds_per_uid = 2048;
  limits.max_sessions = 1200;
  limits.max_sessions_per_uid = 1200;
  return options;
}

int Main(int argc, char** argv) {
  CLI::App app("The serving process of grpcfd's benchmark.");
  std::string folder;
  bool tuned = false;
  app.add_option("--dir", folder, "Folder of the sockets")->required();
  app.add_flag("--tuned", tuned, "Without abseil's search for mutex deadlocks");
  app.add_flag("--lean", g_lean, "Without gRPC's filters for compression, message sizes and so on");
  app.add_option("--max-pollers", g_max_pollers, "Of the synchronous servers; gRPC's default is 2");
  CLI11_PARSE(app, argc, argv);
  if (tuned) absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);

  std::thread(ServeRaw, folder + "/raw.sock").detach();
  std::thread(ServeSdBus, folder + "/sdbus.sock").detach();
  std::thread(ServeCapnp, folder + "/capnp.sock").detach();

  std::vector<std::unique_ptr<grpc::Server>> servers;
  std::vector<std::unique_ptr<SyncService>> services;
  std::vector<std::unique_ptr<CallbackService>> callback_services;
  std::vector<std::unique_ptr<Bench::AsyncService>> async_services;
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> queues;
  for (const char* instance : {"a", "b"}) {
    const auto path = [&](const char* kind) {
      return absl::StrCat("unix:", folder, "/", kind, "_", instance, ".sock");
    };
    for (const char* kind : {"stock", "idle"}) {
      services.push_back(std::make_unique<SyncService>());
      grpc::ServerBuilder builder;
      builder.AddListeningPort(path(kind), grpc::InsecureServerCredentials());
      builder.RegisterService(services.back().get());
      if (kind == std::string("idle")) {
        std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> idle;
        idle.push_back(std::make_unique<IdleFactory>());
        builder.experimental().SetInterceptorCreators(std::move(idle));
      }
      servers.push_back(Start(&builder, path(kind)));
      const std::string by_hand = absl::StrCat(folder, "/by_hand_", kind, "_", instance, ".sock");
      std::thread([service = services.back().get(), listener = Listen(by_hand, SOCK_SEQPACKET)] {
        service->TakeFrom(Accept(listener));
      }).detach();
    }
    {
      services.push_back(std::make_unique<SyncService>());
      grpc::ServerBuilder builder;
      ListenOptions options = RaisedLimits();
      auto fd_server = FdServer::Create(options.fd_server_options);
      if (!fd_server.ok()) Die(fd_server.status().ToString());
      options.fd_server = *fd_server;
      services.back()->set_fd_server(*fd_server);
      AddListeningPort(&builder, path("sync"), grpc::InsecureServerCredentials(), options);
      builder.RegisterService(services.back().get());
      servers.push_back(Start(&builder, path("sync")));
    }
    {
      callback_services.push_back(std::make_unique<CallbackService>());
      grpc::ServerBuilder builder;
      AddListeningPort(&builder, path("callback"), grpc::InsecureServerCredentials(),
                       RaisedLimits());
      builder.RegisterService(callback_services.back().get());
      servers.push_back(Start(&builder, path("callback")));
    }
    {
      async_services.push_back(std::make_unique<Bench::AsyncService>());
      grpc::ServerBuilder builder;
      AddListeningPort(&builder, path("async"), grpc::InsecureServerCredentials(), RaisedLimits());
      builder.RegisterService(async_services.back().get());
      queues.push_back(builder.AddCompletionQueue());
      servers.push_back(Start(&builder, path("async")));
      std::thread([service = async_services.back().get(), queue = queues.back().get()] {
        new AsyncCall(service, queue);
        void* tag = nullptr;
        bool ok = false;
        while (queue->Next(&tag, &ok)) static_cast<AsyncCall*>(tag)->Proceed(ok);
      }).detach();
    }
  }
  // The peers' sockets are made by their threads.
  for (const char* name : {"/raw.sock", "/sdbus.sock", "/capnp.sock"}) {
    while (::access((folder + name).c_str(), F_OK) != 0) std::this_thread::yield();
  }
  printf("READY\n");
  fflush(stdout);
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  // The process is at its end, and with it every thread and descriptor: nothing here is shut down
  // in order, which the tests are for.
  _exit(0);
}

}  // namespace
}  // namespace benchmarks
}  // namespace grpcfd

int main(int argc, char** argv) { return grpcfd::benchmarks::Main(argc, argv); }
