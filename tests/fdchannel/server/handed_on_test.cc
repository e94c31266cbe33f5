// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/server/handed_on.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr uid_t kAlice = 1000, kBob = 1001, kCarol = 1002;

class HandedOnTest : public ::testing::Test {
 protected:
  // Hands on as many as there is room for, up to `most`.
  size_t Fill(HandedOn* handed_on, uid_t uid, size_t most, uint32_t weight = 1) {
    size_t count = 0;
    for (; count < most; ++count) {
      UniqueFd connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      EXPECT_TRUE(connection.valid());
      if (!handed_on->Admit(uid, connection, weight)) break;
      connections_.push_back(std::move(connection));
    }
    return count;
  }

  std::vector<UniqueFd> connections_;
};

TEST_F(HandedOnTest, EachUserHasLessOfWhatTheOthersLeave) {
  HandedOn handed_on(40);
  EXPECT_EQ(Fill(&handed_on, kAlice, 100), 40u);
  EXPECT_EQ(Fill(&handed_on, kBob, 100), 8u);
  EXPECT_EQ(Fill(&handed_on, kCarol, 100), 2u);
}

TEST_F(HandedOnTest, CountsByWeight) {
  HandedOn handed_on(40);
  EXPECT_EQ(Fill(&handed_on, kAlice, 100, /*weight=*/4), 10u);
  EXPECT_EQ(Fill(&handed_on, kAlice, 100, /*weight=*/1), 0u);
}

TEST_F(HandedOnTest, ClosedOnesMakeRoom) {
  HandedOn handed_on(8);
  EXPECT_EQ(Fill(&handed_on, kAlice, 100), 8u);
  // The number of one is another file's now.
  const int number = connections_[0].get();
  connections_[0].Reset();
  const UniqueFd other = MakeFile("x");
  EXPECT_EQ(other.get(), number);
  connections_[1].Reset();
  size_t more = 0;
  EXPECT_TRUE(Eventually([&] { return (more += Fill(&handed_on, kAlice, 100)) == 2; })) << more;
}

TEST_F(HandedOnTest, AStormOfShortOnesIsServed) {
  HandedOn handed_on(8);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(Fill(&handed_on, kAlice, 1), 1u) << i;
    connections_.clear();
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
