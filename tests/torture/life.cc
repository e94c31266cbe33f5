// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows 9, 10, 14, 15, 20 and 21: processes, sessions and calls that end when they should not.
#include <dirent.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <deque>
#include <future>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using internal::Eventually;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;

// --- Row 9 ---

namespace {

void Sleep(absl::Duration time) { absl::SleepFor(time); }

void KillClients(Row* row, uint64_t count, Times* closed) {
  auto server = MakeEchoServer();
  Bystander bystander(server->address());
  std::mt19937 random(9);
  for (uint64_t i = 0; i < count && !Failed(); ++i) {
    Peer client("call", {server->address()});
    ASSERT_EQ("ready", client.Line());
    Sleep(absl::Microseconds(random() % 20'000));
    client.Kill();
    const absl::Time killed = absl::Now();
    // What the bystander has under way comes and goes.
    EXPECT_TRUE(Eventually([&] {
      return server->fd_server()->session_count() == 1 && server->fd_server()->held_fds() == 0 &&
             CountFds("memfd:grpcfd") == 0;
    }));
    closed->Add(absl::Now() - killed);
    row->Done();
  }
}

void KillServers(Row* row, uint64_t count, Times* closed, Times* back) {
  constexpr absl::Duration kDeadline = absl::Seconds(2);
  internal::TempDir dir;
  const std::string address = "unix:" + dir.File("socket");
  const auto channel = MakeChannel(address);
  std::mt19937 random(90);
  for (uint64_t i = 0; i < count && !Failed(); ++i) {
    Peer server("serve", {address});
    ASSERT_EQ("ready", server.Line());
    const absl::Time ready = absl::Now();
    auto stub = test::TestService::NewStub(channel);
    grpc::Status status = CallEcho(stub.get(), 3, 3, kDeadline);
    while (!status.ok() && absl::Now() < ready + absl::Seconds(10)) {
      Sleep(absl::Milliseconds(1));
      status = CallEcho(stub.get(), 3, 3, kDeadline);
    }
    ASSERT_TRUE(status.ok()) << "no call succeeds after the restart: " << status.error_message();
    back->Add(absl::Now() - ready);
    std::atomic<bool> stop{false};
    std::vector<std::thread> callers;
    for (int t = 0; t < 2; ++t) {
      callers.emplace_back([&] {
        auto caller = test::TestService::NewStub(channel);
        while (!stop) {
          const absl::Time begin = absl::Now();
          const grpc::Status result = CallEcho(caller.get(), 3, 3, kDeadline);
          EXPECT_LE(absl::Now() - begin, kDeadline + absl::Seconds(1));
          if (result.ok()) continue;
          EXPECT_TRUE(result.error_code() == grpc::StatusCode::UNAVAILABLE ||
                      result.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
              << result.error_code() << " " << result.error_message();
          return;
        }
      });
    }
    Sleep(absl::Microseconds(random() % 20'000));
    server.Kill();
    const absl::Time killed = absl::Now();
    stop = true;
    for (std::thread& caller : callers) caller.join();
    EXPECT_TRUE(Eventually([] { return CountFds("memfd:grpcfd") == 0; }));
    closed->Add(absl::Now() - killed);
    row->Done();
  }
  // The last one was killed, and its file is there.
  ::unlink(dir.File("socket").c_str());
}

}  // namespace

void Row09(Row* row) {
  const uint64_t count = row->Count(1000);
  Times client_closed, server_closed, back;
  KillClients(row, count, &client_closed);
  if (Failed()) return;
  client_closed.Expect(absl::Seconds(1));
  KillServers(row, count, &server_closed, &back);
  if (Failed()) return;
  server_closed.Expect(absl::Seconds(1));
  back.Expect(absl::Seconds(1));
  row->Figure(absl::StrCat("client killed: server clean ", client_closed.ToString()));
  row->Figure(absl::StrCat("server killed: client clean ", server_closed.ToString()));
  row->Figure(absl::StrCat("works again ", back.ToString()));
}

// --- Row 10 ---

namespace {

// Ends, without a word, all connected unix sockets of this type that the process has: what a fault
// in between would do.
int CutSockets(int type) {
  std::vector<int> cut;
  DIR* const dir = opendir("/proc/self/fd");
  EXPECT_NE(nullptr, dir);
  while (const dirent* entry = readdir(dir)) {
    const int fd = atoi(entry->d_name);
    int value = 0;
    socklen_t length = sizeof(value);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length) != 0 || value != AF_UNIX) continue;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length) != 0 || value != type) continue;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) != 0 || value != 0) continue;
    cut.push_back(fd);
  }
  closedir(dir);
  int count = 0;
  for (const int fd : cut) count += ::shutdown(fd, SHUT_RDWR) == 0 ? 1 : 0;
  return count;
}

}  // namespace

