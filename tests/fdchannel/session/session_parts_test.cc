// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The parts of a session, each alone: SendWindow, CreditOwed, SocketLeader, CallTable, Arrivals.
// descriptor_inbox_test.cc has the inbox.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "absl/time/clock.h"
#include "fdchannel/session/arrivals.h"
#include "fdchannel/session/call_table.h"
#include "fdchannel/session/credit_owed.h"
#include "fdchannel/session/send_window.h"
#include "fdchannel/session/socket_leader.h"
#include "tests/fdchannel/session/cpu_time.h"
#include "tests/fdchannel/session/fake_frame_socket.h"

namespace grpcfd {
namespace internal {
namespace {

// --- SendWindow ---

class SendWindowTest : public ::testing::Test {
 protected:
  SendWindowTest() : window_(8) {
    window_.Bind(std::make_shared<InFlight>(
        std::make_shared<FakeFrameSocket>(std::make_shared<FakeWire>()), 8, nullptr, 0, nullptr));
  }
  SendWindow window_;
};

TEST_F(SendWindowTest, KeepsWithinWhatIsCredited) {
  EXPECT_TRUE(window_.Reserve(5));
  EXPECT_FALSE(window_.Reserve(4));
  EXPECT_TRUE(window_.Reserve(3));
  EXPECT_EQ(window_.Credit(4), absl::OkStatus());
  EXPECT_EQ(window_.Credit(2), absl::OkStatus()) << "an older one";
  EXPECT_TRUE(absl::IsInvalidArgument(window_.Credit(9)));
}

// Guards against a difference that wraps: the window would stay shut, or open for ever.
TEST_F(SendWindowTest, NoticesCreditForWhatWasNotSent) {
  ASSERT_TRUE(window_.Reserve(4));
  EXPECT_EQ(window_.Credit(4), absl::OkStatus()) << "they may have been sent by now";
  EXPECT_TRUE(absl::IsFailedPrecondition(window_.Return(4)));
  EXPECT_FALSE(window_.Reserve(9));
  ASSERT_TRUE(window_.Reserve(2));
  EXPECT_EQ(window_.Return(2), absl::OkStatus());
}

TEST_F(SendWindowTest, FillsDiscards) {
  for (uint64_t id = 1; id <= 7; ++id) window_.MayDiscard(id);
  Frame frame = window_.NextDiscard();
  EXPECT_EQ(frame.discard_count, kMaxDiscardIds);
  EXPECT_EQ(frame.discard[0], 1u);
  window_.Discarded(frame);
  frame = window_.NextDiscard();
  EXPECT_EQ(frame.discard_count, 2u);
  EXPECT_EQ(frame.discard[1], 7u);
  EXPECT_EQ(window_.Credit(0), absl::OkStatus());
  EXPECT_FALSE(window_.has_discards()) << "the peer holds nothing";
}

TEST_F(SendWindowTest, TheLineIsInOrder) {
  Waiter a(Waiter::Kind::kSend), b(Waiter::Kind::kSend), c(Waiter::Kind::kSend);
  for (Waiter* waiter : {&a, &b, &c}) window_.Enter(waiter);
  b.blocked_on_write = true;
  EXPECT_EQ(window_.front(), &a);
  EXPECT_EQ(window_.Next(&a), &b);
  EXPECT_FALSE(window_.blocked_on_write());
  window_.Leave(&a);
  EXPECT_TRUE(window_.blocked_on_write());
  window_.Leave(&c);
  EXPECT_EQ(window_.Next(&b), nullptr);
  window_.Leave(&b);
  EXPECT_TRUE(window_.nobody_waits());
}

// --- CreditOwed ---

TEST(CreditOwedTest, IsGivenByQuartersOfTheWindow) {
  CreditOwed owed(64, 16);
  for (int i = 1; i <= 64; ++i) {
    owed.Received(1);
    owed.Disposed(1);
    EXPECT_EQ(owed.due(), i % 16 == 0) << i;
    if (owed.due()) {
      EXPECT_EQ(owed.Tell(), static_cast<uint64_t>(i));
    }
  }
  EXPECT_FALSE(owed.owes());
}

TEST(CreditOwedTest, FollowsAtOnceWhenACallDoesNotFit) {
  CreditOwed owed(64, 16);
  owed.Received(49);  // 15 are free, or fewer.
  EXPECT_FALSE(owed.due());
  owed.Disposed(1);
  EXPECT_TRUE(owed.due());
  EXPECT_TRUE(owed.needs_sweep());
  owed.Tell();
  EXPECT_FALSE(owed.due());
  owed.Disposed(1);
  EXPECT_FALSE(owed.due()) << "now 16 are free";
  // This peer has filled its window. What it needs next may be in the socket.
  owed.Disposed(47);
  owed.Tell();
  owed.Received(1);
  owed.Disposed(1);
  EXPECT_TRUE(owed.due());
}

TEST(CreditOwedTest, IsOwedAgainIfItCouldNotBeSent) {
  CreditOwed owed(4, 1);
  owed.Received(2);
  owed.Disposed(1);
  const uint64_t before = owed.told();
  const uint64_t total = owed.Tell();
  EXPECT_FALSE(owed.owes());
  owed.TakeBack(total, before);
  EXPECT_TRUE(owed.owes());
  // Another thread was quicker.
  owed.Disposed(1);
  owed.Tell();
  owed.TakeBack(total, before);
  EXPECT_FALSE(owed.owes());
}

TEST(CreditOwedTest, ReadsUnaskedBeforeTheWindowCanBeFull) {
  CreditOwed owed(64, 16);
  int calls = 0;
  while (!owed.ShouldRead()) {
    owed.MayHaveSent();
    ++calls;
  }
  EXPECT_EQ(calls, 4) << "three calls of 16 leave room for one";
  owed.NothingUnread();
  EXPECT_FALSE(owed.ShouldRead());
  CreditOwed wide(100000, 16);
  for (calls = 0; !wide.ShouldRead(); ++calls) wide.MayHaveSent();
  EXPECT_EQ(calls, 16);
}

// --- SocketLeader ---

class SocketLeaderTest : public ::testing::Test {
 protected:
  const std::shared_ptr<FakeWire> wire_ = std::make_shared<FakeWire>();
  FakeFrameSocket socket_{wire_};
  SocketLeader leader_{&socket_};
};

std::shared_ptr<Waiter> Asynchronous() {
  auto waiter = std::make_shared<Waiter>(Waiter::Kind::kReceive);
  waiter->self = waiter;
  return waiter;
}

TEST_F(SocketLeaderTest, PassesTheLeadToTheFirstWhoBlocks) {
  const auto async = Asynchronous();
  Waiter first(Waiter::Kind::kReceive), second(Waiter::Kind::kSend);
  ASSERT_TRUE(leader_.Lead());
  EXPECT_FALSE(leader_.Lead());
  leader_.Enlist(async.get(), false);
  leader_.Enlist(&first, false);
  leader_.Enlist(&second, false);
  EXPECT_EQ(leader_.PassLead(), SocketLeader::Left::kNothing);
  EXPECT_TRUE(first.promoted);
  EXPECT_TRUE(leader_.led());
  leader_.Remove(&first);
  EXPECT_EQ(leader_.PassLead(), SocketLeader::Left::kNothing);
  EXPECT_TRUE(second.promoted) << "who waits to send can lead too";
  leader_.Remove(&second);
  EXPECT_EQ(leader_.PassLead(), SocketLeader::Left::kWatch) << "for the asynchronous one";
  EXPECT_FALSE(leader_.led());
  EXPECT_EQ(leader_.waiters(), 1u);
  leader_.Remove(async.get());
  EXPECT_EQ(leader_.PassLead(), SocketLeader::Left::kNothing);
  leader_.WatchAgain();
  EXPECT_EQ(leader_.PassLead(), SocketLeader::Left::kWatch);
  async->self.reset();
}

TEST_F(SocketLeaderTest, ALookSettlesThoseWhoCameBeforeIt) {
  Waiter before(Waiter::Kind::kReceive), during(Waiter::Kind::kReceive);
  leader_.Enlist(&before, true);
  EXPECT_TRUE(leader_.look_owed());
  const SocketLeader::Look look = leader_.BeginLook();
  EXPECT_TRUE(look.owed);
  EXPECT_FALSE(leader_.look_owed());
  leader_.Enlist(&during, false);
  EXPECT_EQ(leader_.NextAsking(look.number), &before);
  EXPECT_EQ(leader_.NextAsking(look.number), nullptr);
  const SocketLeader::Look next = leader_.BeginLook();
  leader_.FoundSomething(next);
  EXPECT_FALSE(leader_.look_owed()) << "nobody asked for it";
  EXPECT_EQ(leader_.NextAsking(next.number), &during);
  leader_.AskAgain(&before);
  EXPECT_EQ(leader_.NextAsking(next.number), nullptr);
  EXPECT_EQ(leader_.NextAsking(leader_.BeginLook().number), &before);
  leader_.Remove(&before);
  leader_.Remove(&during);
}

TEST_F(SocketLeaderTest, AnOwedLookStaysOwedUntilOneFindsNothing) {
  const auto async = Asynchronous();
  ASSERT_TRUE(leader_.Lead());
  leader_.Enlist(async.get(), true);
  leader_.FoundSomething(leader_.BeginLook());
  EXPECT_TRUE(leader_.look_owed());
  EXPECT_EQ(leader_.PassLead(), SocketLeader::Left::kWatchAndLook);
  leader_.Remove(async.get());
  async->self.reset();
}

TEST_F(SocketLeaderTest, WakesALeaderThatWaits) {
  ASSERT_TRUE(leader_.Lead());
  leader_.BeginWait();
  Waiter sender(Waiter::Kind::kSend);
  leader_.Enlist(&sender, false);
  // Returns at once.
  socket_.Wait(/*want_write=*/false, absl::Now() + absl::Seconds(20));
  leader_.EndWait();
  leader_.Remove(&sender);
  EXPECT_FALSE(leader_.waits());
}

// Guards against a walk over all who wait, for each frame of a peer.
TEST_F(SocketLeaderTest, ALookCostsTheSameHoweverManyWait) {
  std::vector<std::shared_ptr<Waiter>> waiters;
  for (int i = 0; i < 10000; ++i) {
    waiters.push_back(Asynchronous());
    leader_.Enlist(waiters.back().get(), false);
  }
  const uint64_t number = leader_.BeginLook().number;
  int asking = 0;
  while (leader_.NextAsking(number) != nullptr) ++asking;
  EXPECT_EQ(asking, 10000);
  const absl::Duration before = CpuTime();
  for (int i = 0; i < 10000; ++i) {
    ASSERT_TRUE(leader_.Lead());
    EXPECT_EQ(leader_.NextAsking(leader_.BeginLook().number), nullptr);
    EXPECT_EQ(leader_.PassLead(), SocketLeader::Left::kWatch);
  }
  EXPECT_LT(CpuTime() - before, absl::Milliseconds(200));
  for (const auto& waiter : waiters) {
    leader_.Remove(waiter.get());
    waiter->self.reset();
  }
}

// --- CallTable ---

TEST(CallTableTest, FindsEachOfMany) {
  CallTable table;
  std::vector<std::unique_ptr<DescriptorInbox>> inboxes;
  for (uint64_t id = 1; id <= 100; ++id) {
    for (uint32_t attempt = 0; attempt < 3; ++attempt) {
      inboxes.push_back(std::make_unique<DescriptorInbox>(CallKey{id, attempt}));
      EXPECT_EQ(table.Find(inboxes.back()->key()), nullptr);
      EXPECT_EQ(table.Enter(inboxes.back().get()), nullptr);
    }
  }
  for (const auto& inbox : inboxes) EXPECT_EQ(table.Find(inbox->key()), inbox.get());
  std::set<const DescriptorInbox*> visited;
  table.ForEach([&](DescriptorInbox* inbox) { EXPECT_TRUE(visited.insert(inbox).second); });
  EXPECT_EQ(visited.size(), inboxes.size());
  // Every other one goes, and takes no other with it.
  for (size_t i = 0; i < inboxes.size(); i += 2) EXPECT_TRUE(table.Remove(inboxes[i].get()));
  for (size_t i = 0; i < inboxes.size(); ++i) {
    EXPECT_EQ(table.Find(inboxes[i]->key()), i % 2 == 0 ? nullptr : inboxes[i].get());
  }
}

TEST(CallTableTest, ACallHasOneInbox) {
  CallTable table;
  DescriptorInbox first(CallKey{1, 0}), second(CallKey{1, 0});
  EXPECT_EQ(table.Enter(&first), nullptr);
  EXPECT_EQ(table.Enter(&second), &first);
  EXPECT_FALSE(table.Remove(&second)) << "it is not in the table, and the other one stays";
  EXPECT_EQ(table.Find(CallKey{1, 0}), &first);
  EXPECT_TRUE(table.Remove(&first));
  EXPECT_FALSE(table.Remove(&first));
  EXPECT_EQ(table.Enter(&second), nullptr);
  EXPECT_EQ(table.Find(CallKey{1, 0}), &second);
}

// --- Arrivals ---

class ArrivalsTest : public ::testing::Test {
 protected:
  ArrivalsTest() { config_.local = {16, 4096}; }
  // A frame for a call without an RPC yet.
  void Early(uint64_t id, uint32_t attempt) {
    Frame frame;
    frame.call = CallKey{id, attempt};
    frame.fd_count = 1;
    ReceivedMessage message;
    message.fds.push_back(MakeFile("x"));
    DescriptorInbox* changed = nullptr;
    const std::vector<Seen> seen(1);
    EXPECT_EQ(arrivals_.Deliver(frame, &message, seen, &changed, &closes_), absl::OkStatus());
  }
  size_t Discard(uint64_t id) {
    const size_t before = closes_.charged;
    arrivals_.Discard({id}, &closes_);
    return closes_.charged - before;
  }

