// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Row 26 where `torture` cannot go, because it links gRPC: under ThreadSanitizer.
#include "tests/torture/soak.h"

#include <gtest/gtest.h>

namespace grpcfd {
namespace torture {
namespace {

TEST(SoakTest, MixedFaultsSwapNothingAndLeaveNothing) {
  SoakOptions options;
  options.descriptors = 20'000;
  const SoakResult result = Soak(options);
  EXPECT_GE(result.descriptors, options.descriptors);
  EXPECT_GT(result.faults, 0u);
  EXPECT_EQ(0u, result.swaps);
}

}  // namespace
}  // namespace torture
}  // namespace grpcfd
