// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/user_function.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace grpcfd {
namespace internal {
namespace {

TEST(GuardedTest, PassesThroughWhatIsReturned) {
  const std::function<absl::Status(int)> half = [](int number) {
    return number % 2 == 0 ? absl::OkStatus() : absl::InvalidArgumentError("odd");
  };
  const auto guarded = Guarded(half, "half");
  EXPECT_EQ(guarded(2), absl::OkStatus());
  EXPECT_EQ(guarded(3), absl::InvalidArgumentError("odd"));
}

TEST(GuardedTest, AnExceptionRefuses) {
  const std::function<absl::Status(bool)> thrower = [](bool known) -> absl::Status {
    if (known) throw std::runtime_error("no database");
    throw 17;
  };
  const auto guarded = Guarded(thrower, "authorize_session");
  EXPECT_EQ(guarded(true), absl::PermissionDeniedError("authorize_session threw: no database"));
  EXPECT_EQ(guarded(false), absl::PermissionDeniedError(
                                "authorize_session threw: something that is not a std::exception"));
}

TEST(GuardedTest, WhatIsToldEndsWithTheException) {
  int told = 0;
  const std::function<void(const std::shared_ptr<int>&)> thrower =
      [&told](const std::shared_ptr<int>& value) {
        told = *value;
        throw std::logic_error("later");
      };
  Guarded(thrower, "on_session")(std::make_shared<int>(5));
  EXPECT_EQ(told, 5);
}

TEST(GuardedTest, UnsetStaysUnset) {
  EXPECT_FALSE(Guarded(std::function<absl::Status(int)>(), "x"));
  EXPECT_FALSE(Guarded(std::function<void(int)>(), "x"));
}

// A cancelled thread unwinds to its end; stopped on the way, it would abort the process.
TEST(GuardedTest, CancellationGoesOn) {
  bool returned = false;
  const auto guarded = Guarded(std::function<void()>([] {
                                 pthread_cancel(pthread_self());
                                 pthread_testcancel();
                               }),
                               "cancelled");
  std::pair<const std::function<void()>*, bool*> shared(&guarded, &returned);
  pthread_t thread;
  ASSERT_EQ(pthread_create(
                &thread, nullptr,
                [](void* argument) -> void* {
                  auto* both = static_cast<decltype(shared)*>(argument);
                  (*both->first)();
                  *both->second = true;
                  return nullptr;
                },
                &shared),
            0);
  void* result = nullptr;
  ASSERT_EQ(pthread_join(thread, &result), 0);
  EXPECT_EQ(result, PTHREAD_CANCELED);
  EXPECT_FALSE(returned);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
