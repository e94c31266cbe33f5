// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Waiters for a descriptor, and what ends their waits.
#include "inband/received_fds.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "tests/inband/relay_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

FdVector One(const UniqueFd& fd) {
  FdVector fds;
  fds.push_back(*BorrowedFd(fd).Dup());
  return fds;
}

class ReceivedFdsTest : public ::testing::Test {
 protected:
  // A blocked receiver. `asked` tells that it is in there, or about to be.
  std::future<absl::StatusOr<UniqueFd>> Wait(const DevIno& name, ReceivedFds::Caller* caller,
                                             absl::Time deadline = absl::InfiniteFuture()) {
    return std::async(std::launch::async, [this, name, caller, deadline] {
      return received_.Receive(name, caller, deadline, nullptr);
    });
  }

  ReceivedFds received_{8};
  ReceivedFds::Caller caller_;
  FdVector closing_;
};

TEST_F(ReceivedFdsTest, AnArrivalWakesAllThatWaitForIt) {
  const UniqueFd file = MakeFile("awaited");
  const UniqueFd other = MakeFile("other");
  std::vector<std::future<absl::StatusOr<UniqueFd>>> waiting;
  for (int i = 0; i < 4; ++i) waiting.push_back(Wait(NameOf(file), &caller_));
  received_.Keep(One(other), &closing_);
  received_.Keep(One(file), &closing_);
  for (auto& one : waiting) EXPECT_EQ("awaited", ContentOf(one.get()));
  EXPECT_TRUE(closing_.empty());
}

TEST_F(ReceivedFdsTest, TheDeadlineEndsAWait) {
  const auto result = Wait(DevIno{1, 2}, &caller_, absl::Now() + absl::Milliseconds(20)).get();
  EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, result.status().code()) << result.status();
}

TEST_F(ReceivedFdsTest, ACallerIsReleasedOthersWaitOn) {
  const UniqueFd file = MakeFile("x");
  ReceivedFds::Caller other;
  auto waiting = Wait(NameOf(file), &caller_);
  auto others = Wait(NameOf(file), &other);
  received_.Release(&caller_, absl::CancelledError("cancelled"));
  EXPECT_EQ(absl::StatusCode::kCancelled, waiting.get().status().code());
  // From now on at once, unless it is here.
  EXPECT_EQ(absl::StatusCode::kCancelled, Wait(NameOf(file), &caller_).get().status().code());
  received_.Keep(One(file), &closing_);
  EXPECT_EQ("x", ContentOf(others.get()));
  EXPECT_EQ("x", ContentOf(Wait(NameOf(file), &caller_).get()));
}

TEST_F(ReceivedFdsTest, TheEndFailsAllThatWaitAndKeepsWhatIsThere) {
  const UniqueFd file = MakeFile("here");
  received_.Keep(One(file), &closing_);
  auto waiting = Wait(DevIno{1, 2}, &caller_);
  received_.End(absl::UnavailableError("over"));
  EXPECT_EQ(absl::StatusCode::kUnavailable, waiting.get().status().code());
  EXPECT_EQ(absl::StatusCode::kUnavailable, Wait(DevIno{1, 2}, &caller_).get().status().code());
  EXPECT_EQ("here", ContentOf(Wait(NameOf(file), &caller_).get()));
  EXPECT_EQ(1u, received_.TakeAll().size());
  EXPECT_EQ(absl::StatusCode::kUnavailable, Wait(NameOf(file), &caller_).get().status().code());
}

TEST_F(ReceivedFdsTest, AWaiterAsksWhetherItsCallWasCancelled) {
  std::atomic<int> asked{0};
  const std::function<bool()> cancelled = [&] { return ++asked == 3; };
  const auto result = received_.Receive(DevIno{1, 2}, &caller_, absl::InfiniteFuture(), &cancelled);
  EXPECT_EQ(absl::StatusCode::kCancelled, result.status().code());
  EXPECT_EQ(3, asked);
}

TEST_F(ReceivedFdsTest, WithACallback) {
  const UniqueFd file = MakeFile("x");
  std::vector<std::string> results;
  absl::StatusOr<UniqueFd> now;
  const auto ask = [&](const DevIno& dev_ino, uint64_t id) {
    ReceivedFds::FdCallback note = [&](absl::StatusOr<UniqueFd> fd) {
      results.push_back(ContentOf(fd));
    };
    const bool at_hand = received_.ReceiveAsync(dev_ino, &caller_, id, &note, &now);
    EXPECT_EQ(note != nullptr, at_hand);  // It is taken only if it has to wait.
    return at_hand;
  };
  EXPECT_FALSE(ask(NameOf(file), 1));
  EXPECT_FALSE(ask(DevIno{1, 2}, 2));
  received_.Keep(One(file), &closing_);
  ASSERT_EQ(1u, results.size());
  EXPECT_EQ("x", results[0]);
  received_.Expire(1);  // It is gone.
  EXPECT_EQ(1u, results.size());
  received_.Expire(2);
  ASSERT_EQ(2u, results.size());
  EXPECT_NE(std::string::npos, results[1].find("DEADLINE_EXCEEDED"));
  EXPECT_TRUE(ask(NameOf(file), 3));
  EXPECT_EQ("x", ContentOf(now));
  EXPECT_FALSE(ask(DevIno{1, 2}, 4));
  received_.Release(&caller_, absl::CancelledError("cancelled"));
  ASSERT_EQ(3u, results.size());
  EXPECT_NE(std::string::npos, results[2].find("CANCELLED"));
}

// A callback that asks again, or ends everything, finds no lock held.
TEST_F(ReceivedFdsTest, ACallbackMayDoAnything) {
  const UniqueFd file = MakeFile("x");
  absl::StatusOr<UniqueFd> now;
  std::string again;
  ReceivedFds::FdCallback callback = [&](const absl::StatusOr<UniqueFd>&) {
    again = ContentOf(received_.Receive(NameOf(file), &caller_, absl::InfinitePast(), nullptr));
    received_.End(absl::UnavailableError("over"));
  };
  EXPECT_FALSE(received_.ReceiveAsync(NameOf(file), &caller_, 1, &callback, &now));
  received_.Keep(One(file), &closing_);
  EXPECT_EQ("x", again);
}

TEST_F(ReceivedFdsTest, WhatIsNotADescriptorAnyMoreIsDropped) {
  FdVector fds;
  fds.push_back(UniqueFd());
  received_.Keep(std::move(fds), &closing_);
  EXPECT_EQ(0u, received_.size());
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
