// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/hello.h"

#include <string.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "fdchannel/wire/wire.h"

namespace grpcfd {
namespace internal {
namespace {

// Offsets, as in PROTOCOL.md, "Hello" and "HelloReply".
constexpr size_t kSizeAt = 8;
constexpr size_t kMinVersionAt = 10;
constexpr size_t kMaxVersionAt = 12;
constexpr size_t kHelloFlagsAt = 14;
constexpr size_t kTokenAt = 16;
constexpr size_t kHelloMaxFdsAt = 32;
constexpr size_t kHelloWindowAt = 36;
constexpr size_t kHelloMaxSessionFdsAt = 40;
constexpr size_t kConnectionAt = 44;
constexpr size_t kHelloReservedAt = 60;

constexpr size_t kVersionAt = 10;
constexpr size_t kStatusAt = 12;
constexpr size_t kReplyFlagsAt = 14;
constexpr size_t kSessionIdAt = 16;
constexpr size_t kReplyMaxFdsAt = 24;
constexpr size_t kReplyWindowAt = 28;
constexpr size_t kReplyMaxSessionFdsAt = 32;
constexpr size_t kReplyReservedAt = 36;

constexpr uint16_t kHighestStatus = static_cast<uint16_t>(HelloStatus::kElsewhere);

absl::Status Refuse(const char* name, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " refused: ", what, "; the peer does not speak this protocol"));
}

// What both messages open with: exact size, magic, and the size again as a field.
absl::Status CheckOpening(absl::Span<const char> bytes, size_t size,
                          const unsigned char (&magic)[kMagicSize], const char* name) {
  if (bytes.size() != size) {
    return Refuse(name, absl::StrCat("it has ", size, " bytes, got ", bytes.size()));
  }
  if (memcmp(bytes.data(), magic, kMagicSize) != 0) {
    const absl::Span<const char> expected(reinterpret_cast<const char*>(magic), kMagicSize);
    return Refuse(name, absl::StrCat("it opens with ", ToHex(expected), ", got ",
                                     ToHex(bytes.subspan(0, kMagicSize))));
  }
  const uint16_t field = LoadLittleEndian<uint16_t>(bytes.data() + kSizeAt);
  if (field != size) return Refuse(name, absl::StrCat("size must be ", size, ", got ", field));
  return absl::OkStatus();
}

absl::Status RequireZero(absl::Span<const char> bytes, size_t begin, size_t end, const char* name) {
  const size_t at = FirstNonZero(bytes, begin, end);
  if (at == end) return absl::OkStatus();
  return Refuse(name, absl::StrCat("byte ", at, " must be 0, got 0x", ToHex(bytes.subspan(at, 1))));
}

absl::Status CheckLimits(const ReceiveLimits& limits, const char* name) {
  if (limits.max_fds_per_call == 0) return Refuse(name, "max_fds_per_call must not be 0");
  if (limits.window == 0) return Refuse(name, "window must not be 0");
  return absl::OkStatus();
}

}  // namespace

FirstBytes ClassifyFirstBytes(absl::Span<const char> bytes) {
  const size_t size = std::min(bytes.size(), kMagicSize);
  if (size > 0 && memcmp(bytes.data(), kHelloMagic, size) != 0) return FirstBytes::kOther;
  return size == kMagicSize ? FirstBytes::kHello : FirstBytes::kNeedMore;
}

void EncodeHello(const Hello& hello, std::array<char, kHelloSize>* out) {
  out->fill(0);
  char* const bytes = out->data();
  memcpy(bytes, kHelloMagic, kMagicSize);
  StoreLittleEndian<uint16_t>(kHelloSize, bytes + kSizeAt);
  StoreLittleEndian<uint16_t>(hello.min_version, bytes + kMinVersionAt);
  StoreLittleEndian<uint16_t>(hello.max_version, bytes + kMaxVersionAt);
  memcpy(bytes + kTokenAt, hello.token.bytes().data(), kTokenSize);
  StoreLittleEndian<uint32_t>(hello.limits.max_fds_per_call, bytes + kHelloMaxFdsAt);
  StoreLittleEndian<uint32_t>(hello.limits.window, bytes + kHelloWindowAt);
  StoreLittleEndian<uint32_t>(hello.limits.max_session_fds, bytes + kHelloMaxSessionFdsAt);
  memcpy(bytes + kConnectionAt, hello.connection.bytes().data(), kTokenSize);
}

