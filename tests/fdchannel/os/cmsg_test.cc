// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sends and receives over real sockets. What no kernel does on demand (EINTR, odd control lengths)
// comes from the three system call wrappers at the end of this file, which stand in for the C
// library's in the whole program and pass through unless a test has set a hook.
#include "fdchannel/os/cmsg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct SystemCalls {
  int sends = 0;
  int receives = 0;
  int batches = 0;
  int interruptions = 0;  // This many calls fail with EINTR first.
  std::function<void(const msghdr*)> on_send;
  std::function<ssize_t(msghdr*)> instead_of_receive;
};

// Only set while the one thread of a test of this file runs.
SystemCalls* g_calls = nullptr;

bool Interrupt() {
  if (g_calls == nullptr || g_calls->interruptions == 0) return false;
  --g_calls->interruptions;
  errno = EINTR;
  return true;
}

class CmsgTest : public ::testing::Test {
 protected:
  CmsgTest() { g_calls = &calls_; }
  ~CmsgTest() override { g_calls = nullptr; }

  // Receives one message from `socket` and expects success.
  ReceivedMessage Receive(BorrowedFd socket) {
    ReceivedMessage message;
    const IoResult result = ReceiveMessage(socket, data_, sizeof(data_), &message);
    EXPECT_EQ(result.error, 0) << strerror(result.error);
    EXPECT_EQ(result.bytes, message.size);
    return message;
  }

  static void Send(BorrowedFd socket, const std::string& text, const std::vector<int>& fds = {}) {
    const IoResult result = SendMessage(socket, Bytes(text), fds);
    EXPECT_EQ(result.error, 0) << strerror(result.error);
    EXPECT_EQ(result.bytes, text.size());
  }

  static void ExpectFiles(const FdVector& fds, size_t count, const std::string& prefix = "file ") {
    ASSERT_THAT(fds, SizeIs(count));
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(Content(fds[i]), prefix + std::to_string(i));
      EXPECT_TRUE(IsCloseOnExec(fds[i]));
      EXPECT_GE(fds[i].get(), 3);
    }
  }

  SystemCalls calls_;
  char data_[64];
};

TEST_F(CmsgTest, DeliversAnyCountInOrderAndCloseOnExec) {
  const std::vector<UniqueFd> files = MakeFiles(kMaxFdsPerMessage);
  const std::vector<int> numbers = Numbers(files);
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const SocketPair pair = MakePair(type);
    for (const size_t count : {0, 1, 2, 3, 4, 5, 15, 16, 17, 252, 253}) {
      SCOPED_TRACE(count);
      Send(pair.a, "text", std::vector<int>(numbers.begin(), numbers.begin() + count));
      const ReceivedMessage message = Receive(pair.b);
      EXPECT_EQ(std::string(data_, message.size), "text");
      EXPECT_FALSE(message.data_truncated);
      EXPECT_FALSE(message.control_truncated);
      ExpectFiles(message.fds, count);
    }
  }
}

TEST_F(CmsgTest, RefusesWhatTheKernelWouldDropOrRefuse) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("x");
  const std::vector<int> too_many(kMaxFdsPerMessage + 1, file.get());
  EXPECT_EQ(SendMessage(pair.a, Bytes("text"), too_many).error, EINVAL);
  EXPECT_EQ(SendMessage(pair.a, {}, {file.get()}).error, EINVAL);
  EXPECT_EQ(calls_.sends, 0);
  ReceivedMessage message;
  EXPECT_TRUE(ReceiveMessage(pair.b, data_, sizeof(data_), &message).would_block());
}

TEST_F(CmsgTest, OneSystemCallEach) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("file 0");
  Send(pair.a, "text", {file.get()});
  ExpectFiles(Receive(pair.b).fds, 1);
  EXPECT_EQ(calls_.sends, 1);
  EXPECT_EQ(calls_.receives, 1);
  EXPECT_EQ(calls_.batches, 0);
}