void Row10(Row* row) {
  auto server = MakeEchoServer();
  std::atomic<int> waiting{0};
  server->service.chat =
      [&waiting](grpc::ServerContext* context,
                 grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>*) {
        auto fds = FromContext(context);
        if (!fds->status().ok()) return ToGrpcStatus(fds->status());
        ++waiting;
        return ToGrpcStatus(fds->RecvFd("inode://1/2?fd=9").status());
      };
  auto fd_channel = FdChannel::Create(server->address());
  ASSERT_TRUE(fd_channel.ok());
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> creators;
  creators.push_back(MakeClientInterceptorFactory(*fd_channel));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto stub = test::TestService::NewStub(grpc::experimental::CreateCustomChannelWithInterceptors(
      server->address(), grpc::InsecureChannelCredentials(), arguments, std::move(creators)));
  auto plain = test::TestService::NewStub(MakePlainChannel(server->address()));
  EXPECT_TRUE(CallPlain(plain.get()).ok());
  EXPECT_TRUE(CallEcho(stub.get(), 2, 2).ok());

  Times noticed, back;
  const uint64_t count = row->Count(1000);
  for (const int type : {SOCK_SEQPACKET, SOCK_STREAM}) {
    for (uint64_t i = 0; i < count && !Failed(); ++i) {
      const uint64_t session = (*fd_channel)->session_id();
      EXPECT_NE(0u, session);
      {
        // A call that waits for a descriptor.
        grpc::ClientContext context;
        SetDeadline(&context, 20);
        auto fds = FromContext(&context);
        const int before = waiting;
        auto stream = stub->Chat(&context);
        EXPECT_TRUE(Eventually([&] { return waiting > before; }));
        const absl::Time begin = absl::Now();
        EXPECT_GE(CutSockets(type), 1);
        if (type == SOCK_SEQPACKET) {
          const grpc::Status plain_status = CallPlain(plain.get());
          EXPECT_TRUE(plain_status.ok()) << "a plain call: " << plain_status.error_message();
        }
        const grpc::Status status = stream->Finish();
        EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << status.error_message();
        noticed.Add(absl::Now() - begin);
      }
      // The next one may still find the dead connection; within a second none does any more.
      const absl::Time begin = absl::Now();
      grpc::Status status = CallEcho(stub.get(), 2, 2);
      while (!status.ok() && absl::Now() < begin + absl::Seconds(10)) {
        EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << status.error_message();
        status = CallEcho(stub.get(), 2, 2);
      }
      EXPECT_TRUE(status.ok()) << status.error_message();
      back.Add(absl::Now() - begin);
      if (type == SOCK_SEQPACKET) {
        EXPECT_NE(session, (*fd_channel)->session_id());
      } else {
        EXPECT_EQ(session, (*fd_channel)->session_id()) << "the session went with the connection";
        grpc::Status plain_status = CallPlain(plain.get());
        while (!plain_status.ok() && absl::Now() < begin + absl::Seconds(10)) {
          plain_status = CallPlain(plain.get());
        }
        EXPECT_TRUE(plain_status.ok()) << plain_status.error_message();
      }
      row->Done();
    }
  }
  if (Failed()) return;
  noticed.Expect(absl::Seconds(1));
  back.Expect(absl::Seconds(1));
  row->Figure(absl::StrCat("noticed ", noticed.ToString()));
  row->Figure(absl::StrCat("re-established ", back.ToString()));
}

