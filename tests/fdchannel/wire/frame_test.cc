// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>

#include <random>

#include "fdchannel/wire/wire.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

Frame Data() {
  Frame frame;
  frame.type = FrameType::kData;
  frame.call.id = 0x1112131415161718;
  frame.call.attempt = 0x21222324;
  frame.first_index = 0x31323334;
  frame.fd_count = 0xa5;
  return frame;
}

Frame Credit() {
  Frame frame;
  frame.type = FrameType::kCredit;
  frame.credit_total = 0x4142434445464748;
  return frame;
}

Frame Discard(uint32_t count) {
  Frame frame;
  frame.type = FrameType::kDiscard;
  frame.discard_count = count;
  for (uint32_t i = 0; i < count; ++i) frame.discard[i] = 0x0101010101010101 * (i + 1);
  return frame;
}

Frame Withdraw(uint32_t count) {
  Frame frame;
  frame.type = FrameType::kWithdraw;
  frame.withdraw_count = count;
  for (uint32_t i = 0; i < count; ++i) frame.withdraw[i] = 0x01010101 * (i + 1);
  return frame;
}

Frame Close(CloseCode code, const std::string& text) {
  Frame frame;
  frame.type = FrameType::kClose;
  frame.close_code = code;
  frame.close_text = text;
  return frame;
}

FrameBuffer Encode(const Frame& frame) {
  FrameBuffer buffer;
  buffer.fill('\x55');  // Nothing of this may be left.
  EncodeFrame(frame, &buffer);
  return buffer;
}

// What went wrong, or an empty text.
std::string Refusal(const FrameBuffer& buffer) {
  const absl::StatusOr<Frame> frame = DecodeFrame(buffer);
  if (frame.ok()) return "";
  EXPECT_EQ(frame.status().code(), absl::StatusCode::kInvalidArgument) << frame.status();
  return std::string(frame.status().message());
}

TEST(FrameTest, DataLayout) {
  EXPECT_EQ(ToHex(Encode(Data())),
            "0100a500343332311817161514131211"
            "24232221000000000000000000000000" +
                std::string(64, '0'));
}

TEST(FrameTest, CreditLayout) {
  EXPECT_EQ(ToHex(Encode(Credit())),
            "02000000000000000000000000000000"
            "00000000000000004847464544434241" +
                std::string(64, '0'));
}

TEST(FrameTest, DiscardLayout) {
  EXPECT_EQ(ToHex(Encode(Discard(2))),
            "03000000000000000000000000000000"
            "00000000020000000101010101010101"
            "0202020202020202" +
                std::string(48, '0'));
}

TEST(FrameTest, CloseLayout) {
  EXPECT_EQ(ToHex(Encode(Close(CloseCode::kShutdown, "bye"))),
            "04000000000000000000000000000000"
            "0000000003000000627965" +
                std::string(74, '0'));
}

TEST(FrameTest, WithdrawLayout) {
  EXPECT_EQ(ToHex(Encode(Withdraw(2))),
            "05000000000000000000000000000000"
            "00000000020000000101010102020202" +
                std::string(64, '0'));
}

TEST(FrameTest, WithdrawEdges) {
  for (uint32_t count = 1; count <= kMaxWithdrawIndices; ++count) {
    const absl::StatusOr<Frame> frame = DecodeFrame(Encode(Withdraw(count)));
    ASSERT_TRUE(frame.ok()) << frame.status();
    EXPECT_EQ(frame->type, FrameType::kWithdraw);
    EXPECT_EQ(frame->withdraw_count, count);
    for (uint32_t i = 0; i < count; ++i) EXPECT_EQ(frame->withdraw[i], 0x01010101 * (i + 1));
  }
  for (const int count : {0, 11, 255}) {
    FrameBuffer buffer = Encode(Withdraw(10));
    buffer[20] = static_cast<char>(count);
    EXPECT_THAT(Refusal(buffer), HasSubstr("must be 1 to 10, got " + std::to_string(count)));
  }
}

