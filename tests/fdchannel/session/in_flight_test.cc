// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What is in flight to all peers of a server: the shares, by themselves, and against clients that
// never read, under the kernel's own limit.
#include "fdchannel/session/in_flight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/fdchannel/server/server_test_util.h"
#include "tests/fdchannel/session/in_flight_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

TEST(InFlightTest, ALoneSessionHasItsWindow) {
  auto budget = Fair(768);
  Peer peer(budget, kAlice);
  EXPECT_EQ(peer.SendAll(), kWindow);
  EXPECT_EQ(peer.Send(1), Room::kUnread) << "its own window, not the others";
  EXPECT_EQ(budget->Look(), kWindow);
  peer.ReadAll();
  EXPECT_EQ(budget->Look(), 0u);
  EXPECT_EQ(peer.SendAll(16), kWindow);
}

TEST(InFlightTest, WithoutABudgetOnlyTheWindowCounts) {
  Peer peer(nullptr, kAlice);
  EXPECT_EQ(peer.SendAll(), kWindow);
  EXPECT_EQ(peer.Send(1), Room::kUnread);
}

// Who sends learns by it that another one found no room meanwhile, and may find some now.
TEST(InFlightTest, ASendTellsOfAShortage) {
  for (const auto& budget : {std::shared_ptr<InFlightBudget>(), Fair(48)}) {
    const auto socket = std::make_shared<FakeSocket>();
    InFlight session(socket, kWindow, budget, kAlice, [] {});
    ASSERT_EQ(session.Reserve(8), Room::kYes);
    ASSERT_EQ(session.Reserve(8), Room::kYes);
    EXPECT_FALSE(session.Sent(8));
    socket->unread = 1;
    EXPECT_NE(session.Reserve(kWindow - 8), Room::kYes);
    EXPECT_TRUE(session.Sent(8));
    socket->unread = 2;
    EXPECT_EQ(session.Reserve(1), Room::kYes) << "the budget grants more";
    EXPECT_FALSE(session.Sent(1));
  }
}

TEST(InFlightTest, OneSessionCannotHaveAll) {
  // A window that is larger than the whole.
  auto budget = Fair(100);
  Peer greedy(budget, kAlice, 1000);
  EXPECT_EQ(greedy.SendAll(), 57u) << "three quarters of three quarters";
  EXPECT_EQ(budget->MostForOne(1000), 57u);
  EXPECT_EQ(greedy.Send(1), Room::kShared);
  Peer same_user(budget, kAlice, 1000), other(budget, kBob, 1000);
  EXPECT_GT(same_user.SendAll(), 0u);
  EXPECT_GT(other.SendAll(), 0u);
  EXPECT_LE(budget->Look(), 100u);
}

// As a server with RLIMIT_NOFILE = 1024 has them.
class SharesTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kTotal = 768, kSessions = 128;

  void AddHogs(int n) {
    for (int i = 0; i < n; ++i) hogs_.push_back(std::make_unique<Peer>(budget_, kAlice));
  }
  // One that comes last is served, `n` at a time, for as long as it reads.
  void ExpectServed(Peer* last, size_t n) {
    for (int i = 0; i < 1000; ++i) {
      ASSERT_EQ(last->Send(n), Room::kYes) << i;
      last->ReadAll();
    }
  }

  const std::shared_ptr<InFlightBudget> budget_ = Fair(kTotal, kSessions);
  std::vector<std::unique_ptr<Peer>> hogs_;
};

TEST_F(SharesTest, ShrinkAlike) {
  AddHogs(63);
  for (bool any = true; any;) {
    any = false;
    for (auto& hog : hogs_) any = hog->Send(1) == Room::kYes || any;
  }
  for (auto& hog : hogs_) {
    EXPECT_GE(hog->in_flight().fds(), 6u);
    EXPECT_LE(hog->in_flight().fds(), kWindow / 2) << "alike, but for steps";
  }
  Peer last(budget_, kAlice);
  ExpectServed(&last, 2);
  EXPECT_LE(budget_->Look(), kTotal);
}

TEST_F(SharesTest, ThoseWhoCameFirstCannotHaveTheLastOnesPart) {
  AddHogs(kSessions - 2);
  for (auto& hog : hogs_) EXPECT_GE(hog->SendAll(), budget_->sure());
  EXPECT_EQ(budget_->sure(), 2u) << "a third by max_sessions";
  EXPECT_EQ(hogs_.front()->in_flight().fds(), kWindow);
  Peer last(budget_, kAlice);
  ExpectServed(&last, budget_->sure());
  EXPECT_LE(budget_->Look(), kTotal);
  // Another user notices less.
  Peer bob(budget_, kBob);
  EXPECT_GE(bob.SendAll(16), 16u);
  EXPECT_LE(budget_->Look(), kTotal);
}