// --- Row 14 ---

void Row14(Row* row) {
  auto server = MakeEchoServer();
  Times late, died;
  // Waits for what the client may still send, but does not.
  server->service.upload = [](grpc::ServerContext* context,
                              grpc::ServerReader<test::ExchangeRequest>* reader,
                              test::ExchangeReply*) {
    test::ExchangeRequest request;
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    if (!reader->Read(&request)) return grpc::Status(grpc::StatusCode::ABORTED, "no request");
    auto* const done = reinterpret_cast<std::promise<std::pair<absl::Status, absl::Time>>*>(
        static_cast<uintptr_t>(request.number()));
    if (request.command() == "session") reader->SendInitialMetadata();
    const absl::Status status = fds->RecvFd("inode://1/2?fd=3").status();
    done->set_value({status, absl::Now()});
    return ToGrpcStatus(status);
  };
  const uint64_t count = row->Count(1000, 20);
  constexpr absl::Duration kDeadline = absl::Milliseconds(200);
  constexpr int kThreads = 8;
  std::atomic<uint64_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      const std::string address = server->address();
      auto stub = test::TestService::NewStub(MakeChannel(address));
      auto plain = test::TestService::NewStub(MakePlainChannel(address));
      for (uint64_t i = next++; i < count && !Failed(); i = next++) {
        std::promise<std::pair<absl::Status, absl::Time>> done;
        auto result = done.get_future();
        test::ExchangeRequest request;
        test::ExchangeReply reply;
        request.set_number(reinterpret_cast<uintptr_t>(&done));
        if (i % 2 == 0) {
          // At the server, until the call's deadline; and at the client, which asks for what the
          // server never sends.
          grpc::ClientContext context;
          const absl::Time deadline = absl::Now() + kDeadline;
          context.set_deadline(absl::ToChronoTime(deadline));
          auto fds = FromContext(&context);
          ASSERT_TRUE(fds->SendFd(MemoryFile("other")).ok());
          request.set_command("deadline");
          auto writer = stub->Upload(&context, &reply);
          writer->Write(request);
          const absl::Status mine = fds->RecvFd("inode://1/2?fd=3").status();
          late.Add(absl::Now() - deadline);
          EXPECT_TRUE(absl::IsDeadlineExceeded(mine) || absl::IsCancelled(mine)) << mine;
          EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED, writer->Finish().error_code());
          const auto [status, when] = result.get();
          // gRPC may cancel the handler's call a moment before the deadline is noticed here.
          EXPECT_TRUE(absl::IsDeadlineExceeded(status) || absl::IsCancelled(status)) << status;
          late.Add(when - deadline);
        } else {
          RawSession session = OpenRaw(server->path());
          ASSERT_TRUE(session.ok());
          grpc::ClientContext context;
          SetDeadline(&context, 20);
          AddRawMetadata(&context, session, 1, 0);
          request.set_command("session");
          auto writer = plain->Upload(&context, &reply);
          writer->Write(request);
          writer->WaitForInitialMetadata();
          const absl::Time begin = absl::Now();
          session.socket.Reset();
          EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, writer->Finish().error_code());
          const auto [status, when] = result.get();
          EXPECT_TRUE(absl::IsUnavailable(status)) << status;
          died.Add(when - begin);
        }
        row->Done();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (Failed()) return;
  late.Expect(absl::Milliseconds(50));
  died.Expect(absl::Milliseconds(50));
  row->Figure(absl::StrCat("after the deadline ", late.ToString()));
  row->Figure(absl::StrCat("after the session's death ", died.ToString()));
}

