// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The limits of what a session holds and has in flight, and the credit that follows from them.
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "tests/fdchannel/session/cpu_time.h"
#include "tests/fdchannel/session/session_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

// --- What is held ---

TEST_F(SessionTest, ClosesWhatNobodyAsksFor) {
  config_.early_timeout = absl::Milliseconds(1);
  config_.local = {4, 4};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  // The poller does it on its own, and tells the peer.
  const auto credit = ReadRaw();
  ASSERT_TRUE(credit.has_value());
  EXPECT_EQ(credit->type, FrameType::kCredit);
  EXPECT_EQ(credit->credit_total, 1u);
  EXPECT_EQ(server_->held(), 0u);
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(quota_->held(), 0);
}

TEST_F(SessionTest, DropsTheOldestEarlyCallsFirst) {
  config_.local = {4, 4};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  for (uint64_t id = 1; id <= 6; ++id) SendFile(id, 0, file);
  server_->Sweep();
  Flush(reaper_.get());
  EXPECT_EQ(server_->held(), 4u);
  EXPECT_EQ(quota_->held(), 4);
  for (uint64_t id = 1; id <= 6; ++id) {
    Call call(server_, id, 1);
    const auto fd = call.Take(Url(file, 0));
    if (id <= 2) {
      EXPECT_TRUE(absl::IsResourceExhausted(fd.status())) << id << fd.status();
      EXPECT_THAT(std::string(fd.status().message()), HasSubstr("session_window"));
    } else {
      EXPECT_TRUE(fd.ok()) << id << fd.status();
    }
  }
}

TEST_F(SessionTest, RefusesAnAttachedCallBeyondTheWindow) {
  config_.local = {4, 4};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call greedy(server_, 1, 0, /*open_ended=*/true);
  Call modest(server_, 2, 1);
  for (uint32_t i = 0; i < 5; ++i) SendFile(1, i, file);
  server_->Sweep();
  Flush(reaper_.get());
  const absl::Status status = greedy.Take(Url(file, 0)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("session_window"));
  EXPECT_EQ(Holders(file), 1u);
  SendFile(2, 0, file);
  EXPECT_TRUE(modest.Take(Url(file, 0)).ok());
}

TEST_F(SessionTest, AFullQuotaFailsTheCall) {
  const auto small = std::make_shared<CountingQuota>(1);
  config_.quota = small;
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  SendFile(2, 0, file);
  server_->Sweep();
  Call first(server_, 1, 1), second(server_, 2, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(second.Take(Url(file, 0)).status()));
  EXPECT_TRUE(first.Take(Url(file, 0)).ok());
  EXPECT_EQ(small->held(), 0);
}

// --- Credit ---

TEST_F(SessionTest, GivesCreditForEachQuarterOfTheWindow) {
  config_.poller = nullptr;  // A sweep gives all that is owed.
  config_.local = {4, 16};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  for (uint32_t i = 0; i < 9; ++i) SendFile(1, i, file);
  for (uint32_t i = 0; i < 9; ++i) {
    ASSERT_TRUE(call.Take(Url(file, i)).ok());
    if (i % 4 != 3) {
      EXPECT_TRUE(NothingToRead()) << i;
      continue;
    }
    const auto credit = ReadRaw();
    ASSERT_TRUE(credit.has_value());
    EXPECT_EQ(credit->type, FrameType::kCredit);
    EXPECT_EQ(credit->credit_total, i + 1);
  }
}

// With a window of one call, credit that is owed must not keep the next full call waiting.
TEST_F(SessionTest, OwesNoCreditThatAFullCallNeeds) {
  config_.local = config_.remote = {8, 8};
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> eight(8, file.get());
  for (uint64_t id = 1; id <= 20; ++id) {
    const size_t count = id % 2 == 0 ? 8 : 1;
    ASSERT_TRUE(
        client_->Send({id, 0}, 0, absl::MakeConstSpan(eight).subspan(0, count), Within(kLong))
            .ok());
    Call call(server_, id, static_cast<uint32_t>(count));
    for (uint32_t i = 0; i < count; ++i) ASSERT_TRUE(call.Take(Url(file, i)).ok());
  }
}