TEST(InFlightTest, WhatIdleSessionsHaveReadIsThereForOthers) {
  auto budget = Fair(100);
  std::vector<std::unique_ptr<Peer>> idle;
  for (int i = 0; i < 20; ++i) {
    idle.push_back(std::make_unique<Peer>(budget, kAlice));
    EXPECT_EQ(idle.back()->Send(1), Room::kYes) << i;
    idle.back()->ReadAll();  // And nobody has looked since.
  }
  Peer active(budget, kAlice);
  EXPECT_EQ(active.SendAll(), 57u);
}

TEST(InFlightTest, WhoWaitsIsToldWhenOthersHaveRead) {
  auto budget = Fair(100);
  Peer hog(budget, kAlice, 1000), waiting(budget, kAlice, 1000);
  hog.SendAll();
  while (waiting.Send(1) == Room::kYes) {
  }
  ASSERT_EQ(waiting.Send(1), Room::kShared);
  hog.in_flight().MayHaveRoom();
  EXPECT_EQ(waiting.told(), 0) << "nothing was read";
  hog.ReadAll();
  hog.in_flight().MayHaveRoom();
  EXPECT_EQ(waiting.told(), 1);
  EXPECT_EQ(waiting.Send(1), Room::kYes);
}

TEST(InFlightTest, WhoWaitsIsToldWhenAnotherEnds) {
  auto budget = Fair(100);
  Peer waiting(budget, kAlice, 1000);
  {
    Peer hog(budget, kAlice, 1000);
    hog.SendAll();
    while (waiting.Send(1) == Room::kYes) {
    }
    EXPECT_EQ(waiting.told(), 0);
  }
  EXPECT_EQ(waiting.told(), 1);
  EXPECT_EQ(waiting.Send(1), Room::kYes);
}

TEST(InFlightTest, ReservedCountsAndIsReturned) {
  auto budget = Fair(768);
  Peer peer(budget, kAlice);
  EXPECT_EQ(peer.in_flight().Reserve(60), Room::kYes);
  EXPECT_EQ(peer.in_flight().Reserve(5), Room::kUnread);
  EXPECT_EQ(budget->Look(), 60u);
  peer.in_flight().Return(60);
  EXPECT_EQ(budget->Look(), 0u);
  EXPECT_EQ(peer.in_flight().Reserve(5), Room::kYes);
  peer.in_flight().Return(5);
}

TEST(InFlightTest, OneAfterTheOtherMayHaveAll) {
  auto budget = std::make_shared<InFlightBudget>(kWindow, InFlightBudget::Shares::kNone);
  Peer second(budget, 0);
  {
    Peer first(budget, 0);
    EXPECT_EQ(first.SendAll(), kWindow);
    EXPECT_EQ(second.Send(1), Room::kShared) << "the server never read what it was sent before";
    first.ReadAll();
    EXPECT_EQ(second.Send(1), Room::kYes);
  }
  EXPECT_EQ(second.SendAll(), kWindow - 1);
}

TEST(InFlightTest, LargeNumbersDoNotOverflow) {
  constexpr uint32_t kMost = std::numeric_limits<uint32_t>::max();
  auto budget = Fair(kMost);
  Peer peer(budget, kAlice, kMost);
  EXPECT_EQ(peer.Send(budget->MostForOne(kMost)), Room::kYes);
  EXPECT_EQ(peer.Send(1), Room::kShared);
  Peer other(budget, kAlice, kMost);
  EXPECT_EQ(other.Send(1), Room::kYes);
}

TEST(InFlightTest, ManyThreadsNeverExceedTheTotal) {
  constexpr uint64_t kTotal = 64;
  auto budget = Fair(kTotal);
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 8; ++i) {
    peers.push_back(std::make_unique<Peer>(budget, i % 2 == 0 ? kAlice : kBob));
  }
  std::vector<std::thread> threads;
  for (auto& peer : peers) {
    threads.emplace_back([&peer] {
      for (int i = 0; i < 2000; ++i) {
        if (peer->Send(1 + static_cast<size_t>(i % 5)) != Room::kYes) peer->ReadAll();
        if (i % 7 == 0) peer->in_flight().MayHaveRoom();
      }
    });
  }
  bool within = true;
  for (int i = 0; i < 2000; ++i) within = budget->Look() <= kTotal && within;
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(within);
}

// --- Against the kernel's limit ---