void EncodeHelloReply(const HelloReply& reply, std::array<char, kHelloReplySize>* out) {
  out->fill(0);
  char* const bytes = out->data();
  memcpy(bytes, kHelloReplyMagic, kMagicSize);
  StoreLittleEndian<uint16_t>(kHelloReplySize, bytes + kSizeAt);
  StoreLittleEndian<uint16_t>(reply.version, bytes + kVersionAt);
  StoreLittleEndian<uint16_t>(static_cast<uint16_t>(reply.status), bytes + kStatusAt);
  if (reply.status != HelloStatus::kOk) return;  // No session, so nothing to say about it.
  StoreLittleEndian<uint64_t>(reply.session_id, bytes + kSessionIdAt);
  StoreLittleEndian<uint32_t>(reply.limits.max_fds_per_call, bytes + kReplyMaxFdsAt);
  StoreLittleEndian<uint32_t>(reply.limits.window, bytes + kReplyWindowAt);
  StoreLittleEndian<uint32_t>(reply.limits.max_session_fds, bytes + kReplyMaxSessionFdsAt);
}

absl::StatusOr<Hello> DecodeHello(absl::Span<const char> bytes) {
  static constexpr char kName[] = "hello";
  absl::Status status = CheckOpening(bytes, kHelloSize, kHelloMagic, kName);
  if (!status.ok()) return status;
  const char* const in = bytes.data();
  Hello hello;
  hello.min_version = LoadLittleEndian<uint16_t>(in + kMinVersionAt);
  hello.max_version = LoadLittleEndian<uint16_t>(in + kMaxVersionAt);
  if (hello.min_version == 0 || hello.min_version > hello.max_version) {
    return Refuse(kName, absl::StrCat("versions must be 1 <= min <= max, got min ",
                                      hello.min_version, ", max ", hello.max_version));
  }
  status = RequireZero(bytes, kHelloFlagsAt, kTokenAt, kName);
  if (!status.ok()) return status;
  std::array<char, kTokenSize> token;
  memcpy(token.data(), in + kTokenAt, kTokenSize);
  hello.token = Token(token);
  if (hello.token.zero()) return Refuse(kName, "the token must not be all zero");
  hello.limits.max_fds_per_call = LoadLittleEndian<uint32_t>(in + kHelloMaxFdsAt);
  hello.limits.window = LoadLittleEndian<uint32_t>(in + kHelloWindowAt);
  hello.limits.max_session_fds = LoadLittleEndian<uint32_t>(in + kHelloMaxSessionFdsAt);
  status = CheckLimits(hello.limits, kName);
  const bool names = hello.max_version >= kNamesVersion;
  if (status.ok()) {
    status = RequireZero(bytes, names ? kHelloReservedAt : kConnectionAt, kHelloSize, kName);
  }
  if (!status.ok()) return status;
  if (names) {
    memcpy(token.data(), in + kConnectionAt, kTokenSize);
    hello.connection = ConnectionId(token);
  }
  return hello;
}

