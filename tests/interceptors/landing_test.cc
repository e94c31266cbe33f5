// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A call's descriptors land in the server that the call lands in: restarts, several servers behind
// one socket, paths that are renamed, channels that share a connection. Each server here has an
// FdServer of its own, so that to the client they are what several processes are.
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/mutex.h"
#include "tests/interceptors/test_service.h"
#include "tests/interceptors/tls_certificates.h"
#include "tests/pipe.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing_internal::Content;
using testing_internal::FunctionService;
using testing_internal::MemoryFile;
using testing_internal::Pipe;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::Text;

constexpr int kThreads = 4;

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

// One call with a descriptor each way, checked by content. What went wrong; empty if nothing.
std::string Exchange(test::TestService::Stub* stub, const std::string& content,
                     bool wait_for_ready) {
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_wait_for_ready(wait_for_ready);
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  auto fds = FromContext(&context);
  auto url = fds->SendFd(MemoryFile(content));
  if (!url.ok()) return url.status().ToString();
  request.add_urls(url->ToString());
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  if (!status.ok()) return Text(status);
  auto back = fds->RecvFd(reply.urls(0));
  if (!back.ok()) return absl::StrCat(reply.payload(), ": ", back.status().ToString());
  const std::string expected = absl::StrCat(reply.payload(), " got ", content);
  return Content(*back) == expected ? "" : absl::StrCat("swapped: ", Content(*back));
}

std::string PlainCall(test::TestService::Stub* stub, bool wait_for_ready) {
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_wait_for_ready(wait_for_ready);
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, test::ExchangeRequest(), &reply);
  return status.ok() ? "" : Text(status);
}

// What gRPC does itself to any call, with descriptors or without: Shutdown() cancels those that
// have arrived and that no thread of the server has taken yet, and the connection may break under a
// call that is just being written (gRPC 1.51, seen for plain calls in this very load).
bool IsGrpcsOwn(const std::string& wrong) {
  return wrong == "1 CANCELLED" || wrong == "14 Broken pipe";
}

// Calls from several threads, with descriptors and without, until it goes.
class Load {
  using MutexLock = internal::MutexLock;

 public:
  Load(std::shared_ptr<grpc::Channel> channel, bool wait_for_ready) {
    for (int i = 0; i < kThreads; ++i) {
      threads_.emplace_back([this, channel, wait_for_ready, i] {
        auto stub = test::TestService::NewStub(channel);
        for (int n = 0; !over_; ++n) {
          const std::string wrong =
              Exchange(stub.get(), absl::StrCat("file ", i, ".", n), wait_for_ready);
          const std::string plain = PlainCall(stub.get(), wait_for_ready);
          MutexLock lock(&mutex_);
          ++calls_;
          changed_.NotifyAll();
          if (!plain.empty()) ++plain_failures_;
          if (wrong.empty() || IsGrpcsOwn(wrong)) continue;
          ++failures_;
          last_ = wrong;
        }
      });
    }
  }
  ~Load() { Stop(); }

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
  }
  void ExpectNoFailures() {
    Stop();
    MutexLock lock(&mutex_);
    EXPECT_EQ(failures_, 0) << "of " << calls_ << ", plain calls: " << plain_failures_
                            << "; the last: " << last_;
    EXPECT_GT(calls_, 0);
  }

 private:
  std::atomic<bool> over_{false};
  std::vector<std::thread> threads_;
  internal::Mutex mutex_;
  internal::CondVar changed_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  int plain_failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string last_ ABSL_GUARDED_BY(mutex_);
};

std::shared_ptr<grpc::Channel> MakeChannel(
    const std::string& address, const ChannelOptions& options = {},
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials()) {
  grpc::ChannelArguments arguments;
  arguments.SetString(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, testing_internal::kTlsServerName);
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
    EXPECT_TRUE(stream_->Finish().ok());
  }

 private:
  std::unique_ptr<test::TestService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<test::ExchangeRequest, test::ExchangeReply>> stream_;
};

