// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a reader leaves in the kernel, and what its sender notices of it.
#include "inband/lazy_socket.h"

#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <string>

#include "tests/inband/relay_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

class LazySocketTest : public ::testing::Test {
 protected:
  LazySocketTest() : LazySocketTest(StreamPair()) {}

  std::string Receive(size_t size = 10000) {
    std::string bytes(size, '\0');
    const IoResult io = lazy_.Receive(&bytes[0], size);
    last_error_ = io.error;
    bytes.resize(io.ok() ? io.bytes : 0);
    return bytes;
  }
  // Bytes, and the kernel's own share, that count against the sender's buffer (unix(7)).
  int HeldForTheSender() const {
    int held = -1;
    EXPECT_EQ(0, ::ioctl(sender_.get(), SIOCOUTQ, &held));
    return held;
  }

  UniqueFd sender_;
  LazySocket lazy_;
  int last_error_ = 0;

 private:
  explicit LazySocketTest(std::pair<UniqueFd, UniqueFd> ends)
      : sender_(std::move(ends.first)), lazy_(std::move(ends.second)) {}
};

// The kernel fact behind it: net/unix/af_unix.c, unix_write_space.
TEST_F(LazySocketTest, TheSenderIsWokenWhenBytesAreTakenOutAndNotBefore) {
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLET;
  ASSERT_EQ(0, ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, sender_.get(), &event));
  ASSERT_EQ(1, ::epoll_wait(epoll.get(), &event, 1, 0));  // At first there is room.
  for (const char* bytes : {"a", "bc"}) {
    WriteAll(sender_, bytes);
    EXPECT_EQ(bytes, Receive());
    EXPECT_EQ(0, ::epoll_wait(epoll.get(), &event, 1, 0));
  }
  EXPECT_EQ(3u, lazy_.unsettled());
  lazy_.Settle();
  EXPECT_EQ(0u, lazy_.unsettled());
  EXPECT_EQ(1, ::epoll_wait(epoll.get(), &event, 1, 0));
  EXPECT_EQ(0, HeldForTheSender());
}

TEST_F(LazySocketTest, EachByteComesOnceWhateverIsSettledBetween) {
  std::string sent, received;
  for (int i = 0; i < 300; ++i) {
    const std::string bytes(1 + static_cast<size_t>(i * 37 % 200), static_cast<char>('a' + i % 26));
    WriteAll(sender_, bytes);
    sent += bytes;
    if (i % 3 != 0) received += Receive(1 + static_cast<size_t>(i * 101 % 300));
    if (i % 7 == 0) lazy_.Settle();
  }
  while (received.size() < sent.size()) received += Receive();
  EXPECT_EQ(sent, received);
  EXPECT_EQ("", Receive());
  EXPECT_EQ(EAGAIN, last_error_);
}

TEST_F(LazySocketTest, MuchIsTakenOutAtOnce) {
  const std::string much(5000, 'm');
  WriteAll(sender_, "little");
  EXPECT_EQ("little", Receive());
  for (int i = 0; i < 3; ++i) {
    WriteAll(sender_, much);
    EXPECT_EQ(much, Receive());
  }
  EXPECT_EQ(0u, lazy_.unsettled());  // From the second on; the first one settled what was before.
  EXPECT_EQ(0, HeldForTheSender());
  WriteAll(sender_, "little");
  EXPECT_EQ("little", Receive());
  WriteAll(sender_, "more");
  EXPECT_EQ("more", Receive());
  EXPECT_EQ(4u, lazy_.unsettled());
}

TEST_F(LazySocketTest, TheEndComesBehindWhatIsUnsettled) {
  WriteAll(sender_, "last");
  sender_.Reset();
  EXPECT_EQ("last", Receive());
  EXPECT_EQ("", Receive());
  EXPECT_EQ(0, last_error_);
}

TEST_F(LazySocketTest, ClosedItShowsTheOtherEndACleanEnd) {
  WriteAll(sender_, "read, but not taken out");
  EXPECT_EQ("read, but not taken out", Receive());
  lazy_.Close();
  char byte;
  EXPECT_EQ(0, ::recv(sender_.get(), &byte, 1, MSG_DONTWAIT));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
