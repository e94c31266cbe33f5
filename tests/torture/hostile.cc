// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows 3, 5, 7, 19 and 24: peers that break the protocol, or claim to be another client.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/syscalls.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using internal::CloseCode;
using internal::FrameBuffer;
using internal::HelloStatus;
using internal::kFrameSize;
using testing_internal::MemoryFile;

// --- Row 3 ---

namespace {

constexpr int kLies = 7;
constexpr const char* kLieNames[kLies] = {
    "17 for 1", "253 for 1", "one more", "one fewer", "short", "long", "with a frame of no data"};

// A hostile frame of each kind. `random` varies what may vary.
void SendLie(const RawSession& session, int lie, int fd, std::mt19937* random) {
  const auto many = [fd](size_t count) { return std::vector<int>(count, fd); };
  const uint16_t count = static_cast<uint16_t>(1 + (*random)() % 15);
  int error = 0;
  switch (lie) {
    case 0:
      error = SendRaw(session.socket, DataFrame(1, 0, 1), many(17));
      break;
    case 1:
      error = SendRaw(session.socket, DataFrame(1, 0, 1), many(253));
      break;
    case 2:
      error = SendRaw(session.socket, DataFrame(1, 0, count), many(count + 1u));
      break;
    case 3:
      error =
          SendRaw(session.socket, DataFrame(1, 0, static_cast<uint16_t>(count + 1)), many(count));
      break;
    case 4: {
      const FrameBuffer frame = DataFrame(1, 0, count);
      error =
          SendRaw(session.socket, frame.data(), 1 + (*random)() % (kFrameSize - 1), many(count));
      break;
    }
    case 5: {
      std::string longer(kFrameSize + 1 + (*random)() % 4096, '\0');
      const FrameBuffer frame = DataFrame(1, 0, count);
      std::copy(frame.begin(), frame.end(), longer.begin());
      error = SendRaw(session.socket, longer.data(), longer.size(), many(count));
      break;
    }
    case 6: {
      internal::Frame credit;
      credit.type = internal::FrameType::kCredit;
      FrameBuffer frame;
      internal::EncodeFrame(credit, &frame);
      error = SendRaw(session.socket, frame, many(count));
      break;
    }
    default:
      break;
  }
  EXPECT_EQ(0, error) << kLieNames[lie];
}

}  // namespace

void Row03(Row* row) {
  auto server = MakeEchoServer();
  Bystander bystander(server->address());
  auto stub = test::TestService::NewStub(MakePlainChannel(server->address()));
  EXPECT_TRUE(CallPlain(stub.get()).ok());
  const UniqueFd file = MemoryFile("hostile");
  const std::string url = UrlOf(file, 0);
  const uint64_t each = row->Count(10'000);
  std::mt19937 random(3);
  constexpr uint64_t kBatch = 64;
  uint64_t batches = 0;
  for (int lie = 0; lie < kLies && !Failed(); ++lie) {
    for (uint64_t done = 0; done < each && !Failed(); ++batches) {
      std::vector<RawSession> sessions;
      for (; done < each && sessions.size() < kBatch; ++done) {
        sessions.push_back(OpenRaw(server->path()));
        ASSERT_TRUE(sessions.back().ok());
        SendLie(sessions.back(), lie, file.get(), &random);
      }
      // Three ways for the server to find out: a call asks, the client hangs up, or nobody does
      // anything and the sweep looks.
      const int way = static_cast<int>(batches % 4);
      for (const RawSession& session : sessions) {
        if (way == 0) {
          test::ExchangeReply reply;
          const grpc::Status status = CallRaw(stub.get(), session, 1, 1, {url}, &reply);
          EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code())
              << kLieNames[lie] << ": " << status.error_message();
        } else if (way == 1) {
          ::shutdown(session.socket.get(), SHUT_WR);
        }
      }
      for (const RawSession& session : sessions) ExpectCut(session, CloseCode::kProtocolError);
      row->Done(sessions.size());
      if (way == 2) ExpectNothingInherited();
      sessions.clear();
      EXPECT_TRUE(CallPlain(stub.get()).ok()) << "the gRPC connection did not live on";
    }
    EXPECT_TRUE(internal::Eventually([&] { return server->fd_server()->session_count() == 1; }));
  }
  bystander.AwaitCall();
  row->Figure(absl::StrCat(kLies, " kinds; a bystander made ", bystander.calls(), " calls"));
}

