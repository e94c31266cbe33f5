// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/interceptors/test_service.h"

#if GRPCFD_GRPC_DEFAULT_ENGINE
#include <grpc/event_engine/event_engine.h>
#endif

#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/testing/fd_leak_checker.h"

namespace grpcfd {
namespace testing_internal {
namespace {

// gRPC opens some descriptors lazily.
void CallFromManyThreads() {
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

#if GRPCFD_GRPC_DEFAULT_ENGINE
// gRPC closes descriptors some time after the last object that used them, and reports it to nobody:
// waits until the number of open ones stays the same.
void WaitUntilQuiet() {
  constexpr int kLooks = 50;
  size_t count = CountOpenFds();
  for (int same = 0; same < kLooks; ++same) {
    absl::SleepFor(absl::Milliseconds(1));
    const size_t now = CountOpenFds();
    if (now != count) same = 0;
    count = now;
  }
}
#endif

}  // namespace

void WarmUp() {
#if GRPCFD_GRPC_DEFAULT_ENGINE
  // Held for good: it goes with the last channel or server otherwise, and its descriptors with it.
  static const auto* const engine [[maybe_unused]] =
      new auto(grpc_event_engine::experimental::GetDefaultEventEngine());
#endif
  CallFromManyThreads();
#if GRPCFD_GRPC_DEFAULT_ENGINE
  WaitUntilQuiet();
#endif
}

}  // namespace testing_internal
}  // namespace grpcfd
