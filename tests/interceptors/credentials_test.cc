// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/credentials.h"

#include <gmock/gmock.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "grpcfd/testing/inode_holders.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::AnswerAll;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::Creators;
using testing_internal::CreatorsOf;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::LongFormChannel;
using testing_internal::MemoryFile;
using testing_internal::OurFactory;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::TestServer;
using testing_internal::Text;

// What a context's slot for credentials holds.
using Slot = std::shared_ptr<grpc::CallCredentials>;

// Adds one entry to a call's metadata, or fails, and counts how often it is asked.
class EntryPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  EntryPlugin(std::string key, std::string value, std::shared_ptr<std::atomic<int>> asked,
              grpc::Status status)
      : key_(std::move(key)),
        value_(std::move(value)),
        asked_(std::move(asked)),
        status_(std::move(status)) {}
  bool IsBlocking() const override { return false; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    ++*asked_;
    if (status_.ok()) metadata->emplace(key_, value_);
    return status_;
  }

 private:
  const std::string key_;
  const std::string value_;
  const std::shared_ptr<std::atomic<int>> asked_;
  const grpc::Status status_;
};

Slot Entry(const std::string& key, const std::string& value,
           std::shared_ptr<std::atomic<int>> asked = std::make_shared<std::atomic<int>>(0),
           const grpc::Status& status = grpc::Status::OK) {
  return grpc::experimental::MetadataCredentialsFromPlugin(
      std::make_unique<EntryPlugin>(key, value, std::move(asked), status), GRPC_SECURITY_NONE);
}

// A channel without a factory of grpcfd's has nobody but the credentials to refuse a call. Where
// those are a plugin of gRPC's core, it makes UNAVAILABLE of every status.
#if GRPCFD_GRPC_SLOT_BY_PLUGIN
constexpr grpc::StatusCode kRefusedByCredentials = grpc::StatusCode::UNAVAILABLE;
#else
constexpr grpc::StatusCode kRefusedByCredentials = grpc::StatusCode::FAILED_PRECONDITION;
#endif

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
// A class of the program's own, which gRPC's composite does not take.
class UserCredentials final : public grpc::CallCredentials {
 public:
  explicit UserCredentials(Slot what) : what_(std::move(what)) {}
  bool ApplyToCall(grpc_call* call) override {
    ++applied;
    return what_->ApplyToCall(call);
  }
  std::atomic<int> applied{0};

 private:
  grpc::SecureCallCredentials* AsSecureCredentials() override { return nullptr; }
  const Slot what_;
};
#endif

Creators ChainFactories(const Slot& defaults) {
  return CreatorsOf(ChainUnaryInterceptorFactory(defaults),
                    ChainStreamInterceptorFactory(defaults));
}

void Append(Creators from, Creators* to) {
  for (auto& creator : from) to->push_back(std::move(creator));
}

// --- Both arrive, everywhere ---

class BothArriveTest : public ::testing::TestWithParam<std::tuple<Kind, bool, bool, bool>> {};

TEST_P(BothArriveTest, DefaultsAndTheCallsOwn) {
  const auto [kind, local, descriptors, before] = GetParam();
  TestServer server({}, local ? grpc::experimental::LocalServerCredentials(UDS)
                              : grpc::InsecureServerCredentials());
  AnswerAll(&server.service);
  auto asked = std::make_shared<std::atomic<int>>(0);
  const Slot defaults = Entry("x-default", "d", asked);
  Creators creators;
  if (before) Append(ChainFactories(defaults), &creators);
  creators.push_back(OurFactory(server));
  if (!before) Append(ChainFactories(defaults), &creators);
  auto channel = LongFormChannel(
      server.address(), std::move(creators),
      local ? grpc::experimental::LocalCredentials(UDS) : grpc::InsecureChannelCredentials());
  auto stub = test::TestService::NewStub(channel);

  // The first call finds no session yet, the second does.
  for (int round = 1; round <= 2; ++round) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(Entry("x-own", "o"));
    test::ExchangeRequest request;
    if (descriptors) request = RequestWith(&context, {"content"});
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ("x-default=d;x-own=o;", reply.status_text());
    EXPECT_EQ(descriptors ? "content|" : "", reply.payload());
    EXPECT_EQ(round, *asked);
  }
  // And without any of its own.
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, {}, &reply)));
  EXPECT_EQ("x-default=d;", reply.status_text());
}

INSTANTIATE_TEST_SUITE_P(Everywhere, BothArriveTest,
                         ::testing::Combine(::testing::ValuesIn(kAllKinds), ::testing::Bool(),
                                            ::testing::Bool(), ::testing::Bool()),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "Local" : "Insecure") +
                                  (std::get<2>(info.param) ? "WithDescriptors" : "Plain") +
                                  (std::get<3>(info.param) ? "ChainFirst" : "ChainLast");
                         });

