// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/server/quota.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdint.h>
#include <sys/resource.h>

#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kAlice = 1000, kBob = 1001;

TEST(ResolveLimitsTest, FillsInTheSharesOfTheProcessLimit) {
  const auto limits = ResolveLimits(ServerLimits(), 1024);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->max_fds_total, 256u);
  EXPECT_EQ(limits->max_sessions, 128u);
  EXPECT_EQ(limits->max_sessions_per_uid, 64u);
  EXPECT_EQ(limits->max_fds_per_uid, 256u);
  EXPECT_EQ(limits->max_connections_per_uid, 408u);
  EXPECT_EQ(limits->session.session_window, 64u);
}

TEST(ResolveLimitsTest, UnlimitedIsNotInfinite) {
  const auto limits = ResolveLimits(ServerLimits(), RLIM_INFINITY);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->max_fds_total, (1u << 20) / 4);
  EXPECT_EQ(limits->max_sessions, (1u << 20) / 8);
}

TEST(ResolveLimitsTest, LeavesWhatIsSet) {
  ServerLimits limits;
  limits.max_fds_total = 10;
  limits.max_sessions = 3;
  const auto resolved = ResolveLimits(limits, 1024);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->max_fds_total, 10u);
  EXPECT_EQ(resolved->max_sessions, 3u);
  EXPECT_EQ(resolved->max_sessions_per_uid, 2u) << "half, rounded up";
  limits.max_sessions_per_uid = 1;
  EXPECT_EQ(ResolveLimits(limits, 1024)->max_sessions_per_uid, 1u);
}

TEST(ResolveLimitsTest, ProvesTheSum) {
  ServerLimits limits;
  limits.max_fds_total = 100;
  limits.max_sessions = 10;
  limits.max_half_open = 12;
  // 100 + 3 x 10 + 12 + 8
  EXPECT_TRUE(ResolveLimits(limits, 150).ok());
  const absl::Status status = ResolveLimits(limits, 149).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("150"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("149"));
}

TEST(ResolveLimitsTest, SumsDoNotOverflow) {
  ServerLimits limits;
  limits.max_fds_total = limits.max_sessions = limits.max_half_open =
      std::numeric_limits<uint32_t>::max();
  EXPECT_TRUE(absl::IsFailedPrecondition(ResolveLimits(limits, 1 << 20).status()));
  const auto resolved = ResolveLimits(limits, RLIM_INFINITY);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->max_sessions_per_uid, 0x80000000u);
}

TEST(ResolveLimitsTest, RefusesLimitsThatMakeNoSense) {
  const std::vector<void (*)(ServerLimits*)> nonsense = {
      [](ServerLimits* l) { l->session.max_fds_per_call = 0; },
      [](ServerLimits* l) { l->session.session_window = 0; },
      [](ServerLimits* l) { l->session.session_window = l->session.max_fds_per_call - 1; },
      [](ServerLimits* l) { l->max_half_open = 0; },
      [](ServerLimits* l) { l->max_fds_per_uid = 0; },
  };
  for (const auto& spoil : nonsense) {
    ServerLimits limits;
    spoil(&limits);
    EXPECT_TRUE(absl::IsInvalidArgument(ResolveLimits(limits, 1024).status()));
  }
}

