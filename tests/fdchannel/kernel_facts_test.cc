// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What fdchannel/os/cmsg.cc and messages/message.cc take for granted about the kernel, by plain
// system calls. If one of these fails on a new kernel, the code that relies on it has to be read
// again; the comment of each test says which. Background: unix(7), cmsg(3), the kernel's
// net/core/scm.c and net/unix/af_unix.c.
#include <errno.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "fdchannel/os/pass_rights.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::SizeIs;

// A sendmsg(2) with one SCM_RIGHTS header for each list. Returns what the system call did, with
// errno.
ssize_t RawSend(BorrowedFd socket, const std::string& data,
                const std::vector<std::vector<int>>& lists, int flags = 0) {
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
  return ::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL | flags);
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
  EXPECT_EQ(RawReceive(pair.b).data, "after")
      << "a read ends with the bytes that bring descriptors";
}

// The hello's reply may come in pieces; its descriptor is there with the first byte of it.
TEST(KernelFactsTest, DescriptorsOfAStreamComeWithTheirFirstByte) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const UniqueFd file = MakeFile("first");
  EXPECT_EQ(RawSend(pair.a, "with", {{file.get()}}), 4);
  const RawMessage first = RawReceive(pair.b, 1);
  EXPECT_EQ(first.data, "w");
  EXPECT_EQ(Contents(first.fds), std::vector<std::string>{"first"});
  const RawMessage rest = RawReceive(pair.b);
  EXPECT_EQ(rest.data, "ith");
  EXPECT_THAT(rest.fds, SizeIs(0));
}

// Listener::SendAnswer, inband/send_queue.cc: descriptors of a short send have gone, and are not
// sent again with the rest.
TEST(KernelFactsTest, AShortSendTakesItsDescriptorsAlong) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const UniqueFd file = MakeFile("gone");
  const std::string much(16 << 20, 'x');
  const ssize_t sent = RawSend(pair.a, much, {{file.get()}});
  ASSERT_GT(sent, 0);
  ASSERT_LT(sent, static_cast<ssize_t>(much.size())) << "the socket took all of it";
  ssize_t received = 0;
  std::vector<std::string> contents;
  while (received < sent) {
    const RawMessage message = RawReceive(pair.b, much.size());
    ASSERT_GT(message.result, 0);
    received += message.result;
    for (const std::string& content : Contents(message.fds)) contents.push_back(content);
  }
  EXPECT_EQ(contents, std::vector<std::string>{"gone"});
}

// Why the library only ever reads its sockets by recvmsg(2): a plain read loses descriptors without
// a word. They are closed, which is what is wanted where none are expected.
TEST(KernelFactsTest, APlainReadClosesDescriptors) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const SocketPair pair = MakePair(type);
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    const UniqueFd read_end(ends[0]);
    UniqueFd write_end(ends[1]);
    EXPECT_EQ(RawSend(pair.a, "x", {{write_end.get()}}), 1);
    write_end.Reset();
    char byte;
    EXPECT_EQ(::read(read_end.get(), &byte, 1), -1) << "it is on its way";
    EXPECT_EQ(errno, EAGAIN);
    const size_t before = OpenFdCount();
    EXPECT_EQ(::read(pair.b.get(), &byte, 1), 1);
    EXPECT_EQ(OpenFdCount(), before);
    EXPECT_EQ(::read(read_end.get(), &byte, 1), 0) << "nobody has it any more";
  }
}

// Why first bytes are consumed and passed on, not peeked at: each look with room for descriptors
// makes new ones.
TEST(KernelFactsTest, APeekCopiesDescriptorsEachTime) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const UniqueFd file = MakeFile("again");
  EXPECT_EQ(RawSend(pair.a, "x", {{file.get()}}), 1);
  for (int i = 0; i < 3; ++i) {
    const RawMessage message =
        RawReceive(pair.b, 1, CMSG_SPACE(sizeof(int)), MSG_CMSG_CLOEXEC | MSG_PEEK);
    EXPECT_EQ(Contents(message.fds), std::vector<std::string>{"again"});
  }
  EXPECT_EQ(Contents(RawReceive(pair.b).fds), std::vector<std::string>{"again"});
}

