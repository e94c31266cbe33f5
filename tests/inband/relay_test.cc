// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The relay, byte by byte: the test is the peer on one side and gRPC on the other.
#include "inband/relay.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fdchannel/calls/server_call.h"
#include "grpcfd/testing/same_file.h"
#include "inband/in_band_transport.h"
#include "tests/fdchannel/session/lingering_socket.h"
#include "tests/inband/relay_test_util.h"
#include "tests/pipe.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;
using testing_internal::Pipe;

constexpr absl::StatusCode kExhausted = absl::StatusCode::kResourceExhausted;

TEST(RelayTest, MovesBytesBothWays) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  WriteAll(c.peer, "to gRPC");
  EXPECT_EQ("to gRPC", ReadSome(c.grpc, 7));
  WriteAll(c.grpc, "to the peer");
  EXPECT_EQ("to the peer", ReadSome(c.peer, 11));
}

TEST(RelayTest, TheEndOfOneDirectionIsPassedOnAndTheOtherGoesOn) {
  for (const bool peer_first : {true, false}) {
    auto relay = StartRelay();
    RelayedConnection c(relay);
    const UniqueFd& first = peer_first ? c.peer : c.grpc;
    const UniqueFd& second = peer_first ? c.grpc : c.peer;
    WriteAll(first, "last words");
    ASSERT_EQ(0, ::shutdown(first.get(), SHUT_WR));
    EXPECT_EQ("last words", ReadSome(second, 10));
    EXPECT_TRUE(IsCut(second));
    WriteAll(second, "still here");
    EXPECT_EQ("still here", ReadSome(first, 10));
    ASSERT_EQ(0, ::shutdown(second.get(), SHUT_WR));
    EXPECT_TRUE(IsCut(first));
    EXPECT_TRUE(Eventually([&] { return relay->connection_count() == 0; }));
  }
}

TEST(RelayTest, WhatWasWrittenBeforeOneSideClosedReachesTheOther) {
  for (const bool peer_closes : {true, false}) {
    auto relay = StartRelay();
    RelayedConnection c(relay);
    const std::string text(100000, 'x');
    UniqueFd& closing = peer_closes ? c.peer : c.grpc;
    const UniqueFd& other = peer_closes ? c.grpc : c.peer;
    WriteAll(closing, text);
    closing.Reset();
    EXPECT_EQ(text, ReadSome(other, text.size()));
    EXPECT_TRUE(IsCut(other));
  }
}

TEST(RelayTest, APeerThatDiesWithUnreadBytesEndsTheConnection) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  WriteAll(c.grpc, "never read");
  ASSERT_TRUE(WaitReadable(c.peer));
  c.peer.Reset();
  EXPECT_TRUE(IsCut(c.grpc));
  EXPECT_TRUE(Eventually([&] { return relay->connection_count() == 0; }));
}

// --- What is left in the kernel (LazySocket) ---

TEST(RelayTest, WhatWasMovedOnIsTakenOutOfTheKernelSoon) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  WriteAll(c.grpc, "bytes");
  EXPECT_EQ("bytes", ReadSome(c.peer, 5));
  EXPECT_TRUE(Eventually([&] {
    int held = -1;
    return ::ioctl(c.grpc.get(), SIOCOUTQ, &held) == 0 && held == 0;
  }));
}

TEST(RelayTest, ASenderWithASmallBufferIsNotHeldUpForGood) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  const int least = 1;  // The kernel makes more of it; socket(7).
  ASSERT_EQ(0, ::setsockopt(c.grpc.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)));
  for (int i = 0; i < 100; ++i) {
    pollfd polled = {c.grpc.get(), POLLOUT, 0};
    ASSERT_EQ(1, ::poll(&polled, 1, 20000));
    WriteAll(c.grpc, "x");
    ASSERT_EQ("x", ReadSome(c.peer, 1));
  }
}

TEST(RelayTest, GrpcSeesACleanEndAlsoIfItsBytesWereNotTakenOutYet) {
  for (int i = 0; i < 20; ++i) {
    auto relay = StartRelay();
    RelayedConnection c(relay);
    WriteAll(c.grpc, "bytes");
    ASSERT_EQ("bytes", ReadSome(c.peer, 5));
    if (i % 2 == 0) {
      c.peer.Reset();
    } else {
      relay->Stop();
    }
    char byte;
    ASSERT_TRUE(WaitReadable(c.grpc));
    EXPECT_EQ(0, ::recv(c.grpc.get(), &byte, 1, MSG_DONTWAIT)) << errno;
  }
}

// --- Receiving ---

TEST(RelayTest, ADescriptorWithAWriteOfOneByte) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  const UniqueFd file = MakeFile("one");
  SendWithFd(c.peer, 'x', file);
  ASSERT_EQ("x", ReadSome(c.grpc, 1));
  // There before the byte is: no waiting.
  auto fd = c.Ask(NameOf(file));
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(*SameOpenFile(file, *fd));
  EXPECT_TRUE(IsCloseOnExec(*fd));
}

