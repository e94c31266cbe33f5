// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Reads the worked example out of fdchannel/wire/PROTOCOL.md and compares it, both ways, with the
// encoders and decoders. A change of the wire format without the document, or of the document
// without the code, meets this test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/hello.h"
#include "fdchannel/wire/wire.h"
#include "tests/fdchannel/fd_test_util.h"
#include "tests/hex.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

// The document of the source tree that this file was compiled from.
std::string DocumentPath() {
  return absl::StrCat(GRPCFD_SOURCE_DIR, "/fdchannel/wire/PROTOCOL.md");
}

std::string ReadDocument() {
  std::ifstream file(DocumentPath());
  EXPECT_TRUE(file.good()) << DocumentPath();
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The bytes of each "```hex <name>" block, as hexadecimal digits. Each line holds its offset,
// bytes, and perhaps "# ...".
std::map<std::string, std::string> ReadExamples() {
  static constexpr char kFence[] = "```hex ";
  std::map<std::string, std::string> examples;
  std::istringstream lines(ReadDocument());
  std::string line;
  std::string* current = nullptr;
  while (std::getline(lines, line)) {
    if (absl::StartsWith(line, kFence)) {
      const std::string name = line.substr(sizeof(kFence) - 1);
      EXPECT_EQ(examples.count(name), 0u) << name;
      current = &examples[name];
      continue;
    }
    if (line == "```") current = nullptr;
    if (current == nullptr) continue;
    std::istringstream words(line.substr(0, line.find('#')));
    std::string word;
    words >> word;
    // Two digits of offset are enough for 64 bytes.
    EXPECT_EQ(testing_internal::FromHex(word),
              std::string(1, static_cast<char>(current->size() / 2)))
        << line;
    while (words >> word) {
      EXPECT_EQ(word.size(), 2u) << line;
      EXPECT_TRUE(std::all_of(word.begin(), word.end(), absl::ascii_isxdigit)) << line;
      *current += word;
    }
  }
  return examples;
}

class ProtocolDocTest : public ::testing::Test {
 protected:
  // The bytes of one example.
  std::string Example(const std::string& name) {
    EXPECT_EQ(examples_.count(name), 1u) << name;
    return testing_internal::FromHex(examples_[name]);
  }

  absl::StatusOr<Frame> ExampleFrame(const std::string& name) {
    return DecodeFrame(Bytes(Example(name)));
  }

  template <typename Array>
  static std::string AsString(const Array& bytes) {
    return std::string(bytes.begin(), bytes.end());
  }

  static std::string Encode(const Frame& frame) {
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    return AsString(buffer);
  }

  std::map<std::string, std::string> examples_ = ReadExamples();
  const Token token_{{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, char(0x88), char(0x99),
                      char(0xaa), char(0xbb), char(0xcc), char(0xdd), char(0xee), char(0xff)}};
};

TEST_F(ProtocolDocTest, HasEveryExampleOnce) {
  std::map<std::string, size_t> sizes;
  for (const auto& example : examples_) sizes[example.first] = example.second.size() / 2;
  EXPECT_THAT(sizes,
              ElementsAre(Pair("close", 64), Pair("credit", 64), Pair("data", 64),
                          Pair("discard", 64), Pair("hello", 64), Pair("hello-reply", 64),
                          Pair("metadata", 48), Pair("session-data", 64), Pair("withdraw", 64)));
}

TEST_F(ProtocolDocTest, Hello) {
  internal::Hello hello;
  hello.min_version = 1;
  hello.max_version = 1;
  hello.token = token_;
  hello.limits.max_fds_per_call = 16;
  hello.limits.window = 64;
  hello.limits.max_session_fds = 16;
  std::array<char, kHelloSize> bytes;
  EncodeHello(hello, &bytes);
  EXPECT_EQ(AsString(bytes), Example("hello"));
  const absl::StatusOr<internal::Hello> decoded = DecodeHello(Bytes(Example("hello")));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->min_version, 1);
  EXPECT_EQ(decoded->max_version, 1);
  EXPECT_EQ(decoded->token, token_);
  EXPECT_EQ(decoded->limits.max_fds_per_call, 16u);
  EXPECT_EQ(decoded->limits.window, 64u);
  EXPECT_EQ(decoded->limits.max_session_fds, 16u);
}

TEST_F(ProtocolDocTest, HelloReply) {
  internal::HelloReply reply;
  reply.status = HelloStatus::kOk;
  reply.version = 1;
  reply.session_id = 7;
  reply.limits.max_fds_per_call = 4;
  reply.limits.window = 8;
  reply.limits.max_session_fds = 2;
  std::array<char, kHelloReplySize> bytes;
  EncodeHelloReply(reply, &bytes);
  EXPECT_EQ(AsString(bytes), Example("hello-reply"));
  const absl::StatusOr<internal::HelloReply> decoded =
      DecodeHelloReply(Bytes(Example("hello-reply")));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->status, HelloStatus::kOk);
  EXPECT_EQ(decoded->version, 1);
  EXPECT_EQ(decoded->session_id, 7u);
  EXPECT_EQ(decoded->limits.max_fds_per_call, 4u);
  EXPECT_EQ(decoded->limits.window, 8u);
  EXPECT_EQ(decoded->limits.max_session_fds, 2u);
}

