// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/coroutine.h"

#include <sys/mman.h>

#include <chrono>
#include <coroutine>
#include <exception>
#include <future>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/testing/fake_fd_pair.h"
#include "grpcfd/testing/same_file.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

// The smallest coroutine there is: runs until it has to wait, and owns itself.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

Detached Take(FdReceiver& receiver, std::string url, Deadline deadline,
              std::promise<absl::StatusOr<UniqueFd>>* result) {
  result->set_value(co_await AwaitFd(receiver, url, deadline));
}

UniqueFd OpenMemory() { return UniqueFd(::memfd_create("coroutine_test", MFD_CLOEXEC)); }

TEST(AwaitFdTest, TakesWhatIsThereWithoutWaiting) {
  FakeFdPair call;
  const UniqueFd memory = OpenMemory();
  const auto url = call.client()->SendFd(memory);
  ASSERT_TRUE(url.ok()) << url.status();
  std::promise<absl::StatusOr<UniqueFd>> result;
  auto future = result.get_future();
  Take(*call.server(), url->ToString(), Deadline::Infinite(), &result);
  ASSERT_EQ(future.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  const auto fd = future.get();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(*SameOpenFile(memory, *fd));
}

TEST(AwaitFdTest, WaitsForWhatComesLater) {
  FakeFdPair call;
  const UniqueFd memory = OpenMemory();
  std::promise<absl::StatusOr<UniqueFd>> result;
  auto future = result.get_future();
  Take(*call.server(), InodeUrl(*FdToDevIno(memory), 0).ToString(), std::chrono::seconds(20),
       &result);
  EXPECT_EQ(future.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  ASSERT_TRUE(call.client()->SendFd(memory).ok());
  const auto fd = future.get();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(*SameOpenFile(memory, *fd));
}

TEST(AwaitFdTest, ErrorsAreTheResult) {
  FakeFdPair call;
  for (const auto& [url, code] :
       {std::pair(std::string("inode://1/2"), absl::StatusCode::kDeadlineExceeded),
        std::pair(std::string("no url"), absl::StatusCode::kInvalidArgument)}) {
    std::promise<absl::StatusOr<UniqueFd>> result;
    auto future = result.get_future();
    Take(*call.server(), url, std::chrono::milliseconds(1), &result);
    EXPECT_EQ(future.get().status().code(), code) << url;
  }
}

Detached TakeMany(FdReceiver& receiver, InodeUrl first, int count, std::promise<int>* result) {
  int taken = 0;
  for (int i = 0; i < count; ++i) {
    const auto fd = co_await AwaitFd(receiver, InodeUrl(first.dev_ino(), static_cast<uint32_t>(i)));
    if (fd.ok()) ++taken;
  }
  result->set_value(taken);
}

TEST(AwaitFdTest, ManyInARowDoNotNest) {
  FakeFdPair::Options options;
  options.max_fds_per_call = 200;
  FakeFdPair call(options);
  const UniqueFd memory = OpenMemory();
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(call.client()->SendFd(memory).ok());
  std::promise<int> result;
  TakeMany(*call.server(), *FdToUrl(memory), 200, &result);
  EXPECT_EQ(result.get_future().get(), 200);
}

}  // namespace
}  // namespace grpcfd