TEST_F(CmsgTest, RetriesAfterInterruptions) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("file 0");
  calls_.interruptions = 3;
  Send(pair.a, "text", {file.get()});
  EXPECT_EQ(calls_.sends, 4);
  calls_.interruptions = 3;
  ExpectFiles(Receive(pair.b).fds, 1);
  EXPECT_EQ(calls_.receives, 4);

  Send(pair.a, "text", {file.get()});
  calls_.interruptions = 3;
  ReceivedMessage messages[2];
  const IoResult result =
      ReceiveMessages(pair.b, data_, sizeof(data_) / 2, absl::MakeSpan(messages));
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 1u);
  EXPECT_EQ(calls_.batches, 4);
  ExpectFiles(messages[0].fds, 1);
}

TEST_F(CmsgTest, NeverBlocks) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);  // Blocking sockets, on purpose.
  ReceivedMessage messages[2];
  EXPECT_TRUE(ReceiveMessage(pair.b, data_, sizeof(data_), &messages[0]).would_block());
  EXPECT_TRUE(
      ReceiveMessages(pair.b, data_, sizeof(data_) / 2, absl::MakeSpan(messages)).would_block());
  IoResult result;
  size_t sent = 0;
  while ((result = SendMessage(pair.a, Bytes(std::string(64, 'x')), {})).ok()) ++sent;
  EXPECT_TRUE(result.would_block()) << strerror(result.error);
  EXPECT_GT(sent, 0u);
  EXPECT_FALSE(IoResult().would_block());
}

// A stream is what raises SIGPIPE; the signal would end this program.
TEST_F(CmsgTest, BrokenPipeIsAnErrorAndNoSignal) {
  const auto old = ::signal(SIGPIPE, SIG_DFL);  // Test runners like to ignore it.
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    SocketPair pair = MakePair(type);
    pair.b.Reset();
    EXPECT_EQ(SendMessage(pair.a, Bytes("text"), {}).error, EPIPE);
  }
  ::signal(SIGPIPE, old);
}

TEST_F(CmsgTest, ErrorsAreReportedAsErrno) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  EXPECT_EQ(SendMessage(BorrowedFd(-1), Bytes("text"), {}).error, EBADF);
  EXPECT_EQ(SendMessage(pair.a, Bytes("text"), {-1}).error, EBADF);
  ReceivedMessage messages[2];
  EXPECT_EQ(ReceiveMessage(BorrowedFd(-1), data_, 1, &messages[0]).error, EBADF);
  EXPECT_EQ(ReceiveMessages(BorrowedFd(-1), data_, 1, absl::MakeSpan(messages)).error, EBADF);
  EXPECT_EQ(ReceiveMessages(pair.b, data_, 1, {}).error, EINVAL);
  const UniqueFd file = MakeFile("x");
  EXPECT_EQ(ReceiveMessage(file, data_, 1, &messages[0]).error, ENOTSOCK);
}

TEST_F(CmsgTest, SendLeavesTheDescriptorsToTheCaller) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("mine");
  Send(pair.a, "text", {file.get()});
  EXPECT_EQ(Content(file), "mine");
}

TEST_F(CmsgTest, NoStackContentsInThePadding) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const std::vector<UniqueFd> files = MakeFiles(5);
  const std::vector<int> numbers = Numbers(files);
  int seen = 0;
  calls_.on_send = [&seen](const msghdr* header) {
    const size_t used = CMSG_LEN(CMSG_FIRSTHDR(header)->cmsg_len - CMSG_LEN(0));
    for (size_t i = used; i < header->msg_controllen; ++i) {
      EXPECT_EQ(static_cast<const char*>(header->msg_control)[i], 0);
    }
    ++seen;
  };
  for (size_t count = 1; count <= 5; ++count) {
    Send(pair.a, "text", std::vector<int>(numbers.begin(), numbers.begin() + count));
  }
  EXPECT_EQ(seen, 5);
}

TEST_F(CmsgTest, ReportsTruncatedData) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("file 0");
  Send(pair.a, std::string(65, 'x'), {file.get()});
  ReceivedMessage message = Receive(pair.b);
  EXPECT_TRUE(message.data_truncated);
  EXPECT_EQ(message.size, 64u);
  ExpectFiles(message.fds, 1);
  Send(pair.a, std::string(64, 'x'));
  message = Receive(pair.b);
  EXPECT_FALSE(message.data_truncated);
  EXPECT_EQ(message.size, 64u);
}