// --- Chain factories ---

class ChainTest : public ::testing::Test {
 protected:
  ChainTest() { AnswerAll(&server_.service); }

  std::unique_ptr<test::TestService::Stub> StubOf(Creators creators) {
    return test::TestService::NewStub(LongFormChannel(server_.address(), std::move(creators)));
  }

  TestServer server_;
};

TEST_F(ChainTest, EachFactoryActsOnItsOwnKindOfCallOnly) {
  for (const bool unary : {true, false}) {
    const Slot defaults = Entry("x-default", "d");
    auto stub = StubOf(CreatorsOf(
        unary ? ChainUnaryInterceptorFactory(defaults) : ChainStreamInterceptorFactory(defaults),
        OurFactory(server_)));
    for (const Kind kind : kAllKinds) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      test::ExchangeReply reply;
      ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, RequestWith(&context, {"c"}), &reply)));
      EXPECT_EQ((kind == Kind::kUnary) == unary ? "x-default=d;" : "", reply.status_text()) << kind;
    }
  }
}

TEST_F(ChainTest, ADefaultThatIsRegisteredTwiceIsAppliedOnce) {
  auto asked = std::make_shared<std::atomic<int>>(0);
  const Slot defaults = Entry("x-default", "d", asked);
  Creators creators = ChainFactories(defaults);
  Append(ChainFactories(defaults), &creators);
  creators.push_back(OurFactory(server_));
  Append(ChainFactories(defaults), &creators);
  auto stub = StubOf(std::move(creators));
  int calls = 0;
  for (const Kind kind : kAllKinds) {
    for (const bool descriptors : {false, true}) {
      for (const bool own : {false, true}) {
        grpc::ClientContext context;
        SetDeadline(&context, 20);
        // The default itself as the call's own is applied once as well.
        if (own) context.set_credentials(defaults);
        test::ExchangeRequest request;
        if (descriptors) request = RequestWith(&context, {"c"});
        test::ExchangeReply reply;
        ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
        EXPECT_EQ(1u, reply.number());
        EXPECT_EQ(++calls, *asked);
      }
    }
  }
}

TEST_F(ChainTest, OneKeyInBothArrivesTwiceTheDefaultFirst) {
  auto stub = StubOf([&] {
    Creators creators = ChainFactories(Entry("x-default", "default"));
    creators.push_back(OurFactory(server_));
    return creators;
  }());
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(Entry("x-default", "own"));
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, RequestWith(&context, {"c"}), &reply)));
    EXPECT_EQ("x-default=default;x-default=own;", reply.status_text());
  }
}

// With gRPC's own status for it, which in 1.51 is UNAVAILABLE with the text of the one that failed:
// the same as on a stock channel.
TEST_F(ChainTest, OneThatFailsFailsTheCallAsItDoesOnAStockChannel) {
  const grpc::Status refused(grpc::StatusCode::UNAUTHENTICATED, "no ticket today");
  const auto unused = std::make_shared<std::atomic<int>>(0);
  auto stock = StubOf({});
  grpc::ClientContext stock_context;
  SetDeadline(&stock_context, 20);
  stock_context.set_credentials(Entry("x-own", "o", unused, refused));
  test::ExchangeReply reply;
  const grpc::Status expected = Call(Kind::kUnary, stock.get(), &stock_context, {}, &reply);
  ASSERT_EQ(grpc::StatusCode::UNAVAILABLE, expected.error_code()) << Text(expected);
  ASSERT_THAT(expected.error_message(), ::testing::HasSubstr("no ticket today"));

  for (const bool default_fails : {true, false}) {
    Creators creators =
        ChainFactories(Entry("x-default", "d", unused, default_fails ? refused : grpc::Status::OK));
    creators.push_back(OurFactory(server_));
    auto stub = StubOf(std::move(creators));
    for (const Kind kind : kAllKinds) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      context.set_credentials(
          Entry("x-own", "o", unused, default_fails ? grpc::Status::OK : refused));
      const grpc::Status status =
          Call(kind, stub.get(), &context, RequestWith(&context, {"c"}), &reply);
      EXPECT_EQ(Text(expected), Text(status));
    }
  }
}

