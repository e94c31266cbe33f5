// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ServerCore and Listener: what a connection is told, handed on or cut for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <set>
#include <thread>

#include "fdchannel/server/listener.h"
#include "fdchannel/server/server_core.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/fdchannel/server/server_test_util.h"
#include "tests/fdchannel/session/lingering_socket.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uid_t kOtherUid = 65534;

// What the thread of this name costs while it has nothing to do. One that sleeps and wakes goes to
// sleep again each time; one that spins never does, but uses the processor.
class IdleCost {
 public:
  explicit IdleCost(const std::string& thread_name) {
    int thread = 0;
    // A thread has its name once it runs.
    EXPECT_TRUE(Eventually([&] {
      DIR* const dir = ::opendir("/proc/self/task");
      EXPECT_NE(dir, nullptr);
      while (const dirent* entry = ::readdir(dir)) {
        std::string name;
        std::getline(std::ifstream(absl::StrCat("/proc/self/task/", entry->d_name, "/comm")), name);
        if (name == thread_name) thread = ::atoi(entry->d_name);
      }
      ::closedir(dir);
      return thread != 0;
    })) << thread_name;
    // Opened beforehand, for when no descriptor is left.
    status_.Reset(
        ::open(absl::StrCat("/proc/self/task/", thread, "/status").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(status_.valid());
    // The clock of a thread's processor time (clock_getcpuclockid(3) does the same for processes).
    clock_ = static_cast<clockid_t>((~static_cast<unsigned>(thread) << 3) | 6u);
  }

  // Runs for `time`; this measures, it synchronises nothing.
  void Measure(absl::Duration time) {
    const int64_t wake_ups = Sleeps();
    const absl::Duration used = Used();
    ::poll(nullptr, 0, static_cast<int>(absl::ToInt64Milliseconds(time)));
    wake_ups_ = Sleeps() - wake_ups;
    share_ = absl::FDivDuration(Used() - used, time);
  }
  int64_t wake_ups() const { return wake_ups_; }
  // Of one processor, 0 to 1.
  double share() const { return share_; }

 private:
  absl::Duration Used() const {
    timespec used;
    EXPECT_EQ(::clock_gettime(clock_, &used), 0);
    return absl::DurationFromTimespec(used);
  }
  int64_t Sleeps() const {
    char text[8192];
    const ssize_t size = ::pread(status_.get(), text, sizeof(text) - 1, 0);
    EXPECT_GT(size, 0);
    text[size > 0 ? size : 0] = '\0';
    const char* const count = ::strstr(text, "\nvoluntary_ctxt_switches:");
    EXPECT_NE(count, nullptr);
    return count == nullptr ? 0 : ::atoll(::strchr(count, ':') + 1);
  }

  UniqueFd status_;
  clockid_t clock_;
  int64_t wake_ups_ = 0;
  double share_ = 0;
};

// Bytes that the peer of a unix stream has not read yet.
bool AllRead(BorrowedFd fd) {
  int unread = -1;
  EXPECT_EQ(::ioctl(fd.get(), SIOCOUTQ, &unread), 0);
  return unread == 0;
}

// Connects as another user, if this process may. gRPC servers and tests run as root or not; the
// kernel keeps ids per thread.
UniqueFd ConnectAs(uid_t uid, const SocketAddress& address, bool* as_other) {
  UniqueFd connection;
  std::thread([&] {
    *as_other = ::syscall(SYS_setresuid, uid, uid, uid) == 0;
    connection = Connect(address);
  }).join();
  return connection;
}

class ListenerTest : public ::testing::Test {
 protected:
  ListenerTest() : path_(dir_.File("s")) {}

  TestServer& Serve(const ServerLimits& limits = {}, const BindOptions& bind = {}) {
    server_ = std::make_unique<TestServer>(path_, limits, bind);
    server_->Start();
    return *server_;
  }

  const TempDir dir_;
  const std::string path_;
  std::unique_ptr<TestServer> server_;
};

// --- Hello ---

TEST_F(ListenerTest, HelloGetsASession) {
  TestServer& server = Serve();
  const Token token = MintToken();
  Answer answer = SayHello(server.address(), HelloWith(token));
  ASSERT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_EQ(answer.reply->status, HelloStatus::kOk);
  EXPECT_EQ(answer.reply->version, 2);
  EXPECT_NE(answer.reply->session_id, 0u);
  EXPECT_EQ(answer.reply->limits.max_fds_per_call, 16u);
  EXPECT_EQ(answer.reply->limits.window, 64u);
  ASSERT_THAT(answer.fds, SizeIs(1));
  int type = 0;
  socklen_t size = sizeof(type);
  ASSERT_EQ(::getsockopt(answer.fds[0].get(), SOL_SOCKET, SO_TYPE, &type, &size), 0);
  EXPECT_EQ(type, SOCK_SEQPACKET);
  EXPECT_TRUE(server.core().FindSession(token, answer.reply->session_id).ok());
  EXPECT_EQ(server.handed_on(), 0u);
}

TEST_F(ListenerTest, HighestCommonVersionIsChosen) {
  TestServer& server = Serve();
  Hello hello = HelloWith(MintToken());
  hello.max_version = 9;
  EXPECT_EQ(SayHello(server.address(), hello).reply->version, 2);
  hello.token = MintToken();
  hello.max_version = 1;
  EXPECT_EQ(SayHello(server.address(), hello).reply->version, 1);
  hello.min_version = 3;
  hello.max_version = 9;
  const Answer answer = SayHello(server.address(), hello);
  EXPECT_EQ(answer.status(), HelloStatus::kUnsupportedVersion);
  EXPECT_EQ(answer.reply->version, 2) << "the highest that the server speaks";
  EXPECT_THAT(answer.fds, IsEmpty());
}

TEST_F(ListenerTest, MalformedHelloIsAnsweredAndCut) {
  TestServer& server = Serve();
  const std::string good = HelloBytes(HelloWith(MintToken()));
  std::vector<std::pair<const char*, std::string>> hellos;
  hellos.emplace_back("zero token", good);
  hellos.back().second.replace(16, 16, 16, '\0');
  hellos.emplace_back("version 0", good);
  hellos.back().second.replace(10, 2, 2, '\0');
  hellos.emplace_back("reserved byte", good);
  hellos.back().second[63] = 1;
  hellos.emplace_back("no window", good);
  hellos.back().second.replace(36, 4, 4, '\0');
  hellos.emplace_back("wrong size", good);
  hellos.back().second[8] = 65;
  hellos.emplace_back("magic only", good.substr(0, 8) + std::string(56, '\xff'));
  for (const auto& [name, bytes] : hellos) {
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, bytes);
    const Answer answer = ReadAnswer(connection);
    EXPECT_EQ(answer.status(), HelloStatus::kMalformed) << name << ": " << answer.reply.status();
    EXPECT_THAT(answer.fds, IsEmpty()) << name;
    EXPECT_TRUE(IsCut(connection)) << name;
  }
  EXPECT_EQ(server.core().session_count(), 0u);
  EXPECT_EQ(server.handed_on(), 0u);
}

TEST_F(ListenerTest, HelloMayComeInAnyTwoPieces) {
  TestServer& server = Serve();
  for (size_t split = 1; split < kHelloSize; ++split) {
    const std::string hello = HelloBytes(HelloWith(MintToken()));
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, hello.substr(0, split));
    ASSERT_TRUE(Eventually([&] { return AllRead(connection); })) << split;
    WriteAll(connection, hello.substr(split));
    EXPECT_EQ(ReadAnswer(connection).status(), HelloStatus::kOk) << split;
  }
}

