// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What only shows in numbers: a leak of one descriptor in many calls, a race in one start of many,
// a child that inherits once in a while. The program is its own second process: `stress_test
// --serve ADDRESS` serves until its stdin ends, `stress_test --list-fds` prints what it inherited.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/interceptors/child.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::Child;
using testing_internal::Content;
using testing_internal::FunctionService;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;

// How many of this process's descriptors are files that the test passes around.
int CountPassed() {
  int count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(dir)) {
    char target[256] = {};
    if (readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1) < 0) continue;
    if (strstr(target, "memfd:grpcfd_test") != nullptr) ++count;
  }
  closedir(dir);
  return count;
}

// Says what it read from the descriptor it was sent, and how many descriptors its process has open.
grpc::Status Read(grpc::ServerContext* context, const test::ExchangeRequest* request,
                  test::ExchangeReply* reply) {
  if (request->urls().empty()) {
    reply->set_number(CountOpenFds());
    reply->set_status_code(CountPassed());
    return grpc::Status::OK;
  }
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  auto fd = fds->RecvFd(request->urls(0));
  if (!fd.ok()) return ToGrpcStatus(fd.status());
  reply->set_payload(Content(*fd));
  return grpc::Status::OK;
}

int Serve(const std::string& address) {
  FunctionService service;
  service.exchange = Read;
  grpc::ServerBuilder builder;
  AddListeningPort(&builder, address, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  printf("ready\n");
  fflush(stdout);
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return 0;
}

int ListFds() {
  DIR* dir = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(dir)) {
    const int fd = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || fd <= 2 || fd == dirfd(dir)) continue;
    char target[256] = {};
    if (readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1) < 0) continue;
    printf("%d %s\n", fd, target);
  }
  closedir(dir);
  return 0;
}

// The sanitizers find with a twentieth what the plain build needs numbers for, and take ten times
// as long.
#if defined(__SANITIZE_ADDRESS__)
constexpr int kShare = 20;
#else
constexpr int kShare = 1;
#endif

