// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Calls that gRPC makes more than once, or later than it was told to: retries by policy and
// transparent ones, attempts that overlap, calls that wait for ready. The attempt that runs finds
// the call's descriptors, whatever became of those of the attempts before.
//
// Each handler takes the descriptors, and looks at what is in
// them.
#include <gmock/gmock.h>
#include <grpc/grpc_security_constants.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "grpcfd/grpcfd.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"
#include "tests/interceptors/tls_test_keys.h"

namespace grpcfd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_internal::Answer;
using testing_internal::AnswerAll;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::Kind;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;

constexpr Kind kAllKinds[] = {Kind::kUnary, Kind::kUpload, Kind::kDownload, Kind::kChat};

std::string Text(const grpc::Status& status) {
  return status.ok() ? "OK" : std::to_string(status.error_code()) + " " + status.error_message();
}

grpc::Status Unavailable(const std::string& text) {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, text);
}

// Arguments with a pool of subchannels of their own and quick reconnects; with `attempts`, a policy
// that retries UNAVAILABLE.
grpc::ChannelArguments Arguments(int attempts) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 40);
  if (attempts > 1) {
    arguments.SetServiceConfigJSON(
        R"({"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": )" +
        std::to_string(attempts) +
        R"(, "initialBackoff": "0.005s", "maxBackoff": "0.005s", "backoffMultiplier": 1,)"
        R"( "retryableStatusCodes": ["UNAVAILABLE"]}}]})");
  }
  return arguments;
}

std::unique_ptr<test::TestService::Stub> StubOf(
    const std::string& target, int attempts,
    const std::shared_ptr<grpc::ChannelCredentials>& credentials =
        grpc::InsecureChannelCredentials(),
    const ChannelOptions& options = {}) {
  return test::TestService::NewStub(
      grpcfd::CreateCustomChannel(target, credentials, Arguments(attempts), {}, options));
}

// Queues a file for each of `contents`, and names them.
test::ExchangeRequest RequestWith(grpc::ClientContext* context,
                                  const std::vector<std::string>& contents) {
  test::ExchangeRequest request;
  for (const std::string& content : contents) {
    auto url = FromContext(context)->SendFd(MemoryFile(content));
    EXPECT_TRUE(url.ok()) << url.status();
    if (url.ok()) request.add_urls(url->ToString());
  }
  return request;
}

// What handlers saw, in their order. Thread-safe.
class Log {
 public:
  // Adds a line and returns how many there are.
  int Add(const std::string& line) {
    const std::lock_guard<std::mutex> lock(mutex_);
    lines_.push_back(line);
    return static_cast<int>(lines_.size());
  }
  std::vector<std::string> lines() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

// Answers all four kinds as AnswerAll does, `answer` in the place of Answer: without a reply if it
// fails, so that gRPC may retry.
using AnswerFunction = std::function<grpc::Status(
    grpc::ServerContext*, const test::ExchangeRequest&, test::ExchangeReply*)>;

void AnswerAllBy(TestServer* server, AnswerFunction answer) {
  server->service.exchange =
      [answer](grpc::ServerContext* context, const test::ExchangeRequest* request,
               test::ExchangeReply* reply) { return answer(context, *request, reply); };
  server->service.upload = [answer](grpc::ServerContext* context,
                                    grpc::ServerReader<test::ExchangeRequest>* reader,
                                    test::ExchangeReply* reply) {
    test::ExchangeRequest request;
    if (!reader->Read(&request)) return Unavailable("no request");
    return answer(context, request, reply);
  };
  server->service.download = [answer](grpc::ServerContext* context,
                                      const test::ExchangeRequest* request,
                                      grpc::ServerWriter<test::ExchangeReply>* writer) {
    test::ExchangeReply reply;
    grpc::Status status = answer(context, *request, &reply);
    if (status.ok()) writer->Write(reply);
    return status;
  };
  server->service.chat =
      [answer](grpc::ServerContext* context,
               grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        test::ExchangeRequest request;
        if (!stream->Read(&request)) return Unavailable("no request");
        test::ExchangeReply reply;
        grpc::Status status = answer(context, request, &reply);
        if (status.ok()) stream->Write(reply);
        return status;
      };
}

// An answer whose first `failures` attempts fail, each after it has taken the descriptors and sent
// one back.
AnswerFunction FailingFirst(int failures, Log* log) {
  return [failures, log](grpc::ServerContext* context, const test::ExchangeRequest& request,
                         test::ExchangeReply* reply) {
    grpc::Status status = Answer(context, request, reply);
    const int attempt = log->Add(status.ok() ? std::string(reply->payload()) : Text(status));
    if (!status.ok() || attempt > failures) return status;
    return Unavailable("attempt " + std::to_string(attempt));
  };
}

// --- Retries by policy ---

enum class Security { kInsecure, kLocal, kTls };

std::shared_ptr<grpc::ServerCredentials> ServerSide(Security security) {
  switch (security) {
    case Security::kInsecure:
      return grpc::InsecureServerCredentials();
    case Security::kLocal:
      return grpc::experimental::LocalServerCredentials(UDS);
    case Security::kTls: {
      grpc::SslServerCredentialsOptions options;
      options.pem_key_cert_pairs.push_back(
          {testing_internal::kTlsTestKey, testing_internal::kTlsTestCertificate});
      return grpc::SslServerCredentials(options);
    }
  }
  return nullptr;
}

std::shared_ptr<grpc::ChannelCredentials> ClientSide(Security security) {
  switch (security) {
    case Security::kInsecure:
      return grpc::InsecureChannelCredentials();
    case Security::kLocal:
      return grpc::experimental::LocalCredentials(UDS);
    case Security::kTls: {
      grpc::SslCredentialsOptions options;
      options.pem_root_certs = testing_internal::kTlsTestCertificate;
      return grpc::SslCredentials(options);
    }
  }
  return nullptr;
}

// One entry of metadata, and how often it was asked for.
class EntryPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  EntryPlugin(std::string key, std::shared_ptr<std::atomic<int>> asked)
      : key_(std::move(key)), asked_(std::move(asked)) {}
  bool IsBlocking() const override { return false; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->emplace(key_, std::to_string(++*asked_));
    return grpc::Status::OK;
  }

