// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/call_metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fdchannel/wire/wire.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using MetadataBytes = std::array<char, kCallMetadataSize>;

CallMetadata MakeMetadata() {
  std::array<char, kTokenSize> token;
  for (size_t i = 0; i < token.size(); ++i) token[i] = static_cast<char>(0xf0 + i);
  CallMetadata metadata;
  metadata.attempt = 0x01020304;
  metadata.count = 0x11121314;
  metadata.holes = 0x05060708;
  metadata.call_id = 0x2122232425262728;
  metadata.session_id = 0x3132333435363738;
  metadata.token = Token(token);
  return metadata;
}

std::string Refusal(const MetadataBytes& bytes) {
  const absl::StatusOr<CallMetadata> metadata = DecodeCallMetadata(bytes);
  if (metadata.ok()) return "";
  EXPECT_EQ(metadata.status().code(), absl::StatusCode::kInvalidArgument) << metadata.status();
  return std::string(metadata.status().message());
}

TEST(CallMetadataTest, Layout) {
  EXPECT_EQ(ToHex(EncodeCallMetadata(MakeMetadata())),
            "01000000040302011413121108070605"
            "2827262524232221f0f1f2f3f4f5f6f7"
            "f8f9fafbfcfdfeff3837363534333231");
}

TEST(CallMetadataTest, RoundTrip) {
  const absl::StatusOr<CallMetadata> metadata =
      DecodeCallMetadata(EncodeCallMetadata(MakeMetadata()));
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  EXPECT_TRUE(metadata->bound());
  EXPECT_EQ(metadata->attempt, 0x01020304u);
  EXPECT_EQ(metadata->count, 0x11121314u);
  EXPECT_EQ(metadata->holes, 0x05060708u);
  EXPECT_EQ(metadata->call_id, 0x2122232425262728u);
  EXPECT_EQ(metadata->session_id, 0x3132333435363738u);
  EXPECT_EQ(metadata->token, MakeMetadata().token);
  EXPECT_EQ(metadata->key().id, 0x2122232425262728u);
  EXPECT_EQ(metadata->key().attempt, 0x01020304u);
}

