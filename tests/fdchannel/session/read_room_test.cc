// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/read_room.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace grpcfd {
namespace internal {
namespace {

constexpr uint64_t kFull = kMaxFdsPerMessage;
constexpr uint64_t kNofile = 1 << 20;

TEST(ReadRoomTest, GivesRoomForWholeMessages) {
  ReadRoom room(2 * kFull + 100, kNofile);
  EXPECT_EQ(room.Reserve(8), 2u);
  room.Return(2, 0);
  EXPECT_EQ(room.Reserve(1), 1u);
  EXPECT_EQ(room.Reserve(8), 1u);
  room.Return(1, 0);
  room.Return(1, 0);
  EXPECT_EQ(ReadRoom(10 * kFull, kNofile).Reserve(100), kMaxBatch);
}

TEST(ReadRoomTest, WhatIsNotClosedKeepsItsRoom) {
  ReadRoom room(2 * kFull, kNofile);
  EXPECT_EQ(room.Reserve(1), 1u);
  room.Return(1, 5);
  EXPECT_EQ(room.closing(), 5u);
  EXPECT_EQ(room.Reserve(8), 1u);
  room.Return(1, kFull - 4);
  EXPECT_EQ(room.Reserve(1), 0u) << "it must not wait: nobody knows for how long";
  room.Closed(1);
  EXPECT_EQ(room.Reserve(1), 1u);
  room.Return(1, 0);
  room.Closed(kFull);
  EXPECT_EQ(room.closing(), 0u);
  EXPECT_EQ(room.Reserve(8), 2u);
  room.Return(2, 0);
}

TEST(ReadRoomTest, TooLittleForOneMessageIsNone) {
  ReadRoom room(kFull - 1, kNofile);
  EXPECT_EQ(room.Reserve(1), 0u);
}

TEST(ReadRoomTest, AUserHasAPartOfTheWhole) {
  const auto whole = std::make_shared<ReadRoom>(3 * kFull, kNofile);
  ReadRoom alice(2 * kFull, whole), bob(2 * kFull, whole);
  EXPECT_EQ(alice.Reserve(8), 2u);
  alice.Return(2, 2 * kFull);
  EXPECT_EQ(alice.Reserve(1), 0u);
  EXPECT_EQ(bob.Reserve(8), 1u);
  bob.Return(1, 1);
  EXPECT_EQ(bob.Reserve(1), 0u) << "the whole is full";
  EXPECT_EQ(whole->closing(), 2 * kFull + 1);
  alice.Closed(2 * kFull);
  EXPECT_EQ(alice.Reserve(8), 2u);
  alice.Return(2, 0);
  bob.Closed(1);
}

TEST(ReadRoomTest, WaitsForAnothersLook) {
  const auto whole = std::make_shared<ReadRoom>(kFull, kNofile);
  ReadRoom alice(kFull, whole), bob(kFull, whole);
  ASSERT_EQ(alice.Reserve(1), 1u);
  auto got = std::async(std::launch::async, [&bob] { return bob.Reserve(1); });
  EXPECT_EQ(got.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  alice.Return(1, 0);
  ASSERT_EQ(got.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_EQ(got.get(), 1u);
  // One who waits is told as well if the look brings what is not soon closed.
  auto none = std::async(std::launch::async, [&alice] { return alice.Reserve(1); });
  EXPECT_EQ(none.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  bob.Return(1, 1);
  ASSERT_EQ(none.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_EQ(none.get(), 0u);
  bob.Closed(1);
}

TEST(ReadRoomTest, HighNumbersMeanThatTheProcessIsFull) {
  ReadRoom room(8 * kFull, 1024);
  room.Saw(200);
  EXPECT_EQ(room.Reserve(8), 3u);
  room.Return(3, 0);
  room.Saw(1024 - static_cast<int>(kFull));
  EXPECT_EQ(room.Reserve(8), 1u);
  room.Return(1, 0);
  room.Saw(1025 - static_cast<int>(kFull));
  EXPECT_EQ(room.Reserve(8), 0u);
  room.Saw(5);
  EXPECT_EQ(room.Reserve(8), 4u);
  room.Return(4, 0);
}

TEST(ReadRoomTest, ThreadsNeverHaveMoreThanThereIs) {
  constexpr uint64_t kMost = 2 * kFull;
  const auto whole = std::make_shared<ReadRoom>(kMost, kNofile);
  std::atomic<uint64_t> used{0};
  std::atomic<uint64_t> looks{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, mine = std::make_shared<ReadRoom>(kFull, whole)] {
      for (size_t i = 0; i < 5000; ++i) {
        const size_t got = mine->Reserve(1 + i % 3);
        if (got == 0) continue;
        ++looks;
        EXPECT_LE(used.fetch_add(got * kFull) + got * kFull, kMost);
        const size_t kept = i % 7;
        used.fetch_sub(got * kFull - kept);
        mine->Return(got, kept);
        used.fetch_sub(kept);
        mine->Closed(kept);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(looks, 4u);
  EXPECT_EQ(whole->closing(), 0u);
  EXPECT_EQ(whole->Reserve(8), 2u);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