TEST(RelayTest, DescriptorsInTheMiddleOfAFrame) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  const auto files = MakeFiles(2);
  WriteAll(c.peer, "abc");
  SendWithFd(c.peer, 'd', files[0]);
  WriteAll(c.peer, "ef");
  SendWithFd(c.peer, 'g', files[1]);
  WriteAll(c.peer, "hi");
  EXPECT_EQ("abcdefghi", ReadSome(c.grpc, 9));
  EXPECT_EQ("file 0", ContentOf(c.Ask(NameOf(files[0]))));
  EXPECT_EQ("file 1", ContentOf(c.Ask(NameOf(files[1]))));
}

TEST(RelayTest, TwoHundredAtOnceBothWays) {
  InBandOptions options;
  options.max_fds_per_connection = 200;
  auto relay = StartRelay(options);
  RelayedConnection c(relay);
  const auto files = MakeFiles(200);
  for (const UniqueFd& file : files) SendWithFd(c.peer, 'x', file);
  EXPECT_EQ(std::string(200, 'x'), ReadSome(c.grpc, 200));
  for (size_t i = 0; i < files.size(); ++i) {
    EXPECT_EQ(absl::StrCat("file ", i), ContentOf(c.Ask(NameOf(files[i]))));
  }

  for (const UniqueFd& file : files) ASSERT_TRUE(c.Push(*BorrowedFd(file).Dup()).ok());
  WriteAll(c.grpc, std::string(300, 'y'));
  for (size_t i = 0; i < files.size(); ++i) {
    const Read read = ReadOnce(c.peer);
    // One to a byte, and the last with all the rest.
    ASSERT_EQ(std::string(i < 199 ? 1 : 101, 'y'), read.bytes);
    ASSERT_EQ(1u, read.fds.size());
    EXPECT_TRUE(*SameOpenFile(files[i], read.fds[0]));
  }
}

// Peers of another make may put several on one byte.
TEST(RelayTest, ManyDescriptorsOnOneByte) {
  InBandOptions options;
  options.max_fds_per_connection = 253;
  auto relay = StartRelay(options);
  RelayedConnection c(relay);
  const auto files = MakeFiles(253);
  ASSERT_TRUE(SendMessage(c.peer, Bytes("x"), Numbers(files)).ok());
  EXPECT_EQ("x", ReadSome(c.grpc, 1));
  EXPECT_EQ("file 252", ContentOf(c.Ask(NameOf(files[252]))));
}

TEST(RelayTest, TheFirstOfAnInodeStays) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  const UniqueFd first(::eventfd(1, EFD_CLOEXEC));
  const UniqueFd second(::eventfd(2, EFD_CLOEXEC));
  ASSERT_EQ(NameOf(first), NameOf(second));
  SendWithFd(c.peer, 'x', first);
  SendWithFd(c.peer, 'y', second);
  ASSERT_EQ("xy", ReadSome(c.grpc, 2));
  for (int i = 0; i < 2; ++i) {
    auto fd = c.Ask(NameOf(first));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_TRUE(*SameOpenFile(first, *fd));
  }
  EXPECT_EQ(1u, c.in_band->received.size());
}

TEST(RelayTest, TheLeastRecentlyUsedGoesAndWhoAsksIsTold) {
  InBandOptions options;
  options.max_fds_per_connection = 2;
  auto relay = StartRelay(options);
  RelayedConnection c(relay);
  Pipe pipe;
  const DevIno pipe_name = NameOf(pipe.write);
  const auto files = MakeFiles(2);
  SendWithFd(c.peer, '0', files[0]);
  SendWithFd(c.peer, 'p', pipe.write);
  pipe.write.Reset();
  ASSERT_EQ("0p", ReadSome(c.grpc, 2));
  EXPECT_TRUE(c.Ask(NameOf(files[0])).ok());  // Used: the pipe is the oldest now.
  SendWithFd(c.peer, '1', files[1]);
  ASSERT_EQ("1", ReadSome(c.grpc, 1));
  EXPECT_TRUE(pipe.WriteEndsAreClosed());
  // At once, though the deadline is far.
  const auto gone =
      c.in_band->received.Receive(pipe_name, &c.caller, absl::InfiniteFuture(), nullptr);
  EXPECT_EQ(kExhausted, gone.status().code()) << gone.status();
  EXPECT_TRUE(c.Ask(NameOf(files[0])).ok());
  EXPECT_TRUE(c.Ask(NameOf(files[1])).ok());
  // What comes again can be had again.
  SendWithFd(c.peer, 'p', pipe.read);
  ASSERT_EQ("p", ReadSome(c.grpc, 1));
  EXPECT_TRUE(c.Ask(pipe_name).ok());
}

