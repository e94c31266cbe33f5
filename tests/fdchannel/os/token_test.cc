// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// getrandom(2) does not fail on demand: the wrapper at the end of this file stands in for the C
// library's and passes through unless a test has set a plan.
#include "fdchannel/os/token.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "absl/container/flat_hash_set.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

struct RandomPlan {
  int interruptions = 0;
  int error = 0;
  bool zeros = false;
  bool short_read = false;
};
RandomPlan* g_plan = nullptr;

class ScopedPlan {
 public:
  explicit ScopedPlan(RandomPlan* plan) { g_plan = plan; }
  ~ScopedPlan() { g_plan = nullptr; }
  ScopedPlan(const ScopedPlan&) = delete;
  ScopedPlan& operator=(const ScopedPlan&) = delete;
};

TEST(TokenTest, TheDefaultIsNoToken) {
  EXPECT_TRUE(Token().zero());
  EXPECT_EQ(Token(), Token());
  for (size_t i = 0; i < kTokenSize; ++i) {
    std::array<char, kTokenSize> bytes{};
    bytes[i] = static_cast<char>(0x80);
    EXPECT_FALSE(Token(bytes).zero());
    EXPECT_NE(Token(bytes), Token());
    EXPECT_EQ(Token(bytes).bytes(), bytes);
  }
}

TEST(TokenTest, MintedTokensDifferInEveryByte) {
  absl::flat_hash_set<Token> seen;
  std::array<unsigned char, kTokenSize> ones{};
  std::array<unsigned char, kTokenSize> zeros{};
  for (int i = 0; i < 1000; ++i) {
    const absl::StatusOr<Token> token = Token::Mint();
    ASSERT_TRUE(token.ok()) << token.status();
    EXPECT_FALSE(token->zero());
    EXPECT_TRUE(seen.insert(*token).second);
    for (size_t b = 0; b < kTokenSize; ++b) {
      ones[b] |= static_cast<unsigned char>(token->bytes()[b]);
      zeros[b] |= static_cast<unsigned char>(~token->bytes()[b]);
    }
  }
  // Each of the 128 bits was seen set and clear: by chance this fails once in 2^992.
  for (size_t b = 0; b < kTokenSize; ++b) {
    EXPECT_EQ(ones[b], 0xff);
    EXPECT_EQ(zeros[b], 0xff);
  }
}

TEST(TokenTest, RetriesAfterInterruptions) {
  RandomPlan plan;
  plan.interruptions = 3;
  const ScopedPlan scope(&plan);
  EXPECT_TRUE(Token::Mint().ok());
  EXPECT_EQ(plan.interruptions, 0);
}

TEST(TokenTest, NeverFallsBackToAWeakerSource) {
  for (const int error : {ENOSYS, EAGAIN, EPERM}) {
    RandomPlan plan;
    plan.error = error;
    const ScopedPlan scope(&plan);
    const absl::StatusOr<Token> token = Token::Mint();
    EXPECT_EQ(token.status().code(), absl::StatusCode::kUnavailable) << token.status();
    EXPECT_THAT(std::string(token.status().message()), HasSubstr(strerror(error)));
  }
  RandomPlan plan;
  plan.short_read = true;
  const ScopedPlan scope(&plan);
  EXPECT_EQ(Token::Mint().status().code(), absl::StatusCode::kUnavailable);
}

TEST(TokenTest, NeverMintsNoToken) {
  RandomPlan plan;
  plan.zeros = true;
  const ScopedPlan scope(&plan);
  EXPECT_EQ(Token::Mint().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd

extern "C" ssize_t getrandom(void* buffer, size_t size, unsigned int flags) {
  grpcfd::internal::RandomPlan* const plan = grpcfd::internal::g_plan;
  if (plan != nullptr) {
    if (plan->interruptions > 0) {
      --plan->interruptions;
      errno = EINTR;
      return -1;
    }
    if (plan->error != 0) {
      errno = plan->error;
      return -1;
    }
    if (plan->zeros) {
      memset(buffer, 0, size);
      return static_cast<ssize_t>(size);
    }
    if (plan->short_read) size /= 2;
  }
  return ::syscall(SYS_getrandom, buffer, size, flags);
}