TEST_F(CmsgTest, ReportsLostDescriptorsAndOwnsTheRest) {
  const std::vector<UniqueFd> files = MakeFiles(8);
  for (int room = 0; room <= 8; ++room) {
    SCOPED_TRACE(room);
    const SocketPair pair = MakePair(SOCK_SEQPACKET);
    Send(pair.a, "text", Numbers(files));
    ReceivedMessage message;
    {
      const ScopedFdRoom limit(room);
      message = Receive(pair.b);
    }
    EXPECT_EQ(std::string(data_, message.size), "text");
    EXPECT_EQ(message.control_truncated, room < 8);
    ExpectFiles(message.fds, static_cast<size_t>(room));
  }
}

TEST_F(CmsgTest, DropsWhatTheMessageHeldBefore) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  ReceivedMessage messages[2];
  messages[0].fds.push_back(MakeFile("old"));
  messages[0].control_truncated = true;
  messages[0].size = 7;
  const int old = messages[0].fds[0].get();
  EXPECT_TRUE(ReceiveMessage(pair.b, data_, sizeof(data_), &messages[0]).would_block());
  EXPECT_FALSE(IsOpen(old));
  EXPECT_THAT(messages[0].fds, IsEmpty());
  EXPECT_FALSE(messages[0].control_truncated);
  EXPECT_EQ(messages[0].size, 0u);

  messages[1].fds.push_back(MakeFile("old"));
  const int other = messages[1].fds[0].get();
  EXPECT_TRUE(ReceiveMessages(pair.b, data_, 32, absl::MakeSpan(messages)).would_block());
  EXPECT_FALSE(IsOpen(other));
}

TEST_F(CmsgTest, NeverHandsOutStandardStreams) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const std::vector<UniqueFd> files = MakeFiles(2);
  Send(pair.a, "text", Numbers(files));
  Send(pair.a, "text", {files[0].get()});
  const UniqueFd saved(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  ::close(STDIN_FILENO);
  const ReceivedMessage moved = Receive(pair.b);
  ExpectFiles(moved.fds, 2);
  EXPECT_FALSE(moved.control_truncated);
  EXPECT_FALSE(IsOpen(STDIN_FILENO));
  ReceivedMessage lost;
  {
    const ScopedFdRoom limit(0);  // Its fillers take 0 too.
    ::close(STDIN_FILENO);        // One number is free, and it is 0: no room to move it.
    lost = Receive(pair.b);
    EXPECT_FALSE(IsOpen(STDIN_FILENO));
    // The filler that owned 0 closes it again when `limit` ends; nothing else may have taken it by
    // then.
  }
  EXPECT_TRUE(lost.control_truncated);
  EXPECT_THAT(lost.fds, IsEmpty());
  if (saved.valid()) {
    EXPECT_EQ(::dup2(saved.get(), STDIN_FILENO), STDIN_FILENO);
  }
}

// The control buffers below are forged: the descriptors in them belong to this process already, as
// if the kernel had just installed them.
class ForgedCmsgTest : public CmsgTest {
 protected:
  struct Entry {
    int level;
    int type;
    size_t length;  // cmsg_len
    std::vector<int> fds;
  };

  ReceivedMessage ReceiveForged(const std::vector<Entry>& entries, size_t cut = 0) {
    calls_.instead_of_receive = [&entries, cut](msghdr* header) -> ssize_t {
      char* const control = static_cast<char*>(header->msg_control);
      memset(control, 0xff, header->msg_controllen);
      size_t offset = 0;
      for (const Entry& entry : entries) {
        cmsghdr head;
        head.cmsg_level = entry.level;
        head.cmsg_type = entry.type;
        head.cmsg_len = entry.length;
        memcpy(control + offset, &head, sizeof(head));
        std::copy(entry.fds.begin(), entry.fds.end(),
                  reinterpret_cast<int*>(control + offset + CMSG_LEN(0)));
        offset += CMSG_SPACE(entry.fds.size() * sizeof(int));
      }
      header->msg_controllen = offset - cut;
      header->msg_flags = 0;
      return 1;
    };
    return Receive(BorrowedFd(-1));
  }

