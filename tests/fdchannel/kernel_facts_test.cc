// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What fdchannel/cmsg.cc and messages/message.cc take for granted about the kernel, by plain system
// calls. If one of these fails on a new kernel, the code that relies on it has to be read again;
// the comment of each test says which. Background: unix(7), cmsg(3), the kernel's net/core/scm.c
// and net/unix/af_unix.c.
#include <errno.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "fdchannel/pass_rights.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::SizeIs;

// A sendmsg(2) with one SCM_RIGHTS header for each list. Returns what the system call did, with
// errno.
ssize_t RawSend(BorrowedFd socket, const std::string& data,
                const std::vector<std::vector<int>>& lists) {
  std::string control;
  for (const std::vector<int>& fds : lists) {
    std::string entry(CMSG_SPACE(fds.size() * sizeof(int)), '\0');
    cmsghdr head;
    head.cmsg_level = SOL_SOCKET;
    head.cmsg_type = SCM_RIGHTS;
    head.cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(&entry[0], &head, sizeof(head));
    memcpy(&entry[CMSG_LEN(0)], fds.data(), fds.size() * sizeof(int));
    control += entry;
  }
  iovec vector = {const_cast<char*>(data.data()), data.size()};
  msghdr header = {};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.empty() ? nullptr : &control[0];
  header.msg_controllen = control.size();
  return ::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

struct RawMessage {
  ssize_t result = -1;
  int error = 0;
  int flags = 0;
  int headers = 0;  // Of SCM_RIGHTS.
  std::string data;
  std::vector<UniqueFd> fds;
};

RawMessage RawReceive(BorrowedFd socket, size_t size = 4096,
                      size_t control_size = CMSG_SPACE(253 * sizeof(int)),
                      int flags = MSG_CMSG_CLOEXEC) {
  RawMessage message;
  std::string data(size, '\0');
  std::vector<cmsghdr> control(control_size / sizeof(cmsghdr) + 1);  // For its alignment.
  iovec vector = {&data[0], data.size()};
  msghdr header = {};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control_size;
  message.result = ::recvmsg(socket.get(), &header, MSG_DONTWAIT | flags);
  if (message.result < 0) {
    message.error = errno;
    return message;
  }
  message.flags = header.msg_flags;
  message.data = data.substr(0, static_cast<size_t>(message.result));
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    ++message.headers;
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
      int fd;
      memcpy(&fd, reinterpret_cast<char*>(c) + at, sizeof(fd));
      message.fds.emplace_back(fd);
    }
  }
  return message;
}

std::vector<std::string> Contents(const std::vector<UniqueFd>& fds) {
  std::vector<std::string> contents;
  for (const UniqueFd& fd : fds) contents.push_back(Content(fd));
  return contents;
}

// SendMessage refuses to send no bytes.
TEST(KernelFactsTest, AnEmptySendOnAStreamDropsDescriptors) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const UniqueFd file = MakeFile("lost");
  EXPECT_EQ(RawSend(pair.a, "", {{file.get()}}), 0);
  EXPECT_EQ(RawReceive(pair.b).error, EAGAIN);
  EXPECT_EQ(RawSend(pair.a, "next", {}), 4);
  EXPECT_THAT(RawReceive(pair.b).fds, SizeIs(0));
}

// ReceiveMessages does not take a message of size 0 with descriptors for the end; one without
// cannot be told from it.
TEST(KernelFactsTest, AnEmptySeqpacketMessageIsDeliveredWithItsDescriptors) {
  SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("kept");
  EXPECT_EQ(RawSend(pair.a, "", {{file.get()}}), 0);
  EXPECT_EQ(RawSend(pair.a, "", {}), 0);
  pair.a.Reset();
  const RawMessage message = RawReceive(pair.b);
  EXPECT_EQ(message.result, 0);
  EXPECT_EQ(Contents(message.fds), std::vector<std::string>{"kept"});
  for (int i = 0; i < 2; ++i) {  // The second empty message, then the end: the same to the eye.
    const RawMessage empty = RawReceive(pair.b);
    EXPECT_EQ(empty.result, 0);
    EXPECT_THAT(empty.fds, SizeIs(0));
  }
}