TEST_F(ListenerTest, HelloMayComeByteByByte) {
  TestServer& server = Serve();
  const UniqueFd connection = Connect(server.address());
  for (const char byte : HelloBytes(HelloWith(MintToken()))) {
    WriteAll(connection, std::string(1, byte));
    ASSERT_TRUE(Eventually([&] { return AllRead(connection); }));
  }
  EXPECT_EQ(ReadAnswer(connection).status(), HelloStatus::kOk);
}

TEST_F(ListenerTest, TokenOfALivingSessionIsRefused) {
  TestServer& server = Serve();
  const Token token = MintToken();
  Answer first = SayHello(server.address(), HelloWith(token));
  ASSERT_EQ(first.status(), HelloStatus::kOk);
  const Answer second = SayHello(server.address(), HelloWith(token));
  EXPECT_EQ(second.status(), HelloStatus::kTokenInUse);
  EXPECT_THAT(second.fds, IsEmpty());
  EXPECT_TRUE(server.core().FindSession(token, first.reply->session_id).ok());

  // Its hang-up is in the socket now, whether the server has looked or not.
  first.fds.clear();
  const Answer third = SayHello(server.address(), HelloWith(token));
  EXPECT_EQ(third.status(), HelloStatus::kOk);
  EXPECT_NE(third.reply->session_id, first.reply->session_id);
  const auto old = server.core().FindSession(token, first.reply->session_id);
  EXPECT_EQ(old.status().code(), absl::StatusCode::kUnavailable) << old.status();
  EXPECT_TRUE(server.core().FindSession(token, third.reply->session_id).ok());
}