// A client of the wire that reads no frames, and gives credit all the same.
class Silent {
 public:
  explicit Silent(TestServer* server) : token_(MintToken()) {
    Answer answer = SayHello(server->address(), HelloWith(token_));
    status_ = answer.status();
    if (status_ != HelloStatus::kOk || answer.fds.size() != 1) return;
    end_ = std::move(answer.fds[0]);
    auto session = server->core().FindSession(token_, answer.reply->session_id);
    EXPECT_TRUE(session.ok()) << session.status();
    if (session.ok()) session_ = *session;
  }
  HelloStatus status() const { return status_; }
  Session& session() const { return *session_; }
  const UniqueFd& end() const { return end_; }

  // One descriptor, without waiting: OK, or UNAVAILABLE if the sender would have to wait.
  absl::Status SendOne(const UniqueFd& file) {
    absl::Status status;
    if (!session_->TrySend({next_call_, 0}, 0, {file.get()}, &status)) {
      return absl::UnavailableError("would wait");
    }
    if (!status.ok()) return status;
    ++next_call_;
    return status;
  }
  void GiveCredit(uint64_t total) {
    Frame frame;
    frame.type = FrameType::kCredit;
    frame.credit_total = total;
    FrameBuffer bytes;
    EncodeFrame(frame, &bytes);
    EXPECT_TRUE(SendMessage(end_, bytes, {}).ok());
    session_->Sweep();
  }
  uint64_t sent() const { return next_call_ - 1; }
  // Frames in the socket, until there are none.
  size_t Read() {
    size_t fds = 0;
    for (;;) {
      FrameBuffer bytes;
      ReceivedMessage message;
      const IoResult io = ReceiveMessage(end_, bytes.data(), bytes.size(), &message);
      if (!io.ok() || message.size == 0) return fds;
      fds += message.fds.size();
    }
  }
  void BreakTheProtocol() {
    const std::string garbage(kFrameSize, '\xee');
    EXPECT_TRUE(SendMessage(end_, Bytes(garbage), {}).ok());
    session_->Sweep();
    EXPECT_FALSE(session_->alive());
    session_.reset();
  }

 private:
  const Token token_;
  HelloStatus status_ = HelloStatus::kRefused;
  UniqueFd end_;
  std::shared_ptr<Session> session_;
  uint64_t next_call_ = 1;
};

// A server that root does not run: the kernel spares who has CAP_SYS_RESOURCE (unix(7)). Ids and
// capabilities are a thread's own, and inherited by those that it starts; the limit is the
// process's.
class KernelLimitTest : public ::testing::Test {
 protected:
  static constexpr rlim_t kLimit = 1024;
  static constexpr uid_t kNobody = 65534;