// kMaxFdsPerMessage.
TEST(KernelFactsTest, AtMost253DescriptorsInOneMessage) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("x");
  errno = 0;
  EXPECT_EQ(RawSend(pair.a, "x", {std::vector<int>(254, file.get())}), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(RawReceive(pair.b).error, EAGAIN);
  EXPECT_EQ(RawSend(pair.a, "x", {std::vector<int>(253, file.get())}), 1);
  const RawMessage message = RawReceive(pair.b);
  EXPECT_THAT(message.fds, SizeIs(253));
  EXPECT_EQ(message.flags & MSG_CTRUNC, 0);
}

// Why AdoptAll sizes for the maximum and counts, and never sizes for what was announced.
TEST(KernelFactsTest, RoomForOneDescriptorLetsTwoThrough) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const std::vector<UniqueFd> files = MakeFiles(3);
  const std::vector<int> numbers = Numbers(files);
  EXPECT_EQ(RawSend(pair.a, "x", {{numbers[0], numbers[1]}}), 1);
  RawMessage message = RawReceive(pair.b, 1, CMSG_SPACE(sizeof(int)));
  EXPECT_EQ(Contents(message.fds), (std::vector<std::string>{"file 0", "file 1"}));
  EXPECT_EQ(message.flags & MSG_CTRUNC, 0);
  EXPECT_EQ(RawSend(pair.a, "x", {numbers}), 1);
  message = RawReceive(pair.b, 1, CMSG_SPACE(sizeof(int)));
  EXPECT_THAT(message.fds, SizeIs(2));
  EXPECT_NE(message.flags & MSG_CTRUNC, 0);
}

// Why MSG_CTRUNC is an error of its own, and why everything is owned before it is looked at.
TEST(KernelFactsTest, AtTheDescriptorLimitSomeArriveWithoutAnError) {
  const std::vector<UniqueFd> files = MakeFiles(5);
  for (const int room : {0, 1, 3}) {
    SCOPED_TRACE(room);
    const SocketPair pair = MakePair(SOCK_SEQPACKET);
    EXPECT_EQ(RawSend(pair.a, "whole", {Numbers(files)}), 5);
    RawMessage message;
    {
      const ScopedFdRoom limit(room);
      message = RawReceive(pair.b);
    }
    EXPECT_EQ(message.result, 5);
    EXPECT_EQ(message.data, "whole");
    EXPECT_NE(message.flags & MSG_CTRUNC, 0);
    EXPECT_THAT(message.fds, SizeIs(static_cast<size_t>(room)));
    // What did not fit is gone.
    EXPECT_EQ(RawReceive(pair.b).error, EAGAIN);
  }
}

// AdoptAll copes with several headers; the kernel makes one of them.
TEST(KernelFactsTest, SeveralRightsHeadersArriveAsOne) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const std::vector<UniqueFd> files = MakeFiles(3);
  const std::vector<int> numbers = Numbers(files);
  EXPECT_EQ(RawSend(pair.a, "x", {{numbers[0]}, {numbers[1], numbers[2]}}), 1);
  const RawMessage message = RawReceive(pair.b);
  EXPECT_EQ(message.headers, 1);
  EXPECT_EQ(Contents(message.fds), (std::vector<std::string>{"file 0", "file 1", "file 2"}));
}

// kReceiveFlags.
TEST(KernelFactsTest, OnlyTheReceiversFlagMakesDescriptorsCloseOnExec) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("x");
  ASSERT_TRUE(IsCloseOnExec(file));
  for (const int flag : {0, static_cast<int>(MSG_CMSG_CLOEXEC)}) {
    EXPECT_EQ(RawSend(pair.a, "x", {{file.get()}}), 1);
    const RawMessage message = RawReceive(pair.b, 1, CMSG_SPACE(sizeof(int)), flag);
    ASSERT_THAT(message.fds, SizeIs(1));
    EXPECT_EQ(IsCloseOnExec(message.fds[0]), flag != 0);
  }
}