TEST(StressTest, AHundredThousandCallsBetweenTwoProcessesLeaveBothTablesAsTheyWere) {
  TempDir dir;
  const std::string address = "unix:" + dir.File("socket");
  Child server({"--serve", address});
  ASSERT_EQ("ready", server.Line());
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpcfd::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);

  const auto call = [&channel](int number) {
    auto stub = test::TestService::NewStub(channel);
    grpc::ClientContext context;
    SetDeadline(&context, 30);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    const std::string content = absl::StrCat("call ", number);
    request.add_urls(fds->SendFd(MemoryFile(content))->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << number << ": " << status.error_message();
    ASSERT_EQ(content, reply.payload());
  };
  const auto ask_server = [&channel] {
    auto stub = test::TestService::NewStub(channel);
    grpc::ClientContext context;
    test::ExchangeReply reply;
    EXPECT_TRUE(stub->Exchange(&context, test::ExchangeRequest(), &reply).ok());
    return reply;
  };

  constexpr int kThreads = 4;
  constexpr int kCallsPerThread = 25000 / kShare;
  const auto round = [&call](int calls) {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&call, t, calls] {
        for (int i = 0; i < calls && !::testing::Test::HasFatalFailure(); ++i)
          call(t * 1000000 + i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  round(100);  // Threads and epoll sets that gRPC makes with load.
  const size_t ours = CountOpenFds();
  const size_t theirs = ask_server().number();
  round(kCallsPerThread);
  EXPECT_EQ(0, CountPassed());
  // A handler's state may end a moment after its reply is here; there is no event for that in
  // another process.
  test::ExchangeReply after = ask_server();
  for (const absl::Time limit = absl::Now() + absl::Seconds(10);
       after.status_code() != 0 && absl::Now() < limit; after = ask_server()) {
  }
  EXPECT_EQ(0, after.status_code());
  // gRPC may have made one more thread, with an epoll set and an eventfd of its own.
  EXPECT_LE(CountOpenFds(), ours + 4);
  EXPECT_LE(after.number(), theirs + 4);
}

// Connects, says something or nothing, and goes.
void Storm(const std::string& path, std::atomic<bool>* stop, unsigned seed) {
  std::mt19937 random(seed);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  std::vector<UniqueFd> kept;
  while (!stop->load()) {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      std::this_thread::yield();
      continue;
    }
    static const std::string kOpenings[] = {"",
                                            "P",
                                            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                            "\x8eGRP",
                                            std::string(64, '\x8e'),
                                            "\x16\x03\x01"};
    const std::string& opening = kOpenings[random() % std::size(kOpenings)];
    (void)!send(fd.get(), opening.data(), opening.size(), MSG_NOSIGNAL);
    if (random() % 4 == 0) kept.push_back(std::move(fd));
    if (kept.size() > 8) kept.clear();
  }
}

TEST(StressTest, AThousandStartsAndShutdownsUnderAConnectStorm) {
  TempDir dir;
  const std::string path = dir.File("socket");
  std::atomic<bool> stop{false};
  std::thread storm([&] { Storm(path, &stop, 1); });
  for (int cycle = 0; cycle < 1000 / kShare; ++cycle) {
    FunctionService service;
    service.exchange = Read;
    grpc::ServerBuilder builder;
    absl::Status bound;
    ListenOptions options;
    options.bind_status = &bound;
    AddListeningPort(&builder, "unix:" + path, grpc::InsecureServerCredentials(), options);
    builder.RegisterService(&service);
    auto server = builder.BuildAndStart();
    ASSERT_NE(nullptr, server) << cycle << ": " << bound;
    if (cycle % 10 == 0) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      // The storm fills the backlog, so gRPC's own connect(2) may have to be repeated. Once it is
      // in there, thousands are before it: gRPC gives an attempt no more than the second of these.
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 10);
      arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 20);
      auto stub = test::TestService::NewStub(grpcfd::CreateCustomChannel(
          "unix:" + path, grpc::InsecureChannelCredentials(), arguments));
      grpc::ClientContext context;
      SetDeadline(&context, 30);
      context.set_wait_for_ready(true);
      auto fds = FromContext(&context);
      test::ExchangeRequest request;
      request.add_urls(fds->SendFd(MemoryFile("stormy"))->ToString());
      test::ExchangeReply reply;
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      EXPECT_TRUE(status.ok()) << cycle << ": " << status.error_message();
      EXPECT_EQ("stormy", reply.payload());
    }
    switch (cycle % 3) {
      case 0:
        server->Shutdown();
        break;
      case 1:
        server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
        break;
      case 2:  // Destruction alone.
        break;
    }
    server.reset();
  }
  stop = true;
  storm.join();
}

TEST(StressTest, AChildThatIsMadeMeanwhileInheritsNothing) {
  TestServer server;
  server.service.exchange = Read;
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int t = 0; t < 2; ++t) {
    callers.emplace_back([&] {
      auto stub = server.Stub();
      while (!stop.load()) {
        grpc::ClientContext context;
        SetDeadline(&context, 30);
        auto fds = FromContext(&context);
        test::ExchangeRequest request;
        request.add_urls(fds->SendFd(MemoryFile("secret"))->ToString());
        test::ExchangeReply reply;
        ASSERT_TRUE(stub->Exchange(&context, request, &reply).ok());
      }
    });
  }
  for (int i = 0; i < 300 / kShare; ++i) {
    Child child({"--list-fds"});
    for (std::string line = child.Line(); !line.empty(); line = child.Line()) {
      // gRPC's own descriptors are not all close-on-exec; ours, and what was received, are.
      EXPECT_EQ(std::string::npos, line.find("memfd")) << line;
      EXPECT_EQ(std::string::npos, line.find("socket")) << line;
    }
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace grpcfd

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "--serve") == 0) return grpcfd::Serve(argv[2]);
  if (argc == 2 && strcmp(argv[1], "--list-fds") == 0) return grpcfd::ListFds();
  ::testing::InitGoogleMock(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests)) grpcfd::testing_internal::WarmUp();
  grpcfd::InstallFdLeakListener();
  return RUN_ALL_TESTS();
}