 private:
  const std::string key_;
  const std::shared_ptr<std::atomic<int>> asked_;
};

std::shared_ptr<grpc::CallCredentials> Entry(
    const std::string& key,
    std::shared_ptr<std::atomic<int>> asked = std::make_shared<std::atomic<int>>(0)) {
  return grpc::experimental::MetadataCredentialsFromPlugin(
      std::make_unique<EntryPlugin>(key, std::move(asked)), GRPC_SECURITY_NONE);
}

enum class Own { kNone, kOfTheCall, kOfTheChannel };

class RetriedTest : public ::testing::TestWithParam<std::tuple<Kind, Security, Own>> {};

TEST_P(RetriedTest, EachAttemptFindsAllDescriptors) {
  const auto [kind, security, own] = GetParam();
  TestServer server({}, ServerSide(security));
  Log log;
  AnswerAllBy(&server, FailingFirst(2, &log));
  auto credentials = ClientSide(security);
  if (own == Own::kOfTheChannel) {
    credentials = grpc::CompositeChannelCredentials(credentials, Entry("x-channel"));
  }
  grpc::ChannelArguments arguments = Arguments(3);
  if (security == Security::kTls) {
    arguments.SetSslTargetNameOverride(testing_internal::kTlsTestName);
  }
  auto stub = test::TestService::NewStub(
      grpcfd::CreateCustomChannel(server.address(), credentials, arguments));
  // The first call finds no session yet, the second does.
  for (int round = 1; round <= 2; ++round) {
    log.Add("round");  // Counts as an attempt that fails.
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    if (own == Own::kOfTheCall) context.set_credentials(Entry("x-call"));
    test::ExchangeRequest request = RequestWith(&context, {"a", "b"});
    request.set_command("reply");
    request.set_payload("c");
    test::ExchangeReply reply;
    if (round == 2) AnswerAllBy(&server, FailingFirst(6, &log));
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ("a|b|", reply.payload());
    // Asked again for each attempt, as on a stock channel.
    EXPECT_EQ(own == Own::kNone        ? ""
              : own == Own::kOfTheCall ? (round == 1 ? "x-call=2;" : "x-call=3;")
                                       : (round == 1 ? "x-channel=2;" : "x-channel=5;"),
              reply.status_text());
    // What failed attempts sent back is gone; the last one's is there.
    ASSERT_EQ(1, reply.urls_size());
    auto back = FromContext(&context)->RecvFd(reply.urls(0));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ("reply to c", Content(*back));
  }
  EXPECT_THAT(log.lines(), ElementsAre("round", "a|b|", "a|b|", "round", "a|b|", "a|b|", "a|b|"));
}

std::string NameOf(Security security) {
  switch (security) {
    case Security::kInsecure:
      return "Insecure";
    case Security::kLocal:
      return "Local";
    case Security::kTls:
      return "Tls";
  }
  return "";
}

INSTANTIATE_TEST_SUITE_P(
    Everywhere, RetriedTest,
    ::testing::Combine(::testing::ValuesIn(kAllKinds),
                       ::testing::Values(Security::kInsecure, Security::kLocal, Security::kTls),
                       ::testing::Values(Own::kNone, Own::kOfTheCall)),
    [](const auto& info) {
      return ::testing::PrintToString(std::get<0>(info.param)) + NameOf(std::get<1>(info.param)) +
             (std::get<2>(info.param) == Own::kNone ? "" : "WithCallCredentials");
    });
// gRPC does not combine channel credentials that are insecure with call credentials.
INSTANTIATE_TEST_SUITE_P(ChannelCredentials, RetriedTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds),
                                            ::testing::Values(Security::kLocal, Security::kTls),
                                            ::testing::Values(Own::kOfTheChannel)),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  NameOf(std::get<1>(info.param));
                         });

TEST(RetryTest, ExhaustedAttemptsEndWithTheLastStatus) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, FailingFirst(1000, &log));
  auto stub = StubOf(server.address(), 3);
  for (const Kind kind : kAllKinds) {
    const size_t before = log.lines().size();
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto handle = FromContext(&context);
    const auto request = RequestWith(&context, {"a", "b"});
    test::ExchangeReply reply;
    EXPECT_EQ("14 attempt " + std::to_string(before + 3),
              Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ(before + 3, log.lines().size()) << kind;
    EXPECT_EQ("a|b|", log.lines().back());
  }
}