// --- Row 15 ---

namespace {

// What the handler does at each stage on behalf of the client: it is the same process. It outlives
// the call, for the handler may; the context only has to live until `fired`.
struct Hook {
  int stage = 0;
  grpc::ClientContext* context = nullptr;
  std::atomic<bool> fired{false};
  void At(int now) {
    if (now != stage) return;
    context->TryCancel();
    fired = true;
  }
};

constexpr int kStages = 12;

grpc::Status Staged(grpc::ServerContext* context, const test::ExchangeRequest& request,
                    test::ExchangeReply* reply) {
  Hook* const hook = reinterpret_cast<Hook*>(static_cast<uintptr_t>(request.number()));
  if (hook != nullptr) hook->At(1);
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  bool first = true;
  for (const std::string& url : request.urls()) {
    auto fd = fds->RecvFd(url);
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    if (hook != nullptr && std::exchange(first, false)) hook->At(2);
  }
  if (hook != nullptr) hook->At(3);
  for (int i = 0; i < 2; ++i) {
    auto url = fds->SendFd(MemoryFile("back"));
    if (!url.ok()) return ToGrpcStatus(url.status());
    reply->add_urls(url->ToString());
    if (hook != nullptr) hook->At(4 + i);
  }
  return grpc::Status::OK;
}

void CancelAt(int stage, test::TestService::Stub* stub, std::mt19937* random,
              std::deque<Hook>* hooks) {
  grpc::ClientContext context;
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  for (int i = 0; i < 3; ++i) {
    auto url = fds->SendFd(MemoryFile("there"));
    ASSERT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
  }
  absl::Duration deadline = absl::Seconds(20);
  if (stage == 7) deadline = absl::Microseconds((*random)() % 1500);
  if (stage == 8) deadline = absl::Seconds(-1);
  context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  static constexpr int kLastHook = 5;
  const bool hooked = stage >= 1 && stage <= kLastHook;
  const bool streamed = stage == 10 || stage == 11;
  if (stage == 0) context.TryCancel();
  if (streamed) {
    auto stream = stub->Chat(&context);
    if (stage == 10) context.TryCancel();
    stream->Write(request);
    test::ExchangeReply ignored;
    if (stage == 11) {
      // A client that waits is not woken by its own TryCancel: it has a deadline for that.
      std::thread canceller([&context] { context.TryCancel(); });
      const absl::Status waited =
          fds->RecvFd("inode://1/2?fd=40", absl::Now() + absl::Milliseconds(5)).status();
      EXPECT_TRUE(absl::IsDeadlineExceeded(waited) || absl::IsCancelled(waited)) << waited;
      canceller.join();
    }
    EXPECT_EQ(grpc::StatusCode::CANCELLED, stream->Finish().error_code());
    return;
  }
  Hook* hook = nullptr;
  if (hooked) {
    hook = &hooks->emplace_back();
    hook->stage = stage;
    hook->context = &context;
    request.set_number(reinterpret_cast<uintptr_t>(hook));
  }
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  if (hook != nullptr) {
    EXPECT_TRUE(Eventually([hook] { return hook->fired.load(); }));
  }
  switch (stage) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
      EXPECT_EQ(grpc::StatusCode::CANCELLED, status.error_code()) << status.error_message();
      break;
    case 6:  // After the reply, before its descriptors were taken.
      EXPECT_TRUE(status.ok()) << status.error_message();
      context.TryCancel();
      (void)fds->RecvFd(reply.urls(0));
      break;
    case 7:
      // RESOURCE_EXHAUSTED only if it passed while the call waited for the peer to take what the
      // calls before had sent.
      EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ||
                  (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
                   status.error_message().find("until the deadline") != std::string::npos))
          << status.error_code() << " " << status.error_message();
      break;
    case 8:
      EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED, status.error_code()) << status.error_message();
      break;
    case 9:  // Nothing is taken, and the context goes.
      EXPECT_TRUE(status.ok()) << status.error_message();
      break;
    default:
      break;
  }
}

}  // namespace