// A peer can leave a byte out of a stream. Where frames are, it cannot: nothing to check there.
TEST(KernelFactsTest, OutOfBandBytesAreForStreamsAlone) {
  const SocketPair frames = MakePair(SOCK_SEQPACKET);
  EXPECT_EQ(::send(frames.a.get(), "x", 1, MSG_OOB | MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  const SocketPair stream = MakePair(SOCK_STREAM);
  EXPECT_EQ(RawSend(stream.a, "ab", {}), 2);
  if (::send(stream.a.get(), "c", 1, MSG_OOB | MSG_DONTWAIT) == 1) {
    EXPECT_EQ(RawSend(stream.a, "d", {}), 1);
    std::string seen;
    for (RawMessage m = RawReceive(stream.b); m.result > 0; m = RawReceive(stream.b)) {
      seen += m.data;
    }
    EXPECT_EQ(seen, "abd") << "the byte in the middle is not among the others";
  } else {
    EXPECT_EQ(errno, EOPNOTSUPP) << "a kernel without CONFIG_AF_UNIX_OOB";
  }
}

// A session is drained to its end before it counts as dead.
// Why TakeOutOfBandInline: one that is passed over takes its descriptors along, in the middle of
// the recvmsg(2) that passes it over. Some kernels pass no descriptors with such a byte; then there
// is none to come.
TEST(KernelFactsTest, AnOutOfBandByteKeepsItsDescriptorsOnlyInline) {
  for (const bool in_line : {false, true}) {
    const SocketPair stream = MakePair(SOCK_STREAM);
    const UniqueFd file = MakeFile("urgent");
    const int on = in_line ? 1 : 0;
    ASSERT_EQ(::setsockopt(stream.b.get(), SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)), 0);
    if (RawSend(stream.a, "c", {{file.get()}}, MSG_OOB) != 1) {
      EXPECT_EQ(errno, EOPNOTSUPP) << "a kernel without CONFIG_AF_UNIX_OOB";
      return;
    }
    EXPECT_EQ(RawSend(stream.a, "d", {}), 1);
    std::string seen;
    std::vector<std::string> contents;
    for (RawMessage m = RawReceive(stream.b); m.result > 0; m = RawReceive(stream.b)) {
      seen += m.data;
      for (const std::string& content : Contents(m.fds)) contents.push_back(content);
    }
    EXPECT_EQ(seen, in_line ? "cd" : "d");
    if (!in_line) {
      EXPECT_THAT(contents, SizeIs(0));
    }
  }
}

// Connection::CloseOuter of inband/: after shutdown(2) nothing comes any more, and SIOCINQ says
// whether anything is left that closing the socket would close.
TEST(KernelFactsTest, AStreamThatWasShutDownTakesNothingMoreAndSaysWhatIsUnread) {
  const SocketPair pair = MakePair(SOCK_STREAM);
  const UniqueFd file = MakeFile("x");
  const auto unread = [&pair] {
    int bytes = -1;
    EXPECT_EQ(::ioctl(pair.b.get(), SIOCINQ, &bytes), 0);
    return bytes;
  };
  EXPECT_EQ(unread(), 0);
  EXPECT_EQ(RawSend(pair.a, "x", {{file.get()}}), 1);
  ASSERT_EQ(::shutdown(pair.b.get(), SHUT_RDWR), 0);
  EXPECT_EQ(unread(), 1);
  EXPECT_EQ(RawSend(pair.a, "y", {{file.get()}}), -1);
  EXPECT_EQ(errno, EPIPE);
  EXPECT_EQ(unread(), 1);
  char buffer[8];
  EXPECT_EQ(::recv(pair.b.get(), buffer, sizeof(buffer), 0), 1);
  EXPECT_EQ(unread(), 0);
}

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

// Why a hang-up is a reason to drain and not to drop: it shows at once, with an error, while what
// was sent before it is still there.
TEST(KernelFactsTest, APeerClosedWithUnreadDataIsSeenAtOnce) {
  SocketPair pair = MakePair(SOCK_SEQPACKET);
  EXPECT_EQ(RawSend(pair.b, "never read", {}), 10);
  EXPECT_EQ(RawSend(pair.a, "one", {}), 3);
  pair.a.Reset();
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event wanted = {};
  wanted.events = EPOLLIN | EPOLLRDHUP;
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, pair.b.get(), &wanted), 0);
  epoll_event event = {};
  ASSERT_EQ(::epoll_wait(epoll.get(), &event, 1, 0), 1);
  const uint32_t events = event.events;  // A copy: the struct is packed.
  EXPECT_EQ(events, static_cast<uint32_t>(EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP));
}

