// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/interceptors/test_service.h"

#include <thread>
#include <vector>

namespace grpcfd {
namespace testing_internal {

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

}  // namespace testing_internal
}  // namespace grpcfd