TEST_F(ChainTest, NoDefaultsChangeNothing) {
  Creators creators = ChainFactories(nullptr);
  creators.push_back(OurFactory(server_));
  auto stub = StubOf(std::move(creators));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_credentials(Entry("x-own", "o"));
  test::ExchangeReply reply;
  ASSERT_EQ("OK",
            Text(Call(Kind::kUnary, stub.get(), &context, RequestWith(&context, {"c"}), &reply)));
  EXPECT_EQ("x-own=o;", reply.status_text());
}

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
TEST_F(ChainTest, ADefaultOfTheProgramsOwnClassWorksAloneAndIsRefusedBesideAnother) {
  const auto defaults = std::make_shared<UserCredentials>(Entry("x-default", "d"));
  Creators creators = ChainFactories(defaults);
  creators.push_back(OurFactory(server_));
  auto stub = StubOf(std::move(creators));
  for (const Kind kind : kAllKinds) {
    defaults->applied = 0;
    grpc::ClientContext alone;
    SetDeadline(&alone, 20);
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &alone, RequestWith(&alone, {"c"}), &reply)));
    EXPECT_EQ("x-default=d;", reply.status_text());
    EXPECT_EQ(1, defaults->applied);

    grpc::ClientContext with_another;
    SetDeadline(&with_another, 20);
    with_another.set_credentials(Entry("x-own", "o"));
    const grpc::Status status =
        Call(kind, stub.get(), &with_another, RequestWith(&with_another, {"c"}), &reply);
    EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
    EXPECT_THAT(status.error_message(), ::testing::HasSubstr("of a class that neither gRPC"));
    EXPECT_EQ(1, defaults->applied);
  }
}

TEST(RefusedCallTest, ACallThatIsRefusedForItsCredentialsDoesNotWaitForASession) {
  // Nobody listens, the call would wait for that, and it has no deadline: it must end all the same.
  testing_internal::TempDir dir;
  const std::string target = "unix:" + dir.File("nobody");
  auto fd_channel = FdChannel::Create(target);
  ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
  auto stub = test::TestService::NewStub(
      LongFormChannel(target, CreatorsOf(MakeClientInterceptorFactory(*fd_channel))));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_credentials(ChainCallCredentials(
      Entry("x-a", "a"), std::make_shared<UserCredentials>(Entry("x-b", "b"))));
  auto request = RequestWith(&context, {"c"});
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition,
            FromContext(&context)->SendFd(MemoryFile("late")).status().code());
}
#endif

TEST(CancelledCallTest, ACallThatWasCancelledBeforeItWasMadeDoesNotWaitForASession) {
  testing_internal::TempDir dir;
  const std::string target = "unix:" + dir.File("nobody");
  auto fd_channel = FdChannel::Create(target);
  ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
  auto stub = test::TestService::NewStub(
      LongFormChannel(target, CreatorsOf(MakeClientInterceptorFactory(*fd_channel))));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  auto request = RequestWith(&context, {"c"});
  context.TryCancel();
  test::ExchangeReply reply;
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  EXPECT_EQ(grpc::StatusCode::CANCELLED, status.error_code()) << Text(status);
}

TEST(CancelledCallTest, CancellingReleasesACallThatWaitsForASession) {
  testing_internal::TempDir dir;
  const std::string target = "unix:" + dir.File("nobody");
  auto fd_channel = FdChannel::Create(target);
  ASSERT_TRUE(fd_channel.ok()) << fd_channel.status();
  auto stub = test::TestService::NewStub(
      LongFormChannel(target, CreatorsOf(MakeClientInterceptorFactory(*fd_channel))));
  // Cancelled at any moment: before the call is made, while it is held back, and between.
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    auto request = RequestWith(&context, {"c"});
    std::thread canceller([&context, i] {
      std::this_thread::sleep_for(std::chrono::microseconds(i * 50));  // Only moves the race about.
      context.TryCancel();
    });
    test::ExchangeReply reply;
    const grpc::Status status = stub->Exchange(&context, request, &reply);
    canceller.join();
    EXPECT_EQ(grpc::StatusCode::CANCELLED, status.error_code()) << Text(status);
  }
}

TEST_F(ChainTest, CredentialsOfTheDefaultLevelTravelOnLocalButNotOnInsecureChannels) {
  const Slot strict = grpc::MetadataCredentialsFromPlugin(std::make_unique<EntryPlugin>(
      "x-default", "d", std::make_shared<std::atomic<int>>(0), grpc::Status::OK));
  TestServer local({}, grpc::experimental::LocalServerCredentials(UDS));
  AnswerAll(&local.service);
  Creators creators = ChainFactories(strict);
  creators.push_back(OurFactory(local));
  auto stub = test::TestService::NewStub(LongFormChannel(
      local.address(), std::move(creators), grpc::experimental::LocalCredentials(UDS)));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeReply reply;
  ASSERT_EQ("OK",
            Text(Call(Kind::kUnary, stub.get(), &context, RequestWith(&context, {"c"}), &reply)));
  EXPECT_EQ("x-default=d;", reply.status_text());

  creators = ChainFactories(strict);
  creators.push_back(OurFactory(server_));
  stub = StubOf(std::move(creators));
  grpc::ClientContext insecure;
  SetDeadline(&insecure, 20);
  const grpc::Status status =
      Call(Kind::kUnary, stub.get(), &insecure, RequestWith(&insecure, {"c"}), &reply);
  EXPECT_EQ(grpc::StatusCode::UNAUTHENTICATED, status.error_code()) << Text(status);
}

