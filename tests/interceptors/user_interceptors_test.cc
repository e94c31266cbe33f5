// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The program's own interceptors beside grpcfd's: they stay, they run, and what they do to a call
// cannot leave descriptors behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/testing/inode_holders.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using grpc::experimental::ClientInterceptorFactoryInterface;
using grpc::experimental::ClientRpcInfo;
using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;
using testing_internal::AnswerAll;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::Creators;
using testing_internal::CreatorsOf;
using testing_internal::FunctionService;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::LongFormChannel;
using testing_internal::MemoryFile;
using testing_internal::OurFactory;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;
using testing_internal::Text;

// How often an interceptor saw the start and the end of a call.
struct Seen {
  std::atomic<int> starts{0};
  std::atomic<int> ends{0};
};

// Counts, and lets everything through.
class Counting final : public Interceptor {
 public:
  Counting(Seen* seen, InterceptionHookPoints start, InterceptionHookPoints end)
      : seen_(seen), start_(start), end_(end) {}
  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(start_)) ++seen_->starts;
    if (methods->QueryInterceptionHookPoint(end_)) ++seen_->ends;
    methods->Proceed();
  }

 private:
  Seen* const seen_;
  const InterceptionHookPoints start_;
  const InterceptionHookPoints end_;
};

class CountingClient final : public ClientInterceptorFactoryInterface {
 public:
  explicit CountingClient(Seen* seen) : seen_(seen) {}
  Interceptor* CreateClientInterceptor(ClientRpcInfo*) override {
    return new Counting(seen_, InterceptionHookPoints::PRE_SEND_INITIAL_METADATA,
                        InterceptionHookPoints::POST_RECV_STATUS);
  }

 private:
  Seen* const seen_;
};

class CountingServer final : public ServerInterceptorFactoryInterface {
 public:
  explicit CountingServer(Seen* seen) : seen_(seen) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo*) override {
    return new Counting(seen_, InterceptionHookPoints::POST_RECV_INITIAL_METADATA,
                        InterceptionHookPoints::PRE_SEND_STATUS);
  }

 private:
  Seen* const seen_;
};

// Answers calls itself: they never reach the server.
class HijackingClient final : public ClientInterceptorFactoryInterface {
 public:
  Interceptor* CreateClientInterceptor(ClientRpcInfo*) override { return new Hijacking; }

 private:
  class Hijacking final : public Interceptor {
   public:
    void Intercept(InterceptorBatchMethods* methods) override {
      const auto at = [methods](InterceptionHookPoints point) {
        return methods->QueryInterceptionHookPoint(point);
      };
      if (at(InterceptionHookPoints::PRE_RECV_MESSAGE)) {
        if (!answered_) {
          static_cast<test::ExchangeReply*>(methods->GetRecvMessage())->set_payload("hijacked");
          answered_ = true;
        } else {
          methods->FailHijackedRecvMessage();
        }
      }
      if (at(InterceptionHookPoints::PRE_RECV_STATUS)) *methods->GetRecvStatus() = grpc::Status::OK;
      if (at(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
        methods->Hijack();
      } else {
        methods->Proceed();
      }
    }

   private:
    bool answered_ = false;
  };
};

// Makes the call itself, on the channel as the interceptors after it see it, as a cache does for
// what it has not.
class ForwardingClient final : public ClientInterceptorFactoryInterface {
 public:
  explicit ForwardingClient(std::atomic<int>* forwarded) : forwarded_(forwarded) {}
  Interceptor* CreateClientInterceptor(ClientRpcInfo*) override {
    return new Forwarding(forwarded_);
  }

 private:
  class Forwarding final : public Interceptor {
   public:
    explicit Forwarding(std::atomic<int>* forwarded) : forwarded_(forwarded) {}
    void Intercept(InterceptorBatchMethods* methods) override {
      const auto at = [methods](InterceptionHookPoints point) {
        return methods->QueryInterceptionHookPoint(point);
      };
      if (!at(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
        methods->Proceed();
        return;
      }
      ++*forwarded_;
      auto stub = test::TestService::NewStub(methods->GetInterceptedChannel());
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      const auto request = RequestWith(&context, {"forwarded"});
      auto* reply = static_cast<test::ExchangeReply*>(methods->GetRecvMessage());
      *methods->GetRecvStatus() = stub->Exchange(&context, request, reply);
      methods->Hijack();
    }

   private:
    std::atomic<int>* const forwarded_;
  };