TEST_F(ListenerTest, SessionsAreFoundByTokenAndId) {
  TestServer& server = Serve();
  const Token token = MintToken();
  const Answer answer = SayHello(server.address(), HelloWith(token));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  const uint64_t id = answer.reply->session_id;
  EXPECT_TRUE(server.core().FindSession(token, id).ok());
  EXPECT_EQ(server.core().FindSession(token, id + 1).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.core().FindSession(MintToken(), id).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(ListenerTest, SessionIdsAreUnique) {
  TestServer& server = Serve();
  std::set<uint64_t> ids;
  for (int i = 0; i < 50; ++i) {
    const Answer answer = SayHello(server.address(), HelloWith(MintToken()));
    ASSERT_EQ(answer.status(), HelloStatus::kOk);
    ids.insert(answer.reply->session_id);
  }
  EXPECT_THAT(ids, SizeIs(50));
}

TEST_F(ListenerTest, ClientThatVanishesAfterItsHelloLeavesNoSession) {
  TestServer& server = Serve();
  for (int i = 0; i < 20; ++i) {
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, HelloBytes(HelloWith(MintToken())));
  }
  // Served after those above, so all of them have been seen.
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
  EXPECT_TRUE(Eventually([&] { return server.core().session_count() == 0; }));
}

// Guards against keeping them for early_timeout: a client that was killed between its descriptors
// and its call cannot make that call any more.
TEST_F(ListenerTest, WhatADeadClientLeftIsClosedSoon) {
  ServerLimits limits;
  limits.early_timeout = absl::Hours(1);
  TestServer& server = Serve(limits);
  Answer answer = SayHello(server.address(), HelloWith(MintToken()));
  ASSERT_EQ(answer.status(), HelloStatus::kOk);
  ASSERT_THAT(answer.fds, SizeIs(1));
  Frame frame;
  frame.type = FrameType::kData;
  frame.call.id = 1;
  frame.fd_count = 1;
  FrameBuffer bytes;
  EncodeFrame(frame, &bytes);
  const UniqueFd file = MakeFile("left");
  const int number = file.get();
  ASSERT_TRUE(SendMessage(answer.fds[0], bytes, absl::MakeConstSpan(&number, 1)).ok());
  ASSERT_TRUE(Eventually([&] { return server.core().ledger()->held_total() == 1; }));
  answer.fds.clear();
  EXPECT_TRUE(Eventually([&] { return server.core().ledger()->held_total() == 0; }));
}

TEST_F(ListenerTest, SessionsKnowTheirPeer) {
  TestServer& server = Serve();
  const Token token = MintToken();
  // Made before the fork: the child must not allocate more than it has to.
  const std::string hello = HelloBytes(HelloWith(token));
  int done[2], keep[2];
  ASSERT_EQ(::pipe2(done, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(keep, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(keep[1]);
    const UniqueFd connection = Connect(server.address());
    WriteAll(connection, hello);
    const Answer answer = ReadAnswer(connection);
    const uint64_t id = answer.reply.ok() ? answer.reply->session_id : 0;
    if (::write(done[1], &id, sizeof(id)) != sizeof(id)) ::_exit(1);
    char byte;
    const ssize_t got = ::read(keep[0], &byte, 1);
    ::_exit(got == 0 ? 0 : 1);
  }
  uint64_t id = 0;
  EXPECT_EQ(::read(done[0], &id, sizeof(id)), static_cast<ssize_t>(sizeof(id)));
  auto session = server.core().FindSession(token, id);
  EXPECT_TRUE(session.ok()) << session.status();
  if (session.ok()) {
    EXPECT_EQ((*session)->peer(), absl::StrCat("pid ", child, ", uid ", ::geteuid()));
  }
  for (const int fd : {done[0], done[1], keep[0], keep[1]}) ::close(fd);
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// --- Everything else is handed on ---

TEST_F(ListenerTest, EveryOtherFirstByteIsHandedOnAtOnce) {
  TestServer& server = Serve();
  for (int value = 0; value < 256; ++value) {
    if (value == kHelloMagic[0]) continue;
    const std::string byte(1, static_cast<char>(value));
    const UniqueFd client = Connect(server.address());
    WriteAll(client, byte);
    const TestServer::HandedOn handed_on = server.NextHandedOn();
    ASSERT_TRUE(handed_on.connection.valid()) << value;
    EXPECT_EQ(handed_on.first_bytes, byte);
    EXPECT_TRUE(IsCloseOnExec(handed_on.connection));
    EXPECT_NE(::fcntl(handed_on.connection.get(), F_GETFL) & O_NONBLOCK, 0);
    // The connection goes on from there, both ways.
    WriteAll(client, "more");
    EXPECT_EQ(ReadSome(handed_on.connection, 4), "more");
    WriteAll(handed_on.connection, "back");
    EXPECT_EQ(ReadSome(client, 4), "back");
  }
}

TEST_F(ListenerTest, NothingIsLostOfWhatCameAtOnce) {
  TestServer& server = Serve();
  std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  std::string tls = "\x16\x03\x01";
  for (int i = 0; i < 300; ++i) {
    preface += static_cast<char>(i);
    tls += static_cast<char>(i * 7);
  }
  for (const std::string& bytes : {preface, tls}) {
    const UniqueFd client = Connect(server.address());
    WriteAll(client, bytes);
    const TestServer::HandedOn handed_on = server.NextHandedOn();
    EXPECT_THAT(handed_on.first_bytes, ::testing::Not(IsEmpty()));
    EXPECT_EQ(handed_on.first_bytes +
                  ReadSome(handed_on.connection, bytes.size() - handed_on.first_bytes.size()),
              bytes);
  }
}

TEST_F(ListenerTest, PartOfTheMagicAndThenSomethingElseIsHandedOn) {
  TestServer& server = Serve();
  const std::string magic = HelloBytes(HelloWith(MintToken())).substr(0, kMagicSize);
  for (size_t length = 1; length < kMagicSize; ++length) {
    for (const bool at_once : {true, false}) {
      const std::string start = magic.substr(0, length);
      const std::string garbage = std::string(1, static_cast<char>(~magic[length])) + "garbage";
      const UniqueFd client = Connect(server.address());
      if (at_once) {
        WriteAll(client, start + garbage);
      } else {
        WriteAll(client, start);
        ASSERT_TRUE(Eventually([&] { return AllRead(client); }));
        EXPECT_EQ(server.handed_on(), 0u) << "not before it is certain";
        WriteAll(client, garbage);
      }
      EXPECT_EQ(server.NextHandedOn().first_bytes, start + garbage) << length;
    }
  }
  EXPECT_EQ(server.core().session_count(), 0u);
}

TEST_F(ListenerTest, ConnectionsThatEndBeforeTheyAreKnownAreClosed) {
  TestServer& server = Serve();
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  for (const size_t length : {size_t{0}, size_t{1}, kMagicSize - 1, kMagicSize, kHelloSize - 1}) {
    const UniqueFd client = Connect(server.address());
    if (length != 0) WriteAll(client, hello.substr(0, length));
    ASSERT_EQ(::shutdown(client.get(), SHUT_WR), 0);
    EXPECT_TRUE(IsCut(client)) << length;
  }
  EXPECT_EQ(server.handed_on(), 0u);
  EXPECT_EQ(server.core().session_count(), 0u);
}

// --- Descriptors where none belong ---

// Sends bytes with the write end of a pipe; the read end tells when all copies are closed.
UniqueFd SendPipe(BorrowedFd socket, const std::string& bytes) {
  int ends[2] = {-1, -1};
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  const int number = write_end.get();
  const IoResult io = SendMessage(socket, Bytes(bytes), absl::MakeConstSpan(&number, 1));
  EXPECT_TRUE(io.ok());
  return read_end;
}

bool HungUp(BorrowedFd read_end) {
  pollfd polled = {read_end.get(), POLLIN, 0};
  return ::poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) == 1 &&
         (polled.revents & POLLHUP) != 0;
}

// How a kernel without SO_PASSRIGHTS has it.
BindOptions OldKernel() {
  BindOptions bind;
  bind.pass_rights = PassRights::kLeave;
  return bind;
}

bool KernelRefusesDescriptors() {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return SetPassRights(probe, PassRights::kOff);
}

TEST_F(ListenerTest, DescriptorsBeforeTheSessionAreClosedAndTheSenderIsCut) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  server.Start();
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  for (const std::string& bytes : {hello, hello.substr(0, 10), std::string("P")}) {
    const UniqueFd client = Connect(server.address());
    const UniqueFd pipe = SendPipe(client, bytes);
    EXPECT_TRUE(HungUp(pipe));
    EXPECT_TRUE(IsCut(client));
  }
  EXPECT_EQ(server.handed_on(), 0u);
  EXPECT_EQ(server.core().session_count(), 0u);
  EXPECT_EQ(server.core().stats().early_fds_closed, 3u);
}

TEST_F(ListenerTest, WhereTheKernelCanDescriptorsAreRefusedBeforeTheSession) {
  TestServer& server = Serve();
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  const UniqueFd client = Connect(server.address());
  const UniqueFd file = MakeFile("x");
  const int number = file.get();
  const IoResult sent = SendMessage(client, Bytes(hello), absl::MakeConstSpan(&number, 1));
  if (KernelRefusesDescriptors()) {
    EXPECT_EQ(sent.error, EPERM);
    EXPECT_TRUE(SendMessage(client, Bytes(hello), {}).ok());
    EXPECT_EQ(ReadAnswer(client).status(), HelloStatus::kOk);
    EXPECT_EQ(server.core().stats().early_fds_closed, 0u);
  } else {
    EXPECT_TRUE(sent.ok());
    EXPECT_TRUE(IsCut(client));
    EXPECT_EQ(server.core().stats().early_fds_closed, 1u);
  }
}

// What is still in the socket of a connection that is cut goes with its last close.
TEST_F(ListenerTest, DescriptorsThatNobodyReadsAreClosedToo) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  const UniqueFd client = Connect(server.address());
  const UniqueFd first = SendPipe(client, "P");
  const UniqueFd second = SendPipe(client, "Q");  // Not read any more.
  server.Start();
  EXPECT_TRUE(HungUp(first));
  EXPECT_TRUE(HungUp(second));
}

// close(2) of a descriptor can block for as long as its sender likes. That is not to hold up other
// clients.
TEST_F(ListenerTest, DescriptorThatIsSlowToCloseHoldsNobodyUp) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  LingeringSocket slow;
  const UniqueFd client = Connect(server.address());
  const int number = slow.socket.get();
  ASSERT_TRUE(SendMessage(client, Bytes("P"), absl::MakeConstSpan(&number, 1)).ok());
  // Not the last reference, so this does not linger. That one is in flight, and the server's as
  // soon as it reads.
  slow.socket.Reset();
  server.Start();
  const absl::Time before = absl::Now();
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
  EXPECT_LT(absl::Now() - before, absl::Seconds(15));
  slow.peer.Reset();  // Lets the close go on.
}

