// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/hello.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>

#include "fdchannel/wire/wire.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

using HelloBytes = std::array<char, kHelloSize>;
using ReplyBytes = std::array<char, kHelloReplySize>;

Token MakeToken() {
  std::array<char, kTokenSize> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(0xf0 + i);
  return Token(bytes);
}

Hello MakeHello() {
  Hello hello;
  hello.min_version = 0x0102;
  hello.max_version = 0x0304;
  hello.token = MakeToken();
  hello.limits.max_fds_per_call = 0x11121314;
  hello.limits.window = 0x21222324;
  hello.limits.max_session_fds = 0x41424344;
  return hello;
}

HelloReply MakeReply() {
  HelloReply reply;
  reply.status = HelloStatus::kOk;
  reply.version = 1;
  reply.session_id = 0x3132333435363738;
  reply.limits.max_fds_per_call = 0x11121314;
  reply.limits.window = 0x21222324;
  reply.limits.max_session_fds = 0x41424344;
  return reply;
}

HelloReply MakeRefusal(HelloStatus status) {
  HelloReply reply;
  reply.status = status;
  reply.version = 7;
  return reply;
}

HelloBytes Encode(const Hello& hello) {
  HelloBytes bytes;
  bytes.fill('\x55');
  EncodeHello(hello, &bytes);
  return bytes;
}

ReplyBytes Encode(const HelloReply& reply) {
  ReplyBytes bytes;
  bytes.fill('\x55');
  EncodeHelloReply(reply, &bytes);
  return bytes;
}

template <typename T>
std::string Refusal(const absl::StatusOr<T>& result) {
  if (result.ok()) return "";
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  return std::string(result.status().message());
}

TEST(HelloTest, Layout) {
  EXPECT_EQ(ToHex(Encode(MakeHello())),
            "8e4752504346440a4000020104030000"
            "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
            "14131211242322214443424100000000"
            "00000000000000000000000000000000");
}

TEST(HelloTest, ReplyLayout) {
  EXPECT_EQ(ToHex(Encode(MakeReply())),
            "8f4752504346440a4000010000000000"
            "38373635343332311413121124232221"
            "44434241" +
                std::string(56, '0'));
}

TEST(HelloTest, RoundTrip) {
  const absl::StatusOr<Hello> hello = DecodeHello(Encode(MakeHello()));
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->min_version, 0x0102);
  EXPECT_EQ(hello->max_version, 0x0304);
  EXPECT_EQ(hello->token, MakeToken());
  EXPECT_EQ(hello->limits.max_fds_per_call, 0x11121314u);
  EXPECT_EQ(hello->limits.window, 0x21222324u);
  EXPECT_EQ(hello->limits.max_session_fds, 0x41424344u);
}

TEST(HelloTest, ReplyRoundTrip) {
  const absl::StatusOr<HelloReply> reply = DecodeHelloReply(Encode(MakeReply()));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->status, HelloStatus::kOk);
  EXPECT_EQ(reply->version, 1);
  EXPECT_EQ(reply->session_id, 0x3132333435363738u);
  EXPECT_EQ(reply->limits.max_fds_per_call, 0x11121314u);
  EXPECT_EQ(reply->limits.window, 0x21222324u);
  EXPECT_EQ(reply->limits.max_session_fds, 0x41424344u);
}

TEST(HelloTest, RefusalsRoundTripWithoutSession) {
  for (uint16_t code = 1; code <= 7; ++code) {
    HelloReply refusal = MakeReply();  // Its session and limits are not written.
    refusal.status = static_cast<HelloStatus>(code);
    refusal.version = 9;
    EXPECT_EQ(ToHex(Encode(refusal)).substr(32), std::string(96, '0'));
    const absl::StatusOr<HelloReply> reply = DecodeHelloReply(Encode(refusal));
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(static_cast<uint16_t>(reply->status), code);
    EXPECT_EQ(reply->version, 9);
    EXPECT_EQ(reply->session_id, 0u);
    EXPECT_EQ(reply->limits.window, 0u);
  }
}

TEST(HelloTest, RefusesVersionsThatMakeNoRange) {
  Hello hello = MakeHello();
  hello.min_version = 0;
  EXPECT_THAT(Refusal(DecodeHello(Encode(hello))), HasSubstr("got min 0, max 772"));
  hello.min_version = 3;
  hello.max_version = 2;
  EXPECT_THAT(Refusal(DecodeHello(Encode(hello))), HasSubstr("got min 3, max 2"));
  hello.max_version = 3;
  EXPECT_EQ(Refusal(DecodeHello(Encode(hello))), "");
}