  static Entry Rights(const std::vector<int>& fds) {
    return {SOL_SOCKET, SCM_RIGHTS, CMSG_LEN(fds.size() * sizeof(int)), fds};
  }
};

TEST_F(ForgedCmsgTest, TakesDescriptorsFromEveryHeader) {
  std::vector<UniqueFd> files = MakeFiles(4);
  const std::vector<int> numbers = Numbers(files);
  for (UniqueFd& file : files) (void)file.Release();
  const ReceivedMessage message =
      ReceiveForged({Rights({numbers[0]}),
                     {SOL_SOCKET, SCM_CREDENTIALS, CMSG_LEN(12), {0, 0, 0}},
                     Rights({numbers[1], numbers[2]}),
                     {SOL_SOCKET + 1, SCM_RIGHTS, CMSG_LEN(4), {0}},
                     Rights({numbers[3]})});
  ExpectFiles(message.fds, 4);
}

TEST_F(ForgedCmsgTest, AnOddLengthGivesWholeDescriptorsOnly) {
  for (size_t extra = 0; extra < sizeof(int); ++extra) {
    UniqueFd file = MakeFile("file 0");
    const int number = file.Release();
    const ReceivedMessage message =
        ReceiveForged({{SOL_SOCKET, SCM_RIGHTS, CMSG_LEN(sizeof(int)) + extra, {number, 0}}});
    ExpectFiles(message.fds, 1);
  }
}

TEST_F(ForgedCmsgTest, AShortLengthEndsTheWalk) {
  for (size_t length = 0; length < CMSG_LEN(0); ++length) {
    const ReceivedMessage message = ReceiveForged({{SOL_SOCKET, SCM_RIGHTS, length, {0, 1}}});
    EXPECT_THAT(message.fds, IsEmpty());
  }
  EXPECT_THAT(ReceiveForged({{SOL_SOCKET, SCM_RIGHTS, CMSG_LEN(0), {}}}).fds, IsEmpty());
  EXPECT_THAT(ReceiveForged({{SOL_SOCKET, SCM_RIGHTS, CMSG_LEN(0) + 3, {0}}}).fds, IsEmpty());
}

TEST_F(ForgedCmsgTest, ALengthBeyondTheBufferIsCut) {
  UniqueFd file = MakeFile("file 0");
  const int number = file.Release();
  const ReceivedMessage message =
      ReceiveForged({{SOL_SOCKET, SCM_RIGHTS, static_cast<size_t>(-1), {number}}},
                    CMSG_SPACE(sizeof(int)) - CMSG_LEN(sizeof(int)));
  ExpectFiles(message.fds, 1);
}

TEST_F(ForgedCmsgTest, AControlBufferTooShortForAHeaderIsEmpty) {
  for (size_t cut = 1; cut <= CMSG_LEN(0); ++cut) {
    EXPECT_THAT(ReceiveForged({Rights({})}, cut).fds, IsEmpty());
  }
}

TEST_F(ForgedCmsgTest, AnUnwantedPidfdIsClosed) {
  constexpr int kScmPidfd = 4;
  UniqueFd pidfd = MakeFile("stands for a pidfd");
  UniqueFd file = MakeFile("file 0");
  const int unwanted = pidfd.Release();
  const ReceivedMessage message = ReceiveForged(
      {{SOL_SOCKET, kScmPidfd, CMSG_LEN(sizeof(int)), {unwanted}}, Rights({file.Release()})});
  ExpectFiles(message.fds, 1);
  EXPECT_FALSE(IsOpen(unwanted));
}

