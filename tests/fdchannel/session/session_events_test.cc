// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What programs learn of sessions, and may do when they learn it: the peer is another process,
// whose pidfd is its own; callbacks that destroy what called them.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "fdchannel/fds/core_access.h"
#include "grpcfd/fd_channel.h"
#include "grpcfd/fd_server.h"
#include "grpcfd/fd_session.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

// A listener of an FdServer's own, as a program has it.
class Served {
 public:
  Served(const std::string& path, const FdServerOptions& options) {
    auto made = FdServer::Create(options);
    EXPECT_TRUE(made.ok()) << made.status();
    fd_server = *std::move(made);
    auto socket = BoundSocket::Bind(Address(path), BindOptions());
    EXPECT_TRUE(socket.ok()) << socket.status();
    auto made_listener = Listener::Create(CoreOf(*fd_server), *std::move(socket), {},
                                          [](UniqueFd, const std::string&, FdVector) {});
    EXPECT_TRUE(made_listener.ok()) << made_listener.status();
    listener = *std::move(made_listener);
    EXPECT_TRUE(listener->Start().ok());
  }
  ~Served() { listener->Stop(); }

  std::shared_ptr<FdServer> fd_server;
  std::shared_ptr<Listener> listener;
};

// A process of its own that opens a session and then waits to be killed. Between fork and its end
// it makes system calls only.
pid_t SpawnClient(const SocketAddress& address, const Hello& hello) {
  const std::string bytes = HelloBytes(hello);
  sockaddr_un to;
  const socklen_t length = address.ToSockaddr(&to);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(2);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(fd, reinterpret_cast<const struct sockaddr*>(&to), length) != 0) ::_exit(3);
  if (::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) ::_exit(4);
  // The session's socket is left unread on the connection; it is alive for as long as that is.
  for (;;) ::pause();
}

TEST(SessionEventsTest, ThePidfdIsThatOfThePeersProcess) {
  TempDir dir;
  Told<std::shared_ptr<FdSession>> begun, ended;
  FdServerOptions options;
  options.on_session = [&](const std::shared_ptr<FdSession>& session) { begun.Set(session); };
  options.on_session_end = [&](const std::shared_ptr<FdSession>& session) { ended.Set(session); };
  Served served(dir.File("s"), options);
  const pid_t child = SpawnClient(Address(dir.File("s")), HelloWith(MintToken()));
  ASSERT_GT(child, 0);
  const auto session = begun.Wait();
  ASSERT_NE(session, nullptr);
  EXPECT_EQ(session->peer().pid, child);
  EXPECT_NE(session->peer().pid, ::getpid());
  EXPECT_EQ(session->peer().uid, ::geteuid());
  EXPECT_EQ(session->peer().gid, ::getegid());
  EXPECT_FALSE(session->peer().HasExited());
  auto copy = session->peer().Dup();
  ASSERT_TRUE(copy.ok()) << copy.status();

  int status = 0;
  if (copy->pidfd.valid()) {
    // A signal through the pidfd reaches that process and no other.
    ASSERT_EQ(::syscall(SYS_pidfd_send_signal, copy->pidfd.get(), SIGKILL, nullptr, 0), 0);
  } else {
    ::kill(child, SIGKILL);  // Before Linux 6.5.
  }
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  EXPECT_EQ(session->peer().HasExited(), session->peer().pidfd.valid());
  EXPECT_EQ(copy->HasExited(), copy->pidfd.valid());
  // The kernel closes what the process had, and that ends the session.
  EXPECT_EQ(ended.Wait(), session);
  EXPECT_FALSE(session->alive());
}

// An authorizer that throws refuses; what is only told is told, whatever it throws. The server's
// thread lives on.
TEST(SessionEventsTest, WhatTheServersFunctionsThrowEndsInGrpcfd) {
  TempDir dir;
  std::atomic<bool> refuse{true};
  std::atomic<int> begun{0};
  Told<bool> ended;
  FdServerOptions options;
  options.authorize_session = [&](const PeerCredentials&) -> absl::Status {
    if (refuse) throw std::runtime_error("no database");
    return absl::OkStatus();
  };
  options.on_session = [&](const std::shared_ptr<FdSession>&) {
    ++begun;
    throw 1;
  };
  options.on_session_end = [&](const std::shared_ptr<FdSession>&) {
    ended.Set(true);
    throw std::string("gone");
  };
  Served served(dir.File("s"), options);
  const Hello hello = HelloWith(MintToken());
  EXPECT_EQ(SayHello(Address(dir.File("s")), hello).status(), HelloStatus::kRefused);
  EXPECT_EQ(begun, 0);
  refuse = false;
  EXPECT_EQ(SayHello(Address(dir.File("s")), hello).status(), HelloStatus::kOk);
  EXPECT_EQ(begun, 1);
  EXPECT_TRUE(ended.Wait()) << "the client hung up";
  EXPECT_EQ(SayHello(Address(dir.File("s")), HelloWith(MintToken())).status(), HelloStatus::kOk);
  EXPECT_TRUE(ended.Wait(1)) << "this one, too";  // It uses what is on this stack.
}