// --- ChainCallCredentials, and what replaces the slot ---

TEST(ChainCallCredentialsTest, NullsAreTheOther) {
  const Slot one = Entry("x-a", "a");
  EXPECT_EQ(nullptr, ChainCallCredentials(nullptr, nullptr));
  EXPECT_EQ(one, ChainCallCredentials(one, nullptr));
  EXPECT_EQ(one, ChainCallCredentials(nullptr, one));
}

TEST_F(ChainTest, ChainsNestAndKeepTheirOrder) {
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const Slot a = Entry("x-k", "a");
  const Slot b = Entry("x-k", "b");
  const Slot c = Entry("x-k", "c");
  context.set_credentials(
      ChainCallCredentials(ChainCallCredentials(c, a), ChainCallCredentials(b, c)));
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(Call(Kind::kUnary, stub.get(), &context, {}, &reply)));
  EXPECT_EQ("x-k=c;x-k=a;x-k=b;", reply.status_text());
}

TEST_F(ChainTest, ChainedOntoWhatFromContextSetBothArrive) {
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  for (const bool first : {true, false}) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"c"});
    const auto handle = FromContext(&context);
    const Slot more = Entry("x-own", "o");
    context.set_credentials(first ? ChainCallCredentials(context.credentials(), more)
                                  : ChainCallCredentials(more, context.credentials()));
    EXPECT_EQ(handle, FromContext(&context));
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(Kind::kUnary, stub.get(), &context, request, &reply)));
    EXPECT_EQ("x-own=o;", reply.status_text());
    EXPECT_EQ("c|", reply.payload());
    EXPECT_EQ(handle, FromContext(&context));
  }
}

// gRPC's composite hides ours. Or it is null, as for all credentials that are not gRPC's own, and a
// null in the slot is no credentials.
TEST_F(ChainTest, GrpcsCompositeWithOursIsRefused) {
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto request = RequestWith(&context, {"c"});
  const Slot more = Entry("x-own", "o");
  const Slot composite = grpc::CompositeCallCredentials(context.credentials(), more);
#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
  EXPECT_EQ(nullptr, grpc::CompositeCallCredentials(more, context.credentials()));
  EXPECT_EQ(nullptr, composite);
#endif
  context.set_credentials(composite);
  test::ExchangeReply reply;
  const grpc::Status status = Call(Kind::kUnary, stub.get(), &context, request, &reply);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("CompositeCallCredentials"));
}

TEST_F(ChainTest, CredentialsSetAfterFromContextAreRefused) {
  for (const bool chain : {false, true}) {
    Creators creators;
    if (chain) creators = ChainFactories(Entry("x-default", "d"));
    creators.push_back(OurFactory(server_));
    auto stub = StubOf(std::move(creators));
    for (const Kind kind : kAllKinds) {
      for (const Slot& replacement : {Entry("x-own", "o"), Slot()}) {
        grpc::ClientContext context;
        SetDeadline(&context, 20);
        const auto request = RequestWith(&context, {"c"});
        context.set_credentials(replacement);
        test::ExchangeReply reply;
        const grpc::Status status = Call(kind, stub.get(), &context, request, &reply);
        EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
        EXPECT_THAT(status.error_message(), ::testing::HasSubstr("set_credentials"));
        EXPECT_THAT(status.error_message(), ::testing::HasSubstr("ChainCallCredentials"));
      }
    }
  }
}

TEST_F(ChainTest, TheStateOfOneContextOnASecondIsRefusedAndTheFirstStillWorks) {
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext first;
    SetDeadline(&first, 20);
    auto request = RequestWith(&first, {"c"});
    request.set_command("reply");
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &first, request, &reply)));
    EXPECT_EQ("c|", reply.payload());

    grpc::ClientContext second;
    SetDeadline(&second, 20);
    second.set_credentials(first.credentials());
    test::ExchangeReply other;
    const grpc::Status status = Call(kind, stub.get(), &second, request, &other);
    EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
    EXPECT_THAT(status.error_message(), ::testing::HasSubstr("second call"));

    auto fd = FromContext(&first)->RecvFd(reply.urls(0));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ("reply to ", Content(*fd));
  }
}