  std::atomic<int>* const forwarded_;
};

// Calls of all kinds, with a descriptor and without. An interceptor sees the start and the end of
// each in `seen`.
void ExchangeAllKinds(test::TestService::Stub* stub, const Seen& seen) {
  int calls = 0;
  for (const Kind kind : kAllKinds) {
    for (const bool descriptors : {true, false}) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      test::ExchangeRequest request;
      if (descriptors) request = RequestWith(&context, {"c"});
      test::ExchangeReply reply;
      ASSERT_EQ("OK", Text(Call(kind, stub, &context, request, &reply)));
      EXPECT_EQ(descriptors ? "c|" : "", reply.payload());
      ++calls;
      EXPECT_EQ(calls, seen.starts);
      EXPECT_EQ(calls, seen.ends);
    }
  }
}

// --- Client ---

TEST(ClientInterceptorsTest, TheProgramsOwnStayAndRunInBothOrders) {
  for (const bool ours_first : {true, false}) {
    TestServer server;
    AnswerAll(&server.service);
    Seen seen;
    Creators creators;
    if (ours_first) creators.push_back(OurFactory(server));
    creators.push_back(std::make_unique<CountingClient>(&seen));
    if (!ours_first) creators.push_back(OurFactory(server));
    auto stub = test::TestService::NewStub(LongFormChannel(server.address(), std::move(creators)));
    ASSERT_NO_FATAL_FAILURE(ExchangeAllKinds(stub.get(), seen));
  }
}

TEST(ClientInterceptorsTest, TheShortFormKeepsTheProgramsOwnAndPutsOursBehind) {
  TestServer server;
  AnswerAll(&server.service);
  Seen seen;
  auto channel = grpcfd::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(),
                                             grpc::ChannelArguments(),
                                             CreatorsOf(std::make_unique<CountingClient>(&seen)));
  auto stub = test::TestService::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto request = RequestWith(&context, {"c"});
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(Call(Kind::kUnary, stub.get(), &context, request, &reply)));
  EXPECT_EQ("c|", reply.payload());
  EXPECT_EQ(1, seen.starts);
  EXPECT_EQ(1, seen.ends);
}

// Our factory twice in one vector: the second leaves alone what the first has started.
TEST(ClientInterceptorsTest, OurFactoryTwiceStartsACallOnce) {
  TestServer server;
  AnswerAll(&server.service);
  auto stub = test::TestService::NewStub(
      LongFormChannel(server.address(), CreatorsOf(OurFactory(server), OurFactory(server))));
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"c"});
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ("c|", reply.payload());
  }
}

class HijackTest : public ::testing::TestWithParam<std::tuple<Kind, bool, bool>> {};

// A call that was hijacked before it reached the server leaves its descriptors nowhere: not with
// the client once its context is gone, and not with the server, to which they may have gone
// already. There they wait for their call for ServerLimits::early_timeout.
TEST_P(HijackTest, ReleasesTheDescriptors) {
  const auto [kind, ours_first, session_exists] = GetParam();
  TestServer server([](grpc::ServerBuilder*, ListenOptions* options) {
    FdServerOptions fd_server_options;
    fd_server_options.limits.early_timeout = absl::Seconds(1);
    auto fd_server = FdServer::Create(fd_server_options);
    ASSERT_TRUE(fd_server.ok()) << fd_server.status();
    options->fd_server = *fd_server;
  });
  AnswerAll(&server.service);
  auto fd_channel = FdChannel::Create(server.address());
  ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
  Creators creators;
  if (ours_first) creators.push_back(MakeClientInterceptorFactory(*fd_channel));
  creators.push_back(std::make_unique<HijackingClient>());
  if (!ours_first) creators.push_back(MakeClientInterceptorFactory(*fd_channel));
  auto hijacked =
      test::TestService::NewStub(LongFormChannel(server.address(), std::move(creators)));
  auto normal = test::TestService::NewStub(
      LongFormChannel(server.address(), CreatorsOf(MakeClientInterceptorFactory(*fd_channel))));
  const auto call = [](test::TestService::Stub* stub, Kind how, UniqueFd file) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    auto url = fds->SendFd(std::move(file));
    EXPECT_TRUE(url.ok()) << url.status();
    test::ExchangeRequest request;
    request.add_urls(url->ToString());
    test::ExchangeReply reply;
    EXPECT_EQ("OK", Text(Call(how, stub, &context, request, &reply)));
    return std::string(reply.payload());
  };
  // With a session the factory sends at once, without one it makes an interceptor.
  if (session_exists) {
    EXPECT_EQ("first|", call(normal.get(), Kind::kUnary, MemoryFile("first")));
  }

  UniqueFd file = MemoryFile("hijacked's");
  const auto dev_ino = FdToDevIno(file);
  ASSERT_TRUE(dev_ino.ok()) << dev_ino.status();
  EXPECT_EQ("hijacked", call(hijacked.get(), kind, std::move(file)));
  // Calls that go on meanwhile are not harmed.
  size_t held = 1;
  for (const absl::Time end = absl::Now() + absl::Seconds(20); held != 0 && absl::Now() < end;) {
    EXPECT_EQ("next|", call(normal.get(), Kind::kUnary, MemoryFile("next")));
    held = CountHolders(*dev_ino, {getpid()}).value_or(99);
  }
  EXPECT_EQ(0u, held);
}