TEST(RelayTest, ConnectionsShareTheTotal) {
  InBandOptions options;
  options.max_fds_total = 4;
  auto relay = StartRelay(options);
  RelayedConnection a(relay);
  const auto files = MakeFiles(4);
  for (const UniqueFd& file : files) SendWithFd(a.peer, 'x', file);
  ASSERT_EQ("xxxx", ReadSome(a.grpc, 4));
  EXPECT_EQ(4u, a.in_band->received.size());
  RelayedConnection b(relay);
  EXPECT_EQ(2u, a.in_band->received.size());
  for (const UniqueFd& file : files) SendWithFd(b.peer, 'x', file);
  ASSERT_EQ("xxxx", ReadSome(b.grpc, 4));
  EXPECT_EQ(2u, b.in_band->received.size());
  EXPECT_TRUE(b.Ask(NameOf(files[3])).ok());
}

TEST(RelayTest, DescriptorsOfTwoConnectionsNeverMix) {
  auto relay = StartRelay();
  RelayedConnection a(relay);
  RelayedConnection b(relay);
  const UniqueFd first(::eventfd(1, EFD_CLOEXEC));
  const UniqueFd second(::eventfd(2, EFD_CLOEXEC));
  const UniqueFd only_a = MakeFile("a's");
  SendWithFd(a.peer, 'x', first);
  SendWithFd(b.peer, 'x', second);
  SendWithFd(a.peer, 'x', only_a);
  ASSERT_EQ("xx", ReadSome(a.grpc, 2));
  ASSERT_EQ("x", ReadSome(b.grpc, 1));
  EXPECT_TRUE(*SameOpenFile(first, *a.Ask(NameOf(first))));
  EXPECT_TRUE(*SameOpenFile(second, *b.Ask(NameOf(first))));
  EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, b.Ask(NameOf(only_a)).status().code());
  EXPECT_EQ(relay->Find(a.name), a.in_band);
  EXPECT_EQ(relay->Find(b.name), b.in_band);
  EXPECT_EQ(relay->Find("another"), nullptr);
}

TEST(RelayTest, AFloodIsCut) {
  InBandOptions options;
  options.max_fds_burst = 100;
  auto relay = StartRelay(options);
  RelayedConnection flooding(relay);
  RelayedConnection other(relay);
  const UniqueFd awaited = MakeFile("never comes");
  auto waiting = std::async(std::launch::async, [&] {
    return flooding.in_band->received.Receive(NameOf(awaited), &flooding.caller,
                                              absl::InfiniteFuture(), nullptr);
  });
  const UniqueFd file = MakeFile("flood");
  const int number = file.get();
  size_t sent = 0;
  while (sent < 100000) {
    const IoResult io = SendMessage(flooding.peer, Bytes("x"), absl::MakeConstSpan(&number, 1));
    if (io.ok()) {
      ++sent;
    } else if (!io.would_block()) {
      break;
    }
  }
  EXPECT_GE(sent, 100u);
  EXPECT_LT(sent, 100000u);
  const auto result = waiting.get();
  EXPECT_EQ(kExhausted, result.status().code()) << result.status();
  EXPECT_THAT(result.status().message(), HasSubstr("max_fds_burst = 100"));
  EXPECT_TRUE(Eventually([&] { return relay->connection_count() == 1; }));
  WriteAll(other.peer, "fine");
  EXPECT_EQ("fine", ReadSome(other.grpc, 4));
}

// What is unread in the socket of a connection that is cut goes with the socket, and closing that
// can block for as long as its sender likes.
TEST(RelayTest, AnUnreadDescriptorThatIsSlowToCloseHoldsNobodyUp) {
  LingeringSocket slow;
  InBandOptions options;
  options.max_fds_burst = 1;
  auto relay = StartRelay(options);
  RelayedConnection other(relay);
  auto outer = StreamPair();
  const UniqueFd file = MakeFile("flood");
  const int flood[] = {file.get(), file.get()};
  ASSERT_TRUE(SendMessage(outer.first, Bytes("x"), absl::MakeConstSpan(flood)).ok());
  SendWithFd(outer.first, 'y', slow.socket);
  slow.socket.Reset();  // Not the last reference: that one is in flight.
  auto inner = MakeInnerPair();
  ASSERT_TRUE(inner.ok()) << inner.status();
  relay->Add({inner->name, {std::move(outer.second), std::move(inner->relay_end)}, {}, {}, {}, {}});
  EXPECT_TRUE(IsCut(outer.first));
  EXPECT_TRUE(IsCut(inner->grpc_end));
  EXPECT_TRUE(Eventually([&] { return relay->Find(inner->name) == nullptr; }));
  WriteAll(other.peer, "fine");
  EXPECT_EQ("fine", ReadSome(other.grpc, 4));
  slow.peer.Reset();  // Lets the close go on.
}

