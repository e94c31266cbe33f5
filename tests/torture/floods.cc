// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows 11, 12, 13, 17 and 18: peers that take what there is to take, and a process that has no
// more.
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/syscalls.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using internal::Eventually;
using internal::HelloStatus;
using testing_internal::MemoryFile;

// --- Row 11 ---

void Row11(Row* row) {
  // A server that is bound by RLIMIT_NOFILE as any service is: root's descriptors in flight are not
  // counted by the kernel, so it runs as nobody.
  if (!row->NeedsRoot("a server that is not root")) return;
  internal::TempDir dir;
  ASSERT_EQ(0, ::chmod(dir.path().c_str(), 0777));
  const std::string path = dir.File("socket");
  const std::string address = "unix:" + path;
  Peer server("serve", {address, "1024"}, Peer::As::kNobody);
  ASSERT_EQ("ready", server.Line());
  const auto channel = MakeChannel(address);
  auto healthy = test::TestService::NewStub(channel);
  EXPECT_TRUE(CallEcho(healthy.get(), 1, 1).ok());

  constexpr int kHogs = 63;
  constexpr int kHogThreads = 3;
  struct Hog {
    RawSession session;
    uint64_t calls = 0;
    uint64_t refused = 0;
    uint64_t got = 0;
  };
  std::vector<Hog> hogs(kHogs);
  for (Hog& hog : hogs) {
    hog.session = OpenRaw(path);
    ASSERT_TRUE(hog.session.ok());
  }
  std::atomic<bool> stop{false};
  std::atomic<int> full{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kHogThreads; ++t) {
    threads.emplace_back([&, t] {
      auto stub = test::TestService::NewStub(MakePlainChannel(address));
      while (!stop && !Failed()) {
        for (int i = t; i < kHogs && !stop; i += kHogThreads) {
          Hog& hog = hogs[static_cast<size_t>(i)];
          test::ExchangeReply reply;
          const grpc::Status status =
              CallRaw(stub.get(), hog.session, ++hog.calls, 0, {}, &reply, /*back=*/16,
                      hog.refused == 0 ? absl::Milliseconds(300) : absl::Milliseconds(20));
          if (status.ok()) {
            hog.got += 16;
            continue;
          }
          // The server says so, or gRPC's own deadline is a moment earlier.
          EXPECT_TRUE(status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                      status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
              << status.error_code() << " " << status.error_message();
          if (++hog.refused == 1) ++full;
        }
      }
    });
  }
  const uint64_t count = row->Count(10'000);
  Times times;
  const absl::Time begin = absl::Now();
  while ((row->done() < count || full < kHogs) && !Failed()) {
    const absl::Time call = absl::Now();
    const grpc::Status status = CallEcho(healthy.get(), 1, 1);
    times.Add(absl::Now() - call);
    EXPECT_TRUE(status.ok()) << "the healthy client's call failed: " << status.error_code() << " "
                             << status.error_message();
    row->Done();
    if (absl::Now() > begin + absl::Minutes(10)) break;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(kHogs, full);
  uint64_t most = 0, sum = 0;
  for (const Hog& hog : hogs) {
    most = std::max(most, hog.got);
    sum += hog.got;
  }
  EXPECT_LE(most, 64u) << "a client that never reads got more than its window";
  hogs.clear();
  row->Figure(absl::StrCat("63 stopped, at ", most, " each at most, ", sum,
                           " in all; healthy calls ", times.ToString()));
}

// --- Row 12 ---

namespace {

// Waits until the server has read all that was sent.
void AwaitRead(const RawSession& session) {
  EXPECT_TRUE(Eventually([&session] {
    int unread = -1;
    return ioctl(session.socket.get(), SIOCOUTQ, &unread) == 0 && unread == 0;
  }));
}

// Sends one descriptor each for `count` calls that will never be made, and has the server look.
void Flood(const RawSession& session, uint64_t first_call, int count, const UniqueFd& file) {
  for (int i = 0; i < count; ++i) {
    const uint64_t call = first_call + static_cast<uint64_t>(i);
    int error = SendRaw(session.socket, DataFrame(call, 0, 1), {file.get()});
    while (error == EAGAIN) {  // The server reads when its sweep comes round.
      absl::SleepFor(absl::Milliseconds(1));
      error = SendRaw(session.socket, DataFrame(call, 0, 1), {file.get()});
    }
    ASSERT_EQ(0, error);
  }
}

}  // namespace

void Row12(Row* row) {
  if (!row->NeedsRoot("a second uid")) return;
  auto server = MakeEchoServer();
  const FdServer& fd_server = *server->fd_server();
  ASSERT_EQ(0, ::chmod(server->path().substr(0, server->path().rfind('/')).c_str(), 0711));
  ASSERT_EQ(0, ::chmod(server->path().c_str(), 0777));
  const UniqueFd file = MemoryFile("flood");
  auto stub = test::TestService::NewStub(MakePlainChannel(server->address()));
  Peer second("demand", {server->address()}, Peer::As::kNobody);
  ASSERT_EQ("ready", second.Line());
  const auto second_is_served = [&second] {
    second.Say("call");
    EXPECT_EQ("ok", second.Line());
  };
  const auto held = [&fd_server](size_t expected) {
    EXPECT_TRUE(Eventually([&] { return fd_server.held_fds() == expected; }))
        << fd_server.held_fds() << " held, " << expected << " expected";
  };
  const std::string url = UrlOf(file, 0);

  // A session: at 63 and 64 all are kept; the 65th makes the first go.
  {
    const RawSession session = OpenRaw(server->path());
    Flood(session, 1, 63, file);
    held(63);
    Flood(session, 64, 1, file);
    held(64);
    Flood(session, 65, 1, file);
    Flood(session, 66, 1, file);
    AwaitRead(session);
    test::ExchangeReply reply;
    EXPECT_EQ(grpc::StatusCode::RESOURCE_EXHAUSTED,
              CallRaw(stub.get(), session, 1, 1, {url}, &reply).error_code());
    EXPECT_TRUE(CallRaw(stub.get(), session, 66, 1, {url}, &reply).ok());
    held(63);
    second_is_served();
    row->Done(3);
  }
  held(0);
  // A user: 255, 256 and no more, in however many sessions.
  {
    std::vector<RawSession> sessions;
    for (int i = 0; i < 5; ++i) sessions.push_back(OpenRaw(server->path()));
    for (int i = 0; i < 3; ++i) Flood(sessions[static_cast<size_t>(i)], 1, 64, file);
    Flood(sessions[3], 1, 63, file);
    held(255);
    Flood(sessions[3], 64, 1, file);
    held(256);
    Flood(sessions[4], 1, 1, file);
    test::ExchangeReply reply;
    const grpc::Status status = CallRaw(stub.get(), sessions[4], 1, 1, {url}, &reply);
    EXPECT_EQ(grpc::StatusCode::RESOURCE_EXHAUSTED, status.error_code());
    EXPECT_NE(std::string::npos, status.error_message().find("max_fds_per_uid"))
        << status.error_message();
    held(256);
    second_is_served();
    // One is taken: there is room for one.
    EXPECT_TRUE(CallRaw(stub.get(), sessions[0], 1, 1, {url}, &reply).ok());
    Flood(sessions[4], 2, 1, file);
    EXPECT_TRUE(CallRaw(stub.get(), sessions[4], 2, 1, {url}, &reply).ok());
    row->Done(3);
  }
  held(0);
  // And a real flood, from eight sessions at once.
  const uint64_t count = row->Count(100'000);
  std::atomic<bool> stop{false};
  std::atomic<size_t> most{0};
  std::thread watch([&] {
    while (!stop) {
      most = std::max<size_t>(most, fd_server.held_fds());
      std::this_thread::yield();
    }
  });
  constexpr uint64_t kFlooders = 8;
  std::vector<std::thread> flooders;
  for (uint64_t t = 0; t < kFlooders; ++t) {
    flooders.emplace_back([&, t] {
      RawSession session = OpenRaw(server->path());
      for (uint64_t sent = 0; sent < count / kFlooders && !Failed(); sent += 100) {
        Flood(session, 1 + sent, 100, file);
        row->Done(100);
        if (t == 0 && sent % 1000 == 0) second_is_served();
      }
    });
  }
  for (std::thread& flooder : flooders) flooder.join();
  stop = true;
  watch.join();
  // 256 of the flood, and at most 4 of the second user's own.
  EXPECT_LE(most, 260u);
  held(0);
  row->Figure(absl::StrCat("held at most ", most.load(), "; edges 63 to 65 and 255 to 257"));
}

// --- Row 13 ---

void Row13(Row* row) {
  ServerLimits limits;
  limits.max_fds_per_uid = 2048;
  auto server = MakeEchoServer(limits);
  constexpr absl::Duration kTime = absl::Seconds(10);
  const uint64_t count = row->Count(1000, 100);  // All wait at once: many cost no more than a few.
  struct Waiting {
    RawSession session;
    UniqueFd read_end;
    absl::Time sent;
  };
  std::vector<Waiting> waiting;
  for (uint64_t i = 0; i < count; ++i) {
    Waiting w;
    w.session = OpenRaw(server->path());
    ASSERT_TRUE(w.session.ok()) << "session " << i;
    int ends[2];
    ASSERT_EQ(0, pipe2(ends, O_CLOEXEC | O_NONBLOCK));
    w.read_end = UniqueFd(ends[0]);
    const UniqueFd write_end(ends[1]);
    w.sent = absl::Now();
    ASSERT_EQ(0, SendRaw(w.session.socket, DataFrame(1, 0, 1), {write_end.get()}));
    waiting.push_back(std::move(w));
  }
  EXPECT_TRUE(Eventually([&] { return server->fd_server()->held_fds() == count; }));
  ExpectNothingInherited();
  Bystander bystander(server->address());
  const absl::Duration before = ThreadTime("grpcfd-server");
  const absl::Time begin = absl::Now();
  Times late;
  std::vector<pollfd> polled;
  for (const Waiting& w : waiting) polled.push_back({w.read_end.get(), 0, 0});
  size_t open = polled.size();
  while (open != 0 && absl::Now() < begin + 3 * kTime) {
    if (::poll(polled.data(), polled.size(), 1000) <= 0) continue;
    const absl::Time now = absl::Now();
    for (size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].fd < 0 || (polled[i].revents & POLLHUP) == 0) continue;
      polled[i].fd = -1;
      --open;
      const absl::Duration after = now - waiting[i].sent;
      EXPECT_GE(after, kTime) << "closed too early";
      late.Add(after - kTime);
      row->Done();
    }
  }
  EXPECT_EQ(0u, open) << "never closed";
  const double load =
      absl::FDivDuration(ThreadTime("grpcfd-server") - before, absl::Now() - begin) * 100;
  // The sessions are as good as new.
  auto stub = test::TestService::NewStub(MakePlainChannel(server->address()));
  const UniqueFd file = MemoryFile("later");
  for (uint64_t i = 0; i < count; i += 1 + count / 10) {
    const RawSession& session = waiting[i].session;
    EXPECT_EQ(0, SendRaw(session.socket, DataFrame(2, 0, 1), {file.get()}));
    test::ExchangeReply reply;
    EXPECT_TRUE(CallRaw(stub.get(), session, 2, 1, {UrlOf(file, 0)}, &reply).ok());
  }
  waiting.clear();
  bystander.Stop();
  if (Failed()) return;
  late.Expect(absl::Milliseconds(500));
  row->Figure(absl::StrCat("closed after 10 s and ", late.ToString(), "; ",
                           absl::StrFormat("%.1f", load), " % of a core"));
}

// --- Row 17 ---

namespace {

// Three ways of saying too little, until the server has had enough of each.
void Stall(Row* row, internal::TestServer* server, int connections, Times* cut) {
  struct Stalled {
    UniqueFd socket;
    int kind;
    absl::Time begin;
    size_t said = 0;
  };
  const std::string hello = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
  std::vector<Stalled> stalled;
  std::vector<pollfd> polled;
  for (int i = 0; i < connections; ++i) {
    Stalled s{internal::Connect(server->address()), i % 3, absl::Now()};
    ASSERT_TRUE(s.socket.valid());
    if (s.kind != 0) {  // 0 says nothing at all.
      internal::WriteAll(s.socket, hello.substr(0, 1));
      s.said = 1;
    }
    polled.push_back({s.socket.get(), POLLRDHUP, 0});
    stalled.push_back(std::move(s));
  }
  size_t open = stalled.size();
  const absl::Time begin = absl::Now();
  while (open != 0 && absl::Now() < begin + absl::Seconds(30)) {
    const int ready = ::poll(polled.data(), polled.size(), 250);
    const absl::Time now = absl::Now();
    for (size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].fd < 0) continue;
      if (ready > 0 && (polled[i].revents & (POLLHUP | POLLRDHUP)) != 0) {
        polled[i].fd = -1;
        --open;
        // Early is as wrong as late.
        cut->Add(absl::AbsDuration(now - stalled[i].begin - absl::Seconds(5)));
        row->Done();
      } else if (stalled[i].kind == 2 && stalled[i].said < 32) {  // The slow hello goes on.
        (void)!::send(stalled[i].socket.get(), &hello[stalled[i].said++], 1,
                      MSG_NOSIGNAL | MSG_DONTWAIT);
      }
    }
  }
  EXPECT_EQ(0u, open) << "never cut";
}

// A client that means it, and is of the flood's user: the server cannot tell it from the flood
// before it has spoken, and cuts it if it is the oldest of 64 then. It says its hello again.
bool TryHello(const internal::SocketAddress& address) {
  const UniqueFd connection = internal::Connect(address);
  if (!connection.valid()) return false;
  const std::string hello = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
  if (::send(connection.get(), hello.data(), hello.size(), MSG_NOSIGNAL) < 0) return false;
  return internal::ReadAnswer(connection).status() == HelloStatus::kOk;
}

// Connections of our side that the server has not cut.
size_t Uncut(const std::vector<UniqueFd>& connections) {
  size_t uncut = 0;
  for (const UniqueFd& connection : connections) {
    char byte;
    const ssize_t got = ::recv(connection.get(), &byte, 1, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) ++uncut;
  }
  return uncut;
}

}  // namespace