// Nothing of honest clients may wait for it either, not even in the same user's lane: a
// number that is lost for each hello would be the end of the server.
TEST_F(ListenerTest, HonestHellosLeaveNothingBehindACloseThatBlocks) {
  server_ = std::make_unique<TestServer>(path_, ServerLimits(), OldKernel());
  TestServer& server = *server_;
  LingeringSocket slow;
  {
    const UniqueFd client = Connect(server.address());
    const int number = slow.socket.get();
    ASSERT_TRUE(SendMessage(client, Bytes("P"), absl::MakeConstSpan(&number, 1)).ok());
    slow.socket.Reset();  // Before the server can, whose close is to be the last.
    server.Start();
    ASSERT_TRUE(IsCut(client));
  }
  const auto hello_and_away = [&server] {
    EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
    EXPECT_TRUE(Eventually([&server] { return server.core().session_count() == 0; }));
  };
  hello_and_away();  // What is opened once is open.
  const auto quiet = [&server] { return server.core().ledger()->sessions() == 0; };
  EXPECT_TRUE(Eventually(quiet));
  const size_t before = OpenFdCount();
  for (int i = 0; i < 200; ++i) hello_and_away();
  EXPECT_TRUE(Eventually(quiet));
  EXPECT_TRUE(Eventually([before] { return OpenFdCount() <= before; })) << OpenFdCount() - before;
  slow.peer.Reset();
}