// Passed over, it would be dropped by the kernel in the middle of the relay's recvmsg(2), and its
// descriptor with it.
TEST(RelayTest, AnOutOfBandByteIsOneLikeTheOthers) {
  auto relay = StartRelay();
  auto outer = StreamPair();
  const UniqueFd file = MakeFile("out of band");
  std::string control(CMSG_SPACE(sizeof(int)), '\0');
  cmsghdr head;
  head.cmsg_level = SOL_SOCKET;
  head.cmsg_type = SCM_RIGHTS;
  head.cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(&control[0], &head, sizeof(head));
  const int number = file.get();
  memcpy(&control[CMSG_LEN(0)], &number, sizeof(number));
  char byte = 'a';
  iovec vector = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = &control[0];
  message.msg_controllen = control.size();
  if (::sendmsg(outer.first.get(), &message, MSG_OOB | MSG_NOSIGNAL) != 1) {
    EXPECT_EQ(errno, EOPNOTSUPP) << "a kernel without CONFIG_AF_UNIX_OOB";
    return;
  }
  WriteAll(outer.first, "bc");
  auto inner = MakeInnerPair();
  ASSERT_TRUE(inner.ok()) << inner.status();
  const auto added = relay->Add(
      {inner->name, {std::move(outer.second), std::move(inner->relay_end)}, {}, {}, {}, {}});
  EXPECT_EQ("abc", ReadSome(inner->grpc_end, 3));
  // Kernels that pass descriptors with such a byte at all pass this one.
  ReceivedFds::Caller caller;
  const auto fd = added->received.Receive(NameOf(file), &caller, absl::InfinitePast(), nullptr);
  EXPECT_THAT(ContentOf(fd), ::testing::AnyOf("out of band", HasSubstr("DEADLINE_EXCEEDED")));
}

// As many as in a flood, but with the bytes of calls in between.
TEST(RelayTest, ManyCallsAreNoFlood) {
  InBandOptions options;
  options.max_fds_burst = 4;
  auto relay = StartRelay(options);
  RelayedConnection c(relay);
  const UniqueFd file = MakeFile("x");
  const std::string call(31, 'c');
  for (int i = 0; i < 1000; ++i) {
    for (int k = 0; k < 4; ++k) SendWithFd(c.peer, 'x', file);
    WriteAll(c.peer, call);
    ASSERT_EQ("xxxx" + call, ReadSome(c.grpc, 35));
  }
}

TEST(RelayTest, ADescriptorThatIsLostOnTheWayInCutsTheConnection) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  const auto files = MakeFiles(2);
  // The thread that closes descriptors, and what it needs, is there from now on.
  SendWithFd(c.peer, 'x', files[0]);
  ASSERT_EQ("x", ReadSome(c.grpc, 1));
  {
    ScopedFdRoom room(0);
    SendWithFd(c.peer, 'y', files[1]);
    EXPECT_TRUE(IsCut(c.peer));
  }
  const auto result = c.Ask(NameOf(files[1]));
  EXPECT_EQ(kExhausted, result.status().code()) << result.status();
  EXPECT_THAT(result.status().message(), HasSubstr("RLIMIT_NOFILE"));
  // What came before may still be had.
  EXPECT_EQ("file 0", ContentOf(c.Ask(NameOf(files[0]))));
}

// A wait's deadline may be the client's, who may call again and again with one that is far away.
TEST(RelayTest, AWaitThatIsOverLeavesNoTimer) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  constexpr int kWaits = 100;
  ServerCall::Config config;
  config.deadline = absl::Now() + absl::Hours(24 * 365);
  const auto make_call = [&] {
    return std::make_shared<ServerCall>(std::make_shared<InBandTransport>(c.in_band, nullptr),
                                        config);
  };
  const DevIno never_sent{1, 2};
  std::atomic<int> ended{0};
  const auto count = [&ended](const absl::StatusOr<UniqueFd>&) { ++ended; };
  std::vector<std::shared_ptr<ServerCall>> calls;
  for (int i = 0; i < kWaits; ++i) {
    calls.push_back(make_call());
    calls.back()->RecvFdAsync(InodeUrl(never_sent), absl::InfiniteFuture(), count);
  }
  EXPECT_EQ(relay->poller()->timer_count(), static_cast<size_t>(kWaits));
  for (int i = 0; i < kWaits; ++i) i % 2 == 0 ? calls[i]->Cancel() : calls[i]->End();
  EXPECT_TRUE(Eventually([&] { return ended == kWaits; }));
  EXPECT_EQ(relay->poller()->timer_count(), 0u);

  // The same when a descriptor comes, when time runs out, and when the connection ends.
  const UniqueFd file = MakeFile("comes");
  const auto call = make_call();
  call->RecvFdAsync(InodeUrl(NameOf(file)), absl::InfiniteFuture(), count);
  SendWithFd(c.peer, 'x', file);
  EXPECT_TRUE(Eventually([&] { return ended == kWaits + 1; }));
  EXPECT_EQ(relay->poller()->timer_count(), 0u);
  call->RecvFdAsync(InodeUrl(never_sent), absl::Now() + absl::Milliseconds(1), count);
  EXPECT_TRUE(Eventually([&] { return ended == kWaits + 2; }));
  EXPECT_EQ(relay->poller()->timer_count(), 0u);
  call->RecvFdAsync(InodeUrl(never_sent), absl::InfiniteFuture(), count);
  c.peer.Reset();
  c.grpc.Reset();
  EXPECT_TRUE(Eventually([&] { return ended == kWaits + 3; }));
  EXPECT_TRUE(Eventually([&] { return relay->connection_count() == 0; }));
  EXPECT_EQ(relay->poller()->timer_count(), 0u);
}