TEST(FrameTest, DataRoundTrip) {
  const absl::StatusOr<Frame> frame = DecodeFrame(Encode(Data()));
  ASSERT_TRUE(frame.ok()) << frame.status();
  EXPECT_EQ(frame->type, FrameType::kData);
  EXPECT_EQ(frame->call, Data().call);
  EXPECT_EQ(frame->first_index, Data().first_index);
  EXPECT_EQ(frame->fd_count, Data().fd_count);
}

TEST(FrameTest, DataEdges) {
  Frame frame = Data();
  for (const uint16_t count : {1, 2, 252, 253}) {
    frame.fd_count = count;
    EXPECT_EQ(Refusal(Encode(frame)), "");
  }
  for (const uint16_t count : {0, 254, 256, 0xffff}) {
    frame.fd_count = count;
    EXPECT_THAT(Refusal(Encode(frame)),
                HasSubstr("must be 1 to 253, got " + std::to_string(count)));
  }
  frame.fd_count = 3;
  frame.first_index = 0xffffffff - 3;
  EXPECT_EQ(Refusal(Encode(frame)), "");
  for (const uint32_t over : {2, 1, 0}) {
    frame.first_index = 0xffffffff - over;
    EXPECT_THAT(Refusal(Encode(frame)), HasSubstr("must not exceed 4294967295"));
  }
  frame = Data();
  frame.call = CallKey();  // Session-scoped.
  EXPECT_EQ(Refusal(Encode(frame)), "");
  frame.call.attempt = 1;
  EXPECT_THAT(Refusal(Encode(frame)), HasSubstr("without a call must be 0, got 1"));
}

TEST(FrameTest, CreditRoundTrip) {
  for (const uint64_t total : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    Frame frame = Credit();
    frame.credit_total = total;
    const absl::StatusOr<Frame> decoded = DecodeFrame(Encode(frame));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->type, FrameType::kCredit);
    EXPECT_EQ(decoded->credit_total, total);
  }
}

TEST(FrameTest, DiscardRoundTrip) {
  for (uint32_t count = 1; count <= kMaxDiscardIds; ++count) {
    const absl::StatusOr<Frame> decoded = DecodeFrame(Encode(Discard(count)));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->type, FrameType::kDiscard);
    EXPECT_EQ(decoded->discard_count, count);
    EXPECT_EQ(decoded->discard, Discard(count).discard);
  }
}

TEST(FrameTest, DiscardEdges) {
  EXPECT_THAT(Refusal(Encode(Discard(0))), HasSubstr("must be 1 to 5, got 0"));
  FrameBuffer buffer = Encode(Discard(5));
  buffer[20] = 6;
  EXPECT_THAT(Refusal(buffer), HasSubstr("must be 1 to 5, got 6"));
  for (uint32_t zero = 0; zero < 3; ++zero) {
    Frame frame = Discard(3);
    frame.discard[zero] = 0;
    EXPECT_THAT(Refusal(Encode(frame)), HasSubstr("call id " + std::to_string(zero)));
  }
  Frame frame = Discard(2);
  frame.discard_count = 77;  // Encoders of wrong counts stay inside the frame.
  frame.discard = Discard(5).discard;
  EXPECT_EQ(Encode(frame), Encode(Discard(5)));
}

TEST(FrameTest, CloseRoundTrip) {
  const std::string full(kMaxCloseText, '~');
  for (const std::string& text : {std::string(), std::string("a b"), full}) {
    for (uint32_t code = 1; code <= 4; ++code) {
      const absl::StatusOr<Frame> decoded =
          DecodeFrame(Encode(Close(static_cast<CloseCode>(code), text)));
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      EXPECT_EQ(decoded->type, FrameType::kClose);
      EXPECT_EQ(static_cast<uint32_t>(decoded->close_code), code);
      EXPECT_EQ(decoded->close_text, text);
    }
  }
}

TEST(FrameTest, CloseKeepsCodesOfLaterVersionsAndRefusesZero) {
  for (const uint32_t code : {5u, 4711u, 0xffffffffu}) {
    const absl::StatusOr<Frame> decoded =
        DecodeFrame(Encode(Close(static_cast<CloseCode>(code), "later")));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(static_cast<uint32_t>(decoded->close_code), code);
  }
  EXPECT_THAT(Refusal(Encode(Close(static_cast<CloseCode>(0), "none"))), HasSubstr("code"));
}

