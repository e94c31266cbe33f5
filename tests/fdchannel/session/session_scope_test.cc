// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Session-scoped descriptors: registered once, named by many calls, until withdrawn or the session
// ends. Both directions, over a real listener.
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fdchannel/fds/core_access.h"
#include "grpcfd/fd_channel.h"
#include "grpcfd/fd_session.h"
#include "tests/fdchannel/server/server_test_util.h"
#include "tests/pipe.h"

namespace grpcfd {
namespace internal {
namespace {

using testing_internal::Pipe;

class SessionScopeTest : public ::testing::Test {
 protected:
  SessionScopeTest() : path_(dir_.File("s")) {}

  TestServer& Serve(const ServerLimits& limits = {}) {
    server_.reset();  // The path is free before it is bound again.
    server_ = std::make_unique<TestServer>(path_, limits);
    server_->Start();
    return *server_;
  }

  std::shared_ptr<FdChannel> Channel(const FdChannelOptions& options = {}) const {
    auto channel = FdChannel::Create("unix:" + path_, options);
    EXPECT_TRUE(channel.ok()) << channel.status();
    return *std::move(channel);
  }

  // A call without descriptors of its own, at both ends.
  struct Call {
    std::shared_ptr<ClientCall> client;
    std::unique_ptr<ServerCall> server;
  };
  Call Start(const std::shared_ptr<FdChannel>& channel) {
    Call call;
    call.client = std::make_shared<ClientCall>();
    const absl::Status started = StartCall(*CoreOf(*channel), call.client);
    EXPECT_TRUE(started.ok()) << started;
    call.server = server_->Serve(call.client->metadata());
    EXPECT_NE(call.server, nullptr);
    return call;
  }
  // What the handler of a fresh call gets by this URL.
  absl::StatusOr<UniqueFd> InACall(const std::shared_ptr<FdChannel>& channel, const InodeUrl& url) {
    return Start(channel).server->RecvFd(url);
  }
  std::shared_ptr<FdSession> ServerSession(const Call& call) {
    const CallMetadata metadata = call.client->metadata();
    auto entry = server_->core().FindEntry(metadata.token, metadata.session_id);
    EXPECT_TRUE(entry.ok()) << entry.status();
    return entry->handle;
  }
  static SessionFd MustRegister(const std::shared_ptr<FdChannel>& channel, BorrowedFd fd) {
    auto registered = channel->Register(fd, absl::Now() + kPatience);
    EXPECT_TRUE(registered.ok()) << registered.status();
    return registered.ok() ? *std::move(registered) : SessionFd();
  }
  static std::string ContentOf(const absl::StatusOr<UniqueFd>& fd) {
    return fd.ok() ? Content(*fd) : fd.status().ToString();
  }
  static absl::StatusCode CodeOf(const absl::StatusOr<UniqueFd>& fd) { return fd.status().code(); }