INSTANTIATE_TEST_SUITE_P(Everywhere, HijackTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds), ::testing::Bool(),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "BehindOurs" : "InFrontOfOurs") +
                                  (std::get<2>(info.param) ? "WithASession" : "WithoutASession");
                         });

// gRPC counts the interceptors that were made, not the factories, to find "the ones after this":
// see grpcfd/client.h for where ours belongs.
TEST(ClientInterceptorsTest, OneThatMakesTheCallItselfStandsInFrontOfOurs) {
  TestServer server;
  AnswerAll(&server.service);
  std::atomic<int> forwarded{0};
  auto channel = LongFormChannel(
      server.address(),
      CreatorsOf(std::make_unique<ForwardingClient>(&forwarded), OurFactory(server)));
  auto stub = test::TestService::NewStub(channel);
  for (int i = 1; i <= 2; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(stub->Exchange(&context, {}, &reply)));
    EXPECT_EQ("forwarded|", reply.payload());
    EXPECT_EQ(i, forwarded);
  }
}

// A callback call whose first operation is held back until there is a session, and whose reactor
// goes with its last callback.
TEST(ClientInterceptorsTest, ACallbackCallThatIsHeldBackEndsInItsCallback) {
  TestServer server;
  AnswerAll(&server.service);
  for (int i = 0; i < 8; ++i) {
    struct InFlight {
      grpc::ClientContext context;
      test::ExchangeRequest request;
      test::ExchangeReply reply;
    };
    auto stub = server.Stub();  // A new channel: no session yet.
    auto* call = new InFlight;
    SetDeadline(&call->context, 20);
    auto url = FromContext(&call->context)->SendFd(MemoryFile("c"));
    ASSERT_TRUE(url.ok()) << url.status();
    call->request.add_urls(url->ToString());
    absl::Notification done;
    stub->async()->Exchange(&call->context, &call->request, &call->reply,
                            [call, &done](const grpc::Status& status) {
                              EXPECT_EQ("OK", Text(status));
                              EXPECT_EQ("c|", call->reply.payload());
                              delete call;
                              done.Notify();
                            });
    done.WaitForNotification();
  }
}

// --- Server ---

TEST(ServerInterceptorsTest, TheProgramsOwnStayAndRunWhicheverIsSetFirst) {
  for (const bool set_first : {true, false}) {
    TempDir dir;
    const std::string address = "unix:" + dir.File("socket");
    FunctionService service;
    AnswerAll(&service);
    Seen seen;
    grpc::ServerBuilder builder;
    const auto set = [&builder, &seen] {
      std::vector<std::unique_ptr<ServerInterceptorFactoryInterface>> creators;
      creators.push_back(std::make_unique<CountingServer>(&seen));
      builder.experimental().SetInterceptorCreators(std::move(creators));
    };
    if (set_first) set();
    AddListeningPort(&builder, address, grpc::InsecureServerCredentials());
    if (!set_first) set();
    builder.RegisterService(&service);
    auto server = builder.BuildAndStart();
    ASSERT_NE(nullptr, server);
    auto stub = test::TestService::NewStub(
        grpcfd::CreateChannel(address, grpc::InsecureChannelCredentials()));
    ASSERT_NO_FATAL_FAILURE(ExchangeAllKinds(stub.get(), seen));
    server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  }
}