TEST_F(SessionTest, SendsCreditLaterIfTheSocketIsFull) {
  config_.local = {1, 4};
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  wire->PushData({1, 0}, 0, {file.get()});
  Call call(server_, 1, 1);
  wire->RefuseSends(1);
  ASSERT_TRUE(call.Take(Url(file, 0)).ok());
  EXPECT_TRUE(Eventually([&] {
    const std::vector<Frame> sent = wire->sent();
    return !sent.empty() && sent.back().credit_total == 1;
  }));
}

TEST_F(SessionTest, ASweepGivesAllThatIsOwed) {
  config_.poller = nullptr;
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  Call call(server_, 1, 1);
  ASSERT_TRUE(call.Take(Url(file, 0)).ok());
  EXPECT_TRUE(NothingToRead());
  server_->Sweep();
  const auto credit = ReadRaw();
  ASSERT_TRUE(credit.has_value());
  EXPECT_EQ(credit->type, FrameType::kCredit);
  EXPECT_EQ(credit->credit_total, 1u);
}

// A call leaves a few descriptors owed. Then a stream sends 60, and nobody takes one of them before
// all are sent.
TEST_F(SessionTest, WhatIsOwedKeepsNoStreamWaiting) {
  config_.local = config_.remote = {16, 64};
  const UniqueFd file = MakeFile("x");
  for (const bool to_client : {false, true}) {
    for (uint32_t owed = 1; owed <= 15; owed += 7) {
      MakeBoth();
      const auto& sender = to_client ? server_ : client_;
      const auto& receiver = to_client ? client_ : server_;
      Call call(receiver, 1, 0, /*open_ended=*/true);
      for (uint32_t i = 0; i < owed; ++i) {
        ASSERT_TRUE(sender->Send({1, 0}, i, {file.get()}, Within(kLong)).ok());
        ASSERT_TRUE(call.Take(Url(file, i)).ok());
      }
      Call stream(receiver, 2, 0, /*open_ended=*/true);
      for (uint32_t i = 0; i < 60; ++i) {
        ASSERT_EQ(sender->Send({2, 0}, i, {file.get()}, Within(kLong)), absl::OkStatus())
            << owed << " owed, " << i << " sent, to the client: " << to_client;
      }
      for (uint32_t i = 0; i < 60; ++i) ASSERT_TRUE(stream.Take(Url(file, i)).ok());
    }
  }
}

// A server replies to each call with descriptors that nobody asks for. Without a poller no sweep
// helps.
TEST_F(SessionTest, RepliesThatNobodyTakesKeepNoServerWaiting) {
  config_.poller = nullptr;
  for (const uint32_t window : {16u, 64u}) {
    config_.local = config_.remote = {16, window};
    MakeBoth();
    const UniqueFd file = MakeFile("x");
    const std::vector<int> reply(8, file.get());
    for (uint64_t id = 1; id <= 50; ++id) {
      Call call(client_, id, 0, /*open_ended=*/true);
      Call served(server_, id, 0);
      server_->Sweep();  // Reads credit.
      absl::Status status;
      ASSERT_TRUE(server_->TrySend({id, 0}, 0, reply, &status)) << "window " << window << " " << id;
      ASSERT_EQ(status, absl::OkStatus());
      served.End(/*sent=*/true);
      call.End();
      Flush(reaper_.get());
    }
  }
}

// A peer that gives credit for what it was about to be sent, and was not.
TEST_F(SessionTest, CutsAPeerThatCreditsWhatWasNotSent) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  absl::Status status;
  wire->BeforeNextSend([&] {
    wire->RefuseSends(1);
    wire->PushCredit(1);
    server_->Sweep();
  });
  EXPECT_FALSE(server_->TrySend({1, 0}, 0, {file.get()}, &status));
  EXPECT_FALSE(server_->alive());
  ASSERT_FALSE(wire->sent().empty());
  EXPECT_EQ(wire->sent().back().type, FrameType::kClose);
  EXPECT_EQ(wire->sent().back().close_code, CloseCode::kProtocolError);
}

