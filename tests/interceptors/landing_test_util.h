// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of where calls land share: servers that are to the client what several processes
// are, and clients of each API style that call them without a pause.
#ifndef GRPCFD_TESTS_INTERCEPTORS_LANDING_TEST_UTIL_H_
#define GRPCFD_TESTS_INTERCEPTORS_LANDING_TEST_UTIL_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/grpcfd.h"
#include "tests/interceptors/test_service.h"
#include "tests/interceptors/tls_certificates.h"

namespace grpcfd {
namespace testing_internal {

// One of the servers behind an address. Answers with its name, the descriptor's content, and a
// descriptor with both.
class Process {
 public:
  Process(const std::string& name, const std::string& address, ListenOptions options = {},
          std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials(),
          int streams = 0)
      : name_(name) {
    service.exchange = [this](grpc::ServerContext* context, const test::ExchangeRequest* request,
                              test::ExchangeReply* reply) {
      return Answer(context, *request, reply);
    };
    service.chat = [](grpc::ServerContext*, auto* stream) {
      test::ExchangeRequest request;
      while (stream->Read(&request)) stream->Write(test::ExchangeReply());
      return grpc::Status::OK;
    };
    grpc::ServerBuilder builder;
    if (streams != 0) builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, streams);
    absl::Status bound;
    options.bind_status = &bound;
    AddListeningPort(&builder, address, credentials, options);
    builder.RegisterService(&service);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr) << bound;
  }
  ~Process() {
    if (drain_.joinable()) drain_.join();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  }

  // Takes no new connections, and ends when its calls have.
  void Drain() {
    drain_ = std::thread(
        [this] { server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(30)); });
  }

  // Until they have, after Drain().
  void AwaitDrained() { drain_.join(); }

  grpc::Server* server() const { return server_.get(); }

  std::atomic<int> calls{0};
  FunctionService service;

 private:
  grpc::Status Answer(grpc::ServerContext* context, const test::ExchangeRequest& request,
                      test::ExchangeReply* reply) {
    calls++;
    if (request.urls().empty()) return grpc::Status::OK;
    auto fds = FromContext(context);
    auto fd = fds->RecvFd(request.urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    auto back = fds->SendFd(MemoryFile(absl::StrCat(name_, " got ", Content(*fd))));
    if (!back.ok()) return ToGrpcStatus(back.status());
    reply->add_urls(back->ToString());
    reply->set_payload(name_);
    return grpc::Status::OK;
  }

  const std::string name_;
  std::unique_ptr<grpc::Server> server_;
  std::thread drain_;
};

// One call with a descriptor each way, checked by content; without any if `content` is empty.
class OneCall {
 public:
  OneCall(const std::string& content, bool wait_for_ready) : content_(content) {
    SetDeadline(&context, 20);
    context.set_wait_for_ready(wait_for_ready);
    if (content.empty()) return;
    fds_ = FromContext(&context);
    auto url = fds_->SendFd(MemoryFile(content));
    EXPECT_TRUE(url.ok()) << url.status();
    if (url.ok()) request.add_urls(url->ToString());
  }

  // What went wrong, once the call has ended; empty if nothing.
  std::string Judge() {
    if (!status.ok() || fds_ == nullptr) return status.ok() ? "" : Text(status);
    return Judge(fds_->RecvFd(reply.urls(0)));
  }
  // The same without waiting.
  void JudgeAsync(const std::function<void(const std::string& wrong)>& done) {
    if (!status.ok() || fds_ == nullptr) return done(status.ok() ? "" : Text(status));
    fds_->RecvFdAsync(reply.urls(0),
                      [this, done](absl::StatusOr<UniqueFd> back) { done(Judge(back)); });
  }

  grpc::ClientContext context;
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  grpc::Status status;

 private:
  std::string Judge(const absl::StatusOr<UniqueFd>& back) const {
    if (!back.ok()) return absl::StrCat(reply.payload(), ": ", back.status().ToString());
    const std::string expected = absl::StrCat(reply.payload(), " got ", content_);
    return Content(*back) == expected ? "" : absl::StrCat("swapped: ", Content(*back));
  }

  const std::string content_;
  std::shared_ptr<FdTransceiver> fds_;
};

inline std::string Exchange(test::TestService::Stub* stub, const std::string& content,
                            bool wait_for_ready) {
  OneCall call(content, wait_for_ready);
  call.status = stub->Exchange(&call.context, call.request, &call.reply);
  return call.Judge();
}

inline std::string PlainCall(test::TestService::Stub* stub, bool wait_for_ready) {
  return Exchange(stub, /*content=*/"", wait_for_ready);
}

// --- Clients of each API style ---

enum class Style { kSync, kCallback, kQueue };

inline std::string NameOf(Style style) {
  return style == Style::kSync ? "Sync" : style == Style::kCallback ? "Callback" : "Queue";
}

// Makes calls in one style.
class Caller {
 public:
  using Done = std::function<void(const std::string& wrong)>;