// What an interceptor of the program's sees of a call's descriptors when the call arrives.
class LookingServer final : public ServerInterceptorFactoryInterface {
 public:
  struct Found {
    absl::Status from_context = absl::UnknownError("never asked");
    std::string content;
    std::multimap<std::string, std::string> metadata;
  };
  explicit LookingServer(Found* found) : found_(found) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new Looking(info->server_context(), found_);
  }

 private:
  class Looking final : public Interceptor {
   public:
    Looking(grpc::ServerContextBase* context, Found* found) : context_(context), found_(found) {}
    void Intercept(InterceptorBatchMethods* methods) override {
      if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
        for (const auto& [key, value] : context_->client_metadata()) {
          found_->metadata.emplace(std::string(key.data(), key.size()),
                                   std::string(value.data(), value.size()));
        }
        auto fds = FromContext(context_);
        found_->from_context = fds->status();
        const auto urls = UrlsFromContext(context_);
        if (fds->status().ok() && urls.ok() && !urls->empty()) {
          auto copy = fds->DupFd(urls->front());
          found_->content = copy.ok() ? Content(*copy) : copy.status().ToString();
        }
      }
      methods->Proceed();
    }

   private:
    grpc::ServerContextBase* const context_;
    Found* const found_;
  };

  Found* const found_;
};

TEST(ServerInterceptorsTest, OneOfTheProgramsFindsTheDescriptorsWhenTheCallArrives) {
  LookingServer::Found found;
  TestServer server([&found](grpc::ServerBuilder* builder, ListenOptions*) {
    std::vector<std::unique_ptr<ServerInterceptorFactoryInterface>> creators;
    creators.push_back(std::make_unique<LookingServer>(&found));
    builder->experimental().SetInterceptorCreators(std::move(creators));
  });
  AnswerAll(&server.service);
  auto stub = server.Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto request = RequestWith(&context, {"c"});
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(stub->Exchange(&context, request, &reply)));
  EXPECT_EQ(absl::OkStatus(), found.from_context);
  EXPECT_EQ("c", found.content);
  EXPECT_EQ("c|", reply.payload());
  // The state's entry is there to be passed over, and holds nothing that could be forwarded.
  const auto state = found.metadata.find("grpcfd-state");
  ASSERT_NE(found.metadata.end(), state);
  EXPECT_EQ("", state->second);
}

TEST(ServerInterceptorsTest, AStateThatAClientForgesIsNone) {
  LookingServer::Found found;
  TestServer server([&found](grpc::ServerBuilder* builder, ListenOptions*) {
    std::vector<std::unique_ptr<ServerInterceptorFactoryInterface>> creators;
    creators.push_back(std::make_unique<LookingServer>(&found));
    builder->experimental().SetInterceptorCreators(std::move(creators));
  });
  AnswerAll(&server.service);
  // Beside no descriptors at all, and beside some.
  auto plain = test::TestService::NewStub(LongFormChannel(server.address(), {}));
  grpc::ClientContext forging;
  SetDeadline(&forging, 20);
  forging.AddMetadata("grpcfd-state", "");
  test::ExchangeRequest request;
  request.set_command("reply");
  test::ExchangeReply reply;
  grpc::Status status = plain->Exchange(&forging, request, &reply);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, found.from_context.code());

  auto stub = server.Stub();
  grpc::ClientContext both;
  SetDeadline(&both, 20);
  both.AddMetadata("grpcfd-state", "0000");
  auto url = FromContext(&both)->SendFd(MemoryFile("c"));
  ASSERT_TRUE(url.ok()) << url.status();
  request.Clear();
  request.add_urls(url->ToString());
  ASSERT_EQ("OK", Text(stub->Exchange(&both, request, &reply)));
  EXPECT_EQ("c|", reply.payload());
}