void Row15(Row* row) {
  auto server = MakeEchoServer();
  std::atomic<int> handlers{0};
  server->service.exchange = [&handlers](grpc::ServerContext* context,
                                         const test::ExchangeRequest* request,
                                         test::ExchangeReply* reply) {
    ++handlers;
    const grpc::Status status = Staged(context, *request, reply);
    --handlers;
    return status;
  };
  server->service.chat =
      [&handlers](grpc::ServerContext* context,
                  grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>*) {
        ++handlers;
        auto fds = FromContext(context);
        const grpc::Status status = ToGrpcStatus(fds->RecvFd("inode://1/2?fd=9").status());
        --handlers;
        return status;
      };
  const uint64_t count = row->Count(100'000);
  std::atomic<uint64_t> next{0};
  std::vector<std::thread> threads;
  std::array<std::deque<Hook>, 4> hooks;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto stub = test::TestService::NewStub(MakeChannel(server->address()));
      std::mt19937 random(t + 15);
      for (uint64_t i = next++; i < count && !Failed(); i = next++) {
        CancelAt(static_cast<int>(i % kStages), stub.get(), &random, &hooks[t]);
        row->Done();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Eventually([&] { return handlers == 0; }));
  EXPECT_TRUE(Eventually([&] {
    return CountFds("memfd:grpcfd") == 0 && server->fd_server()->held_fds() == 0;
  })) << CountFds("memfd:grpcfd")
      << " left";
  row->Figure(absl::StrCat(kStages, " stages, 0 left at either end"));
}

// --- Row 20 ---

namespace {

// Connects, says something or nothing, and goes or stays a while.
void Storm(const std::string& path, const std::atomic<bool>& stop, unsigned seed,
           std::atomic<uint64_t>* connects) {
  std::mt19937 random(seed);
  const internal::SocketAddress address = internal::Address(path);
  std::vector<UniqueFd> kept;
  while (!stop) {
    UniqueFd fd = internal::Connect(address, SOCK_NONBLOCK);
    if (!fd.valid()) {
      std::this_thread::yield();
      continue;
    }
    ++*connects;
    const std::string hello = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
    const std::string openings[] = {"",
                                    "P",
                                    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                    hello.substr(0, 1 + random() % 63),
                                    hello,
                                    "\x16\x03\x01"};
    const std::string& opening = openings[random() % std::size(openings)];
    (void)!::send(fd.get(), opening.data(), opening.size(), MSG_NOSIGNAL);
    if (random() % 4 == 0) kept.push_back(std::move(fd));
    if (kept.size() > 8) kept.clear();
  }
}

}  // namespace

void Row20(Row* row) {
  internal::TempDir dir;
  const std::string path = dir.File("socket");
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> connects{0};
  std::thread storm([&] { Storm(path, stop, 20, &connects); });
  Times shutdown, patient;
  int waited = 0;
  const uint64_t count = row->Count(1000, 30);
  for (uint64_t cycle = 0; cycle < count && !Failed(); ++cycle) {
    testing_internal::FunctionService service;
    service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                          test::ExchangeReply* reply) { return Echo(context, *request, reply); };
    grpc::ServerBuilder builder;
    absl::Status bound;
    ListenOptions options;
    options.bind_status = &bound;
    AddListeningPort(&builder, "unix:" + path, grpc::InsecureServerCredentials(), options);
    builder.RegisterService(&service);
    auto server = builder.BuildAndStart();
    if (server == nullptr) {
      ADD_FAILURE() << cycle << ": " << bound;
      break;
    }
    if (cycle % 10 == 0) {
      auto stub = test::TestService::NewStub(MakeChannel("unix:" + path));
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      context.set_wait_for_ready(true);
      auto fds = FromContext(&context);
      test::ExchangeRequest request;
      request.add_urls(fds->SendFd(MemoryFile("stormy"))->ToString());
      test::ExchangeReply reply;
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      EXPECT_TRUE(status.ok()) << cycle << ": " << status.error_message();
      EXPECT_EQ("stormy|", reply.payload());
    }
    const absl::Time begin = absl::Now();
    switch (cycle % 3) {
      case 0:
        server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
        break;
      case 1:
        server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(5));
        break;
      default:  // Destruction alone.
        break;
    }
    server.reset();
    const absl::Duration took = absl::Now() - begin;
    if (cycle % 3 != 2) {
      EXPECT_LT(took, absl::Seconds(10)) << "with a deadline of a second at most";
      shutdown.Add(took);
    } else {
      // Without a deadline gRPC waits for whoever speaks HTTP/2 to acknowledge a PING, 20 s at most
      // (GracefulGoaway in chttp2_transport.cc), and the storm does not.
      EXPECT_LT(took, absl::Seconds(30));
      if (took > absl::Seconds(10)) {
        ++waited;
      } else {
        patient.Add(took);
      }
    }
    row->Done();
  }
  stop = true;
  storm.join();
  shutdown.Expect(absl::Seconds(2));
  row->Figure(absl::StrCat(connects.load(), " connections; shutdown with a deadline ",
                           shutdown.ToString(), "; without ", patient.ToString(), ", ", waited,
                           " waited for gRPC's 20 s"));
}