// The two contexts, one after the other, are one address.
TEST_F(ChainTest, TheStateOfAContextThatIsGoneIsRefusedAtItsOldAddressToo) {
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  alignas(grpc::ClientContext) static unsigned char place[sizeof(grpc::ClientContext)];
  auto* context = new (place) grpc::ClientContext;
  SetDeadline(context, 20);
  const auto request = RequestWith(context, {"c"});
  test::ExchangeReply reply;
  EXPECT_EQ("OK", Text(Call(Kind::kUnary, stub.get(), context, request, &reply)));
  const Slot kept = context->credentials();
  context->~ClientContext();

  context = new (place) grpc::ClientContext;
  SetDeadline(context, 20);
  context->set_credentials(kept);
  const grpc::Status status = Call(Kind::kUnary, stub.get(), context, request, &reply);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("second call"));
  context->~ClientContext();
}

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
TEST_F(ChainTest, TheStateOfACallOnASecondContextOfAPlainChannelIsRefusedToo) {
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  auto plain = StubOf({});
  grpc::ClientContext first;
  SetDeadline(&first, 20);
  const auto request = RequestWith(&first, {"c"});
  test::ExchangeReply reply;
  ASSERT_EQ("OK", Text(Call(Kind::kUnary, stub.get(), &first, request, &reply)));

  grpc::ClientContext second;
  SetDeadline(&second, 20);
  second.set_credentials(first.credentials());
  const grpc::Status status = Call(Kind::kUnary, plain.get(), &second, request, &reply);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("another call"));
}
#endif

TEST_F(ChainTest, ARefusedCallKeepsItsHandle) {
  grpc::ClientContext other;
  const auto handle = FromContext(&other);
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const auto own = FromContext(&context);
  context.set_credentials(ChainCallCredentials(context.credentials(), other.credentials()));
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  test::ExchangeReply reply;
  const grpc::Status status = Call(Kind::kUnary, stub.get(), &context, {}, &reply);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("two contexts"));
  EXPECT_EQ(handle, FromContext(&context));
  EXPECT_EQ(handle, FromContext(&other));
  EXPECT_NE(handle, own);
}

// --- PerRpcCredentials ---

class PerRpcTest : public ChainTest {
 protected:
  PerRpcTest() : stub_(StubOf(CreatorsOf(OurFactory(server_)))) {}

  // Adds a file of `content` to the set of `credentials`.
  std::string Add(const Slot& credentials, const std::string& content) {
    auto url = FromPerRpcCredentials(credentials)->SendFd(MemoryFile(content));
    EXPECT_TRUE(url.ok()) << url.status();
    return url.ok() ? url->ToString() : "";
  }

  // A call with `credentials` that names `urls`; what arrived, or the status.
  std::string Contents(Kind kind, const Slot& credentials, const std::vector<std::string>& urls) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(credentials);
    test::ExchangeRequest request;
    for (const std::string& url : urls) request.add_urls(url);
    test::ExchangeReply reply;
    const grpc::Status status = Call(kind, stub_.get(), &context, request, &reply);
    return status.ok() ? std::string(reply.payload()) : Text(status);
  }

  std::unique_ptr<test::TestService::Stub> stub_;
};

TEST_F(PerRpcTest, EveryCallInTurnGetsTheFullSet) {
  const Slot credentials = PerRpcCredentials();
  const std::string a = Add(credentials, "a");
  const std::string b = Add(credentials, "b");
  for (int i = 0; i < 3; ++i) {
    for (const Kind kind : kAllKinds) EXPECT_EQ("b|a|", Contents(kind, credentials, {b, a}));
  }
  // What is added now goes to later calls, beside the rest.
  const std::string c = Add(credentials, "c");
  for (const Kind kind : kAllKinds) EXPECT_EQ("a|b|c|", Contents(kind, credentials, {a, b, c}));
}

