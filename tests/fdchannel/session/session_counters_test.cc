// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Counters, and the list of frames that the peer has not read.
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "tests/fdchannel/session/session_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

TEST_F(SessionTest, CountsWhatBecomesOfEachDescriptor) {
  config_.local = {4, 6, /*max_session_fds=*/5};  // More than 5 at once break the protocol.
  config_.early_timeout = absl::Milliseconds(1);
  MakeServer();
  const UniqueFd file = MakeFile("x");
  const auto stats = [this] { return ToSessionStats(server_->counters()); };
  {
    Call call(server_, 1, 2);
    SendRaw(Data(1, 0, 2), {file.get(), file.get()});
    ASSERT_TRUE(call.Take(Url(file, 0)).ok());
    EXPECT_EQ(stats().fds_received, 2u);
    EXPECT_EQ(stats().fds_taken, 1u);
    call.End();
    EXPECT_EQ(stats().fds_unclaimed, 1u);
    SendFile(1, 2, file);
    server_->Sweep();
    EXPECT_EQ(stats().fds_late, 1u);
  }
  SendFile(2, 0, file);
  server_->Sweep();
  EXPECT_TRUE(Eventually([&] {
    server_->Sweep();
    return stats().fds_expired == 1;
  }));
  {
    Call call(server_, 3, 0, /*open_ended=*/true);
    SendRaw(Data(3, 0, 5), std::vector<int>(5, file.get()));
    server_->Sweep();
    EXPECT_EQ(stats().fds_refused_call, 5u);
  }
  Flush(reaper_.get());  // Held until closed.
  {
    Call a(server_, 4, 0, /*open_ended=*/true), b(server_, 5, 0, /*open_ended=*/true);
    SendRaw(Data(4, 0, 4), std::vector<int>(4, file.get()));
    SendRaw(Data(5, 0, 4), std::vector<int>(4, file.get()));
    server_->Sweep();
    EXPECT_EQ(stats().fds_refused_window, 4u);
  }
  EXPECT_EQ(stats().fds_unclaimed, 5u);
  EXPECT_EQ(stats().frames_refused, 0u);
  SendRaw(Data(9, 0, 2), {file.get()});
  server_->Sweep();
  EXPECT_EQ(stats().frames_refused, 1u);
  EXPECT_EQ(stats().fds_discarded, 1u);
  EXPECT_EQ(server_->counters()[static_cast<size_t>(Counter::kCutProtocol)], 1u);
  const SessionStats all = stats();
  EXPECT_EQ(all.fds_received, all.fds_taken + all.fds_registered + all.fds_refused_policy +
                                  all.fds_refused_call + all.fds_refused_window +
                                  all.fds_refused_quota + all.fds_unclaimed + all.fds_expired +
                                  all.fds_discarded + all.fds_late);
}

TEST(CounterSumTest, NeverGoesDownWhenASessionEnds) {
  auto sum = std::make_shared<CounterSum>();
  const auto taken = [&sum] { return ToSessionStats(sum->Values()).fds_taken; };
  auto a = sum->Open(), b = sum->Open();
  a->Add(Counter::kFdsTaken, 3);
  b->Add(Counter::kFdsTaken);
  EXPECT_EQ(taken(), 4u);
  a.reset();
  EXPECT_EQ(taken(), 4u);
  b->Add(Counter::kFdsTaken);
  b.reset();
  EXPECT_EQ(taken(), 5u);
  EXPECT_EQ(sum->opened(), 2u);
  // While sessions come and go.
  std::atomic<bool> stop{false};
  std::thread churn([&] {
    while (!stop.load()) sum->Open()->Add(Counter::kFdsTaken);
  });
  uint64_t last = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t now = taken();
    EXPECT_GE(now, last);
    last = now;
  }
  stop = true;
  churn.join();
  EXPECT_EQ(taken(), 5u + sum->opened() - 2u);
}

TEST(UnreadFramesTest, CountsTheLast) {
  UnreadFrames frames;
  EXPECT_EQ(frames.fds(), 0u);
  for (const uint32_t fds : {1u, 1u, 1u, 0u, 16u, 0u, 0u, 2u}) frames.Add(fds);
  EXPECT_EQ(frames.fds(), 21u);
  UnreadFrames all = frames;
  all.KeepLast(100);
  EXPECT_EQ(all.fds(), 21u);
  all.KeepLast(7);
  EXPECT_EQ(all.fds(), 20u);
  all.KeepLast(4);
  EXPECT_EQ(all.fds(), 18u);
  all.KeepLast(3);
  EXPECT_EQ(all.fds(), 2u);
  all.KeepLast(0);
  EXPECT_EQ(all.fds(), 0u);
  frames.KeepLast(1);
  EXPECT_EQ(frames.fds(), 2u);
  frames.KeepLast(0);
  frames.KeepLast(1);
  EXPECT_EQ(frames.fds(), 0u);
}

}  // namespace

}  // namespace internal
}  // namespace grpcfd
