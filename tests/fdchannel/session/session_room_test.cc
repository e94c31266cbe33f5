// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sessions without room for what a look may bring: their sockets are read on the user's lane.
#include <sys/socket.h>

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/fdchannel/session/session_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

class SessionRoomTest : public SessionTest {
 protected:
  SessionRoomTest() { config_.room = room_; }

  // From here on there is no room for a look.
  void Fill() { room_->Keep(1); }

  // The lane is in a close that does not return.
  void BlockLane() {
    std::promise<void> blocked;
    reaper_->Close({}, [&blocked, released = release_.get_future().share()] {
      blocked.set_value();
      released.wait();
    });
    blocked.get_future().wait();
  }
  void ReleaseLane() {
    release_.set_value();
    Flush(reaper_.get());
  }

  std::string ThreadOfNextLook(FakeWire* wire) {
    std::promise<std::string> name;
    wire->AfterNextReceive([&name] {
      char text[16] = {};
      pthread_getname_np(pthread_self(), text, sizeof(text));
      name.set_value(text);
    });
    server_->Sweep();
    return name.get_future().get();
  }

  const std::shared_ptr<ReadRoom> room_ = std::make_shared<ReadRoom>(kMaxFdsPerMessage);
  std::promise<void> release_;
};

TEST_F(SessionRoomTest, WithoutRoomTheLaneReads) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  wire->PushData({1, 0}, 0, {file.get()});
  EXPECT_NE(ThreadOfNextLook(wire.get()), "grpcfd-reaper");
  Fill();
  wire->PushData({2, 0}, 0, {file.get()});
  EXPECT_EQ(ThreadOfNextLook(wire.get()), "grpcfd-reaper");
  Call first(server_, 1, 1), second(server_, 2, 1);
  EXPECT_TRUE(first.Take(Url(file, 0)).ok());
  EXPECT_TRUE(second.Take(Url(file, 0)).ok());
}

// Each way of asking is answered by a look on the lane as it is by one elsewhere.
TEST_F(SessionRoomTest, TheLaneServesEveryWaiter) {
  Fill();
  MakeBoth();
  const std::vector<UniqueFd> files = MakeFiles(3);
  for (uint64_t id = 1; id <= 20; ++id) {
    Call call(server_, id, 0, /*open_ended=*/true);
    Outcome<absl::StatusOr<UniqueFd>> later;
    server_->ReceiveAsync(call.inbox(), Url(files[2], 2), Session::Op::kTake, absl::Now() + kLong,
                          later.Setter());
    std::thread early([&] { EXPECT_TRUE(call.Take(Url(files[0], 0)).ok()); });
    for (uint32_t i = 0; i < 3; ++i) {
      ASSERT_TRUE(client_->Send({id, 0}, i, {files[i].get()}, Within(kLong)).ok());
    }
    EXPECT_TRUE(call.Take(Url(files[1], 1)).ok());
    early.join();
    EXPECT_TRUE(later.Get().ok());
    auto arrived = server_->Arrived(call.inbox());
    ASSERT_TRUE(arrived.ok()) << arrived.status();
    EXPECT_TRUE(arrived->empty());
    server_->Complete(call.inbox());
    EXPECT_TRUE(absl::IsNotFound(call.Take(Url(files[0], 3)).status()));
  }
}

TEST_F(SessionRoomTest, ABlockedLaneIsReadByNobodyElse) {
  MakeServer();
  Fill();
  BlockLane();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  Call call(server_, 1, 1);
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(call.Take(Url(file, 0), Within(absl::Milliseconds(5))).status()));
  server_->Sweep();
  EXPECT_EQ(ToSessionStats(server_->counters()).frames_received, 0u);
  ReleaseLane();
  EXPECT_TRUE(call.Take(Url(file, 0)).ok());
}

TEST_F(SessionRoomTest, TheLaneTakesNoMoreThanTheQuotaHas) {
  const auto small = std::make_shared<CountingQuota>(3);
  config_.quota = small;
  MakeServer();
  Fill();
  const UniqueFd file = MakeFile("x");
  {
    Call call(server_, 1, 4);
    SendRaw(Data(1, 0, 4), std::vector<int>(4, file.get()));
    const absl::Status status = call.Take(Url(file, 0)).status();
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("test quota"));
  }
  // The lane tells whoever waits, and then closes.
  EXPECT_TRUE(Eventually([&] { return Holders(file) == 1 && small->held() == 0; }));
  Call call(server_, 2, 2);
  SendRaw(Data(2, 0, 2), {file.get(), file.get()});
  EXPECT_TRUE(call.Take(Url(file, 0)).ok());
  EXPECT_EQ(small->held(), 1);
  EXPECT_TRUE(call.Take(Url(file, 1)).ok());
  EXPECT_EQ(small->held(), 0);
}

