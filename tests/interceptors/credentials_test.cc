// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/credentials.h"

#include <gmock/gmock.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "grpcfd/testing/inode_holders.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/credentials_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::AnswerAll;
using testing_internal::Append;
using testing_internal::Call;
using testing_internal::ChainFactories;
using testing_internal::ChainTest;
using testing_internal::Content;
using testing_internal::Creators;
using testing_internal::CreatorsOf;
using testing_internal::FixedEntry;
using testing_internal::FixedEntryPlugin;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::LongFormChannel;
using testing_internal::MemoryFile;
using testing_internal::OurFactory;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::Slot;
using testing_internal::TestServer;
using testing_internal::Text;
#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
using testing_internal::UserCredentials;
#endif

// --- Both arrive, everywhere ---

class BothArriveTest : public ::testing::TestWithParam<std::tuple<Kind, bool, bool, bool>> {};

TEST_P(BothArriveTest, DefaultsAndTheCallsOwn) {
  const auto [kind, local, descriptors, before] = GetParam();
  TestServer server({}, local ? grpc::experimental::LocalServerCredentials(UDS)
                              : grpc::InsecureServerCredentials());
  AnswerAll(&server.service);
  auto asked = std::make_shared<std::atomic<int>>(0);
  const Slot defaults = FixedEntry("x-default", "d", asked);
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
    context.set_credentials(FixedEntry("x-own", "o"));
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

TEST_F(ChainTest, EachFactoryActsOnItsOwnKindOfCallOnly) {
  for (const bool unary : {true, false}) {
    const Slot defaults = FixedEntry("x-default", "d");
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
  const Slot defaults = FixedEntry("x-default", "d", asked);
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
    Creators creators = ChainFactories(FixedEntry("x-default", "default"));
    creators.push_back(OurFactory(server_));
    return creators;
  }());
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(FixedEntry("x-default", "own"));
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
  stock_context.set_credentials(FixedEntry("x-own", "o", unused, refused));
  test::ExchangeReply reply;
  const grpc::Status expected = Call(Kind::kUnary, stock.get(), &stock_context, {}, &reply);
  ASSERT_EQ(grpc::StatusCode::UNAVAILABLE, expected.error_code()) << Text(expected);
  ASSERT_THAT(expected.error_message(), ::testing::HasSubstr("no ticket today"));

  for (const bool default_fails : {true, false}) {
    Creators creators = ChainFactories(
        FixedEntry("x-default", "d", unused, default_fails ? refused : grpc::Status::OK));
    creators.push_back(OurFactory(server_));
    auto stub = StubOf(std::move(creators));
    for (const Kind kind : kAllKinds) {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      context.set_credentials(
          FixedEntry("x-own", "o", unused, default_fails ? grpc::Status::OK : refused));
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
  context.set_credentials(FixedEntry("x-own", "o"));
  test::ExchangeReply reply;
  ASSERT_EQ("OK",
            Text(Call(Kind::kUnary, stub.get(), &context, RequestWith(&context, {"c"}), &reply)));
  EXPECT_EQ("x-own=o;", reply.status_text());
}

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
TEST_F(ChainTest, ADefaultOfTheProgramsOwnClassWorksAloneAndIsRefusedBesideAnother) {
  const auto defaults = std::make_shared<UserCredentials>(FixedEntry("x-default", "d"));
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
    with_another.set_credentials(FixedEntry("x-own", "o"));
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
      FixedEntry("x-a", "a"), std::make_shared<UserCredentials>(FixedEntry("x-b", "b"))));
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
  const Slot strict = grpc::MetadataCredentialsFromPlugin(std::make_unique<FixedEntryPlugin>(
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
  const Slot one = FixedEntry("x-a", "a");
  EXPECT_EQ(nullptr, ChainCallCredentials(nullptr, nullptr));
  EXPECT_EQ(one, ChainCallCredentials(one, nullptr));
  EXPECT_EQ(one, ChainCallCredentials(nullptr, one));
}

TEST_F(ChainTest, ChainsNestAndKeepTheirOrder) {
  auto stub = StubOf(CreatorsOf(OurFactory(server_)));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  const Slot a = FixedEntry("x-k", "a");
  const Slot b = FixedEntry("x-k", "b");
  const Slot c = FixedEntry("x-k", "c");
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
    const Slot more = FixedEntry("x-own", "o");
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
  const Slot more = FixedEntry("x-own", "o");
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
    if (chain) creators = ChainFactories(FixedEntry("x-default", "d"));
    creators.push_back(OurFactory(server_));
    auto stub = StubOf(std::move(creators));
    for (const Kind kind : kAllKinds) {
      for (const Slot& replacement : {FixedEntry("x-own", "o"), Slot()}) {
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

TEST(ContextCredentialsTest, WhatTheSlotHeldGoesWithTheContext) {
  const Slot inner = FixedEntry("x-inner", "i");
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
