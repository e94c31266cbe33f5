// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A user's unit test, with grpcfd's leak checker.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grpcfd/inode_url.h"
#include "grpcfd/testing/fd_leak_checker.h"

TEST(UsesTesting, ParsesAUrl) { EXPECT_TRUE(grpcfd::InodeUrl::Parse("inode://1/2").ok()); }

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  grpcfd::InstallFdLeakListener();
  return RUN_ALL_TESTS();
}