TEST_F(ProtocolDocTest, Data) {
  Frame frame;
  frame.type = FrameType::kData;
  frame.call.id = 42;
  frame.fd_count = 2;
  EXPECT_EQ(Encode(frame), Example("data"));
  const absl::StatusOr<Frame> decoded = ExampleFrame("data");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->type, FrameType::kData);
  EXPECT_EQ(decoded->call, frame.call);
  EXPECT_EQ(decoded->first_index, 0u);
  EXPECT_EQ(decoded->fd_count, 2);
}

TEST_F(ProtocolDocTest, Metadata) {
  CallMetadata metadata;
  metadata.attempt = 0;
  metadata.count = 2;
  metadata.call_id = 42;
  metadata.session_id = 7;
  metadata.token = token_;
  EXPECT_EQ(AsString(EncodeCallMetadata(metadata)), Example("metadata"));
  const absl::StatusOr<CallMetadata> decoded = DecodeCallMetadata(Bytes(Example("metadata")));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->attempt, 0u);
  EXPECT_EQ(decoded->count, 2u);
  EXPECT_EQ(decoded->call_id, 42u);
  EXPECT_EQ(decoded->session_id, 7u);
  EXPECT_EQ(decoded->token, token_);
}

TEST_F(ProtocolDocTest, Credit) {
  Frame frame;
  frame.type = FrameType::kCredit;
  frame.credit_total = 2;
  EXPECT_EQ(Encode(frame), Example("credit"));
  const absl::StatusOr<Frame> decoded = ExampleFrame("credit");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->type, FrameType::kCredit);
  EXPECT_EQ(decoded->credit_total, 2u);
}

TEST_F(ProtocolDocTest, Discard) {
  Frame frame;
  frame.type = FrameType::kDiscard;
  frame.discard_count = 1;
  frame.discard[0] = 43;
  EXPECT_EQ(Encode(frame), Example("discard"));
  const absl::StatusOr<Frame> decoded = ExampleFrame("discard");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->type, FrameType::kDiscard);
  EXPECT_EQ(decoded->discard_count, 1u);
  EXPECT_EQ(decoded->discard[0], 43u);
}

TEST_F(ProtocolDocTest, SessionData) {
  Frame frame;
  frame.type = FrameType::kData;
  frame.first_index = 3;
  frame.fd_count = 1;
  EXPECT_EQ(Encode(frame), Example("session-data"));
  const absl::StatusOr<Frame> decoded = ExampleFrame("session-data");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->type, FrameType::kData);
  EXPECT_EQ(decoded->call, CallKey());
  EXPECT_EQ(decoded->first_index, 3u);
  EXPECT_EQ(decoded->fd_count, 1);
}

TEST_F(ProtocolDocTest, Withdraw) {
  Frame frame;
  frame.type = FrameType::kWithdraw;
  frame.withdraw_count = 1;
  frame.withdraw[0] = 3;
  EXPECT_EQ(Encode(frame), Example("withdraw"));
  const absl::StatusOr<Frame> decoded = ExampleFrame("withdraw");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->type, FrameType::kWithdraw);
  EXPECT_EQ(decoded->withdraw_count, 1u);
  EXPECT_EQ(decoded->withdraw[0], 3u);
}

TEST_F(ProtocolDocTest, Close) {
  Frame frame;
  frame.type = FrameType::kClose;
  frame.close_code = CloseCode::kShutdown;
  frame.close_text = "server is shutting down";
  EXPECT_EQ(Encode(frame), Example("close"));
  const absl::StatusOr<Frame> decoded = ExampleFrame("close");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->type, FrameType::kClose);
  EXPECT_EQ(decoded->close_code, CloseCode::kShutdown);
  EXPECT_EQ(decoded->close_text, "server is shutting down");
}

// Numbers that the document states in prose and tables.
TEST_F(ProtocolDocTest, NamesTheConstants) {
  const std::string text = ReadDocument();
  const auto hex = [](const unsigned char(&magic)[kMagicSize]) {
    std::string out;
    for (const unsigned char byte : magic) {
      const char c = static_cast<char>(byte);
      absl::StrAppend(&out, out.empty() ? "" : " ", ToHex(absl::Span<const char>(&c, 1)));
    }
    return out;
  };
  EXPECT_THAT(text, HasSubstr("`" + hex(kHelloMagic) + "`"));
  EXPECT_THAT(text, HasSubstr("`" + hex(kHelloReplyMagic) + "`"));
  EXPECT_THAT(text, HasSubstr("protocol, version " + std::to_string(kMaxVersion)));
  EXPECT_THAT(text, HasSubstr("Every frame has " + std::to_string(kFrameSize) + " bytes"));
  EXPECT_THAT(text, HasSubstr("1 to " + std::to_string(kMaxFdsPerMessage) + " |"));
  EXPECT_THAT(text, HasSubstr("n, 1 to " + std::to_string(kMaxDiscardIds) + " |"));
  EXPECT_THAT(text, HasSubstr("n, 1 to " + std::to_string(kMaxWithdrawIndices) + " |"));
  EXPECT_THAT(text, HasSubstr("at most " + std::to_string(kMaxCloseText) + " bytes of printable"));
  EXPECT_THAT(text, HasSubstr("### `" + std::string(kCallMetadataKey) + "`"));
  EXPECT_THAT(text, HasSubstr("RPC, " + std::to_string(kCallMetadataSize) + " bytes"));
  EXPECT_THAT(text, HasSubstr("### `" + std::string(kUrlsMetadataKey) + "`"));
  EXPECT_THAT(text, HasSubstr("first " + std::to_string(kMaxMetadataUrls) + " descriptors"));
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
