// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ClientCall and ServerCall, with a channel and a listener between them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <thread>

#include "fdchannel/client/channel_core.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/session/frame_socket.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "grpcfd/testing/same_file.h"
#include "tests/fdchannel/client/channel_test_util.h"
#include "tests/fdchannel/close_recorder.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// --- ClientCall ---

TEST_F(ChannelTest, MoreThanTheChannelsLimitIsRefusedAtStart) {
  auto call = std::make_shared<ClientCall>();
  for (int i = 0; i < 17; ++i) ASSERT_TRUE(call->SendFd(MakeFile("x")).ok());
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  const absl::Status status = StartCall(*CoreOf(*channel), call);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_fds_per_call"));
  EXPECT_EQ(server.core().session_count(), 0u) << "nothing was even connected";
  EXPECT_EQ(call->RecvFd("inode://1/2").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ChannelTest, MoreThanTheServersLimitIsRefusedAtStart) {
  ServerLimits limits;
  limits.session.max_fds_per_call = 3;
  TestServer& server = Serve(limits);
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(call->SendFd(MakeFile("x")).ok());
  const absl::Status status = StartCall(*CoreOf(*channel), call);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  // As many as are allowed go.
  auto next = std::make_shared<ClientCall>();
  std::vector<InodeUrl> urls;
  for (int i = 0; i < 3; ++i) urls.push_back(*next->SendFd(MakeFile(absl::StrCat("file ", i))));
  ASSERT_TRUE(StartCall(*CoreOf(*channel), next).ok());
  EXPECT_EQ(next->metadata().count, 3u);
  auto served = server.Serve(next->metadata());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Content(*served->RecvFd(urls[static_cast<size_t>(i)])), absl::StrCat("file ", i));
  }
}