TEST_F(PerRpcTest, CallsAtOnceGetTheFullSetEach) {
  const Slot credentials = PerRpcCredentials();
  const std::vector<std::string> urls = {Add(credentials, "a"), Add(credentials, "b"),
                                         Add(credentials, "c")};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 16; ++k) {
        EXPECT_EQ("a|b|c|", Contents(kAllKinds[(i + k) % 4], credentials, urls));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(PerRpcTest, WhatIsAddedWhileACallRunsGoesToLaterCalls) {
  const Slot credentials = PerRpcCredentials();
  const std::string a = Add(credentials, "a");
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_credentials(credentials);
  auto stream = stub_->Chat(&context);
  const std::string b = Add(credentials, "b");
  test::ExchangeRequest request;
  request.add_urls(a);
  ASSERT_TRUE(stream->Write(request));
  stream->WritesDone();
  test::ExchangeReply reply;
  EXPECT_TRUE(stream->Read(&reply));
  ASSERT_EQ("OK", Text(stream->Finish()));
  EXPECT_EQ("a|", reply.payload());
  EXPECT_EQ("a|b|", Contents(Kind::kUnary, credentials, {a, b}));
}

TEST_F(PerRpcTest, WrappingTwiceIsNothing) {
  const Slot credentials = PerRpcCredentials(Entry("x-own", "o"));
  EXPECT_EQ(credentials, PerRpcCredentials(credentials));
  const Slot chained = ChainCallCredentials(credentials, Entry("x-more", "m"));
  EXPECT_EQ(chained, PerRpcCredentials(chained));
  EXPECT_EQ(FromPerRpcCredentials(credentials), FromPerRpcCredentials(chained));
  EXPECT_NE(nullptr, FromPerRpcCredentials(credentials));
}

TEST_F(PerRpcTest, PlainCredentialsCarryNone) {
  EXPECT_EQ(nullptr, FromPerRpcCredentials(nullptr));
  EXPECT_EQ(nullptr, FromPerRpcCredentials(Entry("x-own", "o")));
  EXPECT_EQ(nullptr,
            FromPerRpcCredentials(ChainCallCredentials(Entry("x-a", ""), Entry("x-b", ""))));
}

TEST_F(PerRpcTest, InnerCredentialsArrive) {
  auto asked = std::make_shared<std::atomic<int>>(0);
  const Slot credentials = PerRpcCredentials(Entry("x-inner", "i", asked));
  const std::string url = Add(credentials, "a");
  int calls = 0;
  for (const Kind kind : kAllKinds) {
    for (const bool own : {false, true}) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      context.set_credentials(credentials);
      if (own) FromContext(&context);
      test::ExchangeRequest request;
      request.add_urls(url);
      test::ExchangeReply reply;
      ASSERT_EQ("OK", Text(Call(kind, stub_.get(), &context, request, &reply)));
      EXPECT_EQ("a|", reply.payload());
      EXPECT_EQ("x-inner=i;", reply.status_text());
      EXPECT_EQ(++calls, *asked);
    }
  }
}

TEST_F(PerRpcTest, AsAChannelsDefaultInFrontOfOurFactory) {
  const Slot defaults = PerRpcCredentials(Entry("x-default", "d"));
  const std::string url = Add(defaults, "set");
  Creators creators = ChainFactories(defaults);
  creators.push_back(OurFactory(server_));
  Append(ChainFactories(defaults), &creators);  // Again, behind it: applied once, as ever.
  auto stub = StubOf(std::move(creators));
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(Entry("x-own", "o"));
    test::ExchangeRequest request;
    request.add_urls(url);
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ("set|", reply.payload());
    EXPECT_EQ("x-default=d;x-own=o;", reply.status_text());
  }
}

TEST_F(PerRpcTest, AsAChannelsDefaultBehindOurFactoryTheCallIsRefused) {
  const Slot defaults = PerRpcCredentials();
  Creators creators = CreatorsOf(OurFactory(server_));
  Append(ChainFactories(defaults), &creators);
  auto stub = StubOf(std::move(creators));
  for (const bool empty : {true, false}) {
    if (!empty) Add(defaults, "set");
    for (const Kind kind : kAllKinds) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      test::ExchangeReply reply;
      const grpc::Status status = Call(kind, stub.get(), &context, {}, &reply);
      EXPECT_EQ(empty ? grpc::StatusCode::OK : grpc::StatusCode::FAILED_PRECONDITION,
                status.error_code())
          << Text(status);
    }
  }
}

TEST_F(PerRpcTest, TheSetComesFirstThenTheCallsOwn) {
  const Slot credentials = PerRpcCredentials();
  const std::string a = Add(credentials, "a");
  const std::string b = Add(credentials, "b");
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(credentials);
    auto own = FromContext(&context)->SendFd(MemoryFile("own"));
    ASSERT_TRUE(own.ok()) << own.status();
    EXPECT_EQ(2u, own->index());
    test::ExchangeRequest request;
    for (const std::string& url : {own->ToString(), a, b}) request.add_urls(url);
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub_.get(), &context, request, &reply)));
    EXPECT_EQ("own|a|b|", reply.payload());
  }
}