// --- Row 5 ---

namespace {

class Disorder {
 public:
  Disorder(testing_internal::TestServer* server, test::TestService::Stub* stub)
      : server_(*server), stub_(stub) {}

  static constexpr int kKinds = 8;

  void Try(int kind) {
    const RawSession session = OpenRaw(server_.path());
    ASSERT_TRUE(session.ok());
    switch (kind) {
      case 0:
        return Gap(session);
      case 1:
        return Repeat(session);
      case 2:
        return UnknownCall(session);
      case 3:
        return EndedCall(session);
      case 4:
        return SecondHello(session);
      case 5:
        return UnknownVersion();
      case 6:
        return TwoCallsOfOneId(session);
      case 7:
        return OtherAttempt(session);
      default:
        break;
    }
  }

 private:
  void Send(const RawSession& session, uint64_t call, uint32_t index, const UniqueFd& fd,
            uint32_t attempt = 0) {
    EXPECT_EQ(0, SendRaw(session.socket, DataFrame(call, index, 1, attempt), {fd.get()}));
  }
  grpc::StatusCode Call(const RawSession& session, uint64_t call, uint32_t count,
                        const std::vector<std::string>& urls, std::string* payload) {
    test::ExchangeReply reply;
    const grpc::Status status = CallRaw(stub_, session, call, count, urls, &reply);
    *payload = reply.payload();
    return status.error_code();
  }

  // Index 0 is missing below index 1: what asks for it fails at once, the other is delivered.
  void Gap(const RawSession& session) {
    const UniqueFd file = MemoryFile("gap");
    std::string payload;
    Send(session, 1, 1, file);
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, Call(session, 1, 2, {UrlOf(file, 0)}, &payload));
    Send(session, 2, 1, file);
    EXPECT_EQ(grpc::StatusCode::OK, Call(session, 2, 2, {UrlOf(file, 1)}, &payload));
    EXPECT_EQ("gap|", payload);
  }
  void Repeat(const RawSession& session) {
    const UniqueFd file = MemoryFile("repeat");
    Send(session, 1, 0, file);
    Send(session, 1, 0, file);
    std::string payload;
    // The first may be taken before the second is looked at.
    const grpc::StatusCode code = Call(session, 1, 1, {UrlOf(file, 0)}, &payload);
    EXPECT_TRUE(code == grpc::StatusCode::OK || code == grpc::StatusCode::UNAVAILABLE) << code;
    if (code == grpc::StatusCode::OK) {
      EXPECT_EQ("repeat|", payload);
    }
    // The call has ended by then, so its repeat may count as late instead; a repeat within a living
    // call may not.
    if (code != grpc::StatusCode::OK) {
      ExpectCut(session, CloseCode::kProtocolError);
    }
    const RawSession other = OpenRaw(server_.path());
    Send(other, 1, 0, file);
    Send(other, 1, 0, file);
    ::shutdown(other.socket.get(), SHUT_WR);
    ExpectCut(other, CloseCode::kProtocolError);
  }
  // Descriptors of call 7; call 8 asks for them, under their URL.
  void UnknownCall(const RawSession& session) {
    const UniqueFd file = MemoryFile("unknown");
    Send(session, 7, 0, file);
    std::string payload;
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, Call(session, 8, 1, {UrlOf(file, 0)}, &payload));
    EXPECT_EQ(grpc::StatusCode::NOT_FOUND, Call(session, 9, 0, {UrlOf(file, 0)}, &payload));
    EXPECT_EQ("", payload);
  }
  void EndedCall(const RawSession& session) {
    const UniqueFd file = MemoryFile("ended");
    std::string payload;
    Send(session, 1, 0, file);
    EXPECT_EQ(grpc::StatusCode::OK, Call(session, 1, 1, {UrlOf(file, 0)}, &payload));
    Send(session, 1, 1, file);
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, Call(session, 2, 1, {UrlOf(file, 0)}, &payload));
    EXPECT_EQ("", payload);
  }
  void SecondHello(const RawSession& session) {
    const RawSession second = OpenRaw(server_.path(), session.token);
    EXPECT_EQ(HelloStatus::kTokenInUse, second.status);
    EXPECT_FALSE(second.ok());
    const UniqueFd file = MemoryFile("first");  // The first session is as it was.
    Send(session, 1, 0, file);
    std::string payload;
    EXPECT_EQ(grpc::StatusCode::OK, Call(session, 1, 1, {UrlOf(file, 0)}, &payload));
    EXPECT_EQ("first|", payload);
  }
  void UnknownVersion() {
    internal::Hello hello = internal::HelloWith(internal::MintToken());
    hello.min_version = internal::kMaxVersion + 1;
    hello.max_version = internal::kMaxVersion + 9;
    const internal::Answer answer = internal::SayHello(internal::Address(server_.path()), hello);
    EXPECT_EQ(HelloStatus::kUnsupportedVersion, answer.status());
    EXPECT_TRUE(answer.fds.empty());
    if (answer.reply.ok()) {
      EXPECT_EQ(internal::kMaxVersion, answer.reply->version);
    }
  }
  // The same call id again after its end: its descriptors went with it.
  void TwoCallsOfOneId(const RawSession& session) {
    const UniqueFd file = MemoryFile("once");
    std::string payload;
    Send(session, 1, 0, file);
    EXPECT_EQ(grpc::StatusCode::OK, Call(session, 1, 1, {UrlOf(file, 0)}, &payload));
    EXPECT_NE(grpc::StatusCode::OK, Call(session, 1, 1, {UrlOf(file, 0)}, &payload));
    EXPECT_EQ("", payload);
  }
  void OtherAttempt(const RawSession& session) {
    const UniqueFd file = MemoryFile("attempt 1");
    std::string payload;
    Send(session, 1, 0, file, /*attempt=*/1);
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, Call(session, 1, 1, {UrlOf(file, 0)}, &payload));
    EXPECT_EQ("", payload);
  }

  testing_internal::TestServer& server_;
  test::TestService::Stub* const stub_;
};

}  // namespace