// Guards against a walk over all asynchronous waiters of a session, for each frame of its peer.
TEST_F(SessionTest, AFrameCostsTheSameHoweverManyCallsWait) {
  config_.poller = nullptr;
  const UniqueFd file = MakeFile("x");
  const auto cost = [&](size_t waiters) {
    const auto wire = MakeFake();
    std::vector<std::unique_ptr<Call>> calls;
    for (size_t i = 0; i < waiters; ++i) {
      calls.push_back(std::make_unique<Call>(server_, i + 1, 0, /*open_ended=*/true));
      server_->ReceiveAsync(calls.back()->inbox(), Url(file, 0), Session::Op::kTake,
                            absl::InfiniteFuture(), [](const absl::StatusOr<UniqueFd>&) {});
    }
    const absl::Duration before = CpuTime();
    for (int i = 0; i < 1000; ++i) {
      wire->PushCredit(0);
      server_->Sweep();
    }
    return CpuTime() - before;
  };
  const absl::Duration few = cost(10);
  EXPECT_LT(cost(5000), 5 * few + absl::Milliseconds(100));
}

// --- What is in flight ---

// A client that gives credit for what it has not read: it must not have more in flight than its
// window, for the kernel charges that to the server's user (unix(7), ETOOMANYREFS).
TEST_F(SessionTest, CreditForWhatIsUnreadDoesNotWidenTheWindow) {
  config_.remote = {8, 8};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  const auto send = [&](uint32_t index) {
    absl::Status status;
    const bool done = server_->TrySend({1, 0}, index, {file.get()}, &status);
    EXPECT_TRUE(status.ok()) << status;
    return done;
  };
  for (uint32_t i = 0; i < 8; ++i) EXPECT_TRUE(send(i));
  EXPECT_FALSE(send(8));
  SendRaw(Credit(8));  // A lie.
  server_->Sweep();
  EXPECT_FALSE(send(8));
  const absl::Status late = server_->Send({1, 0}, 8, {file.get()}, Within(absl::Milliseconds(20)));
  EXPECT_TRUE(absl::IsResourceExhausted(late)) << late;
  EXPECT_THAT(late.message(), HasSubstr("has not read 8 descriptors"));
  EXPECT_EQ(ToSessionStats(server_->counters()).sends_refused_window, 1u);
  // Reading three makes room for three, without credit from the peer.
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(ReadRaw().has_value());
  for (uint32_t i = 8; i < 11; ++i) EXPECT_TRUE(send(i));
  EXPECT_FALSE(send(11));
  // One that waits is let go on soon after the peer has read.
  Outcome<absl::Status> sent;
  server_->SendAsync({1, 0}, 11, {file.get()}, absl::Now() + kLong, sent.Setter());
  EXPECT_FALSE(sent.ready());
  EXPECT_TRUE(ReadRaw().has_value());
  EXPECT_EQ(sent.Get(), absl::OkStatus());
}

TEST_F(SessionTest, AnHonestPeerNeverMeetsTheKernelsCount) {
  config_.local = config_.remote = {16, 16};
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  for (uint64_t id = 1; id <= 200; ++id) {
    const std::vector<int> fds(1 + id % 16, file.get());
    ASSERT_EQ(client_->Send({id, 0}, 0, fds, Within(kLong)), absl::OkStatus()) << id;
    Call call(server_, id, static_cast<uint32_t>(fds.size()));
    for (uint32_t i = 0; i < fds.size(); ++i) ASSERT_TRUE(call.Take(Url(file, i)).ok());
    call.End();
  }
  const SessionStats client = ToSessionStats(client_->counters());
  const SessionStats server = ToSessionStats(server_->counters());
  EXPECT_EQ(client.sends_refused_window, 0u);
  EXPECT_EQ(client.fds_sent, server.fds_received);
  EXPECT_EQ(server.fds_taken, server.fds_received);
}

}  // namespace

}  // namespace internal
}  // namespace grpcfd