// The set's place is taken by then: its URLs were given out already, and so were the call's own.
TEST_F(PerRpcTest, ASetThatComesAfterTheCallsOwnDescriptorsIsRefusedUnlessEmpty) {
  for (const bool empty : {true, false}) {
    const Slot credentials = PerRpcCredentials();
    if (!empty) Add(credentials, "a");
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    const auto request = RequestWith(&context, {"own"});
    context.set_credentials(ChainCallCredentials(context.credentials(), credentials));
    test::ExchangeReply reply;
    const grpc::Status status = Call(Kind::kUnary, stub_.get(), &context, request, &reply);
    if (empty) {
      EXPECT_EQ("OK", Text(status));
      EXPECT_EQ("own|", reply.payload());
    } else {
      EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
      EXPECT_THAT(status.error_message(), ::testing::HasSubstr("must be a call's first"));
    }
  }
}

// FromContext that only wants to receive leaves the set its place.
TEST_F(PerRpcTest, ADefaultSetJoinsACallWhoseHandleSentNothing) {
  const Slot defaults = PerRpcCredentials();
  const std::string url = Add(defaults, "set");
  Creators creators = ChainFactories(defaults);
  creators.push_back(OurFactory(server_));
  auto stub = StubOf(std::move(creators));
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    request.add_urls(url);
    request.set_command("reply");
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(kind, stub.get(), &context, request, &reply)));
    EXPECT_EQ("set|", reply.payload());
    auto fd = fds->RecvFd(reply.urls(0));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ("reply to ", Content(*fd));
  }
}

TEST_F(PerRpcTest, TwoSetsWithDescriptorsForOneCallAreRefused) {
  const Slot one = PerRpcCredentials();
  const Slot two = PerRpcCredentials();
  Add(one, "1");
  for (const bool from_context : {false, true}) {
    grpc::ClientContext fine;
    SetDeadline(&fine, 20);
    fine.set_credentials(ChainCallCredentials(one, PerRpcCredentials()));
    if (from_context) FromContext(&fine);
    test::ExchangeReply reply;
    EXPECT_EQ("OK", Text(Call(Kind::kUnary, stub_.get(), &fine, {}, &reply)));
  }
  Add(two, "2");
  for (const bool from_context : {false, true}) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(ChainCallCredentials(one, two));
    if (from_context) FromContext(&context);
    test::ExchangeReply reply;
    const grpc::Status status = Call(Kind::kUnary, stub_.get(), &context, {}, &reply);
    EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, status.error_code()) << Text(status);
    EXPECT_THAT(status.error_message(), ::testing::HasSubstr("must be a call's first"));
  }
}

TEST_F(PerRpcTest, OnAChannelWithoutOurFactoryOnlyAnEmptySetIsFine) {
  for (const bool chain : {false, true}) {
    const Slot credentials = PerRpcCredentials(Entry("x-inner", "i"));
    Creators creators;
    if (chain) creators = ChainFactories(credentials);
    auto plain = StubOf(std::move(creators));
    for (const bool empty : {true, false}) {
      if (!empty) Add(credentials, "a");
      for (const Kind kind : kAllKinds) {
        grpc::ClientContext context;
        SetDeadline(&context, 20);
        if (!chain) context.set_credentials(credentials);
        test::ExchangeReply reply;
        const grpc::Status status = Call(kind, plain.get(), &context, {}, &reply);
        if (empty) {
          EXPECT_EQ("OK", Text(status));
          EXPECT_EQ("x-inner=i;", reply.status_text());
        } else {
          // A chain factory can refuse it itself.
          EXPECT_EQ(chain ? grpc::StatusCode::FAILED_PRECONDITION : kRefusedByCredentials,
                    status.error_code())
              << Text(status);
          EXPECT_THAT(status.error_message(), ::testing::HasSubstr("PerRpcCredentials carry"));
        }
      }
    }
  }
}

TEST_F(PerRpcTest, ReceivesForTheCallsWhoseContextIsStillThere) {
  const Slot credentials = PerRpcCredentials();
  const auto set = FromPerRpcCredentials(credentials);
  const InodeUrl nowhere(DevIno{1, 2}, 0);
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, set->RecvFd(nowhere).status().code());
  {
    grpc::ClientContext contexts[2];
    test::ExchangeReply replies[2];
    for (int i = 0; i < 2; ++i) {
      SetDeadline(&contexts[i], 20);
      contexts[i].set_credentials(credentials);
      test::ExchangeRequest request;
      request.set_command("reply");
      request.set_payload(std::to_string(i));
      ASSERT_EQ("OK", Text(Call(Kind::kUnary, stub_.get(), &contexts[i], request, &replies[i])));
    }
    // Of the earlier call, of the latest, and of the latest once more.
    auto copy = set->DupFd(replies[0].urls(0));
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_EQ("reply to 0", Content(*copy));
    for (int i = 0; i < 2; ++i) {
      auto fd = set->RecvFd(replies[i].urls(0));
      ASSERT_TRUE(fd.ok()) << fd.status();
      EXPECT_EQ("reply to " + std::to_string(i), Content(*fd));
    }
    EXPECT_EQ(absl::StatusCode::kFailedPrecondition,
              set->RecvFd(replies[1].urls(0)).status().code());
    absl::Status asynchronously = absl::OkStatus();
    set->RecvFdAsync(replies[1].urls(0), [&asynchronously](absl::StatusOr<UniqueFd> fd) {
      asynchronously = fd.status();
    });
    EXPECT_EQ(absl::StatusCode::kFailedPrecondition, asynchronously.code());
  }
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, set->RecvFd(nowhere).status().code());
  absl::Status asynchronously = absl::OkStatus();
  set->RecvFdAsync(nowhere.ToString(), [&asynchronously](absl::StatusOr<UniqueFd> fd) {
    asynchronously = fd.status();
  });
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, asynchronously.code());
}

