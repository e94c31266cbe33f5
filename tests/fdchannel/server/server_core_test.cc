// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The table of a server's sessions. What listeners add is in listener_test.cc.
#include "fdchannel/server/server_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string.h>

#include <array>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "fdchannel/fds/own_credentials.h"
#include "fdchannel/server/connection_table.h"
#include "fdchannel/wire/frame.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::ElementsAre;

// Sessions of this process with a server, which come and go and leave descriptors behind.
class DeadSessionsTest : public ::testing::Test {
 protected:
  // Opens a session, sends `fds` descriptors that no call comes for, and closes it. The ids of the
  // sessions so far, oldest first, that are to be found when this one has died: on the poller's
  // thread, so no timer has run since.
  std::vector<size_t> LiveAndDie(ServerCore* core, int fds) {
    const Token token = MintToken();
    auto opened = std::make_shared<Told<std::shared_ptr<UniqueFd>>>();
    EXPECT_TRUE(core->AnswerInProcess(HelloWith(token),
                                      [this, token, opened](const HelloReply& reply, UniqueFd end) {
                                        EXPECT_EQ(reply.status, HelloStatus::kOk);
                                        sessions_.emplace_back(token, reply.session_id);
                                        opened->Set(std::make_shared<UniqueFd>(std::move(end)));
                                      })
                    .ok());
    const auto end = opened->Wait();
    if (end == nullptr) return {};
    const UniqueFd file = MakeFile("x");
    const int number = file.get();
    Frame frame;
    frame.type = FrameType::kData;
    frame.fd_count = 1;
    for (frame.call.id = 1; frame.call.id <= static_cast<uint64_t>(fds); ++frame.call.id) {
      FrameBuffer buffer;
      EncodeFrame(frame, &buffer);
      EXPECT_TRUE(SendMessage(*end, buffer, absl::MakeConstSpan(&number, 1)).ok());
    }
    end->Reset();
    return found_.Wait(deaths_++);
  }

  std::shared_ptr<ServerCore> Serve(uint32_t max_fds_per_uid) {
    FdServerOptions options;
    options.limits.max_fds_per_uid = max_fds_per_uid;
    options.on_session_end = [this](const std::shared_ptr<FdSession>&) {
      std::vector<size_t> found;
      for (size_t i = 0; i < sessions_.size(); ++i) {
        if (core_->FindSession(sessions_[i].first, sessions_[i].second).ok()) found.push_back(i);
      }
      found_.Set(std::move(found));
    };
    auto core = ServerCore::Create(options);
    EXPECT_TRUE(core.ok()) << core.status();
    core_ = core->get();
    return *std::move(core);
  }

  ServerCore* core_ = nullptr;
  // Of the poller's thread.
  std::vector<std::pair<Token, uint64_t>> sessions_;
  Told<std::vector<size_t>> found_;
  size_t deaths_ = 0;
};

TEST_F(DeadSessionsTest, TheOldestOfAUserGoWhenTheyHoldAQuarterOfItsLimit) {
  const auto core = Serve(/*max_fds_per_uid=*/16);
  // By number; a machine that is slow loses the older ones to their time-out, but never the last.
  for (size_t i = 0; i < 8; ++i) {
    const std::vector<size_t> found = LiveAndDie(core.get(), 2);
    ASSERT_FALSE(found.empty());
    EXPECT_EQ(found.back(), i);
    EXPECT_GE(found.front() + 1, i);
  }
  EXPECT_TRUE(Eventually([&core] { return core->ledger()->held_total() <= 4; }));
}

TEST_F(DeadSessionsTest, TheLastOneStaysWhateverItHolds) {
  const auto core = Serve(/*max_fds_per_uid=*/16);
  EXPECT_THAT(LiveAndDie(core.get(), 9), ElementsAre(0u));
  EXPECT_THAT(LiveAndDie(core.get(), 1), ElementsAre(1u));
  EXPECT_THAT(LiveAndDie(core.get(), 5), ElementsAre(2u));
}

TEST_F(DeadSessionsTest, OneThatHoldsNothingIsGoneAtOnce) {
  const auto core = Serve(/*max_fds_per_uid=*/16);
  EXPECT_THAT(LiveAndDie(core.get(), 0), ElementsAre());
}

// A hello of this process, and what it brought.
struct Said {
  HelloReply reply;
  std::shared_ptr<UniqueFd> end;
};

Said SayInProcess(ServerCore* core, const Token& token, const ConnectionId& connection) {
  Hello hello = HelloWith(token);
  hello.connection = connection;
  Told<Said> told;
  EXPECT_TRUE(core->AnswerInProcess(hello,
                                    [&told](const HelloReply& reply, UniqueFd end) {
                                      told.Set({reply, std::make_shared<UniqueFd>(std::move(end))});
                                    })
                  .ok());
  return told.Wait();
}

class Guesses {
 public:
  uint64_t Number() { return random_(); }
  Token Bits() {
    std::array<char, kTokenSize> bytes;
    for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
      const uint64_t half = random_();
      memcpy(bytes.data() + i, &half, sizeof(half));
    }
    return Token(bytes);
  }

 private:
  std::mt19937_64 random_{1};
};

// Names and sessions are guessed in vain: each is one of 2^128, or needs a token that is.
TEST(GuessesTest, AMillionGuessesGetNoSession) {
  auto core = ServerCore::Create({});
  ASSERT_TRUE(core.ok()) << core.status();
  const Token owner = MintToken();
  const ConnectionId name = MintToken();
  const SocketPair connection = MakePair(SOCK_STREAM);
  ConnectionTable::Process().Add(connection.a, name, core->get());
  const Said session = SayInProcess(core->get(), owner, name);
  ASSERT_EQ(session.reply.status, HelloStatus::kOk);
  const uint64_t session_id = session.reply.session_id;

  Guesses guesses;
  const Token thief = MintToken();
  const auto credentials = GetOwnCredentials();
  ASSERT_TRUE(credentials.ok()) << credentials.status();
  for (int i = 0; i < 1000000; ++i) {
    ASSERT_FALSE(ConnectionTable::Process().HasOf(*credentials, guesses.Bits(), core->get()));
    // What a call may say: the owner's session with a guessed token, or his own with a guessed one.
    const auto found = i % 2 == 0 ? (*core)->FindSession(guesses.Bits(), session_id)
                                  : (*core)->FindSession(thief, guesses.Number());
    ASSERT_FALSE(found.ok());
  }
  // Some of them as hellos.
  for (int i = 0; i < 10000; ++i) {
    const Said said = SayInProcess(core->get(), thief, guesses.Bits());
    ASSERT_EQ(said.reply.status, HelloStatus::kElsewhere);
    ASSERT_FALSE(said.end->valid());
  }
  EXPECT_EQ((*core)->session_count(), 1u);
  EXPECT_TRUE((*core)->FindSession(owner, session_id).ok());
  (*core)->ShutDown();
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
