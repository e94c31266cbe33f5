// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The targets that only read.
#include <string.h>

#include <array>
#include <string>
#include <vector>

#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/hello.h"
#include "fuzz/targets.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace fuzz {
namespace {

absl::Span<const char> Chars(const uint8_t* data, size_t size) {
  return absl::MakeConstSpan(reinterpret_cast<const char*>(data), size);
}

template <typename Encoded>
void RequireSame(const Encoded& encoded, absl::Span<const char> bytes) {
  Require(encoded.size() == bytes.size() &&
          memcmp(encoded.data(), bytes.data(), bytes.size()) == 0);
}

}  // namespace

void FuzzHello(const uint8_t* data, size_t size) {
  const absl::Span<const char> bytes = Chars(data, size);
  auto hello = internal::DecodeHello(bytes);
  if (hello.ok()) {
    std::array<char, internal::kHelloSize> encoded;
    internal::EncodeHello(*hello, &encoded);
    RequireSame(encoded, bytes);
    Require(internal::ClassifyFirstBytes(bytes) == internal::FirstBytes::kHello);
    Require(!hello->token.zero() && hello->limits.window != 0);
  }
  auto reply = internal::DecodeHelloReply(bytes);
  if (reply.ok()) {
    std::array<char, internal::kHelloReplySize> encoded;
    internal::EncodeHelloReply(*reply, &encoded);
    RequireSame(encoded, bytes);
    if (reply->status != internal::HelloStatus::kOk) {
      Require(!internal::HelloStatusToStatus(*reply).ok());
    }
  }
  // It is decided once: more bytes never change the answer.
  auto decided = internal::FirstBytes::kNeedMore;
  for (size_t length = 1; length <= size && length <= 2 * internal::kMagicSize; ++length) {
    const auto now = internal::ClassifyFirstBytes(bytes.subspan(0, length));
    Require(decided == internal::FirstBytes::kNeedMore || now == decided);
    decided = now;
  }
}

void FuzzFrame(const uint8_t* data, size_t size) {
  const absl::Span<const char> bytes = Chars(data, size);
  auto frame = internal::DecodeFrame(bytes);
  if (!frame.ok()) return;
  internal::FrameBuffer encoded;
  internal::EncodeFrame(*frame, &encoded);
  RequireSame(encoded, bytes);
  if (frame->type == internal::FrameType::kData) {
    Require(frame->fd_count >= 1 && frame->fd_count <= 253);
    Require(frame->call.id != 0 || frame->call.attempt == 0);
    Require(uint64_t{frame->first_index} + frame->fd_count <= 0xffffffffu);
  }
}

void FuzzUrl(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto url = InodeUrl::Parse(text);
  if (!url.ok()) return;
  // What it means, it means when written down again.
  auto again = InodeUrl::Parse(url->ToString());
  Require(again.ok() && *again == *url);
  auto dev_ino = UrlStringToDevIno(text);
  Require(dev_ino.ok() && *dev_ino == url->dev_ino());
}

void FuzzMetadata(const uint8_t* data, size_t size) {
  const absl::Span<const char> bytes = Chars(data, size);
  auto metadata = internal::DecodeCallMetadata(bytes);
  if (metadata.ok()) {
    RequireSame(internal::EncodeCallMetadata(*metadata), bytes);
    Require(metadata->bound() ? metadata->call_id != 0 : metadata->count == 0);
  }
  auto urls = internal::DecodeMetadataUrls(std::string(bytes.data(), bytes.size()));
  if (urls.ok()) {
    Require(urls->size() <= internal::kMaxMetadataUrls);
    auto again = internal::DecodeMetadataUrls(internal::EncodeMetadataUrls(*urls));
    Require(again.ok() && *again == *urls);
  }
}

}  // namespace fuzz
}  // namespace grpcfd