TEST_F(CmsgTest, IgnoresCredentials) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const int on = 1;
  ASSERT_EQ(::setsockopt(pair.b.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
  const std::vector<UniqueFd> files = MakeFiles(3);
  Send(pair.a, "text", Numbers(files));
  const ReceivedMessage message = Receive(pair.b);
  EXPECT_FALSE(message.control_truncated);
  ExpectFiles(message.fds, 3);
}

TEST_F(CmsgTest, ReportsTheEndOfAStream) {
  SocketPair pair = MakePair(SOCK_STREAM);
  Send(pair.a, "last");
  pair.a.Reset();
  EXPECT_EQ(Receive(pair.b).size, 4u);
  EXPECT_EQ(Receive(pair.b).size, 0u);
}

TEST_F(CmsgTest, ReceivesBatchesInOrder) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  // 11 messages with 0 to 10 descriptors each.
  constexpr size_t kSlot = 16;
  for (size_t i = 0; i < 11; ++i) {
    const std::vector<UniqueFd> files = MakeFiles(i, "message " + std::to_string(i) + " file ");
    Send(pair.a, "message " + std::to_string(i), Numbers(files));
  }
  char data[12 * kSlot];
  ReceivedMessage messages[12];  // More slots than a batch has.
  size_t next = 0;
  for (const size_t expected : {kMaxBatch, size_t{3}}) {
    const IoResult result = ReceiveMessages(pair.b, data, kSlot, absl::MakeSpan(messages));
    ASSERT_EQ(result.error, 0) << strerror(result.error);
    ASSERT_EQ(result.bytes, expected);
    for (size_t i = 0; i < expected; ++i, ++next) {
      const std::string name = "message " + std::to_string(next);
      EXPECT_EQ(std::string(data + i * kSlot, messages[i].size), name);
      ExpectFiles(messages[i].fds, next, name + " file ");
    }
  }
  EXPECT_EQ(calls_.batches, 2);
  EXPECT_EQ(calls_.receives, 0);
  EXPECT_TRUE(ReceiveMessages(pair.b, data, kSlot, absl::MakeSpan(messages)).would_block());
}

TEST_F(CmsgTest, ABatchOfFullMessages) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const std::vector<UniqueFd> files = MakeFiles(kMaxFdsPerMessage);
  for (size_t i = 0; i < kMaxBatch; ++i) Send(pair.a, "text", Numbers(files));
  char data[kMaxBatch * 8];
  ReceivedMessage messages[kMaxBatch];
  const IoResult result = ReceiveMessages(pair.b, data, 8, absl::MakeSpan(messages));
  ASSERT_EQ(result.bytes, kMaxBatch);
  for (const ReceivedMessage& message : messages) {
    EXPECT_FALSE(message.control_truncated);
    ExpectFiles(message.fds, kMaxFdsPerMessage);
  }
}

TEST_F(CmsgTest, ABatchOfOneIsAPlainReceive) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("file 0");
  Send(pair.a, "text", {file.get()});
  ReceivedMessage message;
  const IoResult result = ReceiveMessages(pair.b, data_, 64, absl::MakeSpan(&message, 1));
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 1u);
  EXPECT_EQ(message.size, 4u);
  ExpectFiles(message.fds, 1);
  EXPECT_EQ(calls_.receives, 1);
  EXPECT_EQ(calls_.batches, 0);
}

TEST_F(CmsgTest, ABatchStopsAfterTheEnd) {
  for (const size_t slots : {1, 2, 3, 8}) {
    SCOPED_TRACE(slots);
    SocketPair pair = MakePair(SOCK_SEQPACKET);
    Send(pair.a, "last");
    pair.a.Reset();
    std::vector<ReceivedMessage> messages(slots);
    char data[8 * 8];
    std::vector<size_t> sizes;
    while (sizes.empty() || sizes.back() != 0) {
      const IoResult result = ReceiveMessages(pair.b, data, 8, absl::MakeSpan(messages));
      ASSERT_EQ(result.error, 0);
      ASSERT_LE(result.bytes, slots);
      ASSERT_GE(result.bytes, 1u);
      for (size_t i = 0; i < result.bytes; ++i) sizes.push_back(messages[i].size);
    }
    EXPECT_THAT(sizes, ElementsAre(4, 0));
  }
}

