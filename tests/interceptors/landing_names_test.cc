// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a thief gets who knows the names of other clients' connections, or guesses them: nothing of
// theirs. And what he can do to them: no call of theirs fails, and each has its own descriptors.
// He speaks the protocol by hand, and says what he likes.
#include <gmock/gmock.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/hello.h"
#include "interceptors/grpc/socket_mutator.h"
#include "tests/fdchannel/server/server_test_util.h"
#include "tests/interceptors/landing_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using internal::Address;
using internal::ConnectionId;
using internal::Eventually;
using internal::HelloStatus;
using internal::MintToken;
using internal::Token;
using testing_internal::Content;
using testing_internal::Exchange;
using testing_internal::LandingTest;
using testing_internal::ListeningSocket;
using testing_internal::Load;
using testing_internal::MakeChannel;
using testing_internal::MemoryFile;
using testing_internal::PlainCall;
using testing_internal::Process;
using testing_internal::SetDeadline;
using testing_internal::Style;

// Servers that soon give up a call whose descriptors do not come.
ListenOptions Impatient() {
  ListenOptions options;
  options.fd_server_options.limits.hello_timeout = absl::Milliseconds(200);
  return options;
}

// A process in a network namespace of its own, where all names are free. It connects to a path
// with the name of `id`, and gives the connection to this process. To the kernel it stays the
// thief's.
class Stranger {
 public:
  Stranger(const std::string& path, const ConnectionId& id) {
    const internal::SocketAddress address = Address(path);
    auto pair = internal::MakePair(SOCK_SEQPACKET);
    pid_ = fork();
    if (pid_ == 0) Live(address, id, pair.b.get());  // System calls only: there may be locks.
    pair.b.Reset();
    char said = 'x';
    internal::ReceivedMessage message;
    EXPECT_TRUE(internal::WaitReadable(pair.a));
    EXPECT_TRUE(internal::ReceiveMessage(pair.a, &said, 1, &message).ok());
    if (message.fds.size() == 1) connection_ = std::move(message.fds[0]);
    allowed_ = said != 'n';
    EXPECT_EQ(connection_.valid(), allowed_) << said;
  }
  ~Stranger() {
    kill(pid_, SIGKILL);
    EXPECT_EQ(waitpid(pid_, nullptr, 0), pid_);
  }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;

  // Whether this machine lets us have namespaces.
  bool allowed() const { return allowed_; }
  pid_t pid() const { return pid_; }

  // A gRPC channel by that connection, once.
  std::shared_ptr<grpc::Channel> Channel() {
    return grpc::CreateInsecureChannelFromFd("thief", connection_.Release());
  }

 private:
  [[noreturn]] static void Live(const internal::SocketAddress& address, const ConnectionId& id,
                                int parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char said = 'y';
    int connection = -1;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
      said = 'n';
    } else {
      sockaddr_un to;
      const socklen_t length = address.ToSockaddr(&to);
      connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (!internal::NameSocket(BorrowedFd(connection), id) ||
          connect(connection, reinterpret_cast<const sockaddr*>(&to), length) != 0) {
        said = 'f';
      }
    }
    const absl::Span<const char> byte(&said, 1);
    (void)internal::SendMessage(BorrowedFd(parent), byte,
                                absl::MakeConstSpan(&connection, said == 'y' ? 1 : 0));
    for (;;) pause();
  }

  pid_t pid_ = -1;
  bool allowed_ = false;
  UniqueFd connection_;
};

// A connection of this process, by hand, with this name.
UniqueFd ConnectAs(const std::string& path, const ConnectionId& id) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_TRUE(internal::NameSocket(fd, id));
  sockaddr_un to;
  const socklen_t length = Address(path).ToSockaddr(&to);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), length), 0);
  return fd;
}

// A session opened by hand.
struct Opened {
  HelloStatus status = HelloStatus::kRefused;
  Token token;
  uint64_t id = 0;
  UniqueFd socket;
};

Opened Open(const std::string& path, const Token& token, const ConnectionId& connection) {
  internal::Hello hello = internal::HelloWith(token);
  hello.connection = connection;
  internal::Answer answer = internal::SayHello(Address(path), hello);
  Opened opened;
  opened.status = answer.status();
  opened.token = token;
  if (answer.fds.size() == 1) {
    opened.id = answer.reply->session_id;
    opened.socket = std::move(answer.fds[0]);
  }
  return opened;
}

// Until the server has the connection.
Opened OpenSoon(const std::string& path, const Token& token, const ConnectionId& connection) {
  Opened opened;
  EXPECT_TRUE(Eventually([&] {
    opened = Open(path, token, connection);
    return opened.status != HelloStatus::kElsewhere;
  }));
  return opened;
}