// --- Those who say nothing ---

TEST_F(ListenerTest, SilenceIsCutWhenTheTimeIsUp) {
  ServerLimits limits;
  limits.hello_timeout = absl::Milliseconds(200);
  TestServer& server = Serve(limits);
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  const absl::Time before = absl::Now();
  std::vector<UniqueFd> clients;
  for (const size_t length : {size_t{0}, size_t{1}, kMagicSize, kHelloSize - 1}) {
    clients.push_back(Connect(server.address()));
    if (length != 0) WriteAll(clients.back(), hello.substr(0, length));
  }
  for (const UniqueFd& client : clients) EXPECT_TRUE(IsCut(client));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(199));
  EXPECT_EQ(server.handed_on(), 0u);
}

// One byte and a stall: with a peek instead of a read this would be a busy loop.
TEST_F(ListenerTest, StalledConnectionsCostNothing) {
  TestServer& server = Serve();
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(Connect(server.address()));
    WriteAll(clients.back(), "\x8e");
    ASSERT_TRUE(Eventually([&] { return AllRead(clients.back()); }));
  }
  IdleCost cost("grpcfd-server");
  cost.Measure(absl::Milliseconds(300));
  EXPECT_LE(cost.wake_ups(), 5);
  EXPECT_LT(cost.share(), 0.05);
}

TEST_F(ListenerTest, WhenTooManyAreHalfOpenTheOldestGoes) {
  ServerLimits limits;
  limits.max_half_open = 8;
  TestServer& server = Serve(limits);
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(Connect(server.address()));
  for (size_t i = 0; i < silent.size(); ++i) {
    // Each newcomer costs the oldest its place, and is served itself.
    EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk) << i;
    EXPECT_TRUE(IsCut(silent[i])) << i;
    for (size_t k = i + 1; k < silent.size(); ++k) {
      EXPECT_FALSE(WaitReadable(silent[k], absl::ZeroDuration())) << i << ", " << k;
    }
    silent.push_back(Connect(server.address()));
    if (silent.size() == 16) break;
  }
}

TEST_F(ListenerTest, ConnectionsOfOneUserAreLimited) {
  ServerLimits limits;
  limits.max_connections_per_uid = 2;
  TestServer& server = Serve(limits);
  std::vector<TestServer::HandedOn> kept;
  for (int i = 0; i < 2; ++i) {
    WriteAll(Connect(server.address()), "P");
    kept.push_back(server.NextHandedOn());
    ASSERT_TRUE(kept.back().connection.valid());
  }
  {
    const UniqueFd refused = Connect(server.address());
    WriteAll(refused, "P");
    EXPECT_TRUE(IsCut(refused));
  }
  EXPECT_EQ(server.handed_on(), 0u);
  EXPECT_EQ(server.core().stats().connections_refused, 1u);
  EXPECT_EQ(server.core().stats().handed_on, 2u);
  // Sessions are not concerned.
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
  // One that is closed makes room.
  kept.pop_back();
  EXPECT_TRUE(Eventually([&server] {
    const UniqueFd again = Connect(server.address());
    WriteAll(again, "P");
    return server.core().stats().handed_on == 3;
  }));
}

// A flood does not crowd out a client whose hello is there when its connection is accepted.
TEST_F(ListenerTest, FloodDoesNotKeepClientsOut) {
  ServerLimits limits;
  limits.max_half_open = 2;
  BindOptions bind;
  bind.backlog = 300;
  server_ = std::make_unique<TestServer>(path_, limits, bind);
  std::vector<UniqueFd> flood;
  const auto connect_many = [&] {
    for (int i = 0; i < 100; ++i) flood.push_back(Connect(server_->address()));
  };
  connect_many();
  const UniqueFd client = Connect(server_->address());
  WriteAll(client, HelloBytes(HelloWith(MintToken())));
  connect_many();
  server_->Start();
  EXPECT_EQ(ReadAnswer(client).status(), HelloStatus::kOk);
}