// FdReceiver promises a thread of grpcfd's: who releases a call may be gRPC, in the middle of its
// own affairs.
TEST(RelayTest, AWaitThatIsReleasedCallsBackOnTheRelaysThread) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  for (const bool cancel : {true, false}) {
    auto call = std::make_shared<ServerCall>(std::make_shared<InBandTransport>(c.in_band, nullptr),
                                             ServerCall::Config());
    std::promise<std::pair<std::string, absl::StatusCode>> told;
    call->RecvFdAsync(InodeUrl(DevIno{1, 2}), absl::InfiniteFuture(),
                      [&told](const absl::StatusOr<UniqueFd>& fd) {
                        char name[16];
                        pthread_getname_np(pthread_self(), name, sizeof(name));
                        told.set_value({name, fd.status().code()});
                      });
    if (cancel) {
      call->Cancel();
    } else {
      call->End();
    }
    call.reset();
    const auto [thread, code] = told.get_future().get();
    EXPECT_EQ(thread, "grpcfd-relay");
    EXPECT_EQ(code, cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kFailedPrecondition);
  }
}

TEST(RelayTest, WhatCameCanBeHadUntilTheLastCallOfAConnectionThatEnded) {
  auto relay = StartRelay();
  Pipe pipe;
  {
    RelayedConnection c(relay);
    const DevIno name = NameOf(pipe.write);
    SendWithFd(c.peer, 'x', pipe.write);
    pipe.write.Reset();
    c.peer.Reset();
    ASSERT_EQ("x", ReadSome(c.grpc, 1));
    ASSERT_TRUE(Eventually([&] { return relay->connection_count() == 0; }));
    EXPECT_TRUE(c.Ask(name).ok());
    EXPECT_EQ(absl::StatusCode::kUnavailable, c.Ask(DevIno{1, 2}).status().code());
  }
  EXPECT_TRUE(pipe.WriteEndsAreClosed());
}

// --- Sending ---

TEST(RelayTest, ADescriptorWaitsForAByte) {
  auto relay = StartRelay();
  RelayedConnection c(relay);
  const auto files = MakeFiles(3);
  for (const UniqueFd& file : files) ASSERT_TRUE(c.Push(*BorrowedFd(file).Dup()).ok());
  EXPECT_EQ(3u, c.in_band->queue.size());
  WriteAll(c.grpc, "1");
  Read read = ReadOnce(c.peer);
  EXPECT_EQ("1", read.bytes);
  ASSERT_EQ(1u, read.fds.size());
  EXPECT_TRUE(*SameOpenFile(files[0], read.fds[0]));
  EXPECT_EQ(2u, c.in_band->queue.size());
  WriteAll(c.grpc, "23456");
  for (size_t i = 1; i <= 2; ++i) {
    read = ReadOnce(c.peer);
    EXPECT_EQ(i == 1 ? "2" : "3456", read.bytes);
    ASSERT_EQ(1u, read.fds.size());
    EXPECT_TRUE(*SameOpenFile(files[i], read.fds[0]));
  }
}

// unix(7): a send of which only a part fits has sent its descriptors.
TEST(RelayTest, ADescriptorLeavesOnceWithBytesThatLeaveInParts) {
  InBandOptions options;
  options.buffer_size = size_t{1} << 20;
  auto relay = StartRelay(options);
  RelayedConnection c(relay);
  const UniqueFd file = MakeFile("once");
  ASSERT_TRUE(c.Push(*BorrowedFd(file).Dup()).ok());
  const std::string text(size_t{3} << 20, 'x');
  std::thread writer([&] {
    for (size_t sent = 0; sent < text.size();) {
      pollfd polled = {c.grpc.get(), POLLOUT, 0};
      ASSERT_EQ(1, ::poll(&polled, 1, 20000));
      const ssize_t n = ::send(c.grpc.get(), &text[sent], text.size() - sent, MSG_NOSIGNAL);
      if (n > 0) sent += static_cast<size_t>(n);
    }
  });
  size_t bytes = 0, fds = 0;
  while (bytes < text.size()) {
    const Read read = ReadOnce(c.peer, 50000);
    if (read.bytes.empty()) break;
    if (bytes == 0) {
      EXPECT_EQ(1u, read.fds.size());
    }
    bytes += read.bytes.size();
    fds += read.fds.size();
  }
  writer.join();
  EXPECT_EQ(text.size(), bytes);
  EXPECT_EQ(1u, fds);
}

