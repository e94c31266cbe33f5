// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Peers that end, break the rules, or never stop.
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

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

using ::testing::HasSubstr;

// --- The end of the peer ---

TEST_F(SessionTest, ReadsToTheEndBeforeItIsDead) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(3);
  for (uint32_t i = 0; i < 3; ++i) SendFile(1, i, files[i]);
  raw_.Reset();
  Call call(server_, 1, 4);
  for (uint32_t i = 0; i < 3; ++i) {
    auto fd = call.Take(Url(files[i], i));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i));
  }
  EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(files[0], 3), WaitOptions()).status()));
  EXPECT_TRUE(Eventually([&] { return deaths_ == 1; }));
  EXPECT_FALSE(server_->alive());
}

TEST_F(SessionTest, AHangUpWakesEverybody) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back(
        [&] { EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 0), WaitOptions()).status())); });
  }
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  raw_.Reset();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsUnavailable(outcome.Get().status()));
}

// The poller may call before Create() has returned.
TEST_F(SessionTest, NoticesAHangUpThoughFramesWereThereFirst) {
  const UniqueFd file = MakeFile("x");
  for (int i = 1; i <= 200; ++i) {
    auto sockets = MakeSessionSockets();
    ASSERT_TRUE(sockets.ok());
    raw_ = std::move(sockets->second);
    SendFile(1, 0, file);
    server_ = Make(std::move(sockets->first), Session::Role::kServer);
    raw_.Reset();
    ASSERT_TRUE(Eventually([&] { return deaths_ == i; })) << i;
  }
}

// Kernels without "unix: Fix race in SOCK_SEQPACKET's unix_dgram_sendmsg()" may say ECONNREFUSED of
// a peer that is just dying.
TEST_F(SessionTest, APeerThatRefusesIsGone) {
  const UniqueFd file = MakeFile("x");
  for (const bool waits : {false, true}) {
    const auto wire = MakeFake();
    wire->FailSends(ECONNREFUSED);
    absl::Status status;
    if (waits) {
      status = server_->Send({1, 0}, Indices({0, 2}), {file.get(), file.get()}, Within(kLong));
    } else {
      EXPECT_TRUE(server_->TrySend({1, 0}, 0, {file.get()}, &status));
    }
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_FALSE(server_->alive());
  }
}

// --- Hostile peers ---

TEST_F(SessionTest, CutsAPeerThatBreaksTheRules) {
  const UniqueFd file = MakeFile("x");
  const int fd = file.get();
  const std::vector<int> many(253, fd);
  const auto send_bytes = [this](size_t size, unsigned char type) {
    std::string bytes(size, '\0');
    if (size > 0) bytes[0] = static_cast<char>(type);
    EXPECT_TRUE(SendMessage(raw_, Bytes(bytes), {}).ok());
  };
  const std::vector<std::pair<std::string, std::function<void()>>> attacks = {
      {"one more than announced",
       [&] {
         SendRaw(Data(1, 0, 1), {fd, fd});
       }},
      {"one less than announced", [&] { SendRaw(Data(1, 0, 2), {fd}); }},
      {"253 for one", [&] { SendRaw(Data(1, 0, 1), many); }},
      {"more at once than the limits allow",
       [&] { SendRaw(Data(1, 0, 17), std::vector<int>(17, fd)); }},
      {"none", [&] { SendRaw(Data(1, 0, 1)); }},
      {"index again",
       [&] {
         SendRaw(Data(1, 0, 2), {fd, fd});
         SendRaw(Data(1, 1, 1), {fd});
       }},
      {"too short", [&] { send_bytes(kFrameSize - 1, 1); }},
      {"too long", [&] { send_bytes(kFrameSize + 1, 1); }},
      {"unknown type", [&] { send_bytes(kFrameSize, 9); }},
      {"credit for nothing", [&] { SendRaw(Credit(1)); }},
      {"credit with a descriptor", [&] { SendRaw(Credit(0), {fd}); }},
  };
  for (const auto& [name, attack] : attacks) {
    SCOPED_TRACE(name);
    MakeServer();
    SendRaw(Data(7, 0, 2), {fd, fd});  // Held when it happens.
    attack();
    SendFile(8, 0, file);  // And behind it.
    {
      Call call(server_, 7, 3);
      EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 2), WaitOptions()).status()));
      EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 0), WaitOptions()).status()));
    }
    EXPECT_FALSE(server_->alive());
    const auto close = ReadRaw();
    ASSERT_TRUE(close.has_value());
    EXPECT_EQ(close->type, FrameType::kClose);
    EXPECT_EQ(close->close_code, CloseCode::kProtocolError);
    EXPECT_FALSE(ReadRaw().has_value());
    Flush(reaper_.get());
    EXPECT_EQ(Holders(file), 1u);
    EXPECT_EQ(quota_->held(), 0);
    EXPECT_EQ(server_->held(), 0u);
  }
}

TEST_F(SessionTest, ACloseFrameEndsTheSessionWithItsText) {
  MakeServer();
  Frame frame;
  frame.type = FrameType::kClose;
  frame.close_code = CloseCode::kShutdown;
  frame.close_text = "gone fishing";
  SendRaw(frame);
  Call call(server_, 1, 1);
  const absl::Status status = call.Take(InodeUrl(DevIno{1, 1}, 0)).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("gone fishing"));
}

TEST_F(SessionTest, NoPeerHoldsAThreadBeyondItsDeadline) {
  const auto wire = MakeFake();
  wire->Flood();
  Call call(server_, 1, 0, /*open_ended=*/true);
  const InodeUrl url(DevIno{1, 1}, 0);
  EXPECT_TRUE(absl::IsDeadlineExceeded(call.Take(url, Within(absl::Milliseconds(5))).status()));
  const std::function<bool()> yes = [] { return true; };
  WaitOptions options;
  options.cancelled = &yes;
  EXPECT_TRUE(absl::IsCancelled(call.Take(url, options).status()));
  // This peer does not keep the poller either, which serves others too.
  server_->Sweep();
  Flush(poller_.get());
}

TEST_F(SessionTest, TruncationFailsThatCallOnly) {
  config_.local = {4, 8};
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Flush(reaper_.get());  // Its thread is there.
  {
    Call call(server_, 1, 2);
    SendRaw(Data(1, 0, 2), {file.get(), file.get()});
    const ScopedFdRoom room(1);
    EXPECT_TRUE(absl::IsResourceExhausted(call.Take(Url(file, 0), WaitOptions()).status()));
    EXPECT_TRUE(absl::IsResourceExhausted(call.Take(Url(file, 1), WaitOptions()).status()));
  }
  // Lost is disposed of: the peer gets its window back.
  const auto credit = ReadRaw();
  ASSERT_TRUE(credit.has_value());
  EXPECT_EQ(credit->type, FrameType::kCredit);
  EXPECT_EQ(credit->credit_total, 2u);
  EXPECT_EQ(server_->held(), 0u);
  SendFile(2, 0, file);
  Call call(server_, 2, 1);
  EXPECT_TRUE(call.Take(Url(file, 0)).ok());
}

}  // namespace

}  // namespace internal
}  // namespace grpcfd
