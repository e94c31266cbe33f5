// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The main function of the test programs that use gRPC. gRPC opens some descriptors of its own (epoll sets, wake-up eventfds) with the
// first server and the first calls of a process, and keeps them; so a round of calls comes first, and then every test is held to leave
// /proc/self/fd as it found it.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace testing_internal {
namespace {

void WarmUp() {
  TestServer server;
  server.service.exchange = [](grpc::ServerContext*, const test::ExchangeRequest*,
                               test::ExchangeReply*) { return grpc::Status::OK; };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&server] {
      auto stub = server.Stub();
      for (int k = 0; k < 4; ++k) {
        grpc::ClientContext context;
        test::ExchangeRequest request;
        test::ExchangeReply reply;
        stub->Exchange(&context, request, &reply);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace testing_internal
}  // namespace grpcfd

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests)) grpcfd::testing_internal::WarmUp();
  grpcfd::InstallFdLeakListener();
  return RUN_ALL_TESTS();
}