  explicit Caller(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(test::TestService::NewStub(channel)) {}
  // All its calls have ended.
  virtual ~Caller() = default;
  // `done` is called when the call has ended: by kSync before this returns, else on a thread of
  // gRPC, or on the queue's.
  virtual void Make(const std::string& content, bool wait_for_ready, Done done) = 0;

 protected:
  test::TestService::Stub* stub() { return stub_.get(); }

 private:
  const std::unique_ptr<test::TestService::Stub> stub_;
};

class SyncCaller final : public Caller {
 public:
  using Caller::Caller;
  void Make(const std::string& content, bool wait_for_ready, Done done) override {
    done(Exchange(stub(), content, wait_for_ready));
  }
};

class CallbackCaller final : public Caller {
 public:
  explicit CallbackCaller(const std::shared_ptr<grpc::Channel>& channel)
      : Caller(channel), channel_(channel) {}
  // Waits for the contexts, too: gRPC 1.51 writes to memory that it has freed if a callback drops
  // the last reference to its channel.
  ~CallbackCaller() override {
    internal::MutexLock lock(&mutex_);
    while (contexts_ > 0) changed_.Wait(&mutex_);
  }
  void Make(const std::string& content, bool wait_for_ready, Done done) override {
    {
      internal::MutexLock lock(&mutex_);
      ++contexts_;
    }
    const std::shared_ptr<OneCall> call(new OneCall(content, wait_for_ready),
                                        [this](OneCall* gone) {
                                          delete gone;
                                          internal::MutexLock lock(&mutex_);
                                          --contexts_;
                                          changed_.NotifyAll();
                                        });
    stub()->async()->Exchange(
        &call->context, &call->request, &call->reply,
        [call, done = std::move(done)](const grpc::Status& status) {
          call->status = status;
          call->JudgeAsync([call, done](const std::string& wrong) { done(wrong); });
        });
  }

 private:
  const std::shared_ptr<grpc::Channel> channel_;
  internal::Mutex mutex_;
  internal::CondVar changed_;
  int contexts_ ABSL_GUARDED_BY(mutex_) = 0;
};

class QueueCaller final : public Caller {
 public:
  explicit QueueCaller(const std::shared_ptr<grpc::Channel>& channel)
      : Caller(channel), thread_([this] { Run(); }) {}
  ~QueueCaller() override {
    queue_.Shutdown();
    thread_.join();
  }
  void Make(const std::string& content, bool wait_for_ready, Done done) override {
    auto* const one = new Tagged{{content, wait_for_ready}, nullptr, std::move(done)};
    one->reader = stub()->AsyncExchange(&one->call.context, one->call.request, &queue_);
    one->reader->Finish(&one->call.reply, &one->call.status, one);
  }

 private:
  struct Tagged {
    OneCall call;
    std::unique_ptr<grpc::ClientAsyncResponseReader<test::ExchangeReply>> reader;
    Done done;
  };
  void Run() {
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
      const std::unique_ptr<Tagged> one(static_cast<Tagged*>(tag));
      EXPECT_TRUE(ok);  // Finish() always is.
      one->done(one->call.Judge());
    }
  }

  grpc::CompletionQueue queue_;
  std::thread thread_;
};

inline std::unique_ptr<Caller> MakeCaller(Style style,
                                          const std::shared_ptr<grpc::Channel>& channel) {
  if (style == Style::kCallback) return std::make_unique<CallbackCaller>(channel);
  if (style == Style::kQueue) return std::make_unique<QueueCaller>(channel);
  return std::make_unique<SyncCaller>(channel);
}

// `count` calls with descriptors, of which none may fail: all at once, if the style can do that.
inline void ExpectCalls(Caller* caller, const std::string& name, int count, bool wait_for_ready) {
  using internal::MutexLock;
  struct Ends {
    internal::Mutex mutex;
    internal::CondVar changed;
    int left ABSL_GUARDED_BY(mutex);
    std::string wrong ABSL_GUARDED_BY(mutex);
  };
  Ends ends;
  {
    MutexLock lock(&ends.mutex);
    ends.left = count;
  }
  for (int i = 0; i < count; ++i) {
    caller->Make(absl::StrCat(name, ".", i), wait_for_ready, [&ends](const std::string& wrong) {
      MutexLock lock(&ends.mutex);
      if (!wrong.empty()) ends.wrong = wrong;
      if (--ends.left == 0) ends.changed.NotifyAll();
    });
  }
  MutexLock lock(&ends.mutex);
  while (ends.left > 0) ends.changed.Wait(&ends.mutex);
  EXPECT_EQ(ends.wrong, "") << name;
}

// What gRPC does itself to any call, with descriptors or without: Shutdown() cancels those that
// have arrived and that no thread of the server has taken yet, and the connection may break under a
// call that is just being written (gRPC 1.51, seen for plain calls in this very load).
inline bool IsGrpcsOwn(const std::string& wrong) {
  return wrong == "1 CANCELLED" || wrong == "14 Broken pipe";
}

// Calls, several at a time, with descriptors and without, until it goes.
class Load {
  using MutexLock = internal::MutexLock;