TEST(FrameTest, CloseTextIsCutAndCleaned) {
  const std::string text = std::string("a\n\x1b[31m\0\x7f\xc3\xa9", 11) + std::string(60, 'x');
  const absl::StatusOr<Frame> decoded = DecodeFrame(Encode(Close(CloseCode::kProtocolError, text)));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->close_text, "a??[31m????" + std::string(29, 'x'));
}

TEST(FrameTest, CloseTextWithAHoleIsRefused) {
  FrameBuffer buffer = Encode(Close(CloseCode::kShutdown, "abc"));
  buffer[25] = 0;
  EXPECT_THAT(Refusal(buffer), HasSubstr("at byte 26"));
}

TEST(FrameTest, EverySizeButOneIsRefused) {
  const FrameBuffer frame = Encode(Credit());
  std::string bytes(frame.begin(), frame.end());
  bytes.resize(200);
  for (size_t size = 0; size <= bytes.size(); ++size) {
    const absl::StatusOr<Frame> decoded = DecodeFrame(absl::Span<const char>(bytes.data(), size));
    if (size == kFrameSize) {
      EXPECT_TRUE(decoded.ok()) << decoded.status();
    } else {
      EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(decoded.status().message()),
                  HasSubstr("got " + std::to_string(size)));
    }
  }
}

TEST(FrameTest, EveryUnknownTypeIsRefused) {
  FrameBuffer buffer{};
  for (int type = 0; type < 256; ++type) {
    buffer[0] = static_cast<char>(type);
    if (type >= 1 && type <= 8) continue;
    EXPECT_THAT(Refusal(buffer), HasSubstr("got " + std::to_string(type)));
  }
}

// Everything that is accepted is exactly what the encoder would have written: no byte is ignored.
void ExpectCanonical(const FrameBuffer& buffer) {
  const absl::StatusOr<Frame> frame = DecodeFrame(buffer);
  if (frame.ok()) {
    EXPECT_EQ(ToHex(Encode(*frame)), ToHex(buffer));
  } else {
    EXPECT_EQ(frame.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(FrameTest, EverySingleByteMutation) {
  struct Case {
    Frame frame;
    Ranges meaningful;
  };
  const Case cases[] = {
      {Data(), {{0, 1}, {2, 20}}},
      {Credit(), {{0, 1}, {24, 32}}},
      {Withdraw(1), {{0, 1}, {20, 28}}},
      {Withdraw(10), {{0, 1}, {20, 64}}},
      {Discard(1), {{0, 1}, {20, 32}}},
      {Discard(3), {{0, 1}, {20, 48}}},
      {Discard(5), {{0, 1}, {20, 64}}},
      {Close(CloseCode::kRefused, "text"), {{0, 1}, {20, 29}}},  // One more byte of text is text.
      {Close(CloseCode::kRefused, std::string(40, 'x')), {{0, 1}, {20, 64}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(static_cast<int>(c.frame.type));
    size_t reserved = 0;
    ForEachMutation(Encode(c.frame), [&](size_t position, const FrameBuffer& mutated) {
      ExpectCanonical(mutated);
      if (Contains(c.meaningful, position)) return;
      ++reserved;
      EXPECT_FALSE(DecodeFrame(mutated).ok()) << "byte " << position;
    });
    EXPECT_GT(reserved + (c.meaningful.back().second == 64 ? 1 : 0), 0u);
  }
}

TEST(FrameTest, RandomBytes) {
  std::mt19937 random(20260101);
  for (int round = 0; round < 100000; ++round) {
    FrameBuffer buffer{};
    // Few bytes set, so that many rounds get past the first checks.
    buffer[0] = static_cast<char>(1 + random() % 5);
    for (size_t changes = random() % 12; changes > 0; --changes) {
      buffer[random() % kFrameSize] = static_cast<char>(random());
    }
    ExpectCanonical(buffer);
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
