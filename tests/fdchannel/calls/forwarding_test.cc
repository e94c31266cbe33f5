// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which thread closes what is forwarded: the close of a received descriptor may block, also at its
// last holder. What forwarding does is in tests/interceptors/forward_test.cc.
#include "fdchannel/calls/forwarding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fdchannel/calls/client_call.h"
#include "fdchannel/calls/server_call.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/frame.h"
#include "tests/fdchannel/close_recorder.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::Each;
using ::testing::SizeIs;

// A session whose peer is the test.
struct End {
  std::shared_ptr<Session> session;
  UniqueFd peer;

  void Send(const Frame& frame, const std::vector<int>& fds = {}) const {
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    EXPECT_TRUE(SendMessage(peer, buffer, fds).ok());
  }
  void GiveCredit(uint64_t total) const {
    Frame frame;
    frame.type = FrameType::kCredit;
    frame.credit_total = total;
    Send(frame);
  }
  // Reads a frame, for there to be room by the kernel's count too.
  void Read() const {
    EXPECT_TRUE(WaitReadable(peer));
    FrameBuffer buffer;
    ReceivedMessage message;
    EXPECT_TRUE(ReceiveMessage(peer, buffer.data(), buffer.size(), &message).ok());
    EXPECT_THAT(message.fds, SizeIs(1));
    // The test's own copy, which is not to be counted as one of the library's.
    for (UniqueFd& fd : message.fds) ::syscall(SYS_close, fd.Release());
  }
};

class ForwardingTest : public ::testing::Test {
 protected:
  ForwardingTest() : file_(MakeFile("x")), poller_(*Poller::Start("poller-test")) {}
  ~ForwardingTest() override { poller_->Stop(); }

  End Open(Session::Role role, uint32_t window) {
    auto sockets = MakeSessionSockets();
    EXPECT_TRUE(sockets.ok());
    Session::Config config;
    config.role = role;
    config.local.max_fds_per_call = 16;
    config.local.window = 64;
    config.remote = config.local;
    config.remote.window = window;
    config.poller = poller_;
    config.reaper = reaper_;
    End end;
    end.session = Session::Create(std::make_unique<SeqpacketSocket>(std::move(sockets->first)),
                                  std::move(config), nullptr);
    end.peer = std::move(sockets->second);
    return end;
  }

  // A call with two descriptors of file_.
  std::shared_ptr<ServerCall> Incoming(const End& end) {
    Frame frame;
    frame.type = FrameType::kData;
    frame.call.id = 1;
    frame.fd_count = 2;
    end.Send(frame, {file_.get(), file_.get()});
    ServerCall::Config config;
    config.key = frame.call;
    config.announced = 2;
    return std::make_shared<ServerCall>(end.session, config);
  }

  const UniqueFd file_;
  const std::shared_ptr<Poller> poller_;
  const std::shared_ptr<Reaper> reaper_ = std::make_shared<Reaper>();
};

TEST_F(ForwardingTest, TheReaperClosesWhatHadToWaitForRoom) {
  const End source = Open(Session::Role::kServer, 64);
  const End sink = Open(Session::Role::kServer, 1);
  const auto from = Incoming(source);
  ServerCall::Config config;
  config.key.id = 1;
  config.server_streams = true;
  const auto to = std::make_shared<ServerCall>(sink.session, config);
  AllCloses().Record(*FdToDevIno(file_));
  const absl::Status status = Forward(from, to.get(), nullptr, /*keep=*/false);
  EXPECT_TRUE(status.ok()) << status;
  // One is on its way, and the other waits for room, which the poller sees.
  sink.Read();
  sink.GiveCredit(1);
  sink.Read();
  // Of each, what waited and what it was a duplicate of.
  const auto threads = AllCloses().Wait(4);
  EXPECT_THAT(threads, SizeIs(4));
  EXPECT_THAT(threads, Each("grpcfd-reaper"));
}

TEST_F(ForwardingTest, TheReaperClosesWhatWentWithACallThatHadToWait) {
  const End source = Open(Session::Role::kServer, 64);
  const End sink = Open(Session::Role::kClient, 2);
  const auto from = Incoming(source);
  // Takes the window.
  const UniqueFd other = MakeFile("y");
  absl::Status status;
  ASSERT_TRUE(sink.session->TrySend(CallKey{1, 0}, Indices(0), {other.get()}, &status));
  ASSERT_TRUE(status.ok()) << status;

  auto to = std::make_shared<ClientCall>();
  AllCloses().Record(*FdToDevIno(file_));
  status = Forward(from, to.get(), nullptr, /*keep=*/false);
  ASSERT_TRUE(status.ok()) << status;
  ClientCall::Start start;
  start.limits = SessionLimits();
  ASSERT_TRUE(to->BeginStart(start).ok());
  Told<absl::Status> started;
  to->StartOnAsync(sink.session, 2, [&started](const absl::StatusOr<CallMetadata>& said) {
    started.Set(said.status());
  });
  EXPECT_EQ(started.count(), 0u);
  sink.Read();
  sink.GiveCredit(1);
  EXPECT_TRUE(started.Wait().ok());
  const auto threads = AllCloses().Wait(2);
  EXPECT_THAT(threads, SizeIs(2));
  EXPECT_THAT(threads, Each("grpcfd-reaper"));
}

TEST_F(ForwardingTest, TheReaperClosesWhatACallHoldsThatIsNeverMade) {
  const End source = Open(Session::Role::kServer, 64);
  const auto from = Incoming(source);
  auto to = std::make_shared<ClientCall>();
  AllCloses().Record(*FdToDevIno(file_));
  const absl::Status status = Forward(from, to.get(), nullptr, /*keep=*/false);
  ASSERT_TRUE(status.ok()) << status;
  poller_->Post([to = std::move(to)]() mutable { to.reset(); });
  const auto threads = AllCloses().Wait(2);
  EXPECT_THAT(threads, SizeIs(2));
  EXPECT_THAT(threads, Each("grpcfd-reaper"));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