// What runs in a process of its own, as a user that is not root: 0, or a number that says where it
// failed.
int SendUntilTooMany() {
  // By number, for getpwnam(3) may load libraries: 65534 is nobody.
  if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 ||
                           ::setresuid(65534, 65534, 65534) != 0)) {
    return 1;
  }
  constexpr int kLimit = 64;
  const rlimit limit = {kLimit, kLimit};
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 2;
  int first[2], second[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, first) != 0) return 3;
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, second) != 0) return 4;
  const auto send = [](int socket, int fd) {
    return RawSend(BorrowedFd(socket), "x", {{fd}}) == 1 ? 0 : errno;
  };
  int sent = 0;
  // One more than the limit may be under way: it is checked before the new ones are counted.
  while (sent <= kLimit + 1) {
    const int error = send(first[0], 0);
    if (error == ETOOMANYREFS) break;
    if (error != 0) return 5;
    ++sent;
  }
  if (sent > kLimit + 1) return 6;
  if (send(second[0], 0) != ETOOMANYREFS) return 7;            // Every socket of the user.
  if (RawSend(BorrowedFd(second[0]), "x", {}) != 1) return 8;  // Bytes alone still go.
  return 0;
}

// Why there is a window, and why ETOOMANYREFS is back-pressure of one call and never the session's
// end: descriptors in flight are charged to the sender's user, over all its sockets and processes,
// against RLIMIT_NOFILE (too_many_unix_fds() of net/unix/scm.c). Root is exempt.
TEST(KernelFactsTest, DescriptorsInFlightAreChargedToTheSendersUser) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(SendUntilTooMany());
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
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

// fdchannel/os/pass_rights.h: what a listener refuses its connections refuse, from the moment of
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