TEST(RelayTest, DeathWithDescriptorsQueued) {
  for (const bool peer_dies : {true, false}) {
    auto relay = StartRelay();
    RelayedConnection c(relay);
    Pipe pipe;
    ASSERT_TRUE(c.Push(std::move(pipe.write)).ok());
    (peer_dies ? c.peer : c.grpc).Reset();
    EXPECT_TRUE(pipe.WriteEndsAreClosed());
    EXPECT_TRUE(Eventually([&] { return relay->connection_count() == 0; }));
    const absl::Status late = c.Push(MakeFile("late"));
    EXPECT_EQ(absl::StatusCode::kUnavailable, late.code()) << late;
    EXPECT_EQ(nullptr, relay->Find(c.name));
  }
}

TEST(RelayTest, SentDescriptorsAreRememberedInABoundedNumber) {
  InBandOptions options;
  options.max_fds_per_connection = 3;
  auto relay = StartRelay(options);
  RelayedConnection c(relay);
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(c.Push(MakeFile("x")).ok());
    WriteAll(c.grpc, "x");
    EXPECT_EQ(1u, ReadOnce(c.peer).fds.size());
  }
  EXPECT_EQ(3u, c.in_band->queue.remembered());
}

// --- Counters ---

TEST(RelayTest, CountsWhatCameWhatWasClosedAndWhatLeft) {
  const auto counters = std::make_shared<InBandCounters>();
  InBandOptions options;
  options.max_fds_per_connection = 2;
  options.max_queued_fds = 2;
  auto relay = StartRelay(options, counters);
  {
    RelayedConnection c(relay);
    const auto files = MakeFiles(3);
    for (const size_t i : {0, 0, 1, 2}) {
      SendWithFd(c.peer, 'x', files[i]);
      ASSERT_EQ("x", ReadSome(c.grpc, 1));
    }
    InBandStats stats = ToInBandStats(*counters);
    EXPECT_EQ(1u, stats.connections_now);
    EXPECT_EQ(4u, stats.fds_received);
    EXPECT_EQ(1u, stats.fds_repeated);
    EXPECT_EQ(1u, stats.fds_pushed_out);
    EXPECT_EQ(0u, stats.fds_sent);

    ASSERT_TRUE(c.Push(MakeFile("sent")).ok());
    WriteAll(c.grpc, "x");
    EXPECT_EQ(1u, ReadOnce(c.peer).fds.size());
    ASSERT_TRUE(c.Push(MakeFile("never sent")).ok());
    ASSERT_TRUE(c.Push(MakeFile("nor this")).ok());
    EXPECT_EQ(kExhausted, c.Push(MakeFile("one too many")).code());
    c.peer.Reset();
    EXPECT_TRUE(Eventually([&] { return relay->connection_count() == 0; }));
    stats = ToInBandStats(*counters);
    EXPECT_EQ(1u, stats.fds_sent);
    EXPECT_EQ(2u, stats.fds_unsent);
    EXPECT_EQ(1u, stats.sends_refused);
  }
  EXPECT_TRUE(Eventually([&] { return ToInBandStats(*counters).connections_now == 0; }));
  EXPECT_EQ(1u, ToInBandStats(*counters).connections);
}

TEST(RelayTest, CountsWhyConnectionsAreCut) {
  const auto counters = std::make_shared<InBandCounters>();
  InBandOptions options;
  options.max_fds_burst = 1;
  auto relay = StartRelay(options, counters);
  const auto files = MakeFiles(3);
  {
    RelayedConnection flooding(relay);
    int numbers[3] = {files[0].get(), files[1].get(), files[2].get()};
    ASSERT_TRUE(SendMessage(flooding.peer, Bytes("x"), numbers).ok());
    EXPECT_TRUE(IsCut(flooding.peer));
  }
  RelayedConnection truncated(relay);
  SendWithFd(truncated.peer, 'x', files[0]);
  ASSERT_EQ("x", ReadSome(truncated.grpc, 1));
  {
    ScopedFdRoom room(0);
    SendWithFd(truncated.peer, 'y', files[1]);
    EXPECT_TRUE(IsCut(truncated.peer));
  }
  const InBandStats stats = ToInBandStats(*counters);
  EXPECT_EQ(1u, stats.cut_flood);
  EXPECT_EQ(1u, stats.cut_truncated);
  EXPECT_EQ(0u, stats.cut_unsendable);
  EXPECT_EQ(2u, stats.connections);
}

