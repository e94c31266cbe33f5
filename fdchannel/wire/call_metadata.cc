// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/call_metadata.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fdchannel/wire/wire.h"

namespace grpcfd {
namespace internal {
namespace {

// Offsets, as in PROTOCOL.md, "Metadata of an RPC".
constexpr size_t kVersionAt = 0;
constexpr size_t kFlagsAt = 1;
constexpr size_t kAttemptAt = 4;
constexpr size_t kCountAt = 8;
constexpr size_t kHolesAt = 12;
constexpr size_t kCallIdAt = 16;
constexpr size_t kTokenAt = 24;
constexpr size_t kSessionIdAt = 40;
static_assert(kTokenAt + kTokenSize == kSessionIdAt, "layout");
static_assert(kSessionIdAt + sizeof(uint64_t) == kCallMetadataSize, "layout");

constexpr char kVersion = 1;

absl::Status Refuse(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("metadata entry ", kCallMetadataKey,
                                                 " refused: ", what,
                                                 "; only grpcfd itself may write this entry"));
}

absl::Status RequireZero(absl::Span<const char> bytes, size_t begin, size_t end) {
  const size_t at = FirstNonZero(bytes, begin, end);
  if (at == end) return absl::OkStatus();
  return Refuse(absl::StrCat("byte ", at, " must be 0, got 0x", ToHex(bytes.subspan(at, 1))));
}

}  // namespace

std::array<char, kCallMetadataSize> EncodeCallMetadata(const CallMetadata& metadata) {
  std::array<char, kCallMetadataSize> out{};
  char* const bytes = out.data();
  bytes[kVersionAt] = kVersion;
  if (!metadata.bound()) return out;
  StoreLittleEndian<uint32_t>(metadata.attempt, bytes + kAttemptAt);
  StoreLittleEndian<uint32_t>(metadata.count, bytes + kCountAt);
  StoreLittleEndian<uint32_t>(metadata.holes, bytes + kHolesAt);
  StoreLittleEndian<uint64_t>(metadata.call_id, bytes + kCallIdAt);
  memcpy(bytes + kTokenAt, metadata.token.bytes().data(), kTokenSize);
  StoreLittleEndian<uint64_t>(metadata.session_id, bytes + kSessionIdAt);
  return out;
}

absl::StatusOr<CallMetadata> DecodeCallMetadata(absl::Span<const char> bytes) {
  if (bytes.size() != kCallMetadataSize) {
    return Refuse(absl::StrCat("it has ", kCallMetadataSize, " bytes, got ", bytes.size()));
  }
  if (bytes[kVersionAt] != kVersion) {
    return Refuse(
        absl::StrCat("the version must be 1, got ", static_cast<unsigned char>(bytes[kVersionAt])));
  }
  absl::Status zero = RequireZero(bytes, kFlagsAt, kAttemptAt);
  if (!zero.ok()) return zero;

  const char* const in = bytes.data();
  std::array<char, kTokenSize> token;
  memcpy(token.data(), in + kTokenAt, kTokenSize);
  CallMetadata metadata;
  metadata.token = Token(token);
  if (!metadata.bound()) {
    zero = RequireZero(bytes, kAttemptAt, kCallMetadataSize);
    if (!zero.ok()) return zero;
    return metadata;
  }
  metadata.attempt = LoadLittleEndian<uint32_t>(in + kAttemptAt);
  metadata.count = LoadLittleEndian<uint32_t>(in + kCountAt);
  metadata.holes = LoadLittleEndian<uint32_t>(in + kHolesAt);
  metadata.call_id = LoadLittleEndian<uint64_t>(in + kCallIdAt);
  metadata.session_id = LoadLittleEndian<uint64_t>(in + kSessionIdAt);
  if (metadata.call_id == 0) return Refuse("the call id must not be 0 where there is a token");
  if (metadata.count != 0 && metadata.session_id == 0) {
    return Refuse(absl::StrCat("count is ", metadata.count,
                               ", so the session id must say where the descriptors went, got 0"));
  }
  if (metadata.holes != 0 && metadata.holes >= metadata.count) {
    return Refuse(
        absl::StrCat("holes must be less than count = ", metadata.count, ", got ", metadata.holes));
  }
  return metadata;
}

std::string EncodeMetadataUrls(absl::Span<const InodeUrl> urls) {
  std::string text;
  const size_t count = std::min(urls.size(), kMaxMetadataUrls);
  for (size_t i = 0; i < count; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : " ", urls[i].ToString());
  }
  return text;
}

absl::StatusOr<std::vector<InodeUrl>> DecodeMetadataUrls(const std::string& text) {
  std::vector<InodeUrl> urls;
  if (text.empty()) return urls;
  size_t begin = 0;
  for (;;) {
    if (urls.size() == kMaxMetadataUrls) {
      return absl::InvalidArgumentError(absl::StrCat("metadata entry ", kUrlsMetadataKey,
                                                     " holds at most ", kMaxMetadataUrls,
                                                     " URLs, got more"));
    }
    const size_t end = std::min(text.find(' ', begin), text.size());
    absl::StatusOr<InodeUrl> url = InodeUrl::Parse(text.substr(begin, end - begin));
    if (!url.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("metadata entry ", kUrlsMetadataKey, ", URL ",
                                                     urls.size(), ": ", url.status().message()));
    }
    urls.push_back(*std::move(url));
    if (end == text.size()) return urls;
    begin = end + 1;
  }
}

}  // namespace internal
}  // namespace grpcfd