TEST(RetryTest, WhatIsNotRetriedIsMadeOnce) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, [&log](grpc::ServerContext* context, const test::ExchangeRequest& request,
                              test::ExchangeReply* reply) {
    const grpc::Status status = Answer(context, request, reply);
    log.Add(status.ok() ? std::string(reply->payload()) : Text(status));
    return grpc::Status(grpc::StatusCode::ABORTED, "no");
  });
  auto stub = StubOf(server.address(), 3);
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"a"});
    test::ExchangeReply reply;
    EXPECT_EQ("10 no", Text(Call(kind, stub.get(), &context, request, &reply)));
  }
  EXPECT_THAT(log.lines(), ElementsAre("a|", "a|", "a|", "a|"));
}

// The other API: what runs on gRPC's own threads.
TEST(RetryTest, CallbackCalls) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, FailingFirst(2, &log));
  auto stub = StubOf(server.address(), 4);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto request = RequestWith(&context, {"a"});
  test::ExchangeReply reply;
  std::promise<grpc::Status> done;
  stub->async()->Exchange(&context, &request, &reply,
                          [&done](grpc::Status status) { done.set_value(std::move(status)); });
  EXPECT_EQ("OK", Text(done.get_future().get()));
  EXPECT_THAT(log.lines(), ElementsAre("a|", "a|", "a|"));
}

// A pipe's reader waits for the end of every writer. The one that is kept for another attempt must
// not stay open once there can be none, though the context is still there.
TEST(RetryTest, WhatIsKeptIsClosedWhenTheResponseIsThere) {
  TestServer server;
  Log log;
  AnswerAllBy(&server, FailingFirst(1, &log));
  auto stub = StubOf(server.address(), 3);
  int ends[2];
  ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  ASSERT_EQ(1, write(writer.get(), "x", 1));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  test::ExchangeRequest request;
  {
    auto url = handle->SendFd(std::move(writer));
    ASSERT_TRUE(url.ok()) << url.status();
    request.add_urls(url->ToString());
  }
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(stub->Exchange(&context, request, &reply)));
  char byte;
  EXPECT_EQ(1, read(reader.get(), &byte, 1));
  EXPECT_EQ(0, read(reader.get(), &byte, 1));
}

// A receive that waits when its attempt fails gets what the next one sends.
TEST(RetryTest, AWaiterOutlivesItsAttempt) {
  TestServer server;
  const UniqueFd file = MemoryFile("from the server");
  const auto dev_ino = FdToDevIno(file);
  ASSERT_TRUE(dev_ino.ok());
  const InodeUrl url(*dev_ino);
  std::atomic<int> attempts{0};
  std::promise<absl::StatusOr<UniqueFd>> received;
  std::promise<absl::StatusOr<UniqueFd>> blocked;
  std::thread waiter;
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  server.service.exchange = [&](grpc::ServerContext* server_context, const test::ExchangeRequest*,
                                test::ExchangeReply*) {
    if (++attempts == 1) {
      handle->RecvFdAsync(url, absl::Now() + absl::Seconds(20),
                          [&](absl::StatusOr<UniqueFd> fd) { received.set_value(std::move(fd)); });
      waiter = std::thread([&] { blocked.set_value(handle->RecvFd(url)); });
      return Unavailable("first");
    }
    auto fds = FromContext(server_context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    for (int i = 0; i < 2; ++i) {
      const auto sent = fds->SendFd(file);
      if (!sent.ok()) return ToGrpcStatus(sent.status());
    }
    return grpc::Status::OK;
  };
  auto stub = StubOf(server.address(), 3);
  test::ExchangeReply reply;
  EXPECT_EQ("OK", Text(stub->Exchange(&context, {}, &reply)));
  auto fd = received.get_future().get();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ("from the server", Content(*fd));
  waiter.join();
  fd = blocked.get_future().get();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ("from the server", Content(*fd));
}

// --- Descriptors sent while a stream runs ---

class RetriedStreamTest : public ::testing::Test {
 protected:
  using Stream = grpc::ClientReaderWriter<test::ExchangeRequest, test::ExchangeReply>;

  static bool Write(Stream* stream, const std::string& url) {
    test::ExchangeRequest request;
    request.add_urls(url);
    return stream->Write(request);
  }
  // Reads messages until there is none, or `last` of them were there; their descriptors' contents.
  static std::string ReadContents(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream, int last) {
    std::string contents;
    auto fds = FromContext(context);
    if (!fds->status().ok()) return fds->status().ToString();
    test::ExchangeRequest request;
    for (int i = 0; i < last && stream->Read(&request); ++i) {
      auto fd = fds->RecvFd(request.urls(0));
      contents += fd.ok() ? Content(*fd) + "|" : fd.status().ToString();
    }
    return contents;
  }

  TestServer server_;
  Log log_;
};

// Retried once, and nothing is written after the response: gRPC 1.51.1 itself, without grpcfd too,
// now and then crashes when a stream of several messages is retried twice, and delivers an empty
// message when one is written after the response to a retried stream.
TEST_F(RetriedStreamTest, AreReplayedWithTheMessagesThatNameThem) {
  std::promise<void> all_written;
  server_.service.chat =
      [&](grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        if (log_.Add(ReadContents(context, stream, 3)) > 1) {
          stream->Write(test::ExchangeReply());
          return grpc::Status::OK;
        }
        all_written.get_future().wait();
        return Unavailable("first");
      };
  auto stub = StubOf(server_.address(), 4);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  const auto before = handle->SendFd(MemoryFile("before"));
  ASSERT_TRUE(before.ok());
  auto stream = stub->Chat(&context);
  EXPECT_TRUE(Write(stream.get(), before->ToString()));
  for (const char* content : {"second", "third"}) {
    const auto url = handle->SendFd(MemoryFile(content));
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_TRUE(Write(stream.get(), url->ToString()));
  }
  all_written.set_value();
  test::ExchangeReply reply;
  EXPECT_TRUE(stream->Read(&reply));
  EXPECT_EQ("OK", Text(stream->Finish()));
  EXPECT_THAT(log_.lines(), ElementsAre("before|second|third|", "before|second|third|"));
}

// What is sent after the response is sent once, and its index follows on.
TEST_F(RetriedStreamTest, GoOnAfterTheResponse) {
  server_.service.chat =
      [&](grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        log_.Add(ReadContents(context, stream, 2));
        stream->Write(test::ExchangeReply());
        log_.Add(ReadContents(context, stream, 20));
        return grpc::Status::OK;
      };
  auto stub = StubOf(server_.address(), 4);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  const auto before = handle->SendFd(MemoryFile("before"));
  ASSERT_TRUE(before.ok());
  auto stream = stub->Chat(&context);
  EXPECT_TRUE(Write(stream.get(), before->ToString()));
  uint32_t index = 0;
  std::string expected;
  for (int i = 0; i < 21; ++i) {
    const auto url = handle->SendFd(MemoryFile(std::to_string(i)));
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(++index, url->index());
    EXPECT_TRUE(Write(stream.get(), url->ToString()));
    if (i > 0) expected += std::to_string(i) + "|";
    test::ExchangeReply reply;
    if (i == 0) {
      ASSERT_TRUE(stream->Read(&reply));
    }
  }
  EXPECT_TRUE(stream->WritesDone());
  EXPECT_EQ("OK", Text(stream->Finish()));
  EXPECT_THAT(log_.lines(), ElementsAre("before|0|", expected));
}

// As gRPC keeps only so much of what was sent (GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE).
TEST_F(RetriedStreamTest, MoreThanACallMayHaveAreNotKept) {
  server_.service.chat =
      [&](grpc::ServerContext* context,
          grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        log_.Add(ReadContents(context, stream, 17));
        return Unavailable("first");
      };
  auto stub = StubOf(server_.address(), 3);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto handle = FromContext(&context);
  auto stream = stub->Chat(&context);
  // Until the server has the call, no more than it may begin with; after that as many as it takes.
  std::string expected;
  for (int i = 0; i < 17; ++i) {
    auto url = handle->SendFd(MemoryFile(std::to_string(i)));
    while (absl::IsResourceExhausted(url.status())) url = handle->SendFd(MemoryFile("17th"));
    ASSERT_TRUE(url.ok()) << url.status();
    expected += i == 16 ? "17th|" : std::to_string(i) + "|";
    EXPECT_TRUE(Write(stream.get(), url->ToString()));
  }
  EXPECT_TRUE(stream->WritesDone());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(grpc::StatusCode::RESOURCE_EXHAUSTED, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), HasSubstr("kept for another attempt"));
  EXPECT_EQ(1u, log_.lines().size());
}