// Why frames travel over SOCK_SEQPACKET.
TEST(KernelFactsTest, SeqpacketKeepsMessagesAndTheirDescriptorsTogether) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const std::vector<UniqueFd> files = MakeFiles(2);
  EXPECT_EQ(RawSend(pair.a, "none", {}), 4);
  EXPECT_EQ(RawSend(pair.a, "first", {{files[0].get()}}), 5);
  EXPECT_EQ(RawSend(pair.a, "second", {{files[1].get()}}), 6);
  RawMessage message = RawReceive(pair.b);
  EXPECT_EQ(message.data, "none");
  EXPECT_THAT(message.fds, SizeIs(0));
  message = RawReceive(pair.b);
  EXPECT_EQ(message.data, "first");
  EXPECT_EQ(Contents(message.fds), std::vector<std::string>{"file 0"});
  message = RawReceive(pair.b, 3);  // Too short for the data: the rest is cut, not kept.
  EXPECT_EQ(message.data, "sec");
  EXPECT_NE(message.flags & MSG_TRUNC, 0);
  EXPECT_EQ(Contents(message.fds), std::vector<std::string>{"file 1"});
  EXPECT_EQ(RawReceive(pair.b).error, EAGAIN);
}

// Why an empty socket proves that an announced descriptor is lost: what was sent before is there,
// and EAGAIN is never said of a socket that has something, however many send and receive at once.
TEST(KernelFactsTest, EagainOfASeqpacketMeansThatItIsEmpty) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  std::atomic<int> sent{0};
  std::thread sender([&] {
    for (int i = 0; i < 20000; ++i) {
      while (RawSend(pair.a, "x", {}) != 1) std::this_thread::yield();
      ++sent;
    }
  });
  for (int received = 0; received < 20000;) {
    const int there = sent;
    const RawMessage message = RawReceive(pair.b);
    if (message.result == 1) {
      ++received;
    } else {
      ASSERT_EQ(message.error, EAGAIN);
      ASSERT_GE(received, there) << "EAGAIN with a message in the socket";
    }
  }
  sender.join();
}

// The same on a stream: the bytes that were sent before come out of the same read.
TEST(KernelFactsTest, AStreamMergesBytesIntoTheReadWithDescriptors) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const UniqueFd file = MakeFile("x");
  EXPECT_EQ(RawSend(pair.a, "before", {}), 6);
  EXPECT_EQ(RawSend(pair.a, "with", {{file.get()}}), 4);
  EXPECT_EQ(RawSend(pair.a, "after", {}), 5);
  const RawMessage message = RawReceive(pair.b);
  EXPECT_EQ(message.data, "beforewith");
  EXPECT_THAT(message.fds, SizeIs(1));
}

// A session is drained to its end before it counts as dead.
TEST(KernelFactsTest, WhatAClosedPeerSentCanStillBeRead) {
  SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("late");
  EXPECT_EQ(RawSend(pair.a, "one", {{file.get()}}), 3);
  EXPECT_EQ(RawSend(pair.a, "two", {}), 3);
  pair.a.Reset();
  pollfd entry = {pair.b.get(), POLLIN | POLLRDHUP, 0};
  ASSERT_EQ(::poll(&entry, 1, 0), 1);
  EXPECT_EQ(entry.revents & (POLLIN | POLLHUP | POLLRDHUP), POLLIN | POLLHUP | POLLRDHUP);
  const RawMessage message = RawReceive(pair.b);
  EXPECT_EQ(message.data, "one");
  EXPECT_EQ(Contents(message.fds), std::vector<std::string>{"late"});
  EXPECT_EQ(RawReceive(pair.b).data, "two");
  EXPECT_EQ(RawReceive(pair.b).result, 0);
}

