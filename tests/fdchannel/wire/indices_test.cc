// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/indices.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace grpcfd {
namespace internal {
namespace {

TEST(IndicesTest, RunsOfConsecutiveOnes) {
  const Indices plain = 7;
  EXPECT_EQ(plain.at(3), 10u);
  EXPECT_EQ(plain.Run(0, 600), 600u);
  EXPECT_EQ(plain.Run(599, 600), 1u);
  const Indices given(std::vector<uint32_t>{0, 1, 5, 6, 7, 9});
  EXPECT_EQ(given.at(3), 6u);
  EXPECT_EQ(given.Run(0, 6), 2u);
  EXPECT_EQ(given.Run(1, 6), 1u);
  EXPECT_EQ(given.Run(2, 6), 3u);
  EXPECT_EQ(given.Run(5, 6), 1u);
}

TEST(IndexAllocatorTest, GivenOnesLeaveHolesThatCanBeFilled) {
  IndexAllocator indices;
  EXPECT_EQ(indices.Take(), 0u);
  EXPECT_TRUE(indices.Take({2, 5}));
  EXPECT_EQ(indices.next(), 6u);
  EXPECT_EQ(indices.used(), 3u);
  EXPECT_FALSE(indices.Take({3, 5}));  // All or none.
  EXPECT_EQ(indices.used(), 3u);
  EXPECT_TRUE(indices.Take({1, 3, 4}));
  EXPECT_EQ(indices.used(), 6u);
  EXPECT_FALSE(indices.Take({4}));
  EXPECT_EQ(indices.Take(), 6u);
}

TEST(IndexAllocatorTest, TheHighestIsTheLast) {
  IndexAllocator indices;
  EXPECT_TRUE(indices.Take({kMaxIndex}));
  EXPECT_TRUE(indices.exhausted());
  EXPECT_TRUE(indices.Take({17}));
  indices.GiveBack(kMaxIndex);
  EXPECT_FALSE(indices.exhausted());
  EXPECT_EQ(indices.next(), 18u);
}

TEST(IndexAllocatorTest, ForgetsTheLowestOfTooManyHoles) {
  IndexAllocator indices;
  for (uint32_t i = 1; i < 10000; i += 2) EXPECT_TRUE(indices.Take({i}));
  EXPECT_FALSE(indices.Take({0}));
  EXPECT_TRUE(indices.Take({9998}));
}

// Against a plain set, for numbers so small that everything collides.
TEST(IndexAllocatorTest, DoesWhatASetDoes) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    IndexAllocator indices;
    std::set<uint32_t> model;
    for (int step = 0; step < 60; ++step) {
      const uint32_t index = random() % 24;
      switch (random() % 3) {
        case 0: {
          // Given back ones at the top may be had again; holes below are never chosen.
          const uint32_t taken = indices.Take();
          EXPECT_TRUE(model.empty() || taken > *model.rbegin());
          EXPECT_TRUE(model.insert(taken).second);
          break;
        }
        case 1: {
          std::set<uint32_t> some = {index};
          if (random() % 2 != 0) some.insert(random() % 24);
          bool free = true;
          for (const uint32_t i : some) free = free && model.count(i) == 0;
          EXPECT_EQ(indices.Take(std::vector<uint32_t>(some.begin(), some.end())), free);
          if (free) model.insert(some.begin(), some.end());
          break;
        }
        default:
          if (model.erase(index) != 0) indices.GiveBack(index);
      }
      ASSERT_EQ(indices.used(), model.size());
      ASSERT_EQ(indices.next(), model.empty() ? 0 : *model.rbegin() + 1);
    }
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
