// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/client_call.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/frame.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

// A client's session whose peer is the test, and takes one unclaimed descriptor at a time.
class ClientCallTest : public ::testing::Test {
 protected:
  ClientCallTest() {
    SocketPair pair = MakePair(SOCK_SEQPACKET | SOCK_NONBLOCK);
    peer_ = std::move(pair.b);
    auto poller = Poller::Start("test");
    EXPECT_TRUE(poller.ok()) << poller.status();
    Session::Config config;
    config.role = Session::Role::kClient;
    config.id = 1;
    config.local = ReceiveLimits{16, 64};
    config.remote = ReceiveLimits{16, 1};
    config.peer = "the test";
    config.poller = *poller;
    config.reaper = std::make_shared<Reaper>();
    session_ = Session::Create(std::make_unique<SeqpacketSocket>(std::move(pair.a)),
                               std::move(config), nullptr);
  }

  // A call that is starting, with one file queued.
  static std::shared_ptr<ClientCall> Starting(const std::string& content) {
    auto call = std::make_shared<ClientCall>();
    EXPECT_TRUE(call->SendFd(MakeFile(content)).ok());
    ClientCall::Start start;
    start.deadline = absl::Now() + absl::Seconds(20);
    EXPECT_EQ(absl::OkStatus(), call->BeginStart(start));
    return call;
  }

  // What the next frame with a descriptor carries.
  std::string NextContent() {
    for (;;) {
      pollfd wait = {peer_.get(), POLLIN, 0};
      if (poll(&wait, 1, 20000) != 1) return "nothing came";
      FrameBuffer bytes;
      ReceivedMessage message;
      const IoResult io = ReceiveMessage(peer_, bytes.data(), bytes.size(), &message);
      if (!io.ok() || message.size == 0) return "the end came";
      if (message.fds.size() == 1) return Content(message.fds[0]);
    }
  }

  void SendCredit(uint64_t total) {
    Frame frame;
    frame.type = FrameType::kCredit;
    frame.credit_total = total;
    FrameBuffer bytes;
    EncodeFrame(frame, &bytes);
    EXPECT_TRUE(SendMessage(peer_, bytes, {}).ok());
  }

  UniqueFd peer_;
  uint64_t credit_ = 0;
  std::shared_ptr<Session> session_;
};

// While a call waits for room in the window its session holds the descriptors' numbers. If giving
// the call up closed them, the next file to be opened would get such a number, and would be sent to
// the peer.
TEST_F(ClientCallTest, GivingUpACallThatWaitsToSendNeverSendsAnotherFile) {
  const auto first = Starting("first");
  absl::StatusOr<CallMetadata> said;
  ASSERT_TRUE(first->TryStartOn(session_, 1, &said));
  ASSERT_EQ(absl::OkStatus(), said.status());

  const auto waiting = Starting("waiting");
  ASSERT_FALSE(waiting->TryStartOn(session_, 2, &said));
  std::promise<void> done;
  waiting->StartOnAsync(session_, 4,
                        [&done](const absl::StatusOr<CallMetadata>&) { done.set_value(); });
  waiting->FailStart(absl::CancelledError("given up"));
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 8; ++i) strangers.push_back(MakeFile("a stranger's"));

  EXPECT_EQ("first", NextContent());
  done.get_future().wait();
  const auto next = Starting("next");
  std::promise<void> sent;
  next->StartOnAsync(session_, 3,
                     [&sent](const absl::StatusOr<CallMetadata>&) { sent.set_value(); });
  SendCredit(1);
  EXPECT_EQ("next", NextContent());
  sent.get_future().wait();
  // It stays given up.
  EXPECT_FALSE(waiting->metadata().bound());
  EXPECT_EQ(absl::StatusCode::kCancelled,
            waiting->RecvFd(InodeUrl(DevIno{1, 2}, 0)).status().code());
}