TEST_F(ChannelTest, BadDescriptorsAreRefusedAtOnceAndNothingIsQueued) {
  auto call = std::make_shared<ClientCall>();
  const int closed = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)).get();  // Closed by now.
  EXPECT_EQ(call->SendFd(BorrowedFd(-1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(call->SendFd(BorrowedFd(closed)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(call->SendFd(UniqueFd()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(call->SendFilename(dir_.File("missing")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(call->has_queued());
  // The next one has index 0: none was used up.
  auto url = call->SendFd(MakeFile("x"));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->index(), 0u);

  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  EXPECT_EQ(call->metadata().count, 1u);
  auto served = server.Serve(call->metadata());
  const int closed_later = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)).get();
  EXPECT_EQ(served->SendFd(BorrowedFd(-1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(served->SendFd(BorrowedFd(closed_later)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(served->SendFilename(dir_.File("missing")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(served->SendFd(MakeFile("back"))->index(), 0u);
}

TEST_F(ChannelTest, QueueOwnsDuplicates) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  UniqueFd original = MakeFile("the right one");
  const int number = original.get();
  const UniqueFd same(::fcntl(number, F_DUPFD_CLOEXEC, 3));
  auto url = call->SendFd(BorrowedFd(original));
  ASSERT_TRUE(url.ok()) << url.status();
  // The caller closes it and its number goes to another file, before the call starts.
  const UniqueFd wrong = MakeFile("the wrong one");
  ASSERT_EQ(::dup3(wrong.get(), number, O_CLOEXEC), number);
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto fd = server.Serve(call->metadata())->RecvFd(*url);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Content(*fd), "the right one");
  auto identical = SameOpenFile(*fd, same);
  ASSERT_TRUE(identical.ok()) << identical.status();
  EXPECT_TRUE(*identical);
}

TEST_F(ChannelTest, BorrowedStayOpenAndAdoptedAreClosedOnceTheServerHasTheCall) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  CoreOf(*channel)->AddConnector([] { return false; });  // Its calls may land elsewhere.
  auto call = std::make_shared<ClientCall>();
  const UniqueFd borrowed = MakeFile("borrowed");
  UniqueFd adopted = MakeFile("adopted");
  const DevIno first = DevInoOf(borrowed), second = DevInoOf(adopted);
  auto first_url = call->SendFd(BorrowedFd(borrowed));
  auto second_url = call->SendFd(std::move(adopted));
  EXPECT_EQ(Holders(first), 2u);
  EXPECT_EQ(Holders(second), 1u) << "no duplicate is made";
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  EXPECT_EQ(Holders(first), 2u) << "the server may ask for it again";
  EXPECT_EQ(Holders(second), 1u);
  auto served = server.Serve(call->metadata());
  EXPECT_TRUE(Eventually([&] { return Holders(first) == 1 && Holders(second) == 0; }))
      << "in flight only";
  EXPECT_EQ(Content(*served->RecvFd(*first_url)), "borrowed");
  EXPECT_EQ(Content(*served->RecvFd(*second_url)), "adopted");

  // The server's sends: the same.
  UniqueFd back = MakeFile("back");
  const DevIno third = DevInoOf(back);
  auto back_url = served->SendFd(std::move(back));
  EXPECT_EQ(Holders(third), 0u);
  EXPECT_EQ(Content(*call->RecvFd(*back_url)), "back");
}

TEST_F(ChannelTest, CallThatNeverStartsClosesWhatIsQueued) {
  UniqueFd file = MakeFile("x");
  const DevIno dev_ino = DevInoOf(file);
  {
    auto call = std::make_shared<ClientCall>();
    ASSERT_TRUE(call->SendFd(std::move(file)).ok());
    EXPECT_EQ(Holders(dev_ino), 1u);
  }
  EXPECT_EQ(Holders(dev_ino), 0u);

  file = MakeFile("y");
  const DevIno other = DevInoOf(file);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(call->SendFd(std::move(file)).ok());
  call->FailStart(absl::FailedPreconditionError("no channel"));
  EXPECT_EQ(Holders(other), 0u);
  EXPECT_EQ(call->SendFd(MakeFile("z")).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(call->RecvFd("inode://1/2").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ChannelTest, EndOfTheCallClosesWhatCameBackUnclaimed) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto served = server.Serve(call->metadata());
  UniqueFd taken = MakeFile("taken"), unclaimed = MakeFile("unclaimed"),
           unread = MakeFile("unread");
  const DevIno first = DevInoOf(unclaimed), second = DevInoOf(unread);
  ASSERT_TRUE(served->SendFd(std::move(unclaimed)).ok());
  auto url = served->SendFd(std::move(taken));
  ASSERT_TRUE(call->RecvFd(*url).ok());
  EXPECT_EQ(Holders(first), 1u) << "read along with the one that was taken";
  ASSERT_TRUE(served->SendFd(std::move(unread)).ok());
  served.reset();
  call.reset();
  EXPECT_TRUE(Eventually([&] { return Holders(first) == 0; }));
  // Read with the next call's descriptors, and closed.
  ASSERT_EQ(RoundTrip(*CoreOf(*channel), server, "next"), absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return Holders(second) == 0; }));
  EXPECT_EQ(server.core().ledger()->held_total(), 0u);
}

TEST_F(ChannelTest, ACallStartsOnce) {
  Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  EXPECT_EQ(call->RecvFd("inode://1/2").status().code(), absl::StatusCode::kFailedPrecondition)
      << "nothing can have come back before the start";
  ASSERT_TRUE(call->SendFd(MakeFile("x")).ok());
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  EXPECT_EQ(call->BeginStart({}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(call->SendFd(MakeFile("late")).status().code(), absl::StatusCode::kFailedPrecondition)
      << "the request is out";
}

TEST_F(ChannelTest, StreamsOfRequestsSendMoreLater) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  auto early = call->SendFd(MakeFile("early"));
  ClientCall::Start start;
  start.client_streams = true;
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call, start).ok());
  EXPECT_EQ(call->metadata().count, 1u);
  ServerCall::Config config;
  config.client_streams = true;
  auto served = server.Serve(call->metadata(), config);
  // More in all than a call may have at once, each taken before the next.
  for (int i = 0; i < 100; ++i) {
    auto url = call->SendFd(MakeFile(absl::StrCat("late ", i)));
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(url->index(), static_cast<uint32_t>(i + 1));
    auto fd = served->RecvFd(*url);
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("late ", i));
  }
  EXPECT_EQ(Content(*served->RecvFd(*early)), "early");
}

// --- ServerCall ---

TEST_F(ChannelTest, UnaryReplyHasTheClientsLimit) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto served = server.Serve(call->metadata());
  std::vector<InodeUrl> urls;
  for (int i = 0; i < 16; ++i) {
    auto url = served->SendFd(MakeFile(absl::StrCat("file ", i)));
    ASSERT_TRUE(url.ok()) << url.status();
    urls.push_back(*url);
  }
  const auto refused = served->SendFd(MakeFile("one too many"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
  for (size_t i = 16; i-- > 0;) {  // In any order.
    EXPECT_EQ(Content(*call->RecvFd(urls[i])), absl::StrCat("file ", i));
  }
}

TEST_F(ChannelTest, StreamsOfRepliesSendAsManyAsAreTaken) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  ServerCall::Config config;
  config.server_streams = true;
  config.never_block = true;
  auto served = server.Serve(call->metadata(), config);
  for (int i = 0; i < 200; ++i) {
    auto url = served->SendFd(MakeFile(absl::StrCat("file ", i)));
    ASSERT_TRUE(url.ok()) << i << ": " << url.status();
    auto fd = call->RecvFd(*url);
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i));
  }
}

TEST_F(ChannelTest, AFullWindowIsRefusedAtOnceIfItMustNotBlock) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  ServerCall::Config config;
  config.server_streams = true;
  config.never_block = true;
  auto served = server.Serve(call->metadata(), config);
  int sent = 0;
  absl::Status status;
  while (status.ok() && sent < 1000) {
    status = served->SendFd(MakeFile("x")).status();
    if (status.ok()) ++sent;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(sent, 64) << "session_window";
}

TEST_F(ChannelTest, AReceiveThatMustNotBlockSaysWhatToCallInstead) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  ClientCall::Start start;
  start.client_streams = true;
  start.limits = CoreOf(*channel)->options().limits;
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call, start).ok());
  ServerCall::Config config;
  config.client_streams = true;
  config.never_block = true;
  auto served = server.Serve(call->metadata(), config);
  for (const bool dup : {false, true}) {
    const absl::Status status = dup ? served->DupFd("inode://1/2?fd=0").status()
                                    : served->RecvFd("inode://1/2?fd=0").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("RecvFdAsync"));
  }
  // With a deadline of its own it waits.
  EXPECT_EQ(served->RecvFd("inode://1/2?fd=0", absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  // What is there needs no wait.
  const auto url = call->SendFd(MakeFile("x"));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(Content(*served->RecvFd(*url)), "x");
}

TEST_F(ChannelTest, HandleMayOutliveItsCallButDoesNothingThen) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  auto call = std::make_shared<ClientCall>();
  UniqueFd file = MakeFile("never taken");
  const DevIno dev_ino = DevInoOf(file);
  auto url = call->SendFd(std::move(file));
  ASSERT_TRUE(StartCall(*CoreOf(*channel), call).ok());
  auto served = server.Serve(call->metadata());
  served->End();
  served->End();
  constexpr absl::StatusCode kEnded = absl::StatusCode::kFailedPrecondition;
  EXPECT_EQ(served->RecvFd(*url).status().code(), kEnded);
  EXPECT_EQ(served->DupFd(*url).status().code(), kEnded);
  EXPECT_EQ(served->SendFd(MakeFile("late")).status().code(), kEnded);
  EXPECT_EQ(served->SendFilename("/dev/null").status().code(), kEnded);
  absl::Status async;
  served->RecvFdAsync(*url, [&](absl::StatusOr<UniqueFd> fd) { async = fd.status(); });
  EXPECT_EQ(async.code(), kEnded);
  EXPECT_TRUE(Eventually([&] { return Holders(dev_ino) == 0; })) << "what nobody took is closed";
  EXPECT_TRUE(Eventually([&] { return server.core().ledger()->held_total() == 0; }));
}

// One who waits is released, whichever way the call comes to its end.
TEST_F(ChannelTest, EndAndCancelReleaseWaiters) {
  TestServer& server = Serve();
  auto channel = MakeChannel(path_);
  for (const bool cancel : {false, true}) {
    auto call = std::make_shared<ClientCall>();
    ClientCall::Start start;
    start.client_streams = true;
    ASSERT_TRUE(StartCall(*CoreOf(*channel), call, start).ok());
    ServerCall::Config config;
    config.client_streams = true;
    auto served = server.Serve(call->metadata(), config);
    absl::Status status;
    std::thread waiter([&] { status = served->RecvFd("inode://1/2?fd=0").status(); });
    if (cancel) {
      served->Cancel();
    } else {
      served->End();
    }
    waiter.join();
    EXPECT_EQ(status.code(),
              cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kFailedPrecondition)
        << status;
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