TEST(SessionEventsTest, ARefusedPeerGetsTheStatusAndNoSocket) {
  TempDir dir;
  std::atomic<bool> refuse{true};
  FdServerOptions options;
  options.authorize_session = [&](const PeerCredentials& peer) {
    EXPECT_EQ(peer.pid, ::getpid());
    return refuse ? absl::PermissionDeniedError("no") : absl::OkStatus();
  };
  Served served(dir.File("s"), options);
  const Hello hello = HelloWith(MintToken());
  const Answer refused = SayHello(Address(dir.File("s")), hello);
  ASSERT_TRUE(refused.reply.ok()) << refused.reply.status();
  EXPECT_EQ(refused.reply->status, HelloStatus::kRefused);
  EXPECT_TRUE(refused.fds.empty());
  EXPECT_EQ(served.fd_server->session_count(), 0u);
  EXPECT_EQ(CoreOf(*served.fd_server)->ledger()->sessions(), 0u);
  refuse = false;
  const Answer accepted = SayHello(Address(dir.File("s")), hello);
  EXPECT_EQ(accepted.status(), HelloStatus::kOk);
}

TEST(SessionEventsTest, ACallbackMayDropTheServer) {
  TempDir dir;
  std::shared_ptr<FdServer> kept;
  Told<uint64_t> ended;
  FdServerOptions options;
  options.on_session = [&](const std::shared_ptr<FdSession>&) { kept.reset(); };
  options.on_session_end = [&](const std::shared_ptr<FdSession>& session) {
    ended.Set(session->id());
  };
  Served served(dir.File("s"), options);
  kept = std::move(served.fd_server);
  const Answer answer = SayHello(Address(dir.File("s")), HelloWith(MintToken()));
  // The session was made and cut; the client finds its end closed.
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  EXPECT_EQ(ended.Wait(), answer.reply->session_id);
  EXPECT_EQ(SayHello(Address(dir.File("s")), HelloWith(MintToken())).status(),
            HelloStatus::kShuttingDown);
}

TEST(SessionEventsTest, ACallbackMayDropTheChannel) {
  TempDir dir;
  Served served(dir.File("s"), FdServerOptions());
  for (const bool at_end : {false, true}) {
    std::shared_ptr<FdChannel> channel;
    Told<uint64_t> begun, ended;
    FdChannelOptions options;
    options.on_session = [&](const std::shared_ptr<FdSession>& session) {
      if (!at_end) channel.reset();
      begun.Set(session->id());
    };
    options.on_session_end = [&](const std::shared_ptr<FdSession>& session) {
      if (at_end) channel.reset();
      ended.Set(session->id());
    };
    auto made = FdChannel::Create("unix:" + dir.File("s"), options);
    ASSERT_TRUE(made.ok()) << made.status();
    channel = *std::move(made);
    Outcome outcome;
    {
      auto call = std::make_shared<ClientCall>();
      ClientCall::Start start;
      start.limits = options.limits;
      start.deadline = absl::Now() + kPatience;
      ASSERT_TRUE(call->BeginStart(start).ok());
      const std::shared_ptr<ChannelCore> core = CoreOf(*channel);
      StartAsync(core, call, /*wait_for_ready=*/false, outcome.Callback());
    }
    const uint64_t id = begun.Wait();
    EXPECT_NE(id, 0u);
    if (at_end) {
      EXPECT_TRUE(outcome.Wait().ok());
      CoreOf(*served.fd_server)->ShutDown();
    }
    EXPECT_EQ(ended.Wait(), id);
    EXPECT_EQ(outcome.count(), 1) << "the call is told its outcome all the same";
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