// --- Through a relay, which can cut what gRPC has, and leave the session ---

sockaddr_un Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

UniqueFd ListenAt(const std::string& path) {
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  EXPECT_EQ(0, bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)));
  EXPECT_EQ(0, listen(listener.get(), 16));
  return listener;
}

// Relays connections to a server's path, from a path of its own, byte by byte. An FdChannel goes to
// the server itself: a relay passes no descriptors.
class Relay {
 public:
  // With `refuse_first` the first connection is no relayed one: it takes a stream, and says with a
  // GOAWAY that it has not seen it (RFC 9113, 6.8), which is what a server says that shuts down.
  Relay(std::string target, bool refuse_first) : target_(std::move(target)) {
    path_ = dir_.File("relay");
    listener_ = ListenAt(path_);
    acceptor_ = std::thread([this, refuse_first] { Accept(refuse_first); });
  }
  ~Relay() {
    shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    Cut();
    for (std::thread& thread : threads_) thread.join();
  }

  std::string address() const { return "unix:" + path_; }
  int refused() const { return refused_; }

  // Breaks all connections that are there.
  void Cut() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& end : ends_) shutdown(end->get(), SHUT_RDWR);
  }

 private:
  using End = std::shared_ptr<UniqueFd>;

  End Keep(UniqueFd fd) {
    auto end = std::make_shared<UniqueFd>(std::move(fd));
    ends_.push_back(end);
    return end;
  }
  void Accept(bool refuse) {
    for (;;) {
      UniqueFd accepted(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!accepted.valid()) return;
      const std::lock_guard<std::mutex> lock(mutex_);
      const End client = Keep(std::move(accepted));
      if (std::exchange(refuse, false)) {
        threads_.emplace_back([this, client] { Refuse(client); });
        continue;
      }
      UniqueFd connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const sockaddr_un address = Address(target_);
      EXPECT_EQ(0, connect(connection.get(), reinterpret_cast<const sockaddr*>(&address),
                           sizeof(address)));
      const End server = Keep(std::move(connection));
      threads_.emplace_back([client, server] { Copy(client, server); });
      threads_.emplace_back([client, server] { Copy(server, client); });
    }
  }
  static void Copy(const End& from, const End& to) {
    char bytes[4096];
    for (;;) {
      const ssize_t got = read(from->get(), bytes, sizeof(bytes));
      if (got <= 0) break;
      if (send(to->get(), bytes, static_cast<size_t>(got), MSG_NOSIGNAL) != got) break;
    }
    shutdown(from->get(), SHUT_RDWR);
    shutdown(to->get(), SHUT_RDWR);
  }
  static bool ReadAll(const End& from, std::string* bytes, size_t size) {
    bytes->resize(size);
    return size == 0 ||
           recv(from->get(), &(*bytes)[0], size, MSG_WAITALL) == static_cast<ssize_t>(size);
  }
  // An HTTP/2 server of the least kind: RFC 9113, 3.4 (preface), 4.1 (frames), 6.
  void Refuse(const End& client) {
    const std::string settings("\x00\x00\x00\x04\x00\x00\x00\x00\x00", 9);
    const std::string ack("\x00\x00\x00\x04\x01\x00\x00\x00\x00", 9);
    const std::string goaway(  // Last stream seen: 0. Error: none.
        "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 17);
    std::string bytes;
    if (!ReadAll(client, &bytes, 24)) return;
    Send(client, settings);
    for (;;) {
      if (!ReadAll(client, &bytes, 9)) return;
      const auto at = [&bytes](size_t i) { return static_cast<unsigned char>(bytes[i]); };
      const size_t size = (size_t{at(0)} << 16) | (size_t{at(1)} << 8) | at(2);
      const int type = at(3);
      const int flags = at(4);
      if (!ReadAll(client, &bytes, size)) return;
      if (type == 4 && (flags & 1) == 0) Send(client, ack);  // SETTINGS
      if (type == 1) {                                       // HEADERS: a stream begins.
        ++refused_;
        Send(client, goaway);
      }
    }
  }
  static void Send(const End& to, const std::string& bytes) {
    EXPECT_EQ(static_cast<ssize_t>(bytes.size()),
              send(to->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
  }

  TempDir dir_;
  const std::string target_;
  std::string path_;
  UniqueFd listener_;
  std::mutex mutex_;
  std::vector<End> ends_;
  std::vector<std::thread> threads_;  // The acceptor's until it has ended.
  std::atomic<int> refused_{0};
  std::thread acceptor_;
};

std::unique_ptr<test::TestService::Stub> StubThrough(const Relay& relay, const TestServer& server,
                                                     int attempts, bool per_attempt) {
  auto fd_channel = FdChannel::Create(server.address());
  EXPECT_TRUE(fd_channel.ok()) << fd_channel.status();
  ClientInterceptorOptions options;
  options.send_per_attempt = per_attempt;
  return test::TestService::NewStub(grpc::experimental::CreateCustomChannelWithInterceptors(
      relay.address(), grpc::InsecureChannelCredentials(), Arguments(attempts),
      testing_internal::CreatorsOf(MakeClientInterceptorFactory(*fd_channel, options))));
}

class OverlapTest : public ::testing::TestWithParam<Kind> {};

// The connection is cut while the first attempt's handler runs. The second attempt runs and ends;
// then the first goes on.
TEST_P(OverlapTest, EachAttemptHasItsOwn) {
  TestServer server;
  Log log;
  std::promise<void> first_runs;
  std::promise<void> first_may_go_on;
  std::promise<void> first_has_ended;
  std::atomic<int> attempts{0};
  AnswerAllBy(&server, [&](grpc::ServerContext* context, const test::ExchangeRequest& request,
                           test::ExchangeReply* reply) {
    if (++attempts > 1) {
      grpc::Status status = Answer(context, request, reply);
      log.Add("second: " + (status.ok() ? std::string(reply->payload()) : Text(status)));
      return status;
    }
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    auto a = fds->RecvFd(request.urls(0));
    first_runs.set_value();
    first_may_go_on.get_future().wait();
    auto b = fds->RecvFd(request.urls(1));
    log.Add("first: " + (a.ok() ? Content(*a) : a.status().ToString()) + "|" +
            (b.ok() ? Content(*b) : b.status().ToString()) + "|");
    first_has_ended.set_value();
    return grpc::Status::OK;
  });
  Relay relay(server.path(), /*refuse_first=*/false);
  auto stub = StubThrough(relay, server, 3, /*per_attempt=*/true);
  {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"a", "b"});
    test::ExchangeReply reply;
    auto status = std::async(std::launch::async, [&] {
      return Call(GetParam(), stub.get(), &context, request, &reply);
    });
    first_runs.get_future().wait();
    relay.Cut();
    EXPECT_EQ("OK", Text(status.get()));
    EXPECT_EQ("a|b|", reply.payload());
  }
  first_may_go_on.set_value();
  first_has_ended.get_future().wait();
  EXPECT_THAT(log.lines(), ElementsAre("second: a|b|", "first: a|b|"));
}