// --- Row 21 ---

namespace {

// The session that a channel has.
class Latest {
 public:
  void Set(std::shared_ptr<FdSession> session) {
    internal::MutexLock lock(&mutex_);
    session_ = std::move(session);
  }
  std::shared_ptr<FdSession> Take() {
    internal::MutexLock lock(&mutex_);
    return std::exchange(session_, nullptr);
  }

 private:
  internal::Mutex mutex_;
  std::shared_ptr<FdSession> session_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

void Row21(Row* row) {
  auto server = MakeEchoServer();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> calls{0}, sessions{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 2; ++t) {
    auto current = std::make_shared<Latest>();
    ChannelOptions options;
    options.fd_channel_options.on_session = [current,
                                             &sessions](const std::shared_ptr<FdSession>& session) {
      ++sessions;
      current->Set(session);
    };
    auto channel = MakeChannel(server->address(), options);
    // gRPC 1.51 makes the socket of a connection first and close-on-exec later: what is executed in
    // between inherits it. So gRPC connects before the storm.
    ASSERT_TRUE(
        channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20)));
    callers.emplace_back([&, channel, current] {
      auto stub = test::TestService::NewStub(channel);
      while (!stop && !Failed()) {
        for (int i = 0; i < 50 && !stop; ++i) {
          const grpc::Status status = CallEcho(stub.get(), 4, 4);
          ASSERT_TRUE(status.ok()) << status.error_message();
          ++calls;
        }
        // The next call's session is made, and its sockets passed, in the storm.
        if (auto session = current->Take()) session->Close("another one, please");
      }
    });
  }
  const uint64_t count = row->Count(10'000);
  std::atomic<uint64_t> next{0};
  std::vector<std::thread> spawners;
  for (int t = 0; t < 2; ++t) {
    spawners.emplace_back([&] {
      while (next++ < count && !Failed()) {
        ExpectNothingInherited();
        row->Done();
      }
    });
  }
  for (std::thread& spawner : spawners) spawner.join();
  stop = true;
  for (std::thread& caller : callers) caller.join();
  row->Figure(absl::StrCat(calls.load(), " calls and ", sessions.load(),
                           " sessions meanwhile, none inherited"));
}

}  // namespace torture
}  // namespace grpcfd