// A stream's first attempt waits for room. What is sent meanwhile goes along, before the attempt
// may begin, and is counted.
TEST_F(ClientCallTest, WhatIsSentWhileTheFirstAttemptWaitsGoesAlong) {
  for (const bool forwarded : {false, true}) {
    SCOPED_TRACE(forwarded);
    const uint64_t id = forwarded ? 3 : 1;
    const auto first = Starting("first");
    std::promise<absl::Status> filled;  // Once the credit of the last round is there.
    first->StartOnAsync(session_, id, [&filled](const absl::StatusOr<CallMetadata>& said) {
      filled.set_value(said.status());
    });
    ASSERT_EQ(absl::OkStatus(), filled.get_future().get());
    EXPECT_EQ("first", NextContent());

    const auto call = std::make_shared<ClientCall>();
    ASSERT_TRUE(call->SendFd(MakeFile("early")).ok());
    ClientCall::Start start;
    start.deadline = absl::Now() + absl::Seconds(60);
    start.client_streams = true;
    start.per_attempt = true;
    ASSERT_EQ(absl::OkStatus(), call->BeginStart(start));
    std::promise<absl::StatusOr<CallMetadata>> outcome;
    call->StartOnAsync(session_, id + 1, [&outcome](absl::StatusOr<CallMetadata> said) {
      outcome.set_value(std::move(said));
    });
    if (forwarded) {
      UniqueFd late = MakeFile("late");
      std::vector<InodeUrl> urls = {InodeUrl(*FdToDevIno(late), 2)};
      ASSERT_EQ(absl::OkStatus(), call->ClaimIndices(&urls));
      bool told = false;
      call->SendClaimedLater(IndexedFd{urls[0], std::move(late)}, [&told] { told = true; });
      EXPECT_TRUE(told);
    } else {
      ASSERT_TRUE(call->SendFd(MakeFile("late")).ok());
    }
    EXPECT_TRUE(call->starting());
    SendCredit(++credit_);
    EXPECT_EQ("early", NextContent());
    SendCredit(++credit_);
    EXPECT_EQ("late", NextContent());
    auto future = outcome.get_future();
    ASSERT_EQ(std::future_status::ready, future.wait_for(std::chrono::seconds(20)));
    const absl::StatusOr<CallMetadata> said = future.get();
    ASSERT_EQ(absl::OkStatus(), said.status());
    EXPECT_EQ(forwarded ? 3u : 2u, said->count);
    EXPECT_EQ(forwarded ? 1u : 0u, said->holes);
    EXPECT_FALSE(call->starting());
    SendCredit(++credit_);
    // The next attempt brings both.
    EXPECT_EQ(2u, call->queued_urls().size());
  }
}

// A call that waits for room and is given up keeps neither its place in the line nor its
// descriptors.
TEST_F(ClientCallTest, ACallThatIsGivenUpLeavesTheLine) {
  enum class How { kFailStart, kCommit, kGiveUp, kGiveUpBeforeItWaits };
  uint64_t id = 1;
  const auto first = Starting("first");
  absl::StatusOr<CallMetadata> said;
  ASSERT_TRUE(first->TryStartOn(session_, id, &said));
  EXPECT_EQ("first", NextContent());
  for (const How how : {How::kFailStart, How::kCommit, How::kGiveUp, How::kGiveUpBeforeItWaits}) {
    SCOPED_TRACE(static_cast<int>(how));
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd read_end(ends[0]);
    const auto call = std::make_shared<ClientCall>();
    ASSERT_TRUE(call->SendFd(UniqueFd(ends[1])).ok());
    ClientCall::Start start;
    start.deadline = absl::Now() + absl::Hours(1);
    start.per_attempt = how != How::kFailStart;
    ASSERT_EQ(absl::OkStatus(), call->BeginStart(start));
    std::promise<absl::Status> outcome;
    if (how == How::kGiveUpBeforeItWaits) call->GiveUp();
    call->StartOnAsync(session_, ++id, [&outcome](const absl::StatusOr<CallMetadata>& said) {
      outcome.set_value(said.status());
    });
    switch (how) {
      case How::kFailStart:
        call->FailStart(absl::CancelledError("given up"));
        break;
      case How::kCommit:
        call->Commit(absl::UnavailableError("ended"));
        break;
      case How::kGiveUp:
        call->GiveUp();
        break;
      case How::kGiveUpBeforeItWaits:
        break;
    }
    auto told = outcome.get_future();
    ASSERT_EQ(std::future_status::ready, told.wait_for(std::chrono::seconds(20)));
    EXPECT_EQ(absl::StatusCode::kCancelled, told.get().code());
    call->Commit(absl::UnavailableError("ended"));  // As the end of its context's call does.
    pollfd closed = {read_end.get(), 0, 0};
    EXPECT_EQ(1, ::poll(&closed, 1, 20000)) << "the descriptor is still open";

    const auto next = Starting("next");
    std::promise<void> sent;
    next->StartOnAsync(session_, ++id, [&sent](const absl::StatusOr<CallMetadata>& said) {
      EXPECT_EQ(absl::OkStatus(), said.status());
      sent.set_value();
    });
    SendCredit(++credit_);
    EXPECT_EQ("next", NextContent());
    sent.get_future().wait();
  }
}

TEST_F(ClientCallTest, ACallThatWasGivenUpBeforeItsSessionCameSendsNothing) {
  const auto call = Starting("never");
  call->FailStart(absl::CancelledError("given up"));
  absl::Status status = absl::UnknownError("unset");
  call->StartOnAsync(
      session_, 1, [&status](const absl::StatusOr<CallMetadata>& said) { status = said.status(); });
  EXPECT_EQ(absl::StatusCode::kCancelled, status.code());
  const auto next = Starting("next");
  absl::StatusOr<CallMetadata> said;
  ASSERT_TRUE(next->TryStartOn(session_, 2, &said));
  EXPECT_EQ("next", NextContent());
}