INSTANTIATE_TEST_SUITE_P(Everywhere, OverlapTest, ::testing::ValuesIn(kAllKinds),
                         [](const auto& info) { return ::testing::PrintToString(info.param); });

class TransparentTest : public ::testing::TestWithParam<std::tuple<Kind, bool>> {};

// gRPC makes a call again, of its own accord and once, that the server says it has not seen. The
// session is the same, so it does not matter whether the descriptors are sent again.
TEST_P(TransparentTest, ACallThatTheServerHasNotSeenFindsItsDescriptors) {
  const auto [kind, per_attempt] = GetParam();
  TestServer server;
  AnswerAll(&server.service);
  Relay relay(server.path(), /*refuse_first=*/true);
  auto stub = StubThrough(relay, server, 1, per_attempt);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto request = RequestWith(&context, {"a", "b"});
  request.set_command("reply");
  request.set_payload("c");
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
  EXPECT_EQ("a|b|", reply.payload());
  ASSERT_EQ(1, reply.urls_size());
  auto back = FromContext(&context)->RecvFd(reply.urls(0));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ("reply to c", Content(*back));
  EXPECT_EQ(1, relay.refused());
}

INSTANTIATE_TEST_SUITE_P(Everywhere, TransparentTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds), ::testing::Bool()),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "PerAttempt" : "SentOnce");
                         });