UniqueFd ListeningSocket(const std::string& path) {
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

class RestartTest : public LandingTest,
                    public ::testing::WithParamInterface<std::tuple<bool, bool>> {
 protected:
  RestartTest() {
    if (!tls()) return;
    static const auto* const certificates =
        new testing_internal::TlsCertificates(testing_internal::MakeTlsCertificates());
    grpc::SslServerCredentialsOptions server;
    server.pem_key_cert_pairs.push_back({certificates->private_key, certificates->certificate});
    server_credentials_ = grpc::SslServerCredentials(server);
    grpc::SslCredentialsOptions client;
    client.pem_root_certs = certificates->authority;
    channel_credentials_ = grpc::SslCredentials(client);
  }
  bool wait_for_ready() const { return std::get<0>(GetParam()); }
  bool tls() const { return std::get<1>(GetParam()); }

  std::shared_ptr<grpc::ServerCredentials> server_credentials_ = grpc::InsecureServerCredentials();
  std::shared_ptr<grpc::ChannelCredentials> channel_credentials_ =
      grpc::InsecureChannelCredentials();
};

INSTANTIATE_TEST_SUITE_P(All, RestartTest, ::testing::Combine(::testing::Bool(), ::testing::Bool()),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param) ? "Waits" : "FailsFast",
                                               std::get<1>(info.param) ? "Tls" : "Plain");
                         });

// The old server drains, held up by another client's stream; the new one has the path.
TEST_P(RestartTest, ARollingRestartFailsNoCall) {
  auto old = std::make_unique<Process>("old", address_, ListenOptions(), server_credentials_);
  std::unique_ptr<Process> next;
  Load load(MakeChannel(address_, {}, channel_credentials_), wait_for_ready());
  load.AwaitMore(100);
  {
    OpenStream stream(address_, channel_credentials_);
    next = TakeThePath(server_credentials_);
    old->Drain();
    load.AwaitMore(1000);
    EXPECT_GT(next->calls, 0);
  }
  old.reset();
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

// The same with the listening socket handed over.
TEST_P(RestartTest, AHandOverOfTheListeningSocketFailsNoCall) {
  const UniqueFd socket = ListeningSocket(path_);
  ListenOptions options;
  options.listen_fd = socket;
  auto old = std::make_unique<Process>("old", address_, options, server_credentials_);
  std::unique_ptr<Process> next;
  Load load(MakeChannel(address_, {}, channel_credentials_), wait_for_ready());
  load.AwaitMore(100);
  {
    OpenStream stream(address_, channel_credentials_);
    next = std::make_unique<Process>("next", address_, options, server_credentials_);
    old->Drain();
    load.AwaitMore(1000);
    EXPECT_GT(next->calls, 0);
  }
  old.reset();
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

class AcceptorsTest : public LandingTest, public ::testing::WithParamInterface<int> {};

INSTANTIATE_TEST_SUITE_P(TwoAndFour, AcceptorsTest, ::testing::Values(2, 4));

// Several processes accept from one socket: each channel works, whichever it reaches.
TEST_P(AcceptorsTest, EveryChannelWorksWhoeverAccepts) {
  const UniqueFd socket = ListeningSocket(path_);
  ListenOptions options;
  options.listen_fd = socket;
  std::vector<std::unique_ptr<Process>> processes;
  for (int i = 0; i < GetParam(); ++i) {
    processes.push_back(std::make_unique<Process>(absl::StrCat("number ", i), address_, options));
  }
  for (int i = 0; i < 40; ++i) {
    auto stub = test::TestService::NewStub(MakeChannel(address_));
    for (int n = 0; n < 25; ++n) {
      ASSERT_EQ(Exchange(stub.get(), absl::StrCat("file ", i, ".", n), false), "") << i << "." << n;
    }
  }
  int used = 0;
  for (const auto& process : processes) used += process->calls > 0 ? 1 : 0;
  EXPECT_GT(used, 1) << "one server has all: nothing was tried";
}

// The path is renamed over while the old server lives. The channel is connected, and has sent no
// descriptors yet.
TEST_F(LandingTest, AConnectedChannelReachesItsServerWhenThePathIsAnothers) {
  Process old("old", address_);
  auto stub = test::TestService::NewStub(MakeChannel(address_));
  ASSERT_EQ(PlainCall(stub.get(), false), "");
  const auto next = TakeThePath();
  const int before = old.calls;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(Exchange(stub.get(), absl::StrCat("file ", i), false), "");
  }
  EXPECT_EQ(old.calls, before + 1000);
  EXPECT_EQ(next->calls, 0);
}

// A second channel with the same arguments, made after such a change.
TEST_F(LandingTest, ASecondChannelWithEqualArgumentsWorks) {
  Process old("old", address_);
  auto first = test::TestService::NewStub(MakeChannel(address_));
  ASSERT_EQ(Exchange(first.get(), "first", false), "");
  const auto next = TakeThePath();
  auto second = test::TestService::NewStub(MakeChannel(address_));
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(Exchange(first.get(), absl::StrCat("old ", i), false), "");
    ASSERT_EQ(Exchange(second.get(), absl::StrCat("new ", i), false), "");
  }
  EXPECT_EQ(next->calls, 1000);
}