void Row05(Row* row) {
  auto server = MakeEchoServer();
  Bystander bystander(server->address());
  auto stub = test::TestService::NewStub(MakePlainChannel(server->address()));
  Disorder disorder(server.get(), stub.get());
  const uint64_t count = row->Count(10'000, Disorder::kKinds);
  for (uint64_t i = 0; i < count && !Failed(); ++i) {
    disorder.Try(static_cast<int>(i % Disorder::kKinds));
    row->Done();
  }
  EXPECT_TRUE(internal::Eventually([&] { return server->fd_server()->session_count() == 1; }));
  bystander.AwaitCall();
  row->Figure(
      absl::StrCat(Disorder::kKinds, " kinds; a bystander made ", bystander.calls(), " calls"));
}

// --- Row 7 ---

namespace {

// Random ancillary data: rights in one or several headers, of living and of dead descriptors,
// credentials, unknown kinds, lengths that are wrong. The kernel refuses most of it.
void SendRandom(const UniqueFd& socket, const std::string& bytes, const std::vector<int>& fds,
                std::mt19937* random) {
  alignas(cmsghdr) char control[1024] = {};
  size_t used = 0;
  const size_t headers = (*random)() % 4;
  for (size_t h = 0; h < headers; ++h) {
    const size_t count = (*random)() % 5;
    const size_t space = CMSG_SPACE(count * sizeof(int));
    if (used + space > sizeof(control)) break;
    cmsghdr entry{};
    entry.cmsg_level = (*random)() % 16 == 0 ? static_cast<int>((*random)() % 64) : SOL_SOCKET;
    entry.cmsg_type = (*random)() % 8 == 0 ? static_cast<int>((*random)() % 8) : SCM_RIGHTS;
    entry.cmsg_len = CMSG_LEN(count * sizeof(int));
    if ((*random)() % 32 == 0) entry.cmsg_len = (*random)() % 2048;
    memcpy(control + used, &entry, sizeof(entry));
    for (size_t i = 0; i < count; ++i) {
      const int fd = (*random)() % 64 == 0 ? -1 : fds[(*random)() % fds.size()];
      memcpy(control + used + CMSG_LEN(0) + i * sizeof(fd), &fd, sizeof(fd));
    }
    used += space;
  }
  iovec vector{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = used == 0 ? nullptr : control;
  header.msg_controllen = used;
  // Whether the kernel takes it, and whether the server still listens to this session, is no
  // matter.
  (void)!::sendmsg(socket.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

std::string RandomBytes(size_t size, std::mt19937* random) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>((*random)());
  return bytes;
}

}  // namespace

void Row07(Row* row) {
  auto server = MakeEchoServer();
  Bystander bystander(server->address());
  auto stub = test::TestService::NewStub(MakeChannel(server->address()));
  const uint64_t count = row->Count(1'000'000, 10'000);
  std::vector<UniqueFd> files;
  std::vector<int> numbers;
  for (int i = 0; i < 8; ++i) {
    files.push_back(MemoryFile("random"));
    numbers.push_back(files.back().get());
  }
  const uint64_t seed = static_cast<uint64_t>(absl::ToUnixNanos(absl::Now()));
  std::mt19937 random(static_cast<unsigned>(seed));
  uint64_t healthy = 0;
  Times health;
  RawSession session;
  for (uint64_t i = 0; i < count && !Failed(); ++i) {
    switch (random() % 8) {
      case 0: {  // Anything at all, as the first bytes of a connection.
        const UniqueFd connection =
            internal::Connect(internal::Address(server->path()), SOCK_NONBLOCK);
        if (!connection.valid()) break;  // The backlog is full.
        SendRandom(connection, RandomBytes(1 + random() % 80, &random), numbers, &random);
        break;
      }
      case 1: {  // A hello with a few wrong bytes.
        const UniqueFd connection =
            internal::Connect(internal::Address(server->path()), SOCK_NONBLOCK);
        if (!connection.valid()) break;
        std::string bytes = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
        for (unsigned k = 1 + random() % 3; k > 0; --k) {
          bytes[8 + random() % (bytes.size() - 8)] = static_cast<char>(random());
        }
        SendRandom(connection, bytes, numbers, &random);
        break;
      }
      default: {  // Frames of a session, from nearly right to nonsense.
        if (!session.ok() || random() % 16 == 0) session = OpenRaw(server->path());
        if (!session.ok()) break;
        std::string bytes;
        if (random() % 4 == 0) {
          bytes = RandomBytes(1 + random() % 100, &random);
        } else {
          const FrameBuffer frame = DataFrame(1 + random() % 4, static_cast<uint32_t>(random() % 8),
                                              static_cast<uint16_t>(1 + random() % 4));
          bytes.assign(frame.begin(), frame.end());
          if (random() % 2 == 0) bytes[random() % bytes.size()] = static_cast<char>(random());
        }
        SendRandom(session.socket, bytes, numbers, &random);
        break;
      }
    }
    row->Done();
    if ((i + 1) % 1000 != 0) continue;
    const absl::Time begin = absl::Now();
    const grpc::Status status = CallEcho(stub.get(), 1, 1, absl::Seconds(20));
    EXPECT_TRUE(status.ok()) << "after " << i + 1 << " messages (seed " << seed
                             << "): " << status.error_code() << " " << status.error_message();
    health.Add(absl::Now() - begin);
    ++healthy;
  }
  session = RawSession();
  EXPECT_TRUE(internal::Eventually([&] { return server->fd_server()->session_count() == 2; }));
  row->Figure(absl::StrCat(healthy, " health calls, ", health.ToString()));
}

// --- Row 19 ---

void Row19(Row* row) {
  internal::TempDir dir;
  internal::TestServer server(dir.File("socket"));
  server.Start();
  // What is not a hello is handed on, with the bytes that were read; what may become one is kept.
  const auto expect_handed_on = [&](const std::string& bytes) {
    const UniqueFd connection = internal::Connect(server.address());
    ASSERT_TRUE(connection.valid());
    internal::WriteAll(connection, bytes);
    internal::TestServer::HandedOn handed_on = server.NextHandedOn();
    ASSERT_TRUE(handed_on.connection.valid()) << "not handed on";
    std::string read = handed_on.first_bytes;
    if (read.size() < bytes.size()) {
      read += internal::ReadSome(handed_on.connection, bytes.size() - read.size());
    }
    EXPECT_EQ(bytes, read) << "bytes were lost on the way";
    EXPECT_TRUE(internal::IsCloseOnExec(handed_on.connection));
    EXPECT_NE(0, fcntl(handed_on.connection.get(), F_GETFL) & O_NONBLOCK);
    row->Done();
  };
  const std::string magic(reinterpret_cast<const char*>(internal::kHelloMagic),
                          internal::kMagicSize);
  for (int byte = 0; byte < 256 && !Failed(); ++byte) {
    if (static_cast<char>(byte) == magic[0]) continue;
    expect_handed_on(std::string(1, static_cast<char>(byte)));
  }
  expect_handed_on("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  expect_handed_on("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  expect_handed_on(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11));
  // Each beginning of the magic with each wrong byte behind it; and garbage before a whole hello.
  const std::string hello = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
  for (size_t prefix = 1; prefix < magic.size(); ++prefix) {
    for (int byte = 0; byte < 256 && !Failed(); ++byte) {
      if (static_cast<char>(byte) == magic[prefix]) continue;
      expect_handed_on(magic.substr(0, prefix) + static_cast<char>(byte));
    }
    // No more than a beginning: neither handed on nor a session.
    const UniqueFd partial = internal::Connect(server.address());
    internal::WriteAll(partial, magic.substr(0, prefix));
    expect_handed_on("x" + hello);
    EXPECT_EQ(0u, server.handed_on());
  }
  const uint64_t count = row->Count(1'000'000);
  std::mt19937 random(19);
  for (uint64_t i = 0; i < count && !Failed(); ++i) {
    std::string bytes = RandomBytes(1 + random() % 100, &random);
    // Often with a beginning that looks like one of ours.
    const size_t prefix = random() % magic.size();
    bytes = magic.substr(0, prefix) + bytes;
    if (magic.compare(0, bytes.size(), bytes, 0, magic.size()) == 0 ||
        bytes.compare(0, magic.size(), magic) == 0) {
      continue;  // By chance it is the magic after all.
    }
    // A match that goes on to the end of the bytes would wait for more.
    if (bytes.size() < magic.size() && magic.compare(0, bytes.size(), bytes) == 0) continue;
    expect_handed_on(bytes);
  }
  EXPECT_EQ(0u, server.core().session_count()) << "something was taken for a hello";
  row->Figure("0 taken for a hello, all bytes handed on");
}

// --- Row 24 ---

void Row24(Row* row) {
  auto server = MakeEchoServer();
  auto stub = test::TestService::NewStub(MakePlainChannel(server->address()));
  const RawSession victim = OpenRaw(server->path());
  ASSERT_TRUE(victim.ok());
  const UniqueFd secret = MemoryFile("secret");
  const std::string url = UrlOf(secret, 0);
  // A descriptor of the victim's waits at the server for a call that somebody else would like to
  // make. It is renewed as it would expire.
  uint64_t call = 1;
  EXPECT_EQ(0, SendRaw(victim.socket, DataFrame(call, 0, 1), {secret.get()}));

  // Guesses: the session's id and the call's are known, the token is not.
  const uint64_t guesses = row->Count(1'000'000);
  std::atomic<uint64_t> next{0}, hits{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto guesser = test::TestService::NewStub(MakePlainChannel(server->address()));
      std::mt19937 random(t + 1);
      RawSession guess;
      guess.id = victim.id;
      while (next++ < guesses && !Failed()) {
        std::array<char, internal::kTokenSize> bytes = victim.token.bytes();
        if (random() % 2 == 0) {
          for (char& byte : bytes) byte = static_cast<char>(random());
        }
        bytes[random() % bytes.size()] ^=
            static_cast<char>(1u << random() % 8);  // As near as it gets.
        guess.token = internal::Token(bytes);
        if (guess.token == victim.token || guess.token.zero()) continue;
        test::ExchangeReply reply;
        const grpc::Status status = CallRaw(guesser.get(), guess, call, 1, {url}, &reply);
        EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << status.error_message();
        if (!reply.payload().empty()) ++hits;
        row->Done();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(0u, hits);

  // The right token with another session's id, and a hello with a living session's token.
  {
    RawSession other = OpenRaw(server->path());
    ASSERT_TRUE(other.ok());
    RawSession mixed;
    mixed.token = victim.token;
    mixed.id = other.id;
    test::ExchangeReply reply;
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE,
              CallRaw(stub.get(), mixed, call, 1, {url}, &reply).error_code());
    mixed.token = other.token;
    mixed.id = victim.id;
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE,
              CallRaw(stub.get(), mixed, call, 1, {url}, &reply).error_code());
    EXPECT_EQ(HelloStatus::kTokenInUse, OpenRaw(server->path(), victim.token).status);
    row->Done(3);
  }
  // A look-up that fails is a refusal, whatever the errno.
  for (const int error : {ENOPROTOOPT, EPERM, ENOMEM, ENOBUFS, ENOTCONN}) {
    FailEvery(Syscall::kGetsockopt, error, SO_PEERCRED);
    UniqueFd connection;
    {
      const ScopedTestCode mine;
      connection = internal::Connect(internal::Address(server->path()));
      ASSERT_TRUE(connection.valid());
      // The server may have closed it before this is written.
      const std::string hello = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
      (void)!::send(connection.get(), hello.data(), hello.size(), MSG_NOSIGNAL);
    }
    const internal::Answer answer = internal::ReadAnswer(connection);
    EXPECT_NE(HelloStatus::kOk, answer.reply.ok() ? answer.reply->status : HelloStatus::kRefused);
    EXPECT_TRUE(answer.fds.empty());
    EXPECT_TRUE(Injected());
    StopFailing();
    row->Done();
  }
  // A client that is dead: its session, and with it the right to its descriptors, ends with it.
  {
    Peer peer("hold", {server->path()});
    RawSession dead;
    dead.id = std::stoull(peer.Line());
    const std::string token = peer.Line();
    ASSERT_EQ(2 * internal::kTokenSize, token.size());
    std::array<char, internal::kTokenSize> bytes;
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<char>(std::stoi(token.substr(2 * i, 2), nullptr, 16));
    }
    dead.token = internal::Token(bytes);
    peer.Kill();
    EXPECT_TRUE(internal::Eventually([&] { return server->fd_server()->session_count() == 1; }));
    test::ExchangeReply reply;
    EXPECT_EQ(grpc::StatusCode::UNAVAILABLE,
              CallRaw(stub.get(), dead, 1, 1, {url}, &reply).error_code());
    row->Done();
  }
  // Another user: the token of a living session is of no use to it in a hello, and a socket with
  // mode 0600 lets it not even connect.
  if (row->NeedsRoot("another uid")) {
    EXPECT_EQ(0, ::chmod(server->path().substr(0, server->path().rfind('/')).c_str(), 0711));
    EXPECT_EQ(0, ::chmod(server->path().c_str(), 0777));
    Peer peer("impostor",
              {server->path(), internal::ToHex(absl::MakeConstSpan(victim.token.bytes()))},
              Peer::As::kNobody);
    EXPECT_EQ("in use", peer.Line());
    EXPECT_EQ(0, ::chmod(server->path().c_str(), 0600));
    peer.Say("again");
    EXPECT_EQ("permission denied", peer.Line());
    row->Done(2);
  }
  // The victim still has its own.
  EXPECT_EQ(0, SendRaw(victim.socket, DataFrame(++call, 0, 1), {secret.get()}));
  test::ExchangeReply reply;
  EXPECT_TRUE(CallRaw(stub.get(), victim, call, 1, {url}, &reply).ok());
  EXPECT_EQ("secret|", reply.payload());
  row->Figure(absl::StrCat(hits.load(), " hits"));
}

}  // namespace torture
}  // namespace grpcfd