// --- Waiting for ready ---

// Waits until gRPC has found that nobody listens.
void AwaitFailure(grpc::Channel* channel) {
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(20);
  for (auto state = channel->GetState(true); state != GRPC_CHANNEL_TRANSIENT_FAILURE;
       state = channel->GetState(true)) {
    ASSERT_TRUE(channel->WaitForStateChange(state, deadline)) << state;
  }
}

class WaitForReadyTest : public ::testing::TestWithParam<std::tuple<Kind, bool>> {};

TEST_P(WaitForReadyTest, FindsItsDescriptorsWhenTheServerComes) {
  // Not a structured binding: C++17 lets no lambda capture one.
  const auto kind = std::get<0>(GetParam());
  const bool had_session = std::get<1>(GetParam());
  TestServer server;
  AnswerAll(&server.service);
  auto channel = grpcfd::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(),
                                             Arguments(1));
  auto stub = test::TestService::NewStub(channel);
  if (had_session) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"early"});
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
  }
  server.Stop();
  AwaitFailure(channel.get());

  grpc::ClientContext context;
  SetDeadline(&context, 30);
  context.set_wait_for_ready(true);
  auto request = RequestWith(&context, {"a", "b"});
  request.set_command("reply");
  request.set_payload("c");
  test::ExchangeReply reply;
  auto status = std::async(std::launch::async,
                           [&] { return Call(kind, stub.get(), &context, request, &reply); });
  // It may or may not have begun to wait: both must work.
  server.Start();
  ASSERT_EQ("OK", Text(status.get()));
  EXPECT_EQ("a|b|", reply.payload());
  ASSERT_EQ(1, reply.urls_size());
  auto back = FromContext(&context)->RecvFd(reply.urls(0));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ("reply to c", Content(*back));
}

INSTANTIATE_TEST_SUITE_P(Everywhere, WaitForReadyTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds), ::testing::Bool()),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "Restarted" : "Late");
                         });

TEST(WaitForReadyStreamTest, WhatIsSentWhileItWaitsGoesAlong) {
  TestServer server;
  AnswerAll(&server.service);
  auto channel = grpcfd::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(),
                                             Arguments(1));
  server.Stop();
  AwaitFailure(channel.get());
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, 30);
  context.set_wait_for_ready(true);
  context.set_initial_metadata_corked(true);  // Or Chat() would wait.
  auto handle = FromContext(&context);
  auto stream = stub->Chat(&context);
  const auto request = RequestWith(&context, {"a", "b"});
  server.Start();
  EXPECT_TRUE(stream->Write(request));
  EXPECT_TRUE(stream->WritesDone());
  test::ExchangeReply reply;
  ASSERT_TRUE(stream->Read(&reply));
  EXPECT_EQ("a|b|", reply.payload());
  EXPECT_EQ("OK", Text(stream->Finish()));
}

TEST(WaitForReadyStreamTest, HoldsNoMoreThanACallMayHave) {
  TempDir dir;
  auto stub = StubOf("unix:" + dir.File("nobody"), 1);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_initial_metadata_corked(true);  // Or Chat() would wait.
  auto handle = FromContext(&context);
  auto stream = stub->Chat(&context);
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(handle->SendFd(MemoryFile("x")).ok());
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, handle->SendFd(MemoryFile("x")).status().code());
  context.TryCancel();
  EXPECT_EQ(grpc::StatusCode::CANCELLED, stream->Finish().error_code());
}

TEST(WaitForReadyEndTest, ADeadlineEndsTheWaitAndClosesWhatWasQueued) {
  TempDir dir;
  auto stub = StubOf("unix:" + dir.File("nobody"), 1);
  for (const Kind kind : kAllKinds) {
    int ends[2];
    ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    context.set_wait_for_ready(true);
    auto handle = FromContext(&context);
    test::ExchangeRequest request;
    request.add_urls(handle->SendFd(std::move(writer))->ToString());
    test::ExchangeReply reply;
    const grpc::Status status = Call(kind, stub.get(), &context, request, &reply);
    EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED, status.error_code()) << Text(status);
    // The context and the handle are still there.
    char byte;
    EXPECT_EQ(0, read(reader.get(), &byte, 1)) << kind;
    EXPECT_EQ(absl::StatusCode::kUnavailable, handle->RecvFd(request.urls(0)).status().code());
  }
}

