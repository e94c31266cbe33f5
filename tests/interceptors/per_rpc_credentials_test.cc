// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// PerRpcCredentials: a set of descriptors that each call with them carries.
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

using testing_internal::Append;
using testing_internal::Call;
using testing_internal::ChainFactories;
using testing_internal::ChainTest;
using testing_internal::Content;
using testing_internal::Creators;
using testing_internal::CreatorsOf;
using testing_internal::FixedEntry;
using testing_internal::kAllKinds;
using testing_internal::Kind;
using testing_internal::kRefusedByCredentials;
using testing_internal::MemoryFile;
using testing_internal::OurFactory;
using testing_internal::RequestWith;
using testing_internal::SetDeadline;
using testing_internal::Slot;
using testing_internal::Text;
#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
using testing_internal::UserCredentials;
#endif

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
  const Slot credentials = PerRpcCredentials(FixedEntry("x-own", "o"));
  EXPECT_EQ(credentials, PerRpcCredentials(credentials));
  const Slot chained = ChainCallCredentials(credentials, FixedEntry("x-more", "m"));
  EXPECT_EQ(chained, PerRpcCredentials(chained));
  EXPECT_EQ(FromPerRpcCredentials(credentials), FromPerRpcCredentials(chained));
  EXPECT_NE(nullptr, FromPerRpcCredentials(credentials));
}

TEST_F(PerRpcTest, PlainCredentialsCarryNone) {
  EXPECT_EQ(nullptr, FromPerRpcCredentials(nullptr));
  EXPECT_EQ(nullptr, FromPerRpcCredentials(FixedEntry("x-own", "o")));
  EXPECT_EQ(nullptr, FromPerRpcCredentials(
                         ChainCallCredentials(FixedEntry("x-a", ""), FixedEntry("x-b", ""))));
}

TEST_F(PerRpcTest, InnerCredentialsArrive) {
  auto asked = std::make_shared<std::atomic<int>>(0);
  const Slot credentials = PerRpcCredentials(FixedEntry("x-inner", "i", asked));
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
  const Slot defaults = PerRpcCredentials(FixedEntry("x-default", "d"));
  const std::string url = Add(defaults, "set");
  Creators creators = ChainFactories(defaults);
  creators.push_back(OurFactory(server_));
  Append(ChainFactories(defaults), &creators);  // Again, behind it: applied once, as ever.
  auto stub = StubOf(std::move(creators));
  for (const Kind kind : kAllKinds) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    context.set_credentials(FixedEntry("x-own", "o"));
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
    const Slot credentials = PerRpcCredentials(FixedEntry("x-inner", "i"));
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

}  // namespace
}  // namespace grpcfd
