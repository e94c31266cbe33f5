// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/deadline.h"

#include <chrono>
#include <ratio>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

using std::chrono::system_clock;

absl::Time TimeOf(Deadline deadline) { return deadline.time(); }

TEST(DeadlineTest, TimesStayWhatTheyAre) {
  EXPECT_EQ(TimeOf(absl::FromUnixSeconds(17)), absl::FromUnixSeconds(17));
  EXPECT_EQ(TimeOf(absl::InfinitePast()), absl::InfinitePast());
  EXPECT_EQ(TimeOf(Deadline::Infinite()), absl::InfiniteFuture());
  EXPECT_EQ(TimeOf(system_clock::from_time_t(17)), absl::FromUnixSeconds(17));
  const std::chrono::time_point<system_clock, std::chrono::seconds> coarse(
      std::chrono::seconds(17));
  EXPECT_EQ(TimeOf(coarse), absl::FromUnixSeconds(17));
}

TEST(DeadlineTest, LargestTimePointIsNoDeadline) {
  EXPECT_EQ(TimeOf(system_clock::time_point::max()), absl::InfiniteFuture());
  EXPECT_EQ(TimeOf(std::chrono::time_point<system_clock, std::chrono::hours>::max()),
            absl::InfiniteFuture());
}

TEST(DeadlineTest, DurationsCountFromNow) {
  const absl::Time before = absl::Now();
  for (const absl::Time time :
       {TimeOf(absl::Seconds(90)), TimeOf(std::chrono::seconds(90)),
        TimeOf(std::chrono::milliseconds(90'000)), TimeOf(std::chrono::duration<double>(90)),
        TimeOf(std::chrono::duration<int, std::ratio<45>>(2))}) {
    EXPECT_GE(time, before + absl::Seconds(90));
    EXPECT_LE(time, absl::Now() + absl::Seconds(90));
  }
  EXPECT_LT(TimeOf(std::chrono::seconds(-1)), before);
}

TEST(DeadlineTest, DurationsThatOverflowAreNoDeadline) {
  EXPECT_EQ(TimeOf(absl::InfiniteDuration()), absl::InfiniteFuture());
  EXPECT_EQ(TimeOf(std::chrono::hours::max()), absl::InfiniteFuture());
}

}  // namespace
}  // namespace grpcfd
