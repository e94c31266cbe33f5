// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// CallMetadata: what an RPC says in its metadata so that the server finds its descriptors. One
// binary entry for the machine, and optionally one of inode URLs for people and logs. Layout and
// reasons are in PROTOCOL.md; this is the encoder and decoder.
//
// The number of entries does not depend on the number of descriptors: gRPC charges
// for each entry, and 120 of them break its 8 KiB limit on metadata. Token, session
// and call id name a descriptor exactly; its position among what arrives means
// nothing.
#ifndef GRPCFD_FDCHANNEL_WIRE_CALL_METADATA_H_
#define GRPCFD_FDCHANNEL_WIRE_CALL_METADATA_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "fdchannel/os/token.h"
#include "fdchannel/wire/frame.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

// "-bin" makes gRPC carry arbitrary bytes. Keys are lower case.
inline constexpr char kCallMetadataKey[] = "grpcfd-bin";
inline constexpr char kUrlsMetadataKey[] = "grpcfd-urls";

inline constexpr size_t kCallMetadataSize = 48;
// URLs beyond this many stay out of the metadata; their descriptors are found by index all the
// same.
inline constexpr size_t kMaxMetadataUrls = 16;

// The binary entry. A plain value; the default is "not bound to a session".
struct CallMetadata {
  uint32_t attempt = 0;     // gRPC's retries of the call, from 0
  uint32_t count = 0;       // Highest index sent before this entry + 1.
  uint32_t holes = 0;       // Indices below count that were never sent. Less than count, or 0.
  uint64_t call_id = 0;     // As in the frames. Not 0 if bound.
  uint64_t session_id = 0;  // Of the session that the frames went to. 0 only if count is.
  Token token;

  // Whether the call belongs to a client channel at all. If not, it carries no descriptors and can
  // get none back.
  bool bound() const { return !token.zero(); }
  CallKey key() const {
    CallKey key;
    key.id = call_id;
    key.attempt = attempt;
    return key;
  }
};

// Writes all fields. A value that is not bound() is written as zeros but for the version.
std::array<char, kCallMetadataSize> EncodeCallMetadata(const CallMetadata& metadata);

// INVALID_ARGUMENT, saying which field, what was expected and what came: wrong size or version, a
// byte that must be zero and is not, a bound entry with call id 0, or with a count but no session,
// as many holes as the count or more, an unbound one in which anything else is set.
absl::StatusOr<CallMetadata> DecodeCallMetadata(absl::Span<const char> bytes);

// The first kMaxMetadataUrls of `urls`, separated by single spaces. Empty for an empty list: send
// no entry then.
std::string EncodeMetadataUrls(absl::Span<const InodeUrl> urls);

// INVALID_ARGUMENT for more than kMaxMetadataUrls, for two spaces in a row or one at either end,
// and for what InodeUrl::Parse refuses. An empty text is an empty list. The URLs are the sender's
// word: a receiver looks at the descriptor itself.
absl::StatusOr<std::vector<InodeUrl>> DecodeMetadataUrls(const std::string& text);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_WIRE_CALL_METADATA_H_
