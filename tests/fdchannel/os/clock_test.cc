// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What waits do when the wall clock is set: nothing. A program of its own, because it puts itself
// between everybody and clock_gettime(2).
#include "fdchannel/os/clock.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "fdchannel/os/mutex.h"
#include "fdchannel/os/poller.h"
#include "tests/fdchannel/session/in_flight_test_util.h"

namespace {

// Nanoseconds that the wall clock is ahead of the system's.
std::atomic<int64_t> wall_clock_offset{0};

}  // namespace

// What absl::Now and std::chrono::system_clock call.
extern "C" int clock_gettime(clockid_t clock, struct timespec* time) noexcept {
  const long result = ::syscall(SYS_clock_gettime, clock, time);  // NOLINT(google-runtime-int)
  if (result == 0 && clock == CLOCK_REALTIME) {
    constexpr int64_t kSecond = 1'000'000'000;
    const int64_t nanoseconds =
        int64_t{time->tv_sec} * kSecond + time->tv_nsec + wall_clock_offset.load();
    time->tv_sec = nanoseconds / kSecond;
    time->tv_nsec = nanoseconds % kSecond;
  }
  return static_cast<int>(result);
}

namespace grpcfd {
namespace internal {
namespace {

constexpr absl::Duration kDelay = absl::Milliseconds(100);
// Far more than it takes, and far less than an hour.
constexpr absl::Duration kPatience = absl::Seconds(20);

// Each test runs with the clock set forward and back, by much and by little.
class ClockTest : public ::testing::TestWithParam<absl::Duration> {
 protected:
  ~ClockTest() override { wall_clock_offset = 0; }
  static void Step() { wall_clock_offset = absl::ToInt64Nanoseconds(GetParam()); }
  static void Restore() { wall_clock_offset = 0; }

  // What began at `start` took kDelay: no less, and not an hour more.
  static void ExpectTookTheDelay(MonotonicTime start) {
    const absl::Duration took = MonotonicTime::Now() - start;
    EXPECT_GE(took, kDelay);
    EXPECT_LT(took, kPatience);
  }
};

INSTANTIATE_TEST_SUITE_P(
    Steps, ClockTest,
    ::testing::Values(absl::Hours(1), -absl::Hours(1), absl::Seconds(1), -absl::Seconds(1)),
    [](const auto& info) {
      return std::string(info.param < absl::ZeroDuration() ? "Back" : "Forward") +
             (absl::AbsDuration(info.param) > absl::Minutes(1) ? "AnHour" : "ASecond");
    });

TEST_P(ClockTest, TheWallClockStepsAndTheOtherDoesNot) {
  // Not absl::Now, which sees a small step only after a while.
  const auto wall_clock = [] { return absl::FromChrono(std::chrono::system_clock::now()); };
  const absl::Time wall = wall_clock();
  const MonotonicTime before = MonotonicTime::Now();
  Step();
  EXPECT_LT(absl::AbsDuration(wall_clock() - wall - GetParam()), absl::Milliseconds(900));
  const absl::Duration passed = MonotonicTime::Now() - before;
  EXPECT_GE(passed, absl::ZeroDuration());
  EXPECT_LT(passed, absl::Milliseconds(900));
}

TEST_P(ClockTest, ADeadlineIsTurnedOnce) {
  const MonotonicTime before = MonotonicTime::Now();
  const MonotonicTime deadline = absl::Now() + absl::Seconds(60);
  Step();
  EXPECT_GE(deadline, before + absl::Seconds(59));
  EXPECT_LT(deadline, MonotonicTime::Now() + absl::Seconds(61));
  EXPECT_EQ(MonotonicTime(absl::InfiniteFuture()), MonotonicTime::InfiniteFuture());
  EXPECT_EQ(MonotonicTime(absl::InfinitePast()), MonotonicTime::InfinitePast());
}

TEST_P(ClockTest, TimersOfThePoller) {
  auto poller = Poller::Start("clock-test");
  ASSERT_TRUE(poller.ok()) << poller.status();
  std::promise<void> after, at, stepped;
  const MonotonicTime start = MonotonicTime::Now();
  (*poller)->RunAfter(kDelay, [&] { after.set_value(); });
  (*poller)->RunAt(absl::Now() + kDelay, [&] { at.set_value(); });
  Step();
  (*poller)->RunAt(absl::Now() + kDelay, [&] { stepped.set_value(); });
  Restore();
  for (auto* done : {&after, &at, &stepped}) {
    ASSERT_EQ(done->get_future().wait_for(absl::ToChronoSeconds(kPatience)),
              std::future_status::ready);
    ExpectTookTheDelay(start);
  }
  (*poller)->Stop();
}

TEST_P(ClockTest, ConditionVariables) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(&mutex);
  MonotonicTime start = MonotonicTime::Now();
  Step();
  while (never.WaitUntil(&mutex, start + kDelay)) {
  }
  ExpectTookTheDelay(start);
  // A deadline of the wall clock, however wrong that is, when it is turned.
  start = MonotonicTime::Now();
  const MonotonicTime deadline = absl::Now() + kDelay;
  while (never.WaitUntil(&mutex, deadline)) {
  }
  ExpectTookTheDelay(start);
}

// What others have read is looked for again a little later, and not when the clock has caught up.
TEST_P(ClockTest, TheNextLookForRoomInFlight) {
  auto budget = Fair(100);
  Peer greedy(budget, kAlice, 1000), other(budget, kBob, 1000);
  EXPECT_GT(greedy.SendAll(), 0u);
  EXPECT_GT(other.SendAll(), 0u);
  ASSERT_EQ(other.Send(1), Room::kShared);
  Step();
  greedy.ReadAll();
  const MonotonicTime start = MonotonicTime::Now();
  while (other.Send(1) == Room::kShared) {
    ASSERT_LT(MonotonicTime::Now() - start, kPatience);
    std::this_thread::yield();
  }
}

TEST(MonotonicTimeTest, SaturatesAtTheInfinities) {
  const MonotonicTime now = MonotonicTime::Now();
  EXPECT_EQ(now + absl::InfiniteDuration(), MonotonicTime::InfiniteFuture());
  EXPECT_EQ(MonotonicTime::InfiniteFuture() + -absl::Hours(1), MonotonicTime::InfiniteFuture());
  EXPECT_EQ(MonotonicTime::InfiniteFuture() - now, absl::InfiniteDuration());
  EXPECT_EQ(MonotonicTime::InfinitePast() - now, -absl::InfiniteDuration());
  EXPECT_EQ(MonotonicTime(), MonotonicTime::InfinitePast());
  EXPECT_LT(MonotonicTime::InfinitePast(), now);
  EXPECT_LT(now, now + absl::Nanoseconds(1));
  EXPECT_EQ((now + absl::Seconds(3)) - now, absl::Seconds(3));
  EXPECT_GT(MonotonicTime::InfiniteFuture().ToChrono(),
            std::chrono::steady_clock::now() + std::chrono::hours(24 * 365));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