// The long form, as grpcfd/server.h has it.
TEST(ServerInterceptorsTest, OurFactoryInTheProgramsVectorIsNotDoubled) {
  LookingServer::Found found;
  Seen seen;
  TestServer server([&](grpc::ServerBuilder* builder, ListenOptions* options) {
    std::vector<std::unique_ptr<ServerInterceptorFactoryInterface>> creators;
    creators.push_back(std::make_unique<LookingServer>(&found));
    creators.push_back(MakeServerInterceptorFactory(options->fd_server));
    creators.push_back(std::make_unique<CountingServer>(&seen));
    builder->experimental().SetInterceptorCreators(std::move(creators));
  });
  AnswerAll(&server.service);
  auto stub = server.Stub();
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto request = RequestWith(&context, {"c"});
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(stub->Exchange(&context, request, &reply)));
  EXPECT_EQ("c|", reply.payload());
  EXPECT_EQ("c", found.content);
  EXPECT_EQ(1, seen.starts);
  // One entry for the state: one interceptor of ours.
  EXPECT_EQ(1u, found.metadata.count("grpcfd-state"));
}

// A handle may be kept; after its call it says so, and touches nothing of it. The later call runs
// on any thread, perhaps the same.
TEST(ServerInterceptorsTest, AHandleThatOutlivesItsCallSaysThatTheCallHasEnded) {
  TestServer server;
  std::shared_ptr<FdTransceiver> kept;
  std::string kept_url;
  server.service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    if (kept != nullptr) {
      reply->set_status_code(
          static_cast<int>(kept->RecvFd(kept_url, absl::Now() + absl::Seconds(5)).status().code()));
      return grpc::Status::OK;
    }
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    kept = fds;
    kept_url = request->urls(0);
    return grpc::Status::OK;
  };
  auto stub = server.Stub();
  for (int i = 0; i < 4; ++i) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"c"});
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(stub->Exchange(&context, request, &reply)));
    if (i == 0) {
      // The client may have its reply before the server's end of the call is gone.
      const absl::Time end = absl::Now() + absl::Seconds(10);
      // Not merely "fails": the call's limit may come before its end.
      while (!absl::IsFailedPrecondition(kept->SendFd(MemoryFile("x")).status()) &&
             absl::Now() < end) {
      }
    } else {
      EXPECT_EQ(static_cast<int>(absl::StatusCode::kFailedPrecondition), reply.status_code());
    }
  }
}

TEST(ServerPortsTest, TwoPathsOfOneBuilderAndATcpPortBeside) {
  TempDir dir;
  FunctionService service;
  AnswerAll(&service);
  grpc::ServerBuilder builder;
  const std::string paths[] = {"unix:" + dir.File("one"), "unix:" + dir.File("two")};
  for (const std::string& path : paths) {
    AddListeningPort(&builder, path, grpc::InsecureServerCredentials());
  }
  int tcp_port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &tcp_port);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  ASSERT_NE(nullptr, server);

  // One FdServer numbers the sessions of both: had each port its own, both would begin alike.
  std::vector<uint64_t> sessions;
  for (const std::string& path : paths) {
    auto fd_channel = FdChannel::Create(path);
    ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
    auto stub = test::TestService::NewStub(
        LongFormChannel(path, CreatorsOf(MakeClientInterceptorFactory(*fd_channel))));
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"c"});
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(stub->Exchange(&context, request, &reply))) << path;
    EXPECT_EQ("c|", reply.payload());
    sessions.push_back((*fd_channel)->session_id());
  }
  EXPECT_NE(0u, sessions[0]);
  EXPECT_NE(0u, sessions[1]);
  EXPECT_NE(sessions[0], sessions[1]);

  auto tcp = test::TestService::NewStub(grpcfd::CreateChannel(
      "127.0.0.1:" + std::to_string(tcp_port), grpc::InsecureChannelCredentials()));
  for (const Kind kind : kAllKinds) {
    test::ExchangeReply reply;
    grpc::ClientContext plain;
    SetDeadline(&plain, 20);
    EXPECT_EQ("OK", Text(Call(kind, tcp.get(), &plain, {}, &reply)));
    // The handler asks for its descriptors.
    grpc::ClientContext asking;
    SetDeadline(&asking, 20);
    test::ExchangeRequest request;
    request.set_command("reply");
    const grpc::Status status = Call(kind, tcp.get(), &asking, request, &reply);
    EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
    EXPECT_THAT(status.error_message(), ::testing::HasSubstr("TCP"));
  }
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
}

}  // namespace
}  // namespace grpcfd