// The looks of several sessions may be queued before anything that the first one brings is closed.
TEST_F(SessionRoomTest, EachLookOnTheLaneFindsTheWholeQuota) {
  config_.quota = std::make_shared<CountingQuota>(2);
  Fill();
  BlockLane();
  const UniqueFd file = MakeFile("x");
  std::vector<UniqueFd> ends;
  std::vector<std::shared_ptr<Session>> sessions;
  for (int i = 0; i < 3; ++i) {
    MakeServer();
    SendRaw(Data(1, 0, 1), {file.get(), file.get()});  // Breaks the protocol.
    server_->Sweep();
    sessions.push_back(server_);
    ends.push_back(std::move(raw_));
  }
  ReleaseLane();
  for (const auto& session : sessions) {
    EXPECT_TRUE(Eventually([&] { return !session->alive(); }));
  }
  EXPECT_TRUE(Eventually([&] { return Holders(file) == 1; }));
}

// A frame that is all right but for what a message may bring at most.
TEST_F(SessionRoomTest, TheLaneCutsWhoSendsMoreThanAnybodyTakes) {
  MakeServer();
  Fill();
  const UniqueFd file = MakeFile("x");
  SendRaw(Data(1, 0, 253), std::vector<int>(253, file.get()));
  server_->Sweep();
  EXPECT_TRUE(Eventually([&] { return !server_->alive(); }));
  const auto close = ReadRaw();
  ASSERT_TRUE(close.has_value());
  EXPECT_EQ(close->close_code, CloseCode::kProtocolError);
  EXPECT_TRUE(Eventually([&] { return Holders(file) == 1; }));
}

TEST_F(SessionRoomTest, WhatWasRefusedCountsUntilItIsClosed) {
  MakeServer();
  BlockLane();
  const UniqueFd file = MakeFile("x");
  { Call ended(server_, 1, 0); }
  SendRaw(Data(1, 0, 3), std::vector<int>(3, file.get()));
  server_->Sweep();
  EXPECT_EQ(room_->closing(), 3u);
  EXPECT_EQ(Holders(file), 4u);
  ReleaseLane();
  EXPECT_EQ(room_->closing(), 0u);
  EXPECT_EQ(Holders(file), 1u);
}

// An empty message is the end. What follows it in one look is not closed by who looks.
TEST_F(SessionRoomTest, WhatFollowsTheEndIsClosedOnTheLane) {
  config_.room = std::make_shared<ReadRoom>(8 * kMaxFdsPerMessage);
  MakeServer();
  BlockLane();
  const UniqueFd file = MakeFile("x");
  SendFile(2, 0, MakeFile("first"));  // The first look of a sweep takes one message.
  ASSERT_EQ(::send(raw_.get(), "", 0, 0), 0);
  SendFile(1, 0, file);
  server_->Sweep();
  EXPECT_FALSE(server_->alive());
  EXPECT_EQ(Holders(file), 2u);
  ReleaseLane();
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(config_.room->closing(), 0u);
}

// A server that cuts each session, with something unread in it, must not have a client hold them
// all.
TEST_F(SessionRoomTest, TheSocketOfAClientCountsUntilItIsClosed) {
  config_.quota = nullptr;
  MakeClient();
  BlockLane();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  client_->Kill(CloseCode::kShutdown, absl::UnavailableError("test"));
  EXPECT_TRUE(ReadRaw().has_value());
  client_.reset();
  Flush(poller_.get());
  EXPECT_EQ(room_->closing(), 1u);
  ReleaseLane();
  EXPECT_TRUE(Eventually([this] { return room_->closing() == 0; }));
  EXPECT_EQ(Holders(file), 1u);
}

TEST_F(SessionRoomTest, AProcessThatIsNearlyFullIsReadOnTheLane) {
  config_.room = std::make_shared<ReadRoom>(kMaxFdsPerMessage, [] {
    return FdTable{1 << 20, (1 << 20) - 100};
  });
  config_.room->Saw((1 << 20) - 100);
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  wire->PushData({1, 0}, 0, {file.get()});
  EXPECT_EQ(ThreadOfNextLook(wire.get()), "grpcfd-reaper");
  Flush(reaper_.get());
  // What came got a low number.
  wire->PushData({2, 0}, 0, {file.get()});
  EXPECT_NE(ThreadOfNextLook(wire.get()), "grpcfd-reaper");
  Call first(server_, 1, 1), second(server_, 2, 1);
  EXPECT_TRUE(first.Take(Url(file, 0)).ok());
  EXPECT_TRUE(second.Take(Url(file, 0)).ok());
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