class SocketFileFactsTest : public ::testing::Test {
 protected:
  SocketFileFactsTest() {
    char directory[] = "/tmp/grpcfd_facts_XXXXXX";
    EXPECT_NE(::mkdtemp(directory), nullptr);
    directory_ = directory;
    path_ = directory_ + "/socket";
  }
  ~SocketFileFactsTest() override {
    ::unlink(path_.c_str());
    ::unlink((directory_ + "/link").c_str());
    EXPECT_EQ(::rmdir(directory_.c_str()), 0);
  }
  static UniqueFd Socket(int flags = 0) {
    return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  }
  // 0, or errno.
  static int Do(int (*call)(int, const sockaddr*, socklen_t), const UniqueFd& socket,
                const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    return call(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ? 0
                                                                                           : errno;
  }
  std::string directory_, path_;
};

// ChannelCore::Connect waits and retries on EAGAIN; any other error means that no server listens.
TEST_F(SocketFileFactsTest, AFullBacklogAnswersANonBlockingConnectWithEagain) {
  UniqueFd listener = Socket();
  ASSERT_EQ(Do(::bind, listener, path_), 0);
  EXPECT_EQ(Do(::connect, Socket(SOCK_NONBLOCK), path_), ECONNREFUSED) << "nobody listens yet";
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  std::vector<UniqueFd> clients;
  int error = 0;
  while (error == 0 && clients.size() < 16) {
    clients.push_back(Socket(SOCK_NONBLOCK));
    error = Do(::connect, clients.back(), path_);
  }
  EXPECT_EQ(error, EAGAIN);
  // The file of a server that is gone: bind.cc tells it from a living one by this.
  listener.Reset();
  EXPECT_EQ(Do(::connect, Socket(SOCK_NONBLOCK), path_), ECONNREFUSED);
}

// BoundSocket::Close: after this nobody can take its file for a living server's, even if a child
// process holds the descriptor.
TEST_F(SocketFileFactsTest, AListenerThatWasShutDownRefusesThroughAllItsDuplicates) {
  const UniqueFd listener = Socket();
  ASSERT_EQ(Do(::bind, listener, path_), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const UniqueFd duplicate(::fcntl(listener.get(), F_DUPFD_CLOEXEC, 3));
  ASSERT_EQ(Do(::connect, Socket(), path_), 0);
  ASSERT_EQ(::shutdown(listener.get(), SHUT_RDWR), 0);
  EXPECT_EQ(Do(::connect, Socket(), path_), ECONNREFUSED);
}

// bind.cc may leave links alone without looking for them.
TEST_F(SocketFileFactsTest, ConnectFollowsLinksAndBindDoesNot) {
  const UniqueFd listener = Socket();
  const std::string link = directory_ + "/link";
  ASSERT_EQ(::symlink(path_.c_str(), link.c_str()), 0);
  EXPECT_EQ(Do(::bind, listener, link), EADDRINUSE) << "a dangling link is in the way";
  ASSERT_EQ(Do(::bind, listener, path_), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(Do(::connect, Socket(), link), 0);
}

// peer_credentials.cc: who connected, not who holds the socket now, and not who is alive.
TEST_F(SocketFileFactsTest, PeerCredentialsAreThoseOfTheConnect) {
  const UniqueFd listener = Socket();
  ASSERT_EQ(Do(::bind, listener, path_), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const UniqueFd client = Socket();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(Do(::connect, client, path_) == 0 ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  const UniqueFd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  ucred credentials = {};
  socklen_t length = sizeof(credentials);
  ASSERT_EQ(::getsockopt(accepted.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length), 0);
  EXPECT_EQ(credentials.pid, child) << "dead, and its socket is held by this process";
}

// Why Listener pauses after EMFILE: the connection stays in the backlog, and the socket readable.
TEST_F(SocketFileFactsTest, AnAcceptWithoutRoomLeavesTheSocketReadable) {
  const UniqueFd listener = Socket(SOCK_NONBLOCK);
  ASSERT_EQ(Do(::bind, listener, path_), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const UniqueFd client = Socket();
  ASSERT_EQ(Do(::connect, client, path_), 0);
  {
    const ScopedFdRoom room(0);
    for (int i = 0; i < 3; ++i) {
      pollfd entry = {listener.get(), POLLIN, 0};
      EXPECT_EQ(::poll(&entry, 1, 0), 1);
      EXPECT_EQ(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), -1);
      EXPECT_EQ(errno, EMFILE);
    }
  }
  EXPECT_TRUE(UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid());
}

// Why MappedMemory looks at seals and not at the access mode (memfd_create(2)): who has a read-only
// descriptor of a memfd can have a writable one, as long as the file's mode allows it.
TEST(KernelFactsTest, AReadOnlyMemfdOpensAgainForWritingButSealsHold) {
  const UniqueFd file(::memfd_create("grpcfd-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  const auto open_again = [](BorrowedFd fd, int mode) {
    return UniqueFd(
        ::open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), mode | O_CLOEXEC));
  };
  const UniqueFd read_only = open_again(file, O_RDONLY);
  ASSERT_TRUE(read_only.valid());
  EXPECT_EQ(::ftruncate(read_only.get(), 0), -1);
  const UniqueFd writable = open_again(read_only, O_RDWR);
  ASSERT_TRUE(writable.valid());
  EXPECT_EQ(::ftruncate(writable.get(), 8192), 0);
  ASSERT_EQ(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
  EXPECT_EQ(::ftruncate(writable.get(), 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::pwrite(writable.get(), "x", 1, 0), -1);
  EXPECT_EQ(errno, EPERM);
}

// The library neither rewinds nor changes what it sends and receives: both ends have one open file,
// with its offset and its O_NONBLOCK (docs/concepts.md).
TEST(KernelFactsTest, OffsetAndFlagsAreSharedWithTheSender) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("shared");
  EXPECT_EQ(RawSend(pair.a, "x", {{file.get()}}), 1);
  const RawMessage message = RawReceive(pair.b);
  ASSERT_THAT(message.fds, SizeIs(1));
  EXPECT_EQ(::lseek(file.get(), 3, SEEK_SET), 3);
  EXPECT_EQ(::lseek(message.fds[0].get(), 0, SEEK_CUR), 3);
  const int flags = ::fcntl(message.fds[0].get(), F_GETFL);
  EXPECT_EQ(::fcntl(message.fds[0].get(), F_SETFL, flags | O_NONBLOCK), 0);
  EXPECT_NE(::fcntl(file.get(), F_GETFL) & O_NONBLOCK, 0);
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
