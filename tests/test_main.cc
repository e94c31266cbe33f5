// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The main function of all test programs: a test that leaves /proc/self/fd other than it found it
// fails.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grpcfd/testing/fd_leak_checker.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  grpcfd::InstallFdLeakListener();
  return RUN_ALL_TESTS();
}