// Says that it has sent what it was asked for, whatever that is. The number of descriptors that
// came.
size_t LieTo(const UniqueFd& session) {
  size_t fds = 0;
  char bytes[internal::kFrameSize];
  internal::ReceivedMessage message;
  while (internal::WaitReadable(session) &&
         internal::ReceiveMessage(session, bytes, sizeof(bytes), &message).ok() &&
         message.size != 0) {
    fds += message.fds.size();
    auto frame = internal::DecodeFrame(absl::MakeConstSpan(bytes, message.size));
    if (!frame.ok() || frame->type != internal::FrameType::kResend) continue;
    frame->type = internal::FrameType::kResent;
    frame->outcome = internal::ResendOutcome::kSent;
    internal::FrameBuffer answer;
    internal::EncodeFrame(*frame, &answer);
    (void)internal::SendMessage(session, answer, {});
  }
  return fds;
}

// A call of the thief's, which names descriptors that he has not sent. What he gets.
std::string Steal(test::TestService::Stub* stub, const Token& token, uint64_t session_id,
                  uint64_t call_id) {
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  internal::CallMetadata said;
  said.token = token;
  said.session_id = session_id;
  said.call_id = call_id;
  said.count = 1;
  const auto bytes = internal::EncodeCallMetadata(said);
  context.AddMetadata(internal::kCallMetadataKey, std::string(bytes.data(), bytes.size()));
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  request.add_urls("inode://1/2?fd=0");
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  return status.ok() ? absl::StrCat("stolen: ", reply.payload()) : "";
}

// All that a thief can say about a client whose session and connection he knows, and whose calls
// have low numbers. `own`: his session for that connection, if a server gave him one.
void ExpectNothingStolen(const std::shared_ptr<grpc::Channel>& channel, const Opened& own,
                         uint64_t session_id) {
  auto stub = test::TestService::NewStub(channel);
  size_t fds = 0;
  std::thread liar;
  if (own.socket.valid()) {
    EXPECT_NE(own.id, session_id);
    liar = std::thread([&] { fds = LieTo(own.socket); });
  }
  for (uint64_t call = 1; call <= 3; ++call) {
    EXPECT_EQ(Steal(stub.get(), own.token, session_id, call), "");
    if (own.socket.valid()) {
      EXPECT_EQ(Steal(stub.get(), own.token, own.id, call), "");
    }
    EXPECT_EQ(Steal(stub.get(), MintToken(), session_id, call), "");
  }
  if (!liar.joinable()) return;
  shutdown(own.socket.get(), SHUT_RDWR);
  liar.join();
  EXPECT_EQ(fds, 0u);
}

// A client all of whose connections have one name, which is known before it connects.
std::shared_ptr<grpc::Channel> MakeChannelNamed(const ConnectionId& id,
                                                const std::string& address) {
  auto fd_channel = FdChannel::Create(address);
  EXPECT_TRUE(fd_channel.ok()) << fd_channel.status();
  grpc::ChannelArguments arguments;
  internal::OnEachSocket(&arguments, [id, core = internal::CoreOf(**fd_channel)](int socket) {
    if (internal::NameSocket(BorrowedFd(socket), id)) core->AddConnection(id, socket);
  });
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> creators;
  creators.push_back(MakeClientInterceptorFactory(*fd_channel));
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      address, grpc::InsecureChannelCredentials(), arguments, std::move(creators));
}

class NamesTest : public LandingTest {
 protected:
  // By what the server says, as whoever reads /proc/net/unix would. Plain calls that come after
  // this one need an own `exchange`.
  static ConnectionId NameOf(Process* process, const std::shared_ptr<grpc::Channel>& channel) {
    const auto exchange = process->service.exchange;
    std::string peer;
    process->service.exchange = [&peer](grpc::ServerContext* context, auto*, auto*) {
      peer = context->peer();
      return grpc::Status::OK;
    };
    EXPECT_EQ(PlainCall(test::TestService::NewStub(channel).get(), false), "");
    process->service.exchange = exchange;
    const ConnectionId id = internal::IdInPeerName(peer);
    EXPECT_FALSE(id.zero()) << peer;
    return id;
  }
};

// The thief's gRPC connection is with one server, and he names another client's to both.
TEST_F(NamesTest, ALyingNameInTheHelloGetsNothingOfItsOwner) {
  Process a("a", address_, Impatient());
  const std::string other = dir_.File("other");
  Process b("b", "unix:" + other, Impatient());
  const auto owner = MakeChannel("unix:" + other);
  const ConnectionId name = NameOf(&b, owner);
  Load load(owner, Style::kSync, /*wait_for_ready=*/false);
  load.AwaitMore(10);
  const uint64_t session_id = GetFdChannel(*owner)->session_id();

  const ConnectionId own_name = MintToken();
  UniqueFd connection = ConnectAs(path_, own_name);
  const auto channel = grpc::CreateInsecureChannelFromFd("thief", connection.Release());
  const Token token = MintToken();
  const Opened own = OpenSoon(path_, token, own_name);
  EXPECT_EQ(own.status, HelloStatus::kOk);
  // Each name with the server that has not got it.
  EXPECT_EQ(Open(path_, MintToken(), name).status, HelloStatus::kElsewhere);
  EXPECT_EQ(Open(other, token, own_name).status, HelloStatus::kElsewhere);
  ExpectNothingStolen(channel, own, session_id);
  // The owner's name, with the owner's server.
  const Opened lie = Open(other, token, name);
  ExpectNothingStolen(channel, lie, session_id);

  load.AwaitMore(100);
  load.ExpectNoFailures();
}