// What SendMessage refuses: a descriptor without a byte.
void SendEmpty(BorrowedFd socket, int number) {
  char control[CMSG_SPACE(sizeof(int))] = {};
  cmsghdr head;
  head.cmsg_level = SOL_SOCKET;
  head.cmsg_type = SCM_RIGHTS;
  head.cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(control, &head, sizeof(head));
  memcpy(control + CMSG_LEN(0), &number, sizeof(number));
  msghdr header = {};
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  EXPECT_EQ(::sendmsg(socket.get(), &header, 0), 0);
}

// SOCK_SEQPACKET delivers the descriptors of an empty message. A hostile peer can send one: it is
// not the end, and what follows it is not lost.
TEST_F(CmsgTest, AnEmptyMessageWithDescriptorsIsNotTheEnd) {
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  const UniqueFd file = MakeFile("file 0");
  const int number = file.get();
  SendEmpty(pair.a, number);
  Send(pair.a, "text", {number});
  ReceivedMessage messages[4];
  const IoResult result = ReceiveMessages(pair.b, data_, 16, absl::MakeSpan(messages));
  ASSERT_EQ(result.bytes, 2u);
  EXPECT_EQ(messages[0].size, 0u);
  ExpectFiles(messages[0].fds, 1);
  EXPECT_EQ(messages[1].size, 4u);
  ExpectFiles(messages[1].fds, 1);
}

TEST_F(CmsgTest, NothingUnreadSeesWhateverMayHoldDescriptors) {
  const UniqueFd file = MakeFile("file 0");
  const int number = file.get();
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    for (const bool peer_closes : {false, true}) {
      SocketPair pair = MakePair(type);
      ASSERT_TRUE(SendMessage(pair.a, Bytes("a"), absl::MakeConstSpan(&number, 1)).ok());
      if (!peer_closes) Send(pair.b, "unread by the peer");
      ::shutdown(pair.b.get(), SHUT_RDWR);
      if (peer_closes) pair.a.Reset();
      EXPECT_FALSE(NothingUnread(pair.b));
      ExpectFiles(Receive(pair.b).fds, 1);
      EXPECT_TRUE(NothingUnread(pair.b));
      pair.a.Reset();  // With something unread, which its peer is told.
      EXPECT_TRUE(NothingUnread(pair.b));
    }
  }
  // Apart from the others.
  const SocketPair urgent = MakePair(SOCK_STREAM);
  ASSERT_EQ(::send(urgent.a.get(), "u", 1, MSG_OOB), 1);
  ::shutdown(urgent.b.get(), SHUT_RDWR);
  EXPECT_FALSE(NothingUnread(urgent.b));
  // No bytes, and looks like the end of a session.
  const SocketPair pair = MakePair(SOCK_SEQPACKET);
  ASSERT_EQ(::send(pair.a.get(), nullptr, 0, 0), 0);
  SendEmpty(pair.a, number);
  ::shutdown(pair.b.get(), SHUT_RDWR);
  EXPECT_FALSE(NothingUnread(pair.b));
  EXPECT_THAT(Receive(pair.b).fds, IsEmpty());
  EXPECT_FALSE(NothingUnread(pair.b));
  EXPECT_THAT(Receive(pair.b).fds, SizeIs(1));
  EXPECT_TRUE(NothingUnread(pair.b));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd

using grpcfd::internal::g_calls;

extern "C" ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  if (g_calls != nullptr) {
    ++g_calls->sends;
    if (g_calls->on_send) g_calls->on_send(message);
    if (grpcfd::internal::Interrupt()) return -1;
  }
  return ::syscall(SYS_sendmsg, fd, message, flags);
}

extern "C" ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
  if (g_calls != nullptr) {
    ++g_calls->receives;
    if (g_calls->instead_of_receive) return g_calls->instead_of_receive(message);
    if (grpcfd::internal::Interrupt()) return -1;
  }
  return ::syscall(SYS_recvmsg, fd, message, flags);
}

extern "C" int recvmmsg(int fd, struct mmsghdr* messages, unsigned int count, int flags,
                        struct timespec* timeout) {
  if (g_calls != nullptr) {
    ++g_calls->batches;
    if (grpcfd::internal::Interrupt()) return -1;
  }
  return static_cast<int>(::syscall(SYS_recvmmsg, fd, messages, count, flags, timeout));
}