void Row17(Row* row) {
  internal::TempDir dir;
  internal::TestServer server(dir.File("socket"));
  server.Start();
  EXPECT_EQ(
      HelloStatus::kOk,
      internal::SayHello(server.address(), internal::HelloWith(internal::MintToken())).status());

  // Stalled ones, 60 at a time so that none is crowded out.
  Times cut;
  const absl::Duration before = ThreadTime("grpcfd-server");
  const absl::Time begin = absl::Now();
  const uint64_t count = row->Count(1000, 60);
  while (row->done() < count && !Failed()) Stall(row, &server, 60, &cut);
  const double load =
      absl::FDivDuration(ThreadTime("grpcfd-server") - before, absl::Now() - begin) * 100;
  if (Failed()) return;
  cut.Expect(absl::Milliseconds(250));
  EXPECT_LT(load, 5) << "per cent of a core, for connections that say nothing";

  // A flood of silent connections. At most 64 of them stay, and an honest client gets in.
  const uint64_t flood = row->Count(10'000, 2000);
  std::atomic<bool> stop{false};
  Times legitimate;
  uint64_t again = 0;
  std::thread client([&] {
    while (!stop && !Failed()) {
      const absl::Time begin = absl::Now();
      while (!TryHello(server.address()) && absl::Now() < begin + absl::Seconds(10)) ++again;
      legitimate.Add(absl::Now() - begin);
    }
  });
  size_t most = 0;
  std::vector<UniqueFd> silent;
  for (uint64_t i = 0; i < flood && !Failed(); ++i) {
    UniqueFd connection = internal::Connect(server.address());
    ASSERT_TRUE(connection.valid());
    silent.push_back(std::move(connection));
    if (silent.size() == 200) {
      // A hello that is answered: all that connected before it have been seen.
      internal::SayHello(server.address(), internal::HelloWith(internal::MintToken()));
      most = std::max(most, Uncut(silent));
      silent.erase(silent.begin(), silent.begin() + 100);
    }
  }
  internal::SayHello(server.address(), internal::HelloWith(internal::MintToken()));
  most = std::max(most, Uncut(silent));
  stop = true;
  client.join();
  silent.clear();
  EXPECT_LE(most, 64u) << "half-open";
  if (Failed()) return;
  legitimate.Expect(absl::Seconds(1));

  // The flooder loses, not the first to come: another user's silent connection, the oldest of all,
  // outlives a flood.
  if (row->NeedsRoot("a second uid")) {
    ASSERT_EQ(0, ::chmod(dir.path().c_str(), 0711));
    ASSERT_EQ(0, ::chmod(server.address().name().c_str(), 0777));
    const UniqueFd mine = internal::Connect(server.address());
    internal::SayHello(server.address(), internal::HelloWith(internal::MintToken()));
    Peer peer("silent", {server.address().name(), "200"}, Peer::As::kNobody);
    EXPECT_EQ("ready", peer.Line());
    internal::SayHello(server.address(), internal::HelloWith(internal::MintToken()));
    char byte;
    EXPECT_EQ(-1, ::recv(mine.get(), &byte, 1, MSG_DONTWAIT)) << "cut for another user's flood";
  }
  row->Figure(absl::StrCat("cut at 5 s, off by ", cut.ToString(), "; ", flood,
                           " silent connects, at most ", most, " stay, a hello takes ",
                           legitimate.ToString(), ", ", again, " said it again; ",
                           absl::StrFormat("%.1f", load), " % of a core"));
}

// --- Row 18 ---

void Row18(Row* row) {
  internal::TempDir dir;
  internal::TestServer server(dir.File("socket"));
  server.Start();
  const std::string hello = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
  EXPECT_EQ(
      HelloStatus::kOk,
      internal::SayHello(server.address(), internal::HelloWith(internal::MintToken())).status());
  const absl::Duration time = absl::Seconds(static_cast<int64_t>(row->Count(60, 2)));
  std::vector<UniqueFd> sockets;
  for (int i = 0; i < 4; ++i) {
    sockets.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_TRUE(sockets.back().valid());
  }
  sockaddr_un address;
  const socklen_t length = server.address().ToSockaddr(&address);
  EXPECT_TRUE(Eventually([&server] { return server.core().session_count() == 0; }));
  const absl::Duration before = ThreadTime("grpcfd-server");
  double wakeups = 0;
  {
    const internal::ScopedFdRoom room(0);
    ResetSyscalls();
    {
      const ScopedTestCode mine;
      for (const UniqueFd& socket : sockets) {
        ASSERT_EQ(0, ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), length));
        internal::WriteAll(socket, hello);
      }
    }
    absl::SleepFor(time);
    wakeups = static_cast<double>(SyscallCount(Syscall::kEpollWait)) / absl::ToDoubleSeconds(time);
    EXPECT_GT(SyscallFailures(Syscall::kAccept4), 0u) << "accept was to fail";
  }
  const absl::Time begin = absl::Now();
  const double load = absl::FDivDuration(ThreadTime("grpcfd-server") - before, time) * 100;
  // Those that waited are answered now, or were refused; a new one is.
  EXPECT_EQ(
      HelloStatus::kOk,
      internal::SayHello(server.address(), internal::HelloWith(internal::MintToken())).status());
  const absl::Duration resumed = absl::Now() - begin;
  EXPECT_LE(wakeups, 20) << "wake-ups a second";
  EXPECT_LE(resumed, absl::Seconds(1));
  row->Done(static_cast<uint64_t>(absl::ToInt64Seconds(time)));
  row->Figure(
      absl::StrFormat("seconds; %.1f wake-ups a second, %.1f %% of a core, resumed in %.0f ms",
                      wakeups, load, absl::ToDoubleMilliseconds(resumed)));
}

}  // namespace torture
}  // namespace grpcfd