  KernelLimitTest() : path_(dir_.File("s")) {
    EXPECT_EQ(::chmod(dir_.path().c_str(), 0777), 0);
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    EXPECT_GE(before_.rlim_max, kLimit);
    const rlimit low = {kLimit, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  }
  ~KernelLimitTest() override { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

  static void AsNobody(const std::function<void()>& body) {
    std::thread([&body] {
      if (::geteuid() == 0) {
        ASSERT_EQ(::syscall(SYS_setresuid, kNobody, kNobody, kNobody), 0);
      }
      body();
    }).join();
  }

  const TempDir dir_;
  const std::string path_;
  rlimit before_{};
};

// Each within its window they could have 4032 in flight, and the kernel would refuse every send of
// this user, to whomever.
class SilentClientsTest : public KernelLimitTest, public ::testing::WithParamInterface<bool> {};

TEST_P(SilentClientsTest, LeaveRoomForOneThatReads) {
  const bool in_turn = GetParam();  // Or each takes all it gets before the next one comes.
  AsNobody([this, in_turn] {
    TestServer server(path_);
    server.Start();
    const UniqueFd file = MakeFile("x");
    std::vector<std::unique_ptr<Silent>> silent;
    for (int i = 0; i < 63; ++i) {
      silent.push_back(std::make_unique<Silent>(&server));
      ASSERT_EQ(silent.back()->status(), HelloStatus::kOk) << i;
    }
    Silent healthy(&server);
    ASSERT_EQ(healthy.status(), HelloStatus::kOk);
    uint64_t served = 0;
    const auto serve_healthy = [&](int calls) {
      for (int i = 0; i < calls; ++i) {
        const absl::Status status = healthy.SendOne(file);
        ASSERT_TRUE(status.ok()) << "call " << served << ": " << status;
        ASSERT_EQ(healthy.Read(), 1u);
        if (++served % 16 == 0) healthy.GiveCredit(served);
      }
    };
    // All ask until all are stopped: by waiting, never by the kernel.
    for (bool any = true; any;) {
      any = false;
      for (auto& client : silent) {
        absl::Status status;
        do {
          status = client->SendOne(file);
          any = any || status.ok();
          ASSERT_TRUE(status.ok() || status.message() == "would wait") << status;
          if (status.ok()) client->GiveCredit(client->sent());  // A lie.
        } while (status.ok() && !in_turn);
        ASSERT_GE(client->sent(), 1u) << "nobody is starved";
      }
      serve_healthy(1);
      if (HasFatalFailure()) return;
    }
    serve_healthy(2000);
    const FdServerStats stats = server.core().stats();
    EXPECT_LE(stats.fds_in_flight_now, 768u);
    EXPECT_EQ(stats.sessions.sends_failed, 0u);
    // What the error says to one that waited.
    const int number = file.get();
    absl::Status late;
    // It gets what the healthy one no longer needs, a few more.
    for (uint64_t call = 1000; call < 1000 + kWindow && late.ok(); ++call) {
      WaitOptions options;
      options.deadline = absl::Now() + absl::Milliseconds(5);
      late = silent.back()->session().Send({call, 0}, 0, absl::MakeConstSpan(&number, 1), options);
    }
    EXPECT_TRUE(absl::IsResourceExhausted(late)) << late;
    EXPECT_THAT(std::string(late.message()), HasSubstr("max_fds_in_flight = 768"));
    EXPECT_THAT(std::string(late.message()), HasSubstr(absl::StrCat("pid ", ::getpid())));
    EXPECT_EQ(server.core().stats().sessions.sends_refused_in_flight, 1u);
  });
}

INSTANTIATE_TEST_SUITE_P(Orders, SilentClientsTest, ::testing::Bool());

// Guards against forgetting what a peer has not read when its session ends.
TEST_F(KernelLimitTest, WhoBreaksTheProtocolAndComesBackGetsNoMore) {
  AsNobody([this] {
    TestServer server(path_);
    server.Start();
    const UniqueFd file = MakeFile("x");
    std::vector<std::unique_ptr<Silent>> gone;
    HelloStatus status = HelloStatus::kOk;
    while (gone.size() < 100) {
      auto client = std::make_unique<Silent>(&server);
      status = client->status();
      if (status != HelloStatus::kOk) break;
      for (int i = 0; i < 64; ++i) {
        const absl::Status sent = client->SendOne(file);
        if (!sent.ok()) {
          ASSERT_EQ(sent.message(), "would wait") << sent;
          break;
        }
      }
      ASSERT_GE(client->sent(), 1u);
      client->BreakTheProtocol();
      gone.push_back(std::move(client));
    }
    EXPECT_EQ(status, HelloStatus::kTooManySessions);
    EXPECT_EQ(gone.size(), 64u) << "max_sessions_per_uid";
    EXPECT_LE(server.core().stats().fds_in_flight_now, 768u);
    // One of them reads what it was sent, another one goes: two may come.
    EXPECT_EQ(gone[0]->Read(), gone[0]->sent());
    gone.erase(gone.begin() + 1);
    ASSERT_TRUE(Eventually([&] { return server.core().ledger()->sessions() == 62; }));
    EXPECT_EQ(Silent(&server).status(), HelloStatus::kOk);
    gone.clear();
    EXPECT_TRUE(Eventually([&] { return server.core().ledger()->sessions() == 0; }));
    EXPECT_EQ(server.core().stats().fds_in_flight_now, 0u);
  });
}

// A server that is asked to send more than the kernel lets it is told at once which numbers clash.
TEST_F(KernelLimitTest, LimitsThatDoNotFitAreRefusedAtStart) {
  FdServerOptions options;
  options.limits.max_fds_in_flight = 1000;
  const absl::Status status = ServerCore::Create(options).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("1128"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("1024"));
}

// One session waits for room that another one's peer makes by reading.
TEST(InFlightServerTest, ASenderIsWokenByAnotherSessionsReader) {
  const TempDir dir;
  ServerLimits limits;
  limits.session.max_fds_per_call = 4;
  limits.max_fds_in_flight = 8;
  TestServer server(dir.File("s"), limits);
  server.Start();
  const UniqueFd file = MakeFile("x");
  Silent hog(&server), other(&server);
  while (hog.SendOne(file).ok()) {
  }
  while (other.SendOne(file).ok()) {
  }
  Told<absl::Status> told;
  other.session().SendAsync({100, 0}, 0, {file.get(), file.get()}, absl::Now() + kPatience,
                            [&told](const absl::Status& status) { told.Set(status); });
  EXPECT_EQ(told.count(), 0u);
  EXPECT_EQ(hog.Read(), hog.sent());
  EXPECT_EQ(told.Wait(), absl::OkStatus());
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