// A peer that closes before it has read everything adds one ECONNRESET, which hides nothing that
// was sent.
TEST(KernelFactsTest, APeerClosedWithUnreadDataResetsOnceAndLosesNothing) {
  SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("late");
  EXPECT_EQ(RawSend(pair.b, "never read", {}), 10);
  EXPECT_EQ(RawSend(pair.a, "one", {{file.get()}}), 3);
  pair.a.Reset();
  std::vector<std::string> seen;
  int resets = 0;
  for (;;) {
    const RawMessage message = RawReceive(pair.b);
    if (message.result == 0) break;
    if (message.result > 0) {
      seen.push_back(message.data);
      EXPECT_EQ(Contents(message.fds), std::vector<std::string>{"late"});
      continue;
    }
    ASSERT_EQ(message.error, ECONNRESET);
    ASSERT_LE(++resets, 1);
  }
  EXPECT_EQ(seen, std::vector<std::string>{"one"});
  EXPECT_EQ(resets, 1);
}

// Fixed-size frames make SIOCOUTQ a count of what the peer has not read yet.
TEST(KernelFactsTest, UnreadFramesAreChargedInEqualSteps) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("x");
  const std::string frame(64, 'x');
  const auto unread = [&pair] {
    int bytes = -1;
    EXPECT_EQ(::ioctl(pair.a.get(), SIOCOUTQ, &bytes), 0);
    return bytes;
  };
  EXPECT_EQ(unread(), 0);
  EXPECT_EQ(RawSend(pair.a, frame, {}), 64);
  const int step = unread();
  EXPECT_GE(step, 64);
  for (int i = 2; i <= 40; ++i) {
    // With or without descriptors.
    EXPECT_EQ(RawSend(pair.a, frame,
                      i % 2 ? std::vector<std::vector<int>>{{file.get()}}
                            : std::vector<std::vector<int>>{}),
              64);
    EXPECT_EQ(unread(), i * step);
  }
  for (int i = 39; i >= 0; --i) {
    EXPECT_EQ(RawReceive(pair.b).result, 64);
    EXPECT_EQ(unread(), i * step);
  }
}

// fdchannel/pass_rights.h: what a listener refuses its connections refuse, from the moment of
// connect(2), in one direction; a session's own pair is not concerned.
TEST(KernelFactsTest, ConnectionsInheritTheRefusalOfDescriptors) {
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const bool has_option = SetPassRights(listener, PassRights::kOff);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;  // Autobind: an abstract name of the kernel's choice (unix(7)).
  socklen_t size = sizeof(sa_family_t);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  size = sizeof(address);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  const UniqueFd file = MakeFile("x");
  const auto refused = [&](BorrowedFd socket) {
    return RawSend(socket, "x", {{file.get()}}) < 0 ? errno : 0;
  };
  EXPECT_EQ(refused(client), has_option ? EPERM : 0) << "before accept";
  const UniqueFd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_EQ(refused(client), has_option ? EPERM : 0) << "after accept";
  EXPECT_EQ(RawSend(client, "plain", {}), 5);
  EXPECT_EQ(refused(accepted), 0) << "the other way";
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  EXPECT_EQ(refused(pair.a), 0);
  EXPECT_EQ(refused(pair.b), 0);
  if (has_option) {
    EXPECT_TRUE(SetPassRights(accepted, PassRights::kOn));
    EXPECT_EQ(refused(client), 0) << "switched on again";
  }
}

// messages/message.cc sends unix: paths as O_PATH handles, because a socket file can be opened in
// no other way, and hands the receiver a path that leads through the handle. That is enough to
// connect (unix_find_bsd looks the inode up, not the name; proc(5), /proc/pid/fd), also when the
// name is gone.
TEST(KernelFactsTest, AHandleOfASocketFileIsGoodForConnecting) {
  char directory[] = "/tmp/grpcfd_facts_XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  const std::string path = std::string(directory) + "/socket";
  const auto address_of = [](const std::string& name) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    name.copy(address.sun_path, sizeof(address.sun_path) - 1);
    return address;
  };
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = address_of(path);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);

  EXPECT_EQ(::open(path.c_str(), O_RDWR | O_CLOEXEC), -1);
  EXPECT_EQ(errno, ENXIO);
  const UniqueFd handle(::open(path.c_str(), O_PATH | O_CLOEXEC));
  ASSERT_TRUE(handle.valid());
  EXPECT_EQ(::unlink(path.c_str()), 0);
  EXPECT_EQ(::rmdir(directory), 0);

  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  address = address_of("/proc/self/fd/" + std::to_string(handle.get()));
  EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