  SessionConfig config_;
  Counters counters_;
  DeferredCloses closes_;
  Arrivals arrivals_{&config_, &counters_};
};

TEST_F(ArrivalsTest, DiscardsAllAttemptsOfACall) {
  for (uint32_t attempt = 0; attempt < 3; ++attempt) {
    for (uint64_t id = 1; id <= 3; ++id) Early(id, attempt);
  }
  EXPECT_EQ(Discard(2), 3u);
  EXPECT_EQ(Discard(2), 0u);
  // One that has begun is not discarded.
  DescriptorInbox begun(CallKey{1, 1});
  arrivals_.Attach(&begun, 1, false, 0, &closes_);
  EXPECT_EQ(begun.Untaken().size(), 1u);
  EXPECT_EQ(Discard(1), 2u);
  EXPECT_EQ(Discard(3), 3u);
  EXPECT_FALSE(arrivals_.has_early());
  EXPECT_TRUE(arrivals_.Detach(&begun));
  arrivals_.Empty(&begun, Counter::kFdsUnclaimed, &closes_);
  EXPECT_EQ(closes_.charged, 9u);
}

// Guards against a walk over the list of early calls, up to 1,024, for each id.
TEST_F(ArrivalsTest, ADiscardCostsTheSameHoweverManyAreEarly) {
  for (uint64_t id = 1; id <= 500; ++id) Early(id, 0);
  const absl::Duration before = CpuTime();
  for (uint64_t id = 1001; id <= 101000; ++id) EXPECT_EQ(Discard(id), 0u);
  EXPECT_LT(CpuTime() - before, absl::Milliseconds(500));
  FdVector rest;
  EXPECT_EQ(arrivals_.TakeRest(&rest), 500u);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
