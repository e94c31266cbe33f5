// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Row 32: a server that is restarted again and again while a client floods it with hellos that name
// connections: guessed ones, and those of others, which /proc/net/unix shows to whoever shares
// their network namespace.
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/connection_id.h"
#include "tests/interceptors/landing_test_util.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {
namespace {

using internal::ConnectionId;
using testing_internal::Load;
using testing_internal::Process;
using testing_internal::Style;

constexpr int kFloods = 3;

// The names of gRPC connections of this network namespace.
std::vector<ConnectionId> NamesThere() {
  std::vector<ConnectionId> names;
  std::ifstream file("/proc/net/unix");
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.rfind('@');
    if (at == std::string::npos) continue;
    const ConnectionId id =
        internal::IdInPeerName(absl::StrCat("unix-abstract:", line.substr(at + 1)));
    if (!id.zero()) names.push_back(id);
  }
  return names;
}

// A client that keeps the last few of what it opens, so that its number of sessions is no matter.
class Flood {
 public:
  explicit Flood(const std::string& path) : address_(internal::Address(path)) {}

  uint64_t lies() const { return lies_; }

  // One of each kind.
  void Wave() {
    const std::vector<ConnectionId> names = NamesThere();
    Say(internal::MintToken());
    if (!names.empty()) Say(names[next_++ % names.size()]);
    Say(ConnectionId());
    Connect(std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    Connect(internal::HelloBytes(internal::HelloWith(internal::MintToken())).substr(0, 20));
  }

 private:
  void Keep(UniqueFd fd) {
    kept_.push_back(std::move(fd));
    if (kept_.size() > 8) kept_.pop_front();
  }
  // The server may be none, or its backlog full.
  UniqueFd TryConnect() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un to;
    const socklen_t length = address_.ToSockaddr(&to);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), length) != 0) fd.Reset();
    return fd;
  }
  void Connect(const std::string& bytes) {
    UniqueFd fd = TryConnect();
    if (!fd.valid()) return;
    (void)::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    Keep(std::move(fd));
  }
  // With a session, descriptors for the calls that others are likely to make.
  void Say(const ConnectionId& name) {
    internal::Hello hello = internal::HelloWith(internal::MintToken());
    hello.connection = name;
    UniqueFd fd = TryConnect();
    if (!fd.valid()) return;
    const std::string bytes = internal::HelloBytes(hello);
    (void)::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    internal::Answer answer = internal::ReadAnswer(fd);
    ++lies_;
    if (answer.fds.size() != 1) return;
    const UniqueFd file = testing_internal::MemoryFile("of the thief");
    for (uint64_t call = 1; call <= 4; ++call) {
      (void)SendRaw(answer.fds[0], DataFrame(call, 0, 1), {file.get()});
    }
    Keep(std::move(answer.fds[0]));
  }

  const internal::SocketAddress address_;
  std::deque<UniqueFd> kept_;
  size_t next_ = 0;
  uint64_t lies_ = 0;
};

}  // namespace

int FloodNames(const std::string& path) {
  Flood flood(path);
  printf("ready\n");
  fflush(stdout);
  pollfd end = {STDIN_FILENO, POLLIN, 0};
  while (::poll(&end, 1, /*timeout=*/0) == 0) flood.Wave();
  printf("%llu\n", static_cast<unsigned long long>(flood.lies()));
  return 0;
}

void Row32(Row* row) {
  const uint64_t restarts = row->Count(1000, 20);
  internal::TempDir dir;
  ASSERT_EQ(0, ::chmod(dir.path().c_str(), 0777));
  const std::string path = dir.File("socket");
  ListenOptions options;
  options.mode = 0777;
  auto server = std::make_unique<Process>("number 0", "unix:" + path, options);
  const auto channel = grpcfd::CreateChannel("unix:" + path, grpc::InsecureChannelCredentials());
  Load load(channel, Style::kSync, /*wait_for_ready=*/true);
  load.AwaitMore(10);
  // Another user, where there can be one: then no limit of a user is shared.
  const Peer::As as = ::geteuid() == 0 ? Peer::As::kNobody : Peer::As::kSelf;
  std::vector<std::unique_ptr<Peer>> floods;
  for (int i = 0; i < kFloods; ++i) {
    floods.push_back(std::make_unique<Peer>("names", std::vector<std::string>{path}, as));
    ASSERT_EQ("ready", floods.back()->Line());
  }
  Times drained;
  for (uint64_t i = 1; i <= restarts && !Failed(); ++i) {
    load.AwaitMore(20);
    const std::string beside = dir.File("next");
    auto next = std::make_unique<Process>(absl::StrCat("number ", i), "unix:" + beside, options);
    ASSERT_EQ(0, ::rename(beside.c_str(), path.c_str()));
    const absl::Time begin = absl::Now();
    server->Drain();
    server->AwaitDrained();
    drained.Add(absl::Now() - begin);
    server = std::move(next);
    row->Done();
  }
  load.AwaitMore(20);
  uint64_t lies = 0;
  for (auto& flood : floods) {
    flood->Say("stop");
    lies += std::stoull(flood->Line());
  }
  EXPECT_GT(lies, restarts);
  load.ExpectNoFailures();
  // Not much more often than plain ones, which take less time.
  EXPECT_LE(load.grpcs_failures(), 4 * load.plain_failures() + 20);
  drained.Expect(absl::Seconds(1));
  row->Figure(absl::StrCat(load.calls(), " calls of each kind; gRPC's Shutdown() failed ",
                           load.plain_failures(), " plain ones and ", load.grpcs_failures(),
                           " with descriptors, nothing else did; ", lies, " hellos of ", kFloods,
                           " floods; drained ", drained.ToString()));
}

}  // namespace torture
}  // namespace grpcfd