TEST_F(ListenerTest, TheUserWithMostHalfOpenConnectionsLosesOne) {
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
  ServerLimits limits;
  limits.max_half_open = 4;
  BindOptions bind;
  bind.mode = 0666;
  TestServer& server = Serve(limits, bind);
  // The oldest of all is another user's only one. (Where this process may not change its user it
  // has all of them itself, and loses the oldest.)
  bool as_other = false;
  const UniqueFd lonely = ConnectAs(kOtherUid, server.address(), &as_other);
  ASSERT_TRUE(lonely.valid());
  std::vector<UniqueFd> many;
  for (int i = 0; i < 3; ++i) many.push_back(Connect(server.address()));
  many.push_back(Connect(server.address()));
  if (as_other && ::geteuid() != kOtherUid) {
    EXPECT_TRUE(IsCut(many[0]));
    EXPECT_FALSE(WaitReadable(lonely, absl::ZeroDuration()));
    WriteAll(lonely, HelloBytes(HelloWith(MintToken())));
    EXPECT_EQ(ReadAnswer(lonely).status(), HelloStatus::kOk);
  } else {
    EXPECT_TRUE(IsCut(lonely));
    EXPECT_FALSE(WaitReadable(many[0], absl::ZeroDuration()));
  }
}

// --- Limits ---

TEST_F(ListenerTest, SessionsOfOneUserAreLimited) {
  ServerLimits limits;
  limits.max_sessions = 8;
  limits.max_sessions_per_uid = 2;
  TestServer& server = Serve(limits);
  Answer first = SayHello(server.address(), HelloWith(MintToken()));
  const Answer second = SayHello(server.address(), HelloWith(MintToken()));
  EXPECT_EQ(first.status(), HelloStatus::kOk);
  EXPECT_EQ(second.status(), HelloStatus::kOk);
  const Answer third = SayHello(server.address(), HelloWith(MintToken()));
  EXPECT_EQ(third.status(), HelloStatus::kTooManySessions);
  EXPECT_THAT(third.fds, IsEmpty());
  first.fds.clear();
  EXPECT_TRUE(Eventually([&] {
    return SayHello(server.address(), HelloWith(MintToken())).status() == HelloStatus::kOk;
  })) << "there is room again";
}

TEST_F(ListenerTest, SessionsInTotalAreLimited) {
  ServerLimits limits;
  limits.max_sessions = 2;
  limits.max_sessions_per_uid = 8;
  TestServer& server = Serve(limits);
  const Answer first = SayHello(server.address(), HelloWith(MintToken()));
  const Answer second = SayHello(server.address(), HelloWith(MintToken()));
  EXPECT_EQ(first.status(), HelloStatus::kOk);
  EXPECT_EQ(second.status(), HelloStatus::kOk);
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(),
            HelloStatus::kTooManySessions);
  EXPECT_EQ(server.core().session_count(), 2u);
}