// --- Back-pressure ---

size_t WriteUntilFull(BorrowedFd socket, std::string* written) {
  std::mt19937 random(1);
  std::string chunk(10000, '\0');
  for (;;) {
    for (char& byte : chunk) byte = static_cast<char>(random());
    const ssize_t sent = ::send(socket.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      written->append(chunk, 0, static_cast<size_t>(sent));
      continue;
    }
    // The relay may be about to take more.
    pollfd polled = {socket.get(), POLLOUT, 0};
    if (::poll(&polled, 1, 100) == 0) return written->size();
  }
}

TEST(RelayTest, ASideThatDoesNotReadHoldsUpTheOtherAndNobodyElse) {
  for (const bool to_grpc : {true, false}) {
    auto relay = StartRelay();
    RelayedConnection slow(relay);
    RelayedConnection other(relay);
    const UniqueFd& from = to_grpc ? slow.peer : slow.grpc;
    const UniqueFd& to = to_grpc ? slow.grpc : slow.peer;
    std::string written;
    const size_t held = WriteUntilFull(from, &written);
    EXPECT_LT(held, size_t{4} << 20);  // Socket buffers and one of the relay's.
    for (int i = 0; i < 100; ++i) {
      WriteAll(other.peer, "ping");
      ASSERT_EQ("ping", ReadSome(other.grpc, 4));
      WriteAll(other.grpc, "pong");
      ASSERT_EQ("pong", ReadSome(other.peer, 4));
    }
    EXPECT_EQ(written, ReadSome(to, written.size()));
    WriteAll(from, "again");
    EXPECT_EQ("again", ReadSome(to, 5));
  }
}

TEST(RelayTest, APeerThatNeverReadsTheLastBytesIsLetGo) {
  InBandOptions options;
  options.linger = absl::Milliseconds(50);
  auto relay = StartRelay(options);
  RelayedConnection c(relay);
  std::string written;
  WriteUntilFull(c.grpc, &written);
  c.grpc.Reset();
  EXPECT_TRUE(Eventually([&] { return relay->connection_count() == 0; }));
}

// --- All of it at once ---