TEST_F(PerRpcTest, TheSetIsClosedWithTheLastReference) {
  DevIno dev_ino;
  {
    UniqueFd file = MemoryFile("a");
    auto looked_at = FdToDevIno(file);
    ASSERT_TRUE(looked_at.ok()) << looked_at.status();
    dev_ino = *looked_at;
    std::shared_ptr<FdTransceiver> set;
    {
      const Slot credentials = PerRpcCredentials();
      set = FromPerRpcCredentials(credentials);
      ASSERT_TRUE(set->SendFd(std::move(file)).ok());
    }
    auto held = CountHolders(dev_ino, {getpid()});
    ASSERT_TRUE(held.ok()) << held.status();
    EXPECT_EQ(1u, *held);
  }
  auto held = CountHolders(dev_ino, {getpid()});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(0u, *held);
}

TEST_F(PerRpcTest, WrongThingsAreErrorsAtOnceAndAddNothing) {
  const Slot credentials = PerRpcCredentials();
  const auto set = FromPerRpcCredentials(credentials);
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, set->SendFd(BorrowedFd(-1)).status().code());
  EXPECT_EQ(absl::StatusCode::kNotFound, set->SendFilename("/nonexistent/file").status().code());
  UniqueFd file = MemoryFile("borrowed");
  auto url = set->SendFd(BorrowedFd(file));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(0u, url->index());
  file.Reset();
  EXPECT_EQ("borrowed|", Contents(Kind::kUnary, credentials, {url->ToString()}));
}

TEST_F(PerRpcTest, MoreThanACallMayHaveFailTheCall) {
  const Slot credentials = PerRpcCredentials();
  for (int i = 0; i < 17; ++i) Add(credentials, "x");
  for (const bool from_context : {false, true}) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(credentials);
    if (from_context) FromContext(&context);
    test::ExchangeReply reply;
    const grpc::Status status = Call(Kind::kUnary, stub_.get(), &context, {}, &reply);
    EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code()) << Text(status);
  }
}

TEST_F(PerRpcTest, TheSetOfAContextCanBeUsedForAnother) {
  const Slot credentials = PerRpcCredentials();
  const std::string a = Add(credentials, "a");
  for (const bool from_context : {false, true}) {
    grpc::ClientContext context;
    context.set_credentials(credentials);
    if (from_context) FromContext(&context);
    const Slot found = PerRpcCredentialsFromContext(context);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(FromPerRpcCredentials(found), FromPerRpcCredentials(credentials));

    grpc::ClientContext other;
    SetDeadline(&other, 20);
    other.set_credentials(found);
    test::ExchangeRequest request;
    request.add_urls(a);
    test::ExchangeReply reply;
    ASSERT_EQ("OK", Text(Call(Kind::kUnary, stub_.get(), &other, request, &reply)));
    EXPECT_EQ("a|", reply.payload());
  }
}

TEST(PerRpcCredentialsFromContextTest, IsNullWhereNoneCarryDescriptors) {
  grpc::ClientContext context;
  EXPECT_EQ(PerRpcCredentialsFromContext(context), nullptr);
  context.set_credentials(std::make_shared<UserCredentials>(nullptr));
  EXPECT_EQ(PerRpcCredentialsFromContext(context), nullptr);
  FromContext(&context);
  EXPECT_EQ(PerRpcCredentialsFromContext(context), nullptr);
}

TEST(ContextCredentialsTest, WhatTheSlotHeldGoesWithTheContext) {
  const Slot inner = Entry("x-inner", "i");
  {
    grpc::ClientContext context;
    context.set_credentials(inner);
    FromContext(&context);
    EXPECT_LT(1, inner.use_count());
  }
  EXPECT_EQ(1, inner.use_count());
}

}  // namespace
}  // namespace grpcfd