TEST(CallMetadataTest, NotBoundIsAllZero) {
  CallMetadata metadata = MakeMetadata();
  metadata.token = Token();  // The rest is not written then.
  const MetadataBytes bytes = EncodeCallMetadata(metadata);
  EXPECT_EQ(ToHex(bytes), "01" + std::string(94, '0'));
  const absl::StatusOr<CallMetadata> decoded = DecodeCallMetadata(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_FALSE(decoded->bound());
  EXPECT_EQ(decoded->call_id, 0u);
  EXPECT_FALSE(CallMetadata().bound());
}

TEST(CallMetadataTest, BoundWithoutDescriptorsNeedsNoSession) {
  CallMetadata metadata = MakeMetadata();
  metadata.count = 0;
  metadata.holes = 0;
  metadata.session_id = 0;
  EXPECT_EQ(Refusal(EncodeCallMetadata(metadata)), "");
  metadata.count = 1;
  EXPECT_THAT(Refusal(EncodeCallMetadata(metadata)), HasSubstr("session id"));
  metadata = MakeMetadata();
  metadata.call_id = 0;
  EXPECT_THAT(Refusal(EncodeCallMetadata(metadata)), HasSubstr("call id"));
}

TEST(CallMetadataTest, OneIndexBelowTheCountIsNoHole) {
  CallMetadata metadata = MakeMetadata();
  metadata.count = 3;
  metadata.holes = 2;
  EXPECT_EQ(Refusal(EncodeCallMetadata(metadata)), "");
  metadata.holes = 3;
  EXPECT_THAT(Refusal(EncodeCallMetadata(metadata)), HasSubstr("less than count = 3, got 3"));
  metadata.count = 0;
  metadata.holes = 1;
  EXPECT_THAT(Refusal(EncodeCallMetadata(metadata)), HasSubstr("holes"));
}

TEST(CallMetadataTest, EverySizeButOneIsRefused) {
  const MetadataBytes entry = EncodeCallMetadata(MakeMetadata());
  std::string bytes(entry.begin(), entry.end());
  bytes.resize(100);
  for (size_t size = 0; size <= bytes.size(); ++size) {
    EXPECT_EQ(DecodeCallMetadata(absl::Span<const char>(bytes.data(), size)).ok(), size == 48)
        << size;
  }
}

TEST(CallMetadataTest, EverySingleByteMutation) {
  struct Case {
    CallMetadata metadata;
    Ranges meaningful;
  };
  const Case cases[] = {
      {MakeMetadata(), {{4, 48}}}, {CallMetadata(), {}},  // One byte alone never binds an entry.
  };
  for (const Case& c : cases) {
    ForEachMutation(EncodeCallMetadata(c.metadata),
                    [&](size_t position, const MetadataBytes& mutated) {
                      const absl::StatusOr<CallMetadata> metadata = DecodeCallMetadata(mutated);
                      if (metadata.ok()) {
                        EXPECT_EQ(ToHex(EncodeCallMetadata(*metadata)), ToHex(mutated));
                      } else {
                        EXPECT_EQ(metadata.status().code(), absl::StatusCode::kInvalidArgument);
                      }
                      if (!Contains(c.meaningful, position)) {
                        EXPECT_FALSE(metadata.ok()) << "byte " << position;
                      }
                    });
  }
}

TEST(CallMetadataTest, KeysAreWhatGrpcAccepts) {
  EXPECT_STREQ(kCallMetadataKey, "grpcfd-bin");
  EXPECT_STREQ(kUrlsMetadataKey, "grpcfd-urls");
}

DevIno MakeDevIno(uint64_t dev, uint64_t ino) {
  DevIno dev_ino;
  dev_ino.dev = dev;
  dev_ino.ino = ino;
  return dev_ino;
}

TEST(MetadataUrlsTest, RoundTrip) {
  const InodeUrl first(MakeDevIno(64769, 131), 0);
  const InodeUrl second(MakeDevIno(1, 2));
  const std::string text = EncodeMetadataUrls({first, second});
  EXPECT_EQ(text, "inode://64769/131?fd=0 inode://1/2");
  const absl::StatusOr<std::vector<InodeUrl>> urls = DecodeMetadataUrls(text);
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_THAT(*urls, ElementsAre(first, second));
}

TEST(MetadataUrlsTest, AnEmptyListIsAnEmptyText) {
  EXPECT_EQ(EncodeMetadataUrls({}), "");
  const absl::StatusOr<std::vector<InodeUrl>> urls = DecodeMetadataUrls("");
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_THAT(*urls, IsEmpty());
}

TEST(MetadataUrlsTest, TheFirst16AreWrittenAndMoreAreRefused) {
  std::vector<InodeUrl> urls;
  for (uint32_t i = 0; i < 17; ++i) urls.emplace_back(MakeDevIno(1, 100 + i), i);
  const std::string text = EncodeMetadataUrls(urls);
  const absl::StatusOr<std::vector<InodeUrl>> decoded = DecodeMetadataUrls(text);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_THAT(*decoded, SizeIs(16));
  EXPECT_EQ(decoded->back(), urls[15]);
  const absl::Status status = DecodeMetadataUrls(text + " " + urls[16].ToString()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 16"));
}

TEST(MetadataUrlsTest, RefusesOtherSeparatorsAndTexts) {
  for (const char* text :
       {" ", "inode://1/2 ", " inode://1/2", "inode://1/2  inode://1/2", "inode://1/2,inode://1/2",
        "inode://1/2\tinode://1/2", "inode://1/2 x"}) {
    SCOPED_TRACE(text);
    const absl::Status status = DecodeMetadataUrls(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("grpcfd-urls"));
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