  const TempDir dir_;
  const std::string path_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(SessionScopeTest, OneRegistrationServesManyCalls) {
  Serve();
  auto channel = Channel();
  // Before there is a session; the first call makes one.
  const SessionFd pool = MustRegister(channel, MakeFile("pool"));
  EXPECT_EQ(pool.url().session_index(), 0u);
  EXPECT_FALSE(pool.url().index().has_value());
  for (int i = 0; i < 3; ++i) {
    Call call = Start(channel);
    // Taking leaves it, so does copying.
    EXPECT_EQ(ContentOf(call.server->RecvFd(pool.url())), "pool");
    EXPECT_EQ(ContentOf(call.server->RecvFd(pool.url().ToString())), "pool");
    EXPECT_EQ(ContentOf(call.server->DupFd(pool.url())), "pool");
  }
  // With a session: there before Register returns.
  Call call = Start(channel);
  const SessionFd second = MustRegister(channel, MakeFile("second"));
  EXPECT_EQ(second.url().session_index(), 1u);
  EXPECT_EQ(ContentOf(call.server->RecvFd(second.url())), "second");
  EXPECT_EQ(ContentOf(call.server->RecvFd(pool.url())), "pool");
  // What a call brings of its own is another thing.
  EXPECT_EQ(CodeOf(call.server->RecvFd(InodeUrl(pool.url().dev_ino(), 0))),
            absl::StatusCode::kNotFound);
  auto received = call.server->RecvFd(pool.url());
  ASSERT_TRUE(received.ok());
  EXPECT_TRUE(IsCloseOnExec(*received));
}

TEST_F(SessionScopeTest, TheServerRegistersForItsClient) {
  Serve();
  auto channel = Channel();
  std::shared_ptr<FdSession> at_client;
  {
    FdChannelOptions options;
    options.on_session = [&](const std::shared_ptr<FdSession>& session) { at_client = session; };
    channel = Channel(options);
  }
  Call call = Start(channel);
  auto registered = ServerSession(call)->Register(MakeFile("from the server"));
  ASSERT_TRUE(registered.ok()) << registered.status();
  EXPECT_EQ(ContentOf(call.client->RecvFd(registered->url())), "from the server");
  EXPECT_EQ(ContentOf(call.client->DupFd(registered->url())), "from the server");
  Call later = Start(channel);
  EXPECT_EQ(ContentOf(later.client->RecvFd(registered->url())), "from the server");
  // Outside any call.
  ASSERT_NE(at_client, nullptr);
  EXPECT_EQ(ContentOf(at_client->DupFd(registered->url())), "from the server");
  EXPECT_EQ(CodeOf(at_client->DupFd(InodeUrl(registered->url().dev_ino(), 0))),
            absl::StatusCode::kInvalidArgument);
  // It is the client's to name only in what comes from the server, and not the server's own.
  EXPECT_EQ(CodeOf(call.server->RecvFd(registered->url())), absl::StatusCode::kNotFound);
  registered->Withdraw();
  EXPECT_EQ(CodeOf(call.client->RecvFd(registered->url())), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(at_client->DupFd(registered->url())), absl::StatusCode::kNotFound);
}

TEST_F(SessionScopeTest, AClientsSessionRegistersForItselfOnly) {
  Serve();
  Told<std::shared_ptr<FdSession>> begun;
  FdChannelOptions options;
  std::vector<SessionFd> kept;
  options.on_session = [&](const std::shared_ptr<FdSession>& session) {
    // In the callback, so before any call.
    auto registered = session->Register(MakeFile("of this session"));
    EXPECT_TRUE(registered.ok()) << registered.status();
    kept.push_back(*std::move(registered));
    begun.Set(session);
  };
  auto channel = Channel(options);
  const SessionFd always = MustRegister(channel, MakeFile("of the channel"));
  Call call = Start(channel);
  ASSERT_NE(begun.Wait(0), nullptr);
  const InodeUrl first = kept[0].url();
  EXPECT_NE(first.session_index(), always.url().session_index());
  EXPECT_EQ(ContentOf(call.server->RecvFd(first)), "of this session");
  EXPECT_EQ(ContentOf(call.server->RecvFd(always.url())), "of the channel");
  call = Call();
  begun.Wait(0)->Close("enough");
  Call next = Start(channel);
  ASSERT_NE(begun.Wait(1), nullptr);
  EXPECT_EQ(CodeOf(next.server->RecvFd(first)), absl::StatusCode::kNotFound);
  EXPECT_EQ(ContentOf(next.server->RecvFd(kept[1].url())), "of this session");
  EXPECT_EQ(ContentOf(next.server->RecvFd(always.url())), "of the channel");
  kept[0].Withdraw();  // Of a session that is gone: nothing to do, and nobody else's is touched.
  EXPECT_EQ(ContentOf(next.server->RecvFd(kept[1].url())), "of this session");
  EXPECT_EQ(begun.Wait(0)->Register(MakeFile("x")).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(begun.Wait(0)->DupFd(first).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(SessionScopeTest, WhatIsWithdrawnIsNotFoundAndClosed) {
  Serve();
  auto channel = Channel();
  Pipe pipe;
  SessionFd registered = MustRegister(channel, pipe.write);
  const InodeUrl url = registered.url();
  Call call = Start(channel);
  auto copy = call.server->RecvFd(url);
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(server_->core().ledger()->held_total(), 1u);
  EXPECT_TRUE(registered.registered());
  registered.Withdraw();
  EXPECT_FALSE(registered.registered());
  EXPECT_EQ(CodeOf(call.server->RecvFd(url)), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(InACall(channel, url)), absl::StatusCode::kNotFound);
  // What the call was given is its own.
  ASSERT_EQ(::write(copy->get(), "!", 1), 1);
  copy->Reset();
  char byte;
  ASSERT_EQ(::read(pipe.read.get(), &byte, 1), 1);
  EXPECT_TRUE(pipe.WriteEndsAreClosed());
  EXPECT_TRUE(Eventually([&] { return server_->core().ledger()->held_total() == 0; }));

  // An index does not come back.
  {
    const SessionFd next = MustRegister(channel, MakeFile("next"));
    EXPECT_EQ(next.url().session_index(), 1u);
  }  // Its handle goes, and it with it.
  EXPECT_TRUE(Eventually([&] { return server_->core().ledger()->held_total() == 0; }));
  registered = SessionFd();  // Twice is once.
  EXPECT_FALSE(SessionFd().registered());
}

TEST_F(SessionScopeTest, TheEndOfTheSessionClosesThem) {
  Serve();
  auto channel = Channel();
  Pipe to_server, to_client;
  SessionFd registered = MustRegister(channel, to_server.write);
  const InodeUrl url = registered.url();
  Call call = Start(channel);
  const auto session = ServerSession(call);
  auto back = session->Register(to_client.write);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_TRUE(call.server->DupFd(url).ok());
  ASSERT_TRUE(call.client->DupFd(back->url()).ok());

  // The client goes, with a call under way at the server.
  call.client.reset();
  channel.reset();
  EXPECT_TRUE(to_server.WriteEndsAreClosed());
  EXPECT_TRUE(to_client.WriteEndsAreClosed());
  EXPECT_EQ(CodeOf(call.server->RecvFd(url)), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CodeOf(session->DupFd(url)), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(session->alive());
  EXPECT_EQ(session->Register(MakeFile("x")).status().code(), absl::StatusCode::kUnavailable);
  back->Withdraw();  // Handles may outlive all of it.
  registered.Withdraw();
  call.server.reset();
}

TEST_F(SessionScopeTest, ACallThatHasEndedGetsNone) {
  Serve();
  auto channel = Channel();
  const SessionFd pool = MustRegister(channel, MakeFile("pool"));
  Call call = Start(channel);
  call.server->End();
  EXPECT_EQ(CodeOf(call.server->RecvFd(pool.url())), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ContentOf(InACall(channel, pool.url())), "pool");
}

TEST_F(SessionScopeTest, AUrlOfAnotherFileIsRefused) {
  Serve();
  auto channel = Channel();
  const SessionFd pool = MustRegister(channel, MakeFile("pool"));
  Call call = Start(channel);
  const InodeUrl wrong = InodeUrl::ForSession(DevIno{pool.url().dev(), pool.url().ino() + 1},
                                              *pool.url().session_index());
  EXPECT_EQ(CodeOf(call.server->RecvFd(wrong)), absl::StatusCode::kInvalidArgument);
}

TEST_F(SessionScopeTest, AskedForAsynchronously) {
  Serve();
  auto channel = Channel();
  const SessionFd pool = MustRegister(channel, MakeFile("pool"));
  Call call = Start(channel);
  for (const uint32_t index : {0u, 7u}) {
    Told<std::string> told;
    call.server->RecvFdAsync(
        InodeUrl::ForSession(pool.url().dev_ino(), index), absl::InfiniteFuture(),
        [&](absl::StatusOr<UniqueFd> fd) {
          told.Set(fd.ok() ? Content(*fd) : absl::StatusCodeToString(fd.status().code()));
        });
    EXPECT_EQ(told.Wait(), index == 0 ? "pool" : "NOT_FOUND");
  }
}

TEST_F(SessionScopeTest, NobodySeesAnothersClients) {
  Serve();
  auto alice = Channel(), bob = Channel();
  const SessionFd of_alice = MustRegister(alice, MakeFile("alice"));
  EXPECT_EQ(CodeOf(InACall(bob, of_alice.url())), absl::StatusCode::kNotFound);
  const SessionFd of_bob = MustRegister(bob, MakeFile("bob"));
  EXPECT_EQ(of_alice.url().session_index(), of_bob.url().session_index());
  EXPECT_EQ(ContentOf(InACall(alice, of_alice.url())), "alice");
  EXPECT_EQ(ContentOf(InACall(bob, of_bob.url())), "bob");
  // The same index, but another file: the inode gives it away.
  EXPECT_EQ(CodeOf(InACall(bob, of_alice.url())), absl::StatusCode::kInvalidArgument);
}

TEST_F(SessionScopeTest, TheLimitIsExact) {
  ServerLimits limits;
  limits.session.max_session_fds = 3;
  Serve(limits);
  FdChannelOptions options;
  options.limits.max_session_fds = 4;
  auto channel = Channel(options);
  Start(channel);
  std::vector<SessionFd> kept;
  for (int i = 0; i < 3; ++i) kept.push_back(MustRegister(channel, MakeFile(std::to_string(i))));
  auto refused = channel->Register(MakeFile("one too many"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ContentOf(InACall(channel, kept[static_cast<size_t>(i)].url())), std::to_string(i));
  }
  kept.pop_back();
  kept.push_back(MustRegister(channel, MakeFile("fits again")));
  EXPECT_EQ(ContentOf(InACall(channel, kept.back().url())), "fits again");
}

TEST_F(SessionScopeTest, ThisEndsLimitHoldsBeforeThereIsASession) {
  FdChannelOptions options;
  options.limits.max_session_fds = 2;
  auto channel = Channel(options);
  const SessionFd one = MustRegister(channel, MakeFile("1"));
  SessionFd two = MustRegister(channel, MakeFile("2"));
  EXPECT_EQ(channel->Register(MakeFile("3")).status().code(), absl::StatusCode::kResourceExhausted);
  two.Withdraw();
  EXPECT_TRUE(channel->Register(MakeFile("3")).ok());
  EXPECT_EQ(channel->Register(BorrowedFd(-1)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SessionScopeTest, AServerWithLessRoomGetsTheEarliest) {
  ServerLimits limits;
  limits.session.max_session_fds = 2;
  Serve(limits);
  auto channel = Channel();
  SessionFd one = MustRegister(channel, MakeFile("1"));
  const SessionFd two = MustRegister(channel, MakeFile("2"));
  const SessionFd three = MustRegister(channel, MakeFile("3"));
  EXPECT_EQ(ContentOf(InACall(channel, one.url())), "1");
  EXPECT_EQ(ContentOf(InACall(channel, two.url())), "2");
  EXPECT_EQ(CodeOf(InACall(channel, three.url())), absl::StatusCode::kNotFound);
  one.Withdraw();
  EXPECT_EQ(CodeOf(InACall(channel, one.url())), absl::StatusCode::kNotFound);
  EXPECT_EQ(ContentOf(InACall(channel, three.url())), "3");
}

TEST_F(SessionScopeTest, TheQuotasRefusalIsToldToWhoNamesIt) {
  ServerLimits limits;
  limits.max_fds_per_uid = 2;
  Serve(limits);
  auto channel = Channel();
  SessionFd one = MustRegister(channel, MakeFile("1"));
  const SessionFd two = MustRegister(channel, MakeFile("2"));
  const SessionFd three = MustRegister(channel, MakeFile("3"));
  EXPECT_EQ(ContentOf(InACall(channel, two.url())), "2");
  EXPECT_EQ(CodeOf(InACall(channel, three.url())), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server_->core().ledger()->held_total(), 2u);
  one.Withdraw();
  EXPECT_EQ(CodeOf(InACall(channel, one.url())), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Eventually([&] { return server_->core().ledger()->held_total() == 1; }));
  const SessionFd four = MustRegister(channel, MakeFile("4"));
  EXPECT_EQ(ContentOf(InACall(channel, four.url())), "4");
  channel.reset();
  EXPECT_TRUE(Eventually([&] { return server_->core().ledger()->held_total() == 0; }));
}

TEST_F(SessionScopeTest, TheyAreThereAgainAfterARestart) {
  Serve();
  FdChannelOptions options;
  auto channel = Channel(options);
  std::vector<SessionFd> kept;
  for (int i = 0; i < 16; ++i) kept.push_back(MustRegister(channel, MakeFile(std::to_string(i))));
  for (int restart = 0; restart < 3; ++restart) {
    // Holes, and one that came while no server was there.
    kept.erase(kept.begin() + 3 * restart);
    server_.reset();
    kept.push_back(MustRegister(channel, MakeFile("late")));
    Serve();
    EXPECT_EQ(ContentOf(InACall(channel, kept.back().url())), "late");
    for (size_t i = 0; i + 1 < kept.size(); ++i) {
      const auto fd = InACall(channel, kept[i].url());
      ASSERT_TRUE(fd.ok()) << fd.status();
      auto url = FdToUrl(*fd);
      ASSERT_TRUE(url.ok());
      EXPECT_EQ(url->dev_ino(), kept[i].url().dev_ino());
    }
    EXPECT_EQ(server_->core().ledger()->held_total(), kept.size());
  }
}

TEST_F(SessionScopeTest, AWindowSmallerThanWhatIsRegistered) {
  ServerLimits limits;
  limits.session.max_fds_per_call = 2;
  limits.session.session_window = 2;
  limits.session.max_session_fds = 9;
  Serve(limits);
  auto channel = Channel();
  std::vector<SessionFd> kept;
  for (int i = 0; i < 9; ++i) kept.push_back(MustRegister(channel, MakeFile(std::to_string(i))));
  // They go out as the server reads, and the call after them.
  for (int i = 0; i < 9; ++i) {
    EXPECT_EQ(ContentOf(InACall(channel, kept[static_cast<size_t>(i)].url())), std::to_string(i));
  }
}

TEST_F(SessionScopeTest, RegisteringForEverFillsNothing) {
  Serve();
  auto channel = Channel();
  Start(channel);
  for (int i = 0; i < 300; ++i) {
    const SessionFd one = MustRegister(channel, MakeFile("x"));
    ASSERT_TRUE(one.registered());
  }
  EXPECT_TRUE(Eventually([&] { return server_->core().ledger()->held_total() == 0; }));
  EXPECT_EQ(server_->core().session_count(), 1u);
}

TEST_F(SessionScopeTest, ManyThreadsNeverGetEachOthers) {
  ServerLimits limits;
  limits.session.max_session_fds = 64;
  Serve(limits);
  FdChannelOptions options;
  options.limits.max_session_fds = 64;
  auto channel = Channel(options);
  Start(channel);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const std::string content = absl::StrCat(t, "/", i);
        SessionFd one = MustRegister(channel, MakeFile(content));
        EXPECT_EQ(ContentOf(InACall(channel, one.url())), content);
        EXPECT_EQ(ContentOf(InACall(channel, one.url())), content);
        const InodeUrl url = one.url();
        one.Withdraw();
        EXPECT_EQ(CodeOf(InACall(channel, url)), absl::StatusCode::kNotFound);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// --- Peers that break the rules ---

class RawPeerTest : public SessionScopeTest {
 protected:
  // Opens a session and returns the client's end of it.
  UniqueFd Open() {
    Hello hello = HelloWith(MintToken());
    hello.limits.max_session_fds = 1;
    Answer answer = SayHello(Address(path_), hello);
    EXPECT_EQ(answer.status(), HelloStatus::kOk);
    EXPECT_EQ(answer.reply->limits.max_session_fds, SessionLimits().max_session_fds);
    EXPECT_EQ(answer.fds.size(), 1u);
    return std::move(answer.fds[0]);
  }
  static void Send(const UniqueFd& socket, const Frame& frame, const std::vector<int>& fds) {
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    EXPECT_TRUE(SendMessage(socket, buffer, fds).ok());
  }
  static Frame Data(uint32_t first, size_t count) {
    Frame frame;
    frame.first_index = first;
    frame.fd_count = static_cast<uint16_t>(count);
    return frame;
  }
  // Whether the session is cut, with everything that was in it.
  bool IsCut(const UniqueFd& socket) {
    return Eventually([&] { return server_->core().session_count() == 0; }) &&
           Eventually([&] { return server_->core().ledger()->held_total() == 0; }) &&
           internal::WaitReadable(socket);
  }
};

TEST_F(RawPeerTest, MoreThanTheLimitCutsTheSession) {
  Serve();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(16, file.get());
  const UniqueFd good = Open();
  Send(good, Data(0, 16), fds);
  Frame withdraw;
  withdraw.type = FrameType::kWithdraw;
  withdraw.withdraw_count = 2;
  withdraw.withdraw = {0, 4711};  // One that is there, and one that never was.
  Send(good, withdraw, {});
  Send(good, Data(16, 1), {file.get()});
  EXPECT_TRUE(Eventually([&] { return server_->core().ledger()->held_total() == 16; }));
  EXPECT_EQ(server_->core().session_count(), 1u);
  Send(good, Data(17, 1), {file.get()});
  EXPECT_TRUE(IsCut(good));
}

TEST_F(RawPeerTest, AnIndexTwiceCutsTheSession) {
  Serve();
  const UniqueFd file = MakeFile("x");
  const UniqueFd socket = Open();
  Send(socket, Data(5, 2), {file.get(), file.get()});
  EXPECT_TRUE(Eventually([&] { return server_->core().ledger()->held_total() == 2; }));
  Send(socket, Data(6, 1), {file.get()});
  EXPECT_TRUE(IsCut(socket));
}

TEST_F(RawPeerTest, FewerThanAnnouncedCutTheSession) {
  Serve();
  const UniqueFd file = MakeFile("x");
  const UniqueFd socket = Open();
  Send(socket, Data(0, 2), {file.get()});
  EXPECT_TRUE(IsCut(socket));
}

TEST_F(RawPeerTest, AWithdrawalWithADescriptorCutsTheSession) {
  Serve();
  const UniqueFd file = MakeFile("x");
  const UniqueFd socket = Open();
  Frame withdraw;
  withdraw.type = FrameType::kWithdraw;
  withdraw.withdraw_count = 1;
  Send(socket, withdraw, {file.get()});
  EXPECT_TRUE(IsCut(socket));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