 public:
  Load(const std::shared_ptr<grpc::Channel>& channel, Style style, bool wait_for_ready,
       int at_a_time = 4)
      : caller_(MakeCaller(style, channel)), wait_for_ready_(wait_for_ready) {
    {
      MutexLock lock(&mutex_);
      running_ = at_a_time;
    }
    for (int i = 0; i < at_a_time; ++i) {
      if (style != Style::kSync) {
        Next(i, 0);
        continue;
      }
      threads_.emplace_back([this, i] {
        for (int n = 0; !over_; ++n) Pair(i, n, [] {});
        End();
      });
    }
  }
  ~Load() { Stop(); }

  // Of pairs of calls: one with descriptors, one without.
  void AwaitMore(int calls) {
    const internal::MonotonicTime limit = internal::MonotonicTime::Now() + absl::Seconds(60);
    MutexLock lock(&mutex_);
    const int goal = calls_ + calls;
    while (calls_ < goal) {
      if (changed_.WaitUntil(&mutex_, limit)) continue;
      ADD_FAILURE() << "the calls do not go on";
      return;
    }
  }
  void Stop() {
    over_ = true;
    for (auto& thread : threads_) thread.join();
    threads_.clear();
    {
      MutexLock lock(&mutex_);
      while (running_ > 0) changed_.Wait(&mutex_);
    }
    caller_ = nullptr;
  }
  int calls() {
    MutexLock lock(&mutex_);
    return calls_;
  }
  int plain_failures() {
    MutexLock lock(&mutex_);
    return plain_failures_;
  }
  // Of calls with descriptors, which gRPC would have failed without them.
  int grpcs_failures() {
    MutexLock lock(&mutex_);
    return grpcs_failures_;
  }
  void ExpectNoFailures() {
    Stop();
    MutexLock lock(&mutex_);
    EXPECT_EQ(failures_, 0) << "of " << calls_ << ", plain calls: " << plain_failures_
                            << "; the last: " << last_;
    EXPECT_GT(calls_, 0);
  }

 private:
  void Pair(int i, int n, const std::function<void()>& then) {
    caller_->Make(absl::StrCat("file ", i, ".", n), wait_for_ready_,
                  [this, then](const std::string& wrong) {
                    caller_->Make(/*content=*/"", wait_for_ready_,
                                  [this, then, wrong](const std::string& plain) {
                                    Count(wrong, plain);
                                    then();
                                  });
                  });
  }
  void Next(int i, int n) {
    Pair(i, n, [this, i, n] { over_ ? End() : Next(i, n + 1); });
  }
  void End() {
    MutexLock lock(&mutex_);
    --running_;
    changed_.NotifyAll();
  }
  void Count(const std::string& wrong, const std::string& plain) {
    MutexLock lock(&mutex_);
    ++calls_;
    changed_.NotifyAll();
    if (!plain.empty()) ++plain_failures_;
    if (wrong.empty()) return;
    if (IsGrpcsOwn(wrong)) {
      ++grpcs_failures_;
      return;
    }
    ++failures_;
    last_ = wrong;
  }

  std::unique_ptr<Caller> caller_;
  const bool wait_for_ready_;
  std::atomic<bool> over_{false};
  std::vector<std::thread> threads_;
  internal::Mutex mutex_;
  internal::CondVar changed_;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  int grpcs_failures_ ABSL_GUARDED_BY(mutex_) = 0;
  int plain_failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string last_ ABSL_GUARDED_BY(mutex_);
};

inline std::shared_ptr<grpc::Channel> MakeChannel(
    const std::string& address, const ChannelOptions& options = {},
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials()) {
  grpc::ChannelArguments arguments;
  arguments.SetString(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, kTlsServerName);
  return grpcfd::CreateCustomChannel(address, credentials, arguments, {}, options);
}

// A stream that holds its server's shutdown up until it is dropped.
class OpenStream {
 public:
  explicit OpenStream(
      const std::string& address,
      std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials())
      : stub_(test::TestService::NewStub(MakeChannel(address, {}, credentials))),
        stream_(stub_->Chat(&context_)) {
    test::ExchangeReply reply;
    stream_->Write(test::ExchangeRequest());
    EXPECT_TRUE(stream_->Read(&reply));  // The server has it.
  }
  ~OpenStream() {
    stream_->WritesDone();
    const std::string status = Text(stream_->Finish());
    EXPECT_TRUE(status == "OK" || IsGrpcsOwn(status)) << status;
  }

 private:
  std::unique_ptr<test::TestService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<test::ExchangeRequest, test::ExchangeReply>> stream_;
};

inline UniqueFd ListeningSocket(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(fd.get(), 128), 0);
  return fd;
}

class LandingTest : public ::testing::Test {
 protected:
  // A server that takes the path from the one that is there. Nobody is ever without a server.
  std::unique_ptr<Process> TakeThePath(
      std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials()) {
    const std::string beside = path_ + ".next";
    auto next = std::make_unique<Process>("next", "unix:" + beside, ListenOptions(), credentials);
    EXPECT_EQ(rename(beside.c_str(), path_.c_str()), 0);
    return next;
  }

  TempDir dir_;
  const std::string path_ = dir_.File("socket");
  const std::string address_ = "unix:" + path_;
};

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_LANDING_TEST_UTIL_H_