absl::StatusOr<HelloReply> DecodeHelloReply(absl::Span<const char> bytes) {
  static constexpr char kName[] = "hello reply";
  absl::Status status = CheckOpening(bytes, kHelloReplySize, kHelloReplyMagic, kName);
  if (!status.ok()) return status;
  const char* const in = bytes.data();
  HelloReply reply;
  reply.version = LoadLittleEndian<uint16_t>(in + kVersionAt);
  if (reply.version == 0) return Refuse(kName, "version must not be 0");
  const uint16_t code = LoadLittleEndian<uint16_t>(in + kStatusAt);
  if (code > kHighestStatus) {
    return Refuse(kName, absl::StrCat("status must be 0 to ", kHighestStatus, ", got ", code));
  }
  reply.status = static_cast<HelloStatus>(code);
  status = RequireZero(bytes, kReplyFlagsAt, kSessionIdAt, kName);
  if (!status.ok()) return status;
  if (reply.status != HelloStatus::kOk) {
    status = RequireZero(bytes, kSessionIdAt, kHelloReplySize, kName);
    if (!status.ok()) return status;
    return reply;
  }
  if (reply.version < kMinVersion || reply.version > kMaxVersion) {
    return Refuse(kName, absl::StrCat("version must be ", kMinVersion, " to ", kMaxVersion,
                                      ", which is what was offered, got ", reply.version));
  }
  reply.session_id = LoadLittleEndian<uint64_t>(in + kSessionIdAt);
  if (reply.session_id == 0) return Refuse(kName, "session_id must not be 0");
  reply.limits.max_fds_per_call = LoadLittleEndian<uint32_t>(in + kReplyMaxFdsAt);
  reply.limits.window = LoadLittleEndian<uint32_t>(in + kReplyWindowAt);
  reply.limits.max_session_fds = LoadLittleEndian<uint32_t>(in + kReplyMaxSessionFdsAt);
  status = CheckLimits(reply.limits, kName);
  if (status.ok()) status = RequireZero(bytes, kReplyReservedAt, kHelloReplySize, kName);
  if (!status.ok()) return status;
  return reply;
}

ReceiveLimits SendLimits(const ReceiveLimits& peer, const ReceiveLimits& own) {
  ReceiveLimits limits = peer;
  limits.max_fds_per_call = std::min(peer.max_fds_per_call, own.max_fds_per_call);
  limits.window = std::min(peer.window, own.window);
  return limits;
}

uint16_t NegotiateVersion(uint16_t peer_min, uint16_t peer_max) {
  const uint16_t low = std::max(peer_min, kMinVersion);
  const uint16_t high = std::min(peer_max, kMaxVersion);
  return low <= high ? high : 0;
}

absl::Status HelloStatusToStatus(const HelloReply& reply) {
  switch (reply.status) {
    case HelloStatus::kOk:
      return absl::OkStatus();
    case HelloStatus::kUnsupportedVersion:
      return absl::FailedPreconditionError(
          absl::StrCat("the server speaks the descriptor channel's protocol up to version ",
                       reply.version, ", this client versions ", kMinVersion, " to ", kMaxVersion,
                       "; bring the older of the two up to date"));
    case HelloStatus::kTokenInUse:
      return absl::UnavailableError(
          "the server still has a session of this channel's token; try again once it has noticed "
          "that the old one ended, and do not share one channel across fork()");
    case HelloStatus::kTooManySessions:
      return absl::ResourceExhaustedError(
          "the server has as many descriptor sessions as its limits allow, of this user "
          "(max_sessions_per_uid) or in total (max_sessions); close channels that are not used, or "
          "raise the server's limit");
    case HelloStatus::kRefused:
      return absl::PermissionDeniedError(
          "the server refused a descriptor session to this process; connect as a "
          "user that it allows");
    case HelloStatus::kMalformed:
      return absl::InternalError(
          "the server could not read this client's hello; report this as a bug, with the versions "
          "of both sides");
    case HelloStatus::kShuttingDown:
      return absl::UnavailableError("the server is shutting down; try again once it is back");
    case HelloStatus::kOutOfDescriptors:
      return absl::ResourceExhaustedError(
          "the server has no descriptors left for a session; raise its RLIMIT_NOFILE or try again "
          "later");
    case HelloStatus::kElsewhere:
      return absl::UnavailableError(
          "the process that answers there has not got this channel's gRPC connection: another one, "
          "that was restarted or shares the socket, has");
  }
  return absl::InternalError(absl::StrCat("unknown hello status ",
                                          static_cast<unsigned>(reply.status),
                                          "; bring the client up to date"));
}

}  // namespace internal
}  // namespace grpcfd
