// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The other processes of the rows: `torture peer AS NAME ARGUMENTS...`. Each says on its standard
// output that it is ready, and ends when its standard input does.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/hex.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {
namespace {

void Print(const std::string& line) {
  printf("%s\n", line.c_str());
  fflush(stdout);
}

// The next line of standard input; false at its end.
bool ReadLine(std::string* line) {
  char buffer[256];
  if (fgets(buffer, sizeof(buffer), stdin) == nullptr) return false;
  *line = buffer;
  return true;
}

void AwaitEnd() {
  std::string ignored;
  while (ReadLine(&ignored)) {
  }
}

// A session, and nothing done with it.
int Hold(const std::string& path) {
  const RawSession session = OpenRaw(path);
  Print(std::to_string(session.id));
  Print(internal::ToHex(absl::MakeConstSpan(session.token.bytes())));
  AwaitEnd();
  return 0;
}

// A hello with a token that belongs to somebody else's session; then, when told, connects again.
int Impostor(const std::string& path, const std::string& hex) {
  std::array<char, internal::kTokenSize> bytes{};
  testing_internal::FromHex(hex).copy(bytes.data(), bytes.size());
  const RawSession session = OpenRaw(path, internal::Token(bytes));
  Print(session.status == internal::HelloStatus::kTokenInUse ? "in use" : "not refused");
  std::string line;
  if (!ReadLine(&line)) return 1;
  const UniqueFd again = internal::Connect(internal::Address(path));
  Print(again.valid() ? "connected" : errno == EACCES ? "permission denied" : "another error");
  AwaitEnd();
  return 0;
}

// A server. With a limit, it lowers its RLIMIT_NOFILE first.
int Serve(const std::string& address, const std::string& limit) {
  if (!limit.empty()) {
    rlimit nofile{};
    nofile.rlim_cur = nofile.rlim_max = std::stoul(limit);
    if (setrlimit(RLIMIT_NOFILE, &nofile) != 0) return 1;
  }
  testing_internal::FunctionService service;
  service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                        test::ExchangeReply* reply) { return Echo(context, *request, reply); };
  grpc::ServerBuilder builder;
  ListenOptions options;
  options.mode = 0777;
  AddListeningPort(&builder, address, grpc::InsecureServerCredentials(), options);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  Print("ready");
  AwaitEnd();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return 0;
}

// Calls without end, with descriptors both ways, to be killed in one of them.
int CallForEver(const std::string& address) {
  std::vector<std::thread> threads;
  const auto channel = MakeChannel(address);
  std::atomic<bool> stop{false};
  std::atomic<int> ready{0};
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&channel, &stop, &ready] {
      auto stub = test::TestService::NewStub(channel);
      while (!stop) {
        if (!CallEcho(stub.get(), 3, 3).ok()) return;
        if (++ready == 2) Print("ready");
      }
    });
  }
  AwaitEnd();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// One call with descriptors both ways for each line of input; says how it went.
int CallOnDemand(const std::string& address) {
  auto stub = test::TestService::NewStub(MakeChannel(address));
  Print("ready");
  std::string line;
  while (ReadLine(&line)) {
    const grpc::Status status = CallEcho(stub.get(), 4, 4);
    Print(status.ok() ? "ok" : status.error_message());
  }
  return 0;
}

// Connects `count` times and says nothing.
int Silent(const std::string& path, const std::string& count) {
  std::vector<UniqueFd> connections;
  for (int i = std::stoi(count); i > 0; --i) {
    connections.push_back(internal::Connect(internal::Address(path)));
  }
  Print("ready");
  AwaitEnd();
  return 0;
}

}  // namespace

int RunPeer(const std::string& name, const std::vector<std::string>& arguments) {
  const auto argument = [&arguments](size_t i) {
    return i < arguments.size() ? arguments[i] : std::string();
  };
  if (name == "hold") return Hold(argument(0));
  if (name == "impostor") return Impostor(argument(0), argument(1));
  if (name == "serve") return Serve(argument(0), argument(1));
  if (name == "call") return CallForEver(argument(0));
  if (name == "demand") return CallOnDemand(argument(0));
  if (name == "watched") return WatchedServer(argument(0), argument(1), argument(2));
  if (name == "hostile") return ServeHostilely(argument(0));
  if (name == "client") return WatchedClient(argument(0), argument(1), argument(2));
  if (name == "attack") return Attack(argument(0), argument(1), argument(2), argument(3));
  if (name == "names") return FloodNames(argument(0));
  if (name == "silent") return Silent(argument(0), argument(1));
  return 2;
}

}  // namespace torture
}  // namespace grpcfd