TEST(ServerCoreTest, LimitsMustFitIntoTheDescriptorsOfTheProcess) {
  rlimit nofile;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &nofile), 0);
  FdServerOptions options;
  options.limits.max_sessions = 10;
  options.limits.max_half_open = 5;
  // 3 descriptors for each session, 8 for the server: the largest total that still fits, and one
  // more.
  const auto room = static_cast<uint32_t>(nofile.rlim_cur - 3 * 10 - 5 - 8);
  options.limits.max_fds_total = room;
  EXPECT_TRUE(ServerCore::Create(options).ok());
  options.limits.max_fds_total = room + 1;
  const auto refused = ServerCore::Create(options);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              ::testing::AllOf(HasSubstr(absl::StrCat(nofile.rlim_cur + 1)),
                               HasSubstr("max_fds_total"), HasSubstr("RLIMIT_NOFILE")));
  options = FdServerOptions();
  options.limits.max_half_open = 0;
  EXPECT_EQ(ServerCore::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

// --- Out of descriptors ---

TEST_F(ListenerTest, WithoutDescriptorsItWaitsQuietlyAndGoesOn) {
  TestServer& server = Serve();
  // Both are connected before there is no room: they wait to be accepted.
  const UniqueFd first(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd second(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  IdleCost cost("grpcfd-server");
  sockaddr_un sockaddr;
  const socklen_t length = server.address().ToSockaddr(&sockaddr);
  {
    const ScopedFdRoom room(0);
    for (const UniqueFd* client : {&first, &second}) {
      ASSERT_EQ(
          ::connect(client->get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length), 0);
      WriteAll(*client, HelloBytes(HelloWith(MintToken())));
    }
    cost.Measure(absl::Seconds(1));
    EXPECT_LE(cost.wake_ups(), 20);
    EXPECT_GE(cost.wake_ups(), 2) << "it does try again";
    EXPECT_LT(cost.share(), 0.05);
  }
  const absl::Time before = absl::Now();
  EXPECT_EQ(ReadAnswer(first).status(), HelloStatus::kOk);
  EXPECT_EQ(ReadAnswer(second).status(), HelloStatus::kOk);
  EXPECT_LT(absl::Now() - before, absl::Seconds(1));
}

// A lack that lasts: the reserve descriptor lets clients be told instead of hanging.
TEST_F(ListenerTest, WithoutDescriptorsForLongClientsAreTold) {
  for (const PassRights pass_rights : {PassRights::kOff, PassRights::kLeave}) {
    ServerLimits limits;
    limits.hello_timeout = absl::Milliseconds(200);
    BindOptions bind;
    bind.pass_rights = pass_rights;
    server_ = std::make_unique<TestServer>(path_, limits, bind);
    TestServer& server = *server_;
    server.Start();
    const UniqueFd hello(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const UniqueFd other(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un sockaddr;
    const socklen_t length = server.address().ToSockaddr(&sockaddr);
    {
      const ScopedFdRoom room(0);
      for (const UniqueFd* client : {&hello, &other}) {
        ASSERT_EQ(
            ::connect(client->get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length),
            0);
      }
      WriteAll(hello, HelloBytes(HelloWith(MintToken())));
      WriteAll(other, "PRI * HTTP/2.0");
      EXPECT_EQ(ReadAnswer(hello).status(), HelloStatus::kOutOfDescriptors);
      EXPECT_TRUE(IsCut(other));
    }
    EXPECT_EQ(server.handed_on(), 0u);
    const FdServerStats stats = server.core().stats();
    EXPECT_EQ(stats.accept_rejected, 2u);
    EXPECT_EQ(stats.hellos_out_of_descriptors, 1u);
    EXPECT_GE(stats.accept_pauses, 2u);
    // And goes on as before. One that comes while the server still rejects may be told once more.
    HelloStatus answer = SayHello(server.address(), HelloWith(MintToken())).status();
    if (answer == HelloStatus::kOutOfDescriptors) {
      answer = SayHello(server.address(), HelloWith(MintToken())).status();
    }
    EXPECT_EQ(answer, HelloStatus::kOk);
    server_.reset();
  }
}

// Room to accept, but not for what a session needs.
TEST_F(ListenerTest, WithoutDescriptorsForASessionTheClientIsTold) {
  TestServer& server = Serve();
  const size_t idle = OpenFdCount();
  for (int room = 1; room <= 3; ++room) {
    // Both ends share one table: what the server has yet to close would become room later.
    ASSERT_TRUE(Eventually([idle] { return OpenFdCount() == idle; }));
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un sockaddr;
    const socklen_t length = server.address().ToSockaddr(&sockaddr);
    const ScopedFdRoom scoped(room);
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length),
              0);
    WriteAll(client, HelloBytes(HelloWith(MintToken())));
    EXPECT_EQ(ReadAnswer(client).status(), HelloStatus::kOutOfDescriptors) << room;
  }
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(), HelloStatus::kOk);
}

// Another holder of an adopted socket may shut it down. Then accept(2) has nothing for ever, and
// epoll(7) reports the hang-up for ever.
TEST_F(ListenerTest, ListeningSocketThatWasShutDownIsNoBusyLoop) {
  auto bound = BoundSocket::Bind(Address(path_), {});
  ASSERT_TRUE(bound.ok()) << bound.status();
  auto adopted = BoundSocket::Adopt(UniqueFd(::fcntl(bound->fd().get(), F_DUPFD_CLOEXEC, 3)));
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  auto core = ServerCore::Create({});
  ASSERT_TRUE(core.ok()) << core.status();
  auto listener =
      Listener::Create(*core, *std::move(adopted), {}, [](UniqueFd, std::string, FdVector) {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  ASSERT_TRUE((*listener)->Start().ok());
  IdleCost cost("grpcfd-server");
  ASSERT_EQ(::shutdown(bound->fd().get(), SHUT_RDWR), 0);
  cost.Measure(absl::Milliseconds(300));
  EXPECT_LE(cost.wake_ups(), 10);
  EXPECT_LT(cost.share(), 0.05);
  (*listener)->Stop();
}

// --- Start and stop ---

TEST_F(ListenerTest, ConnectionsBeforeStartWait) {
  server_ = std::make_unique<TestServer>(path_);
  const UniqueFd hello = Connect(server_->address());
  WriteAll(hello, HelloBytes(HelloWith(MintToken())));
  const UniqueFd other = Connect(server_->address());
  WriteAll(other, "PRI");
  EXPECT_FALSE(WaitReadable(hello, absl::Milliseconds(50)));
  EXPECT_EQ(server_->handed_on(), 0u);
  server_->Start();
  EXPECT_EQ(ReadAnswer(hello).status(), HelloStatus::kOk);
  EXPECT_EQ(server_->NextHandedOn().first_bytes, "PRI");
}

TEST_F(ListenerTest, StopCutsAllThatHaveNotSaidWhatTheyAre) {
  for (const bool async : {false, true}) {
    TestServer& server = Serve();
    const Token token = MintToken();
    const std::string hello = HelloBytes(HelloWith(MintToken()));
    Answer session = SayHello(server.address(), HelloWith(token));
    ASSERT_EQ(session.status(), HelloStatus::kOk);
    const UniqueFd silent = Connect(server.address());
    const UniqueFd magic = Connect(server.address());
    WriteAll(magic, hello.substr(0, 3));
    const UniqueFd partial = Connect(server.address());
    WriteAll(partial, hello.substr(0, 40));
    const UniqueFd other = Connect(server.address());
    WriteAll(other, "P");
    const TestServer::HandedOn handed_on = server.NextHandedOn();

    if (async) {
      server.listener().StopAsync();
    } else {
      server.listener().Stop();
      EXPECT_FALSE(Connect(server.address()).valid());
      EXPECT_THAT(dir_.List(), IsEmpty());
    }
    EXPECT_TRUE(IsCut(silent));
    EXPECT_TRUE(IsCut(magic));
    EXPECT_TRUE(IsCut(partial));
    // What was handed on belongs to its new owner, and sessions go on.
    WriteAll(other, "more");
    EXPECT_EQ(ReadSome(handed_on.connection, 4), "more");
    EXPECT_TRUE(server.core().FindSession(token, session.reply->session_id).ok());
    EXPECT_FALSE(WaitReadable(session.fds[0], absl::ZeroDuration()));
    EXPECT_TRUE(Eventually([&] { return !Connect(server.address()).valid(); }));

    EXPECT_EQ(server.listener().Start().code(), absl::StatusCode::kFailedPrecondition);
    server.listener().Stop();  // Again.
    server_.reset();
    // The core is gone, and says so.
    ASSERT_TRUE(WaitReadable(session.fds[0]));
    char frame[kFrameSize];
    EXPECT_EQ(::recv(session.fds[0].get(), frame, sizeof(frame), MSG_DONTWAIT),
              static_cast<ssize_t>(kFrameSize));
    EXPECT_EQ(frame[0], 4) << "CLOSE";
  }
}

TEST_F(ListenerTest, ConnectionsInTheBacklogAreCutByStop) {
  server_ = std::make_unique<TestServer>(path_);
  const UniqueFd waiting = Connect(server_->address());
  server_->listener().Stop();
  EXPECT_TRUE(IsCut(waiting));
  EXPECT_EQ(server_->listener().Start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ListenerTest, NeitherStartedNorStopped) {
  server_ = std::make_unique<TestServer>(path_);
  auto socket = BoundSocket::Bind(Address(dir_.File("t")), {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  auto core = ServerCore::Create({});
  ASSERT_TRUE(core.ok()) << core.status();
  auto listener =
      Listener::Create(*core, *std::move(socket), {}, [](UniqueFd, std::string, FdVector) {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  listener->reset();
  EXPECT_THAT(dir_.List(), ::testing::ElementsAre("s"));
}

TEST_F(ListenerTest, ServerThatIsShutDownOpensNoSessions) {
  TestServer& server = Serve();
  const Token token = MintToken();
  const Answer before = SayHello(server.address(), HelloWith(token));
  ASSERT_EQ(before.status(), HelloStatus::kOk);
  server.core().ShutDown();
  EXPECT_EQ(server.core().session_count(), 0u);
  EXPECT_EQ(server.core().FindSession(token, before.reply->session_id).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(WaitReadable(before.fds[0])) << "told, and cut";
  EXPECT_EQ(SayHello(server.address(), HelloWith(MintToken())).status(),
            HelloStatus::kShuttingDown);
}

// The handler is called on the poller's thread and may stop the listener from there.
TEST_F(ListenerTest, HandlerMayStopTheListener) {
  auto core = ServerCore::Create({});
  ASSERT_TRUE(core.ok()) << core.status();
  auto socket = BoundSocket::Bind(Address(path_), {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  std::weak_ptr<Listener> weak;
  std::atomic<int> calls{0};
  auto listener =
      Listener::Create(*core, *std::move(socket), {}, [&](UniqueFd, std::string, FdVector) {
        calls.fetch_add(1);
        if (auto self = weak.lock()) self->StopAsync();
      });
  ASSERT_TRUE(listener.ok()) << listener.status();
  weak = *listener;
  // All wait in the backlog, and would be accepted in one go.
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(Connect(Address(path_)));
    WriteAll(clients.back(), "P");
  }
  ASSERT_TRUE((*listener)->Start().ok());
  for (const UniqueFd& client : clients) EXPECT_TRUE(IsCut(client));
  (*listener)->Stop();
  EXPECT_GE(calls.load(), 1);
  EXPECT_FALSE(Connect(Address(path_)).valid());
}

TEST_F(ListenerTest, CyclesOfStartStormAndStopLeaveNothing) {
  const std::string hello = HelloBytes(HelloWith(MintToken()));
  const FdLeakChecker leaks;
  for (int cycle = 0; cycle < 300; ++cycle) {
    std::atomic<bool> over{false};
    std::vector<std::thread> storm;
    for (int i = 0; i < 2; ++i) {
      storm.emplace_back([&, i] {
        for (int n = i; !over.load(); ++n) {
          const UniqueFd client = Connect(Address(path_));
          if (!client.valid()) continue;
          const std::string bytes = n % 4 == 0   ? hello.substr(0, 20)
                                    : n % 4 == 1 ? HelloBytes(HelloWith(MintToken()))
                                                 : std::string("P");
          if (n % 4 == 3) continue;
          (void)::send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        }
      });
    }
    {
      TestServer server(path_);
      if (cycle % 3 != 0) server.Start();
      if (cycle % 3 == 1) server.NextHandedOn();
      if (cycle % 2 == 0) server.listener().StopAsync();
    }
    over.store(true);
    for (std::thread& thread : storm) thread.join();
    ASSERT_THAT(dir_.List(), IsEmpty());
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