// The owner has connected, and has a session.
TEST_F(NamesTest, ANameTakenInAnotherNamespaceGetsNothingOfItsOwner) {
  Process process("only", address_, Impatient());
  const auto owner = MakeChannel(address_);
  const ConnectionId name = NameOf(&process, owner);
  Load load(owner, Style::kSync, /*wait_for_ready=*/false);
  load.AwaitMore(10);
  Stranger thief(path_, name);
  if (!thief.allowed()) GTEST_SKIP() << "no user namespaces here";
  const auto channel = thief.Channel();
  EXPECT_EQ(PlainCall(test::TestService::NewStub(channel).get(), false), "");
  const uint64_t session_id = GetFdChannel(*owner)->session_id();
  const Opened own = Open(path_, MintToken(), name);
  ExpectNothingStolen(channel, own, session_id);
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

// The thief has the name first.
TEST_F(NamesTest, ANameTakenBeforeItsOwnerConnectsGetsNothingOfTheOwner) {
  Process process("only", address_, Impatient());
  const ConnectionId name = MintToken();
  Stranger thief(path_, name);
  if (!thief.allowed()) GTEST_SKIP() << "no user namespaces here";
  const auto channel = thief.Channel();
  EXPECT_EQ(PlainCall(test::TestService::NewStub(channel).get(), false), "");
  const auto owner = MakeChannelNamed(name, address_);
  Load load(owner, Style::kSync, /*wait_for_ready=*/false);
  load.AwaitMore(10);
  const uint64_t session_id = GetFdChannel(*owner)->session_id();
  const Opened own = Open(path_, MintToken(), name);
  ExpectNothingStolen(channel, own, session_id);
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

// Two processes accept from one socket, and the thief has the owner's name with both: the owner's
// session must not be opened where only the thief is.
TEST_F(NamesTest, ANameThatAThiefHasWithAnotherServerDoesNotLeadItsOwnerThere) {
  const UniqueFd socket = ListeningSocket(path_);
  ListenOptions options = Impatient();
  options.listen_fd = socket;
  Process a("a", address_, options);
  Process b("b", address_, options);
  for (int i = 0; i < 10; ++i) {
    const ConnectionId name = MintToken();
    const auto owner = MakeChannelNamed(name, address_);
    ASSERT_EQ(PlainCall(test::TestService::NewStub(owner).get(), false), "");
    std::vector<std::unique_ptr<Stranger>> thieves;
    std::vector<std::shared_ptr<grpc::Channel>> channels;
    const int calls_a = a.calls;
    const int calls_b = b.calls;
    while (a.calls == calls_a || b.calls == calls_b) {
      thieves.push_back(std::make_unique<Stranger>(path_, name));
      if (!thieves.back()->allowed()) GTEST_SKIP() << "no user namespaces here";
      channels.push_back(thieves.back()->Channel());
      ASSERT_EQ(PlainCall(test::TestService::NewStub(channels.back()).get(), false), "");
    }
    auto stub = test::TestService::NewStub(owner);
    for (int n = 0; n < 5; ++n) {
      ASSERT_EQ(Exchange(stub.get(), absl::StrCat("file ", i, ".", n), false), "");
    }
  }
}

// A name that a connection had that is closed.
TEST_F(NamesTest, ANameOfAClosedConnectionGetsNothing) {
  auto process = std::make_unique<Process>("first", address_, Impatient());
  const auto owner = MakeChannel(address_);
  const ConnectionId name = NameOf(process.get(), owner);
  Load load(owner, Style::kSync, /*wait_for_ready=*/true);
  load.AwaitMore(10);
  const uint64_t former_id = GetFdChannel(*owner)->session_id();
  Process next("next", "unix:" + path_ + ".next", Impatient());
  ASSERT_EQ(rename((path_ + ".next").c_str(), path_.c_str()), 0);
  process.reset();
  ASSERT_TRUE(Eventually([&] { return next.calls > 0; }));
  // The name is free: the owner has another connection, with another name.
  UniqueFd connection = ConnectAs(path_, name);
  const auto channel = grpc::CreateInsecureChannelFromFd("thief", connection.Release());
  const Opened own = OpenSoon(path_, MintToken(), name);
  EXPECT_EQ(own.status, HelloStatus::kOk);
  load.AwaitMore(10);
  const uint64_t session_id = GetFdChannel(*owner)->session_id();
  EXPECT_NE(session_id, former_id);
  EXPECT_EQ(Steal(test::TestService::NewStub(channel).get(), own.token, former_id, 1), "");
  ExpectNothingStolen(channel, own, session_id);
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

// server_core_test.cc has a million, without the wire.
TEST_F(NamesTest, GuessesOfANameGetNothingAndDisturbNobody) {
  Process process("only", address_, Impatient());
  const auto owner = MakeChannel(address_);
  Load load(owner, Style::kSync, /*wait_for_ready=*/false);
  load.AwaitMore(10);
  const Token token = MintToken();
  for (int i = 0; i < 3000; ++i) {
    const Opened opened = Open(path_, token, MintToken());
    ASSERT_EQ(opened.status, HelloStatus::kElsewhere);
    ASSERT_FALSE(opened.socket.valid());
  }
  EXPECT_EQ(GetFdServer(*process.server())->session_count(), 1u);
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

// --- Who is who, if two connections have one name ---

class ContestedNameTest : public NamesTest {
 protected:
  ContestedNameTest() {
    process_.service.exchange = [this](grpc::ServerContext* context,
                                       const test::ExchangeRequest* request,
                                       test::ExchangeReply* /*reply*/) {
      if (request->command() == "wait") {
        arrived_.set_value();
        over_.get_future().wait();
        EXPECT_TRUE(Eventually([&] { return context->IsCancelled(); }));
        // gRPC closes the connection when it likes, if it does before the call's end.
        const auto limit = absl::Now() + absl::Milliseconds(300);
        while (absl::Now() < limit) {
          const auto peer = PeerFromContext(context);
          EXPECT_FALSE(peer.ok() && peer->pid == getpid()) << "the thief is taken for the owner";
        }
      }
      if (!request->urls().empty()) (void)FromContext(context)->RecvFd(request->urls(0));
      auto peer = PeerFromContext(context);
      answered_.set_value(std::move(peer));
      return grpc::Status::OK;
    };
  }
  // What the handler of a call is told.
  absl::StatusOr<PeerCredentials> Ask(const std::shared_ptr<grpc::Channel>& channel,
                                      bool with_descriptor) {
    answered_ = {};
    auto stub = test::TestService::NewStub(channel);
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    if (with_descriptor) {
      auto url = FromContext(&context)->SendFd(MemoryFile("file"));
      EXPECT_TRUE(url.ok()) << url.status();
      request.add_urls(url->ToString());
    }
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    if (!status.ok()) return absl::UnknownError("no call");
    return answered_.get_future().get();
  }

  std::promise<void> arrived_;
  std::promise<void> over_;
  std::promise<absl::StatusOr<PeerCredentials>> answered_;
  Process process_{"only", address_, Impatient()};
};

TEST_F(ContestedNameTest, TellsWhoCallsByTheSessionOrSaysWhyNot) {
  const ConnectionId name = MintToken();
  const auto owner = MakeChannelNamed(name, address_);
  auto peer = Ask(owner, /*with_descriptor=*/false);
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  Stranger thief(path_, name);
  if (!thief.allowed()) GTEST_SKIP() << "no user namespaces here";
  auto channel = thief.Channel();
  peer = Ask(channel, /*with_descriptor=*/false);
  EXPECT_EQ(peer.status().code(), absl::StatusCode::kFailedPrecondition) << peer.status();
  peer = Ask(owner, /*with_descriptor=*/false);
  EXPECT_EQ(peer.status().code(), absl::StatusCode::kFailedPrecondition) << peer.status();
  peer = Ask(owner, /*with_descriptor=*/true);
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
}

// A call of the thief's whose connection has ended meanwhile: only the owner's is left.
TEST_F(ContestedNameTest, DoesNotTakeACallOfAConnectionThatHasEndedForTheOwners) {
  const ConnectionId name = MintToken();
  const auto owner = MakeChannelNamed(name, address_);
  ASSERT_TRUE(Ask(owner, /*with_descriptor=*/false).ok());
  answered_ = {};
  Stranger thief(path_, name);
  if (!thief.allowed()) GTEST_SKIP() << "no user namespaces here";
  {
    auto stub = test::TestService::NewStub(thief.Channel());
    grpc::ClientContext context;
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    request.set_command("wait");
    std::thread caller([&] { (void)stub->Exchange(&context, request, &reply); });
    arrived_.get_future().wait();
    context.TryCancel();
    caller.join();
  }
  over_.set_value();
  (void)answered_.get_future().get();
}

}  // namespace
}  // namespace grpcfd