// The server goes away in the middle of an attempt, and another process takes its place.
TEST(RestartTest, ARetryFindsItsDescriptorsAtTheNextServer) {
  TestServer server;
  Log log;
  std::promise<void> runs;
  server.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    const grpc::Status status = Answer(context, *request, reply);
    if (log.Add(status.ok() ? std::string(reply->payload()) : Text(status)) > 1) return status;
    runs.set_value();
    while (!context->IsCancelled()) poll(nullptr, 0, 1);
    return Unavailable("shut down");
  };
  auto stub = StubOf(server.address(), 5);
  grpc::ClientContext context;
  SetDeadline(&context, 30);
  context.set_wait_for_ready(true);
  const auto request = RequestWith(&context, {"a", "b"});
  test::ExchangeReply reply;
  auto status =
      std::async(std::launch::async, [&] { return stub->Exchange(&context, request, &reply); });
  runs.get_future().wait();
  server.server()->Shutdown(std::chrono::system_clock::now());
  server.Stop();
  server.Start();
  EXPECT_EQ("OK", Text(status.get()));
  EXPECT_THAT(log.lines(), ElementsAre("a|b|", "a|b|"));
}

// --- Failures of the session, not of the call ---

// The FdChannel of a call leads to `path`, gRPC to `server`.
std::shared_ptr<grpc::Channel> ChannelWithSessionAt(const std::string& path,
                                                    const std::string& server, int attempts) {
  auto fd_channel = FdChannel::Create("unix:" + path);
  EXPECT_TRUE(fd_channel.ok()) << fd_channel.status();
  ClientInterceptorOptions options;
  options.send_per_attempt = true;
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      server, grpc::InsecureChannelCredentials(), Arguments(attempts),
      testing_internal::CreatorsOf(MakeClientInterceptorFactory(*fd_channel, options)));
}

std::unique_ptr<test::TestService::Stub> StubWithSessionAt(const std::string& path,
                                                           const std::string& server,
                                                           int attempts) {
  return test::TestService::NewStub(ChannelWithSessionAt(path, server, attempts));
}

class NoSessionTest : public ::testing::TestWithParam<std::tuple<Kind, bool>> {
 protected:
  Kind kind() const { return std::get<0>(GetParam()); }
  // A call with two descriptors, with call credentials of its own or without.
  grpc::Status CallWith(test::TestService::Stub* stub, bool wait_for_ready, int count = 2) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + (wait_for_ready
                                                                 ? std::chrono::milliseconds(300)
                                                                 : std::chrono::seconds(20)));
    context.set_wait_for_ready(wait_for_ready);
    if (std::get<1>(GetParam())) context.set_credentials(Entry("x-call"));
    const auto request =
        RequestWith(&context, std::vector<std::string>(static_cast<size_t>(count), "a"));
    test::ExchangeReply reply;
    return Call(kind(), stub, &context, request, &reply);
  }

  TempDir dir_;
};

TEST_P(NoSessionTest, NobodyListens) {
  TestServer server;
  AnswerAll(&server.service);
  auto stub = StubWithSessionAt(dir_.File("nobody"), server.address(), 1);
  grpc::Status status = CallWith(stub.get(), false);
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), HasSubstr("cannot connect"));
  status = CallWith(stub.get(), true);
  EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED, status.error_code()) << Text(status);
  // A call that brings nothing is made all the same.
  EXPECT_EQ("OK", Text(CallWith(stub.get(), false, 0)));
}

TEST_P(NoSessionTest, WhatAnswersIsNoGrpcfdServer) {
  TestServer server;
  AnswerAll(&server.service);
  grpc::ServerBuilder builder;
  const std::string path = dir_.File("stock");
  builder.AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
  testing_internal::FunctionService service;
  builder.RegisterService(&service);
  auto stock = builder.BuildAndStart();
  ASSERT_NE(nullptr, stock);
  // Exactly this status, which nobody retries.
  auto stub = StubWithSessionAt(path, server.address(), 3);
  const grpc::Status status = CallWith(stub.get(), false);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), HasSubstr("is not a grpcfd server"));
  EXPECT_THAT(status.error_message(), ::testing::Not(HasSubstr("plugin")));
  stock->Shutdown(std::chrono::system_clock::now());
}

TEST_P(NoSessionTest, MoreThanTheServerTakes) {
  TestServer server([](grpc::ServerBuilder*, ListenOptions* options) {
    FdServerOptions small;
    small.limits.session.max_fds_per_call = 4;
    auto fd_server = FdServer::Create(small);
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    options->fd_server = *fd_server;
  });
  AnswerAll(&server.service);
  auto stub = StubOf(server.address(), 3);
  const grpc::Status status = CallWith(stub.get(), false, 5);
  EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code()) << Text(status);
  EXPECT_EQ("OK", Text(CallWith(stub.get(), false, 4)));
}

INSTANTIATE_TEST_SUITE_P(Everywhere, NoSessionTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds), ::testing::Bool()),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "WithCallCredentials" : "");
                         });

class NoSessionCancelTest : public ::testing::TestWithParam<bool> {};