TEST(RoomForReadingTest, IsWhatTheLimitsLeave) {
  const auto room = [](uint64_t nofile) {
    return RoomForReading(*ResolveLimits(ServerLimits(), nofile), nofile);
  };
  // 1024 - 256 - 3 x 128 - 64 - 8, less an eighth: one full message.
  EXPECT_EQ(room(1024), 273u);
  EXPECT_EQ(room(20'000), 8 * 253u);
  EXPECT_LT(room(512), 253u) << "the lanes read";
}

TEST(RoomForReadingTest, IsSharedByTheUsers) {
  const auto ledger = std::make_shared<QuotaLedger>(*ResolveLimits(ServerLimits(), 20'000), 20'000);
  EXPECT_EQ(ledger->RoomOf(kAlice), nullptr);
  auto first = *ledger->OpenSession(kAlice);
  const auto second = *ledger->OpenSession(kAlice), third = *ledger->OpenSession(kBob);
  const auto alice = ledger->RoomOf(kAlice), bob = ledger->RoomOf(kBob);
  EXPECT_NE(alice, bob);
  first.reset();
  EXPECT_EQ(ledger->RoomOf(kAlice), alice);
  EXPECT_EQ(alice->Reserve(8), 2u) << "a quarter of the whole";
  EXPECT_EQ(bob->Reserve(8), 2u);
  alice->Return(2, 0);
  bob->Return(2, 0);
}

class QuotaLedgerTest : public ::testing::Test {
 protected:
  static std::shared_ptr<QuotaLedger> Ledger(uint32_t total, uint32_t per_uid,
                                             uint32_t sessions = 8, uint32_t sessions_per_uid = 4) {
    ServerLimits limits;
    limits.max_fds_total = total;
    limits.max_fds_per_uid = per_uid;
    limits.max_sessions = sessions;
    limits.max_sessions_per_uid = sessions_per_uid;
    return std::make_shared<QuotaLedger>(limits);
  }
  static void ExpectFull(const absl::Status& status, const std::string& limit) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(limit));
  }
};

TEST_F(QuotaLedgerTest, BoundsAUserAcrossItsSessions) {
  const auto ledger = Ledger(100, 10);
  const auto first = *ledger->OpenSession(kAlice), second = *ledger->OpenSession(kAlice);
  const auto other = *ledger->OpenSession(kBob);
  EXPECT_TRUE(first->Charge(6).ok());
  EXPECT_TRUE(second->Charge(4).ok());
  ExpectFull(second->Charge(1), "max_fds_per_uid");
  EXPECT_EQ(ledger->held_by(kAlice), 10u) << "a refused charge is not counted";
  EXPECT_TRUE(other->Charge(10).ok());
  first->Release(1);
  EXPECT_TRUE(second->Charge(1).ok());
  EXPECT_EQ(ledger->held_total(), 20u);
  first->Release(5);
  second->Release(5);
  other->Release(10);
  EXPECT_EQ(ledger->held_total(), 0u);
}

TEST_F(QuotaLedgerTest, NobodyGetsMoreThanHalfOfTheTotal) {
  const auto ledger = Ledger(9, 1000);
  const auto alice = *ledger->OpenSession(kAlice), bob = *ledger->OpenSession(kBob);
  ExpectFull(alice->Charge(6), "half");
  EXPECT_TRUE(alice->Charge(5).ok()) << "half, rounded up";
  EXPECT_TRUE(bob->Charge(4).ok());
  ExpectFull(bob->Charge(1), "max_fds_total");
  alice->Release(5);
  bob->Release(4);
}

TEST_F(QuotaLedgerTest, AHugeChargeDoesNotOverflow) {
  const auto ledger =
      Ledger(std::numeric_limits<uint32_t>::max(), std::numeric_limits<uint32_t>::max());
  const auto alice = *ledger->OpenSession(kAlice);
  EXPECT_TRUE(alice->Charge(0x80000000u).ok());
  ExpectFull(alice->Charge(0x80000000u), "max_fds_per_uid");
  alice->Release(0x80000000u);
  EXPECT_EQ(ledger->held_total(), 0u);
}

TEST_F(QuotaLedgerTest, CountsSessionsUntilTheirAccountsAreGone) {
  const auto ledger = Ledger(100, 10, /*sessions=*/3, /*sessions_per_uid=*/2);
  auto a = *ledger->OpenSession(kAlice);
  auto b = *ledger->OpenSession(kAlice);
  ExpectFull(ledger->OpenSession(kAlice).status(), "max_sessions_per_uid");
  const auto c = *ledger->OpenSession(kBob);
  ExpectFull(ledger->OpenSession(kBob).status(), "max_sessions = 3");
  EXPECT_EQ(ledger->sessions(), 3u);
  // What a session held stays charged until it is closed, which may be after the session.
  EXPECT_TRUE(a->Charge(2).ok());
  b.reset();
  EXPECT_EQ(ledger->sessions(), 2u);
  EXPECT_TRUE(ledger->OpenSession(kAlice).ok());
  a->Release(2);
  a.reset();
  EXPECT_EQ(ledger->held_by(kAlice), 0u);
  EXPECT_EQ(ledger->sessions(), 1u);
}

TEST_F(QuotaLedgerTest, ThreadsLoseNothing) {
  const auto ledger = Ledger(1000, 1000);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, uid = t % 2 == 0 ? kAlice : kBob] {
      const auto account = *ledger->OpenSession(uid);
      for (int i = 0; i < 1000; ++i) {
        if (account->Charge(3).ok()) account->Release(3);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ledger->held_total(), 0u);
  EXPECT_EQ(ledger->sessions(), 0u);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
