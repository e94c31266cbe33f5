// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attempts that overlap, and calls that gRPC makes again of its own accord (transparent retries). A
// relay cuts the connection that gRPC has, and leaves the session.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/retry_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using ::testing::ElementsAre;
using testing_internal::Address;
using testing_internal::Answer;
using testing_internal::AnswerAll;
using testing_internal::AnswerAllBy;
using testing_internal::Arguments;
using testing_internal::AttemptFactory;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::CreatorsOf;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::ListenAt;
using testing_internal::Log;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;
using testing_internal::Text;

// Relays connections to a server's path, from a path of its own, byte by byte. An FdChannel goes to
// the server itself: a relay passes no descriptors.
class Relay {
 public:
  // With `refuse_first` the first connection is not relayed. It takes a stream, and says with a
  // GOAWAY that it has not seen it (RFC 9113, 6.8). A server that shuts down says the same.
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
  return test::TestService::NewStub(grpc::experimental::CreateCustomChannelWithInterceptors(
      relay.address(), grpc::InsecureChannelCredentials(), Arguments(attempts),
      CreatorsOf(AttemptFactory(server.address(), per_attempt))));
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

}  // namespace
}  // namespace grpcfd