// Random writes, reads and descriptors in both directions. Each descriptor is there when its byte
// is, and leaves with a byte that was written after it was queued.
TEST(RelayTest, OrderHoldsUnderRandomLoad) {
  for (unsigned seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937 random(seed);
    const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
    InBandOptions options;
    options.buffer_size = size_t{1} << (8 + below(9));
    options.max_fds_per_connection = 1000;
    options.max_fds_total = 1000;
    options.max_fds_burst = 1000;
    auto relay = StartRelay(options);
    RelayedConnection c(relay);
    std::string in_bytes, out_bytes;
    size_t in_read = 0, out_read = 0;
    // By the offset of the byte that it is on; and by the number of bytes written before.
    std::map<size_t, UniqueFd> came;
    std::deque<std::pair<size_t, UniqueFd>> queued;
    const auto random_bytes = [&](size_t n) {
      std::string bytes(n, '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      return bytes;
    };
    const auto read_peer = [&](size_t most) {
      const Read read = ReadOnce(c.peer, 1 + below(most));
      ASSERT_EQ(out_bytes.substr(out_read, read.bytes.size()), read.bytes);
      out_read += read.bytes.size();
      for (const UniqueFd& fd : read.fds) {
        ASSERT_FALSE(queued.empty());
        ASSERT_TRUE(*SameOpenFile(queued.front().second, fd));
        // On the next byte that gRPC wrote, or as many bytes later as others went before it.
        EXPECT_LE(out_read - read.bytes.size(), queued.front().first + 200);
        queued.pop_front();
      }
    };
    const auto read_grpc = [&](size_t most) {
      const std::string bytes = ReadSome(c.grpc, 1 + below(most));
      ASSERT_EQ(in_bytes.substr(in_read, bytes.size()), bytes);
      in_read += bytes.size();
      while (!came.empty() && came.begin()->first < in_read) {
        auto fd = c.Ask(NameOf(came.begin()->second));
        ASSERT_TRUE(fd.ok()) << fd.status();
        ASSERT_TRUE(*SameOpenFile(came.begin()->second, *fd));
        came.erase(came.begin());
      }
    };
    for (int step = 0; step < 600; ++step) {
      switch (below(6)) {
        case 0:
        case 1:
          if (in_bytes.size() - in_read < 20000) {
            const std::string bytes = random_bytes(1 + below(3000));
            in_bytes += bytes;
            WriteAll(c.peer, bytes);
          }
          // What is under way fits into the sockets: the test does not read while it writes.
          if (below(2) == 0 && in_bytes.size() - in_read < 20000) {
            UniqueFd file = MakeFile("in");
            SendWithFd(c.peer, 'x', file);
            came.emplace(in_bytes.size(), std::move(file));
            in_bytes += 'x';
          }
          break;
        case 2:
        case 3:
          if (below(2) == 0 && c.in_band->queue.size() < 100) {
            UniqueFd file = MakeFile("out");
            ASSERT_TRUE(c.Push(*BorrowedFd(file).Dup()).ok());
            queued.emplace_back(out_bytes.size(), std::move(file));
          }
          if (out_bytes.size() - out_read < 20000) {
            const std::string bytes = random_bytes(1 + below(3000));
            out_bytes += bytes;
            WriteAll(c.grpc, bytes);
          }
          break;
        case 4:
          if (in_read < in_bytes.size())
            read_grpc(std::min<size_t>(in_bytes.size() - in_read, 5000));
          break;
        case 5:
          if (out_read < out_bytes.size()) read_peer(5000);
          break;
      }
      if (HasFatalFailure()) return;
    }
    WriteAll(c.grpc, std::string(200, 'e'));
    out_bytes += std::string(200, 'e');
    while (out_read < out_bytes.size() && !HasFatalFailure()) read_peer(5000);
    while (in_read < in_bytes.size() && !HasFatalFailure()) {
      read_grpc(std::min<size_t>(in_bytes.size() - in_read, 5000));
    }
    EXPECT_TRUE(queued.empty());
    EXPECT_TRUE(came.empty());
  }
}

TEST(RelayTest, StoppedInFullSwingItLeavesNothing) {
  for (int round = 0; round < 50; ++round) {
    InBandOptions options;
    options.relay_threads = 1 + static_cast<uint32_t>(round % 3);
    auto relay = StartRelay(options);
    std::vector<std::unique_ptr<RelayedConnection>> connections;
    for (int i = 0; i < 5; ++i) connections.push_back(std::make_unique<RelayedConnection>(relay));
    const auto files = MakeFiles(5);
    for (size_t i = 0; i < 5; ++i) {
      SendWithFd(connections[i]->peer, 'x', files[i]);
      ASSERT_TRUE(connections[i]->Push(*BorrowedFd(files[i]).Dup()).ok());
      WriteAll(connections[i]->grpc, "yy");
    }
    std::thread waiter([&] {
      const auto result = connections[0]->in_band->received.Receive(
          DevIno{1, 2}, &connections[0]->caller, absl::InfiniteFuture(), nullptr);
      EXPECT_EQ(absl::StatusCode::kUnavailable, result.status().code()) << result.status();
    });
    relay->Stop();
    waiter.join();
    EXPECT_EQ(nullptr, relay->Add({"late", {}, {}, {}, {}, {}}));
    for (const auto& c : connections) {
      EXPECT_EQ(absl::StatusCode::kUnavailable, c->Push(MakeFile("late")).code());
      // What gRPC had written before is not lost.
      EXPECT_EQ("yy", ReadSome(c->peer, 2));
    }
  }
}

TEST(InnerPairTest, ThePeerHasAUniqueName) {
  auto a = MakeInnerPair();
  auto b = MakeInnerPair();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(a->name, b->name);
  EXPECT_TRUE(HasInnerName(a->grpc_end));
  EXPECT_FALSE(HasInnerName(a->relay_end));
  EXPECT_EQ(a->name, InnerNameOfPeer("unix-abstract:" + a->name));
  EXPECT_EQ("", InnerNameOfPeer("unix:"));
  EXPECT_EQ("", InnerNameOfPeer("unix:" + a->name));
  EXPECT_EQ("", InnerNameOfPeer("ipv4:127.0.0.1:1"));
}

TEST(RelayOptionsTest, OptionsThatMakeNoSenseAreErrors) {
  const auto expect_refused = [](const char* name, const InBandOptions& options) {
    const absl::Status status = Relay::Start(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_NE(std::string(status.message()).find(name), std::string::npos) << status;
  };
  const auto with = [](auto set) {
    InBandOptions options;
    set(&options);
    return options;
  };
  expect_refused("max_fds_per_connection",
                 with([](InBandOptions* options) { options->max_fds_per_connection = 0; }));
  expect_refused("max_queued_fds",
                 with([](InBandOptions* options) { options->max_queued_fds = 0; }));
  expect_refused("max_fds_burst", with([](InBandOptions* options) { options->max_fds_burst = 0; }));
  expect_refused("relay_threads", with([](InBandOptions* options) { options->relay_threads = 0; }));
  expect_refused("buffer_size", with([](InBandOptions* options) { options->buffer_size = 0; }));
  expect_refused("linger",
                 with([](InBandOptions* options) { options->linger = absl::Seconds(-1); }));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