TEST(HelloTest, ANameIsOfVersionTwo) {
  Hello hello = MakeHello();
  hello.min_version = hello.max_version = 1;
  EXPECT_EQ(Refusal(DecodeHello(Encode(hello))), "");
  hello.connection = MakeToken();
  EXPECT_THAT(Refusal(DecodeHello(Encode(hello))), HasSubstr("byte 44 must be 0"));
  hello.max_version = 2;
  const absl::StatusOr<Hello> decoded = DecodeHello(Encode(hello));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->connection, MakeToken());
}

TEST(HelloTest, RefusesZeroLimitsAndToken) {
  Hello hello = MakeHello();
  hello.limits.max_fds_per_call = 0;
  EXPECT_THAT(Refusal(DecodeHello(Encode(hello))), HasSubstr("max_fds_per_call"));
  hello = MakeHello();
  hello.limits.window = 0;
  EXPECT_THAT(Refusal(DecodeHello(Encode(hello))), HasSubstr("window"));
  hello = MakeHello();
  hello.token = Token();
  EXPECT_THAT(Refusal(DecodeHello(Encode(hello))), HasSubstr("token"));
}

TEST(HelloTest, RefusesAReplyThatMakesNoSession) {
  HelloReply reply = MakeReply();
  reply.session_id = 0;
  EXPECT_THAT(Refusal(DecodeHelloReply(Encode(reply))), HasSubstr("session_id"));
  reply = MakeReply();
  reply.limits.max_fds_per_call = 0;
  EXPECT_THAT(Refusal(DecodeHelloReply(Encode(reply))), HasSubstr("max_fds_per_call"));
  reply = MakeReply();
  reply.limits.window = 0;
  EXPECT_THAT(Refusal(DecodeHelloReply(Encode(reply))), HasSubstr("window"));
  reply = MakeReply();
  reply.version = 0;
  EXPECT_THAT(Refusal(DecodeHelloReply(Encode(reply))), HasSubstr("version"));
  reply.version = kMaxVersion + 1;  // Was never offered.
  EXPECT_THAT(Refusal(DecodeHelloReply(Encode(reply))), HasSubstr("version"));
  reply = MakeReply();
  reply.status = static_cast<HelloStatus>(9);
  EXPECT_THAT(Refusal(DecodeHelloReply(Encode(reply))), HasSubstr("status must be 0 to 8, got 9"));
}

TEST(HelloTest, EverySizeButOneIsRefused) {
  const HelloBytes hello = Encode(MakeHello());
  const ReplyBytes reply = Encode(MakeReply());
  std::string hello_bytes(hello.begin(), hello.end());
  std::string reply_bytes(reply.begin(), reply.end());
  hello_bytes.resize(130);
  reply_bytes.resize(130);
  for (size_t size = 0; size <= 130; ++size) {
    SCOPED_TRACE(size);
    const bool right = size == 64;
    EXPECT_EQ(DecodeHello(absl::Span<const char>(hello_bytes.data(), size)).ok(), right);
    EXPECT_EQ(DecodeHelloReply(absl::Span<const char>(reply_bytes.data(), size)).ok(), right);
  }
}

TEST(HelloTest, HelloAndReplyAreNotTakenForEachOther) {
  EXPECT_THAT(Refusal(DecodeHello(Encode(MakeReply()))), HasSubstr("got 8f4752504346440a"));
  EXPECT_THAT(Refusal(DecodeHelloReply(Encode(MakeHello()))), HasSubstr("got 8e4752504346440a"));
}

// Everything that is accepted is what the encoder would have written, and a reserved byte is never
// accepted.
TEST(HelloTest, EverySingleByteMutation) {
  const Ranges meaningful = {{10, 14}, {16, 60}};
  ForEachMutation(Encode(MakeHello()), [&](size_t position, const HelloBytes& mutated) {
    const absl::StatusOr<Hello> hello = DecodeHello(mutated);
    if (hello.ok()) {
      EXPECT_EQ(ToHex(Encode(*hello)), ToHex(mutated));
    } else {
      EXPECT_EQ(hello.status().code(), absl::StatusCode::kInvalidArgument);
    }
    if (!Contains(meaningful, position)) {
      EXPECT_FALSE(hello.ok()) << "byte " << position;
    }
  });
}