// The outcome of a start that failed leaves the queue as it was, so that whoever asks learns that
// the call had descriptors.
TEST_F(ClientCallTest, AStartThatFailsLeavesTheDescriptorsQueued) {
  const auto first = Starting("first");
  absl::StatusOr<CallMetadata> said;
  ASSERT_TRUE(first->TryStartOn(session_, 1, &said));
  const auto waiting = Starting("waiting");
  std::promise<void> done;
  absl::Status status;
  waiting->StartOnAsync(session_, 2, [&](const absl::StatusOr<CallMetadata>& result) {
    status = result.status();
    done.set_value();
  });
  session_->Kill(CloseCode::kShutdown, absl::UnavailableError("over"));
  done.get_future().wait();
  EXPECT_EQ(absl::StatusCode::kUnavailable, status.code());
  EXPECT_TRUE(waiting->has_queued());
  waiting->FailStart(status);
  EXPECT_FALSE(waiting->has_queued());
}

// The peer would close it, and the sender would believe that it had arrived.
TEST_F(ClientCallTest, NothingIsSentWithAStreamThatIsOver) {
  uint64_t id = 0;
  for (const bool cancelled : {true, false}) {
    SCOPED_TRACE(cancelled);
    const auto call = std::make_shared<ClientCall>();
    ClientCall::Start start;
    start.deadline = absl::Now() + absl::Seconds(20);
    start.client_streams = true;
    ASSERT_EQ(absl::OkStatus(), call->BeginStart(start));
    absl::StatusOr<CallMetadata> said;
    ASSERT_TRUE(call->TryStartOn(session_, ++id, &said));
    ASSERT_EQ(absl::OkStatus(), said.status());
    if (cancelled) {
      call->OnCancelled();
    } else {
      call->OnEnded();
    }
    const auto late = call->SendFd(MakeFile("late"));
    EXPECT_EQ(cancelled ? absl::StatusCode::kCancelled : absl::StatusCode::kFailedPrecondition,
              late.status().code())
        << late.status();
  }
}

TEST_F(ClientCallTest, BelongsToTheGrpcCallThatItIsBoundTo) {
  const auto call = Starting("x");
  int rpc;
  int other;
  EXPECT_TRUE(call->begun_for(nullptr));  // What Starting() named.
  EXPECT_TRUE(call->BindTo(&rpc));
  EXPECT_TRUE(call->BindTo(&rpc));
  EXPECT_FALSE(call->BindTo(&other));
  // The address that named the RPC may be another's by now.
  EXPECT_FALSE(call->begun_for(nullptr));
}

TEST_F(ClientCallTest, ASecondFactoryOfTheSameRpcIsToldApartFromASecondRpc) {
  ClientCall call;
  const int rpc = 0;
  const int other = 0;
  ClientCall::Start start;
  start.rpc = &rpc;
  EXPECT_EQ(absl::OkStatus(), call.BeginStart(start));
  EXPECT_EQ(absl::StatusCode::kAlreadyExists, call.BeginStart(start).code());
  ClientCall::Start second;
  second.rpc = &other;
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, call.BeginStart(second).code());
  // Once the transport has it, an RPC at the same address is another one.
  EXPECT_TRUE(call.BindBegun(&call));
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, call.BeginStart(start).code());
  EXPECT_FALSE(call.BindBegun(&call)) << "BindTo() knows whether it is the same one";
  EXPECT_TRUE(call.BindTo(&call));
  ClientCall fresh;
  EXPECT_FALSE(fresh.BindBegun(&call));
  EXPECT_TRUE(fresh.BindTo(&other)) << "nothing was bound before";
}

TEST_F(ClientCallTest, ASetsDescriptorsComeFirstOrNotAtAll) {
  std::vector<UniqueFd> set;
  set.push_back(MakeFile("of the set"));
  const std::vector<InodeUrl> urls = {InodeUrl(*FdToDevIno(set[0]), 0)};
  ClientCall fresh;
  EXPECT_EQ(absl::OkStatus(), fresh.Preload(set, urls));
  auto own = fresh.SendFd(MakeFile("own"));
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(1u, own->index());
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, fresh.Preload(set, urls).code());
  EXPECT_EQ(absl::OkStatus(), fresh.Preload({}, {}));

  ClientCall without;
  without.FailStart(absl::ResourceExhaustedError("no descriptors left"));
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, without.Preload(set, urls).code());
  // The first reason stays, when the call is made.
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, without.BeginStart({}).code());
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
