// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The main function of the test programs that use gRPC: every test is held to leave /proc/self/fd
// as it found it, after a warm-up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/interceptors/test_service.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests)) grpcfd::testing_internal::WarmUp();
  grpcfd::InstallFdLeakListener();
  return RUN_ALL_TESTS();
}