// What a client keeps until it knows where a call has landed must not keep a pipe open.
TEST_F(LandingTest, AReaderInTheHandlerSeesTheEndOfAPipeThatWasGivenAway) {
  Process process("only", address_);
  process.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    auto reader = fds->RecvFd(request->urls(0));
    auto writer = fds->RecvFd(request->urls(1));
    if (!reader.ok() || !writer.ok()) return ToGrpcStatus(reader.status());
    EXPECT_EQ(write(writer->get(), "all", 3), 3);
    writer->Reset();
    char buffer[16];
    ssize_t got;
    std::string all;
    while ((got = read(reader->get(), buffer, sizeof(buffer))) > 0) {
      all.append(buffer, static_cast<size_t>(got));
    }
    reply->set_payload(all);
    return grpc::Status::OK;
  };
  auto stub = test::TestService::NewStub(MakeChannel(address_));
  grpc::ClientContext context;
  SetDeadline(&context, 10);
  Pipe pipe;
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  request.add_urls(fds->SendFd(std::move(pipe.read))->ToString());
  request.add_urls(fds->SendFd(std::move(pipe.write))->ToString());
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  ASSERT_TRUE(status.ok()) << Text(status);
  EXPECT_EQ(reply.payload(), "all");
}

// A stream that began before the restart goes on by its session; what it brings later arrives.
TEST_F(LandingTest, AStreamOfTheOldServerBringsMoreWhileItDrains) {
  auto old = std::make_unique<Process>("old", address_);
  old->service.chat = [](grpc::ServerContext* context, auto* stream) {
    auto fds = FromContext(context);
    test::ExchangeRequest request;
    while (stream->Read(&request)) {
      test::ExchangeReply reply;
      auto fd = fds->RecvFd(request.urls(0));
      reply.set_payload(fd.ok() ? Content(*fd) : fd.status().ToString());
      stream->Write(reply);
    }
    return grpc::Status::OK;
  };
  auto channel = MakeChannel(address_);
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  const auto say = [&](const std::string& content) {
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    auto url = fds->SendFd(MemoryFile(content));
    if (!url.ok()) return url.status().ToString();
    request.add_urls(url->ToString());
    EXPECT_TRUE(stream->Write(request));
    EXPECT_TRUE(stream->Read(&reply));
    return reply.payload();
  };
  EXPECT_EQ(say("before"), "before");
  const auto next = TakeThePath();
  old->Drain();
  for (int i = 0; i < 50; ++i) {
    const std::string wrong = Exchange(stub.get(), absl::StrCat("file ", i), false);
    ASSERT_TRUE(wrong.empty() || IsGrpcsOwn(wrong)) << wrong;
    ASSERT_EQ(say(absl::StrCat("late ", i)), absl::StrCat("late ", i));
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

// Session-scoped descriptors are in each session, under one URL.
TEST_F(LandingTest, WhatIsRegisteredIsThereAtEachServer) {
  const UniqueFd socket = ListeningSocket(path_);
  ListenOptions options;
  options.listen_fd = socket;
  std::vector<std::unique_ptr<Process>> processes;
  for (int i = 0; i < 2; ++i) {
    processes.push_back(std::make_unique<Process>(absl::StrCat("number ", i), address_, options));
    processes.back()->service.exchange = [](grpc::ServerContext* context,
                                            const test::ExchangeRequest* request,
                                            test::ExchangeReply* reply) {
      auto fd = FromContext(context)->RecvFd(request->urls(0));
      if (!fd.ok()) return ToGrpcStatus(fd.status());
      reply->set_payload(Content(*fd));
      return grpc::Status::OK;
    };
  }
  for (int i = 0; i < 20; ++i) {
    auto channel = MakeChannel(address_);
    auto pool = GetFdChannel(*channel)->Register(MemoryFile("pool"));
    ASSERT_TRUE(pool.ok()) << pool.status();
    auto stub = test::TestService::NewStub(channel);
    for (int n = 0; n < 5; ++n) {
      grpc::ClientContext context;
      SetDeadline(&context, 10);
      FromContext(&context);
      test::ExchangeRequest request;
      test::ExchangeReply reply;
      request.add_urls(pool->url().ToString());
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      ASSERT_TRUE(status.ok()) << Text(status);
      EXPECT_EQ(reply.payload(), "pool");
    }
  }
}

// A call waits in gRPC for longer than its descriptors may wait at the server.
TEST_F(LandingTest, ACallThatWaitsInGrpcForLongFindsItsDescriptors) {
  ListenOptions options;
  options.fd_server_options.limits.early_timeout = absl::Milliseconds(100);
  Process process("only", address_, options, /*credentials=*/grpc::InsecureServerCredentials(),
                  /*streams=*/1);
  auto channel = MakeChannel(address_);
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  auto stream = stub->Chat(&context);  // Takes the only place.
  test::ExchangeReply reply;
  ASSERT_TRUE(stream->Write(test::ExchangeRequest()));
  ASSERT_TRUE(stream->Read(&reply));
  std::string wrong = "not called";
  std::thread caller([&] { wrong = Exchange(stub.get(), "late", false); });
  // Until the server has closed them.
  const auto expired = [&] { return GetFdServer(*process.server())->Stats().sessions.fds_expired; };
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (expired() == 0 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_EQ(expired(), 1u);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  caller.join();
  EXPECT_EQ(wrong, "");
}

// --- Who is who ---

class PeerTest : public LandingTest {
 protected:
  // What the handler of a plain call is told.
  absl::StatusOr<PeerCredentials> Ask(const std::shared_ptr<grpc::Channel>& channel) {
    absl::StatusOr<PeerCredentials> peer = absl::UnknownError("no call");
    process_.service.exchange = [&](grpc::ServerContext* context, auto*, auto*) {
      peer = PeerFromContext(context);
      name_ = context->peer();
      return grpc::Status::OK;
    };
    EXPECT_EQ(PlainCall(test::TestService::NewStub(channel).get(), false), "");
    return peer;
  }

  std::string name_;
  Process process_{"only", address_};
};

TEST_F(PeerTest, IsKnownForCallsWithoutDescriptors) {
  const auto peer = Ask(MakeChannel(address_));
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
  EXPECT_THAT(name_, StartsWith("unix-abstract:grpcfd-"));
}

TEST_F(PeerTest, OfAStockClientIsNotKnownAndSaysWhy) {
  const auto peer = Ask(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  EXPECT_EQ(peer.status().code(), absl::StatusCode::kFailedPrecondition) << peer.status();
  EXPECT_THAT(std::string(peer.status().message()), HasSubstr("has no name of grpcfd's"));
  EXPECT_EQ(name_, "unix:");
}

TEST_F(PeerTest, NamesCanBeSwitchedOff) {
  ChannelOptions options;
  options.name_connections = false;
  auto channel = MakeChannel(address_, options);
  EXPECT_FALSE(Ask(channel).ok());
  EXPECT_EQ(name_, "unix:");
  process_.service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                 test::ExchangeReply* reply) {
    auto fd = FromContext(context)->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    auto back = FromContext(context)->SendFd(MemoryFile("only got " + Content(*fd)));
    reply->add_urls(back->ToString());
    reply->set_payload("only");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Exchange(test::TestService::NewStub(channel).get(), "file", false), "");
}

}  // namespace
}  // namespace grpcfd