TEST(HelloTest, EverySingleByteMutationOfAReply) {
  struct Case {
    HelloReply reply;
    Ranges meaningful;
  };
  const Case cases[] = {
      {MakeReply(), {{10, 11}, {16, 36}}},  // Two versions and one status are right here.
      {MakeRefusal(HelloStatus::kTokenInUse), {{10, 14}}},
  };
  for (const Case& c : cases) {
    ForEachMutation(Encode(c.reply), [&](size_t position, const ReplyBytes& mutated) {
      const absl::StatusOr<HelloReply> reply = DecodeHelloReply(mutated);
      if (reply.ok()) {
        EXPECT_EQ(ToHex(Encode(*reply)), ToHex(mutated));
      } else {
        EXPECT_EQ(reply.status().code(), absl::StatusCode::kInvalidArgument);
      }
      if (!Contains(c.meaningful, position)) {
        EXPECT_FALSE(reply.ok()) << "byte " << position;
      }
    });
  }
}

TEST(HelloTest, ClassifiesExactly) {
  const HelloBytes bytes = Encode(MakeHello());
  for (size_t size = 0; size <= bytes.size(); ++size) {
    EXPECT_EQ(ClassifyFirstBytes(absl::Span<const char>(bytes.data(), size)),
              size < kMagicSize ? FirstBytes::kNeedMore : FirstBytes::kHello);
  }
  // Every wrong byte at every position of the magic, however much has been read.
  ForEachMutation(bytes, [](size_t position, const HelloBytes& mutated) {
    if (position >= kMagicSize) return;
    for (size_t size = 1; size <= kMagicSize + 1; ++size) {
      const FirstBytes expected = size > position      ? FirstBytes::kOther
                                  : size == kMagicSize ? FirstBytes::kHello
                                                       : FirstBytes::kNeedMore;
      EXPECT_EQ(ClassifyFirstBytes(absl::Span<const char>(mutated.data(), size)), expected);
    }
  });
}

TEST(HelloTest, OneByteTellsOtherProtocolsApart) {
  for (int first = 0; first < 256; ++first) {
    const char byte = static_cast<char>(first);
    EXPECT_EQ(ClassifyFirstBytes(absl::Span<const char>(&byte, 1)),
              first == 0x8e ? FirstBytes::kNeedMore : FirstBytes::kOther);
  }
  EXPECT_EQ(ClassifyFirstBytes(Bytes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")), FirstBytes::kOther);
  EXPECT_EQ(ClassifyFirstBytes(Bytes("GET / HTTP/1.1\r\n")), FirstBytes::kOther);
  EXPECT_EQ(ClassifyFirstBytes(Bytes("\x16\x03\x01")), FirstBytes::kOther);
}

TEST(HelloTest, NegotiatesTheHighestCommonVersion) {
  static_assert(kMinVersion == 1 && kMaxVersion == 2, "add the new version's cases here");
  EXPECT_EQ(NegotiateVersion(1, 1), 1);
  EXPECT_EQ(NegotiateVersion(1, 9), 2);
  EXPECT_EQ(NegotiateVersion(2, 9), 2);
  EXPECT_EQ(NegotiateVersion(3, 9), 0);
  EXPECT_EQ(NegotiateVersion(0, 1), 1);
  EXPECT_EQ(NegotiateVersion(0, 0), 0);
  EXPECT_EQ(NegotiateVersion(1, 0xffff), 2);
}

TEST(HelloTest, StatusesThatAClientReports) {
  struct Case {
    HelloStatus status;
    absl::StatusCode code;
    const char* text;
  };
  const Case cases[] = {
      {HelloStatus::kUnsupportedVersion, absl::StatusCode::kFailedPrecondition, "version 7"},
      {HelloStatus::kTokenInUse, absl::StatusCode::kUnavailable, "token"},
      {HelloStatus::kTooManySessions, absl::StatusCode::kResourceExhausted, "sessions"},
      {HelloStatus::kRefused, absl::StatusCode::kPermissionDenied, "refused"},
      {HelloStatus::kMalformed, absl::StatusCode::kInternal, "bug"},
      {HelloStatus::kShuttingDown, absl::StatusCode::kUnavailable, "shutting down"},
      {HelloStatus::kOutOfDescriptors, absl::StatusCode::kResourceExhausted, "RLIMIT_NOFILE"},
      {HelloStatus::kElsewhere, absl::StatusCode::kUnavailable, "has not got"},
      {static_cast<HelloStatus>(99), absl::StatusCode::kInternal, "99"},
  };
  for (const Case& c : cases) {
    const absl::Status status = HelloStatusToStatus(MakeRefusal(c.status));
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.text));
  }
  EXPECT_TRUE(HelloStatusToStatus(MakeReply()).ok());
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
