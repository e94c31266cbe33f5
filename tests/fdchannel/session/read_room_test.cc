// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/read_room.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr uint64_t kFull = kMaxFdsPerMessage;

FdTable EmptyTable() { return FdTable{1 << 20, 0}; }

// A table that the test fills.
FdTable table{1024, 0};
FdTable TableOfTheTest() { return table; }

TEST(ReadRoomTest, GivesRoomForWholeMessages) {
  ReadRoom room(2 * kFull + 100, EmptyTable);
  EXPECT_EQ(room.Reserve(8), 2u);
  room.Return(2, 0);
  EXPECT_EQ(room.Reserve(1), 1u);
  EXPECT_EQ(room.Reserve(8), 1u);
  room.Return(1, 0);
  room.Return(1, 0);
  EXPECT_EQ(ReadRoom(10 * kFull, EmptyTable).Reserve(100), kMaxBatch);
}

TEST(ReadRoomTest, WhatIsNotClosedKeepsItsRoom) {
  ReadRoom room(2 * kFull, EmptyTable);
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
  ReadRoom room(kFull - 1, EmptyTable);
  EXPECT_EQ(room.Reserve(1), 0u);
}

TEST(ReadRoomTest, AUserHasAPartOfTheWhole) {
  const auto whole = std::make_shared<ReadRoom>(3 * kFull, EmptyTable);
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
  const auto whole = std::make_shared<ReadRoom>(kFull, EmptyTable);
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
  table = FdTable{1024, 200};
  ReadRoom room(8 * kFull, TableOfTheTest);
  const auto reserve = [&room](uint64_t lowest_free) {
    table.lowest_free = lowest_free;
    room.Saw(static_cast<int>(lowest_free));
    const size_t got = room.Reserve(8);
    if (got != 0) room.Return(got, 0);
    return got;
  };
  EXPECT_EQ(reserve(200), 3u);
  EXPECT_EQ(reserve(1024 - kFull), 1u);
  EXPECT_EQ(reserve(1025 - kFull), 0u);
  EXPECT_EQ(reserve(5), 4u);
}

// A process that was full once, or whose limit was low, is not full for ever.
TEST(ReadRoomTest, LooksAgainBeforeItSaysThatTheProcessIsFull) {
  table = FdTable{1024, 10};
  ReadRoom room(8 * kFull, TableOfTheTest);
  room.Saw(1000);  // Closed since.
  ASSERT_EQ(room.Reserve(1), 1u);
  room.Return(1, 0);
  table = FdTable{1024, 1000};
  room.Saw(1000);
  EXPECT_EQ(room.Reserve(1), 0u);
  table.nofile = 2048;
  ASSERT_EQ(room.Reserve(8), 4u);
  room.Return(4, 0);
}

TEST(ReadRoomTest, HalfOfASmallTableIsEnough) {
  table = FdTable{64, 32};
  ReadRoom room(8 * kFull, TableOfTheTest);
  room.Saw(32);
  ASSERT_EQ(room.Reserve(1), 1u);
  room.Return(1, 0);
  table.lowest_free = 33;
  room.Saw(33);
  EXPECT_EQ(room.Reserve(1), 0u);
}

TEST(ReadRoomTest, SeesTheTableOfThisProcess) {
  const FdTable before = LookAtFdTable();
  const UniqueFd lowest(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(before.lowest_free, static_cast<uint64_t>(lowest.get()));
  EXPECT_GT(LookAtFdTable().lowest_free, before.lowest_free);
  rlimit nofile{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &nofile), 0);
  EXPECT_EQ(before.nofile, nofile.rlim_cur);
}

TEST(ReadRoomTest, ThreadsNeverHaveMoreThanThereIs) {
  constexpr uint64_t kMost = 2 * kFull;
  const auto whole = std::make_shared<ReadRoom>(kMost, EmptyTable);
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