TEST_P(NoSessionCancelTest, CancellingReleasesACallWhoseAttemptWaits) {
  TestServer server;
  AnswerAll(&server.service);
  // Takes a connection, and never answers the hello.
  TempDir dir;
  const UniqueFd listener = ListenAt(dir.File("silent"));
  auto channel = ChannelWithSessionAt(dir.File("silent"), server.address(), 1);
  // gRPC 1.51.1 leaks the socket of a channel that goes while it connects.
  ASSERT_TRUE(
      channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20)));
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  if (GetParam()) context.set_credentials(Entry("x-call"));
  const auto request = RequestWith(&context, {"a"});
  test::ExchangeReply reply;
  auto status =
      std::async(std::launch::async, [&] { return stub->Exchange(&context, request, &reply); });
  const UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(connection.valid());
  context.TryCancel();
  EXPECT_EQ(grpc::StatusCode::CANCELLED, status.get().error_code());
}

INSTANTIATE_TEST_SUITE_P(Everywhere, NoSessionCancelTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "WithCallCredentials" : "Plain";
});

// --- The slot for credentials ---

// A program's factory that comes after grpcfd's and sets credentials, instead of chaining them.
class SlotFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    info->client_context()->set_credentials(Entry("x-call"));
    return nullptr;
  }
};

TEST(AttemptCredentialsTest, ReplacedByALaterFactoryTheCallIsRefused) {
  TestServer server;
  AnswerAll(&server.service);
  auto fd_channel = FdChannel::Create(server.address());
  ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
  ClientInterceptorOptions options;
  options.send_per_attempt = true;
  auto stub = test::TestService::NewStub(testing_internal::LongFormChannel(
      server.address(),
      testing_internal::CreatorsOf(MakeClientInterceptorFactory(*fd_channel, options),
                                   std::make_unique<SlotFactory>())));
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"a"});
    test::ExchangeReply reply;
    const grpc::Status status = Call(kind, stub.get(), &context, request, &reply);
    EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
    EXPECT_THAT(status.error_message(), HasSubstr("replaced"));
  }
}

// A program's interceptor that chains credentials when the call exists already: gRPC applies all of
// them a second time.
class ChainingInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit ChainingInterceptor(grpc::ClientContext* context) : context_(context) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      context_->set_credentials(ChainCallCredentials(context_->credentials(), Entry("x-call")));
    }
    methods->Proceed();
  }

 private:
  grpc::ClientContext* const context_;
};
class ChainingFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    return new ChainingInterceptor(info->client_context());
  }
};

TEST(AttemptCredentialsTest, ChainedByAnInterceptorTheCallsAreStillFreed) {
  TestServer server;
  AnswerAll(&server.service);
  const size_t before = CountOpenFds();
  {
    auto fd_channel = FdChannel::Create(server.address());
    ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
    ClientInterceptorOptions options;
    options.send_per_attempt = true;
    auto stub = test::TestService::NewStub(testing_internal::LongFormChannel(
        server.address(),
        testing_internal::CreatorsOf(MakeClientInterceptorFactory(*fd_channel, options),
                                     std::make_unique<ChainingFactory>())));
    for (int i = 0; i < 10; ++i) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      const auto request = RequestWith(&context, {"a"});
      test::ExchangeReply reply;
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      EXPECT_TRUE(status.ok()) << Text(status);
    }
  }
  // A call that somebody holds on to keeps the connection.
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (CountOpenFds() > before && absl::Now() < limit) poll(nullptr, 0, 1);
  EXPECT_LE(CountOpenFds(), before);
}

// --- One PerRpcCredentials object, several targets ---

class TargetsTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr int kTargets = 4;

  TargetsTest() {
    for (int i = 0; i < kTargets; ++i) {
      servers_.push_back(std::make_unique<TestServer>());
      logs_.push_back(std::make_unique<Log>());
      AnswerAllBy(servers_.back().get(), FailingFirst(GetParam() ? 1 : 0, logs_.back().get()));
      stubs_.push_back(StubOf(servers_.back()->address(), GetParam() ? 3 : 1));
    }
    for (const char* content : {"a", "b", "c"}) {
      auto url = FromPerRpcCredentials(credentials_)->SendFd(MemoryFile(content));
      EXPECT_TRUE(url.ok()) << url.status();
      request_.add_urls(url->ToString());
    }
  }
  std::string CallTarget(int target, Kind kind) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(credentials_);
    test::ExchangeReply reply;
    const grpc::Status status =
        Call(kind, stubs_[static_cast<size_t>(target)].get(), &context, request_, &reply);
    return status.ok() ? std::string(reply.payload()) : Text(status);
  }

  const std::shared_ptr<grpc::CallCredentials> credentials_ = PerRpcCredentials();
  std::vector<std::unique_ptr<TestServer>> servers_;
  std::vector<std::unique_ptr<Log>> logs_;
  std::vector<std::unique_ptr<test::TestService::Stub>> stubs_;
  test::ExchangeRequest request_;
};

TEST_P(TargetsTest, InTurnEachGetsTheFullSet) {
  for (int round = 0; round < 2; ++round) {
    for (int target = 0; target < kTargets; ++target) {
      for (const Kind kind : kAllKinds) EXPECT_EQ("a|b|c|", CallTarget(target, kind));
    }
  }
}

TEST_P(TargetsTest, AtOnceEachGetsTheFullSet) {
  std::vector<std::thread> threads;
  for (int target = 0; target < kTargets; ++target) {
    threads.emplace_back([this, target] {
      for (int i = 0; i < 8; ++i) EXPECT_EQ("a|b|c|", CallTarget(target, kAllKinds[i % 4]));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Everywhere, TargetsTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Retried" : "MadeOnce"; });

}  // namespace
}  // namespace grpcfd
