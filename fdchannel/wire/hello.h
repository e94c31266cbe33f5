// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The hello: how a client turns a fresh stream connection on the server's socket path into a
// session. The client sends one Hello, the server answers one HelloReply; if the answer is kOk, one
// end of a SOCK_SEQPACKET socketpair rides on it, and the stream connection has done its work.
// Layout and reasons are in PROTOCOL.md; this is its encoder and decoder.
//
// ClassifyFirstBytes is exact: it says "hello" only for the complete magic. First bytes are read,
// not peeked at: with MSG_PEEK a peer that sends one byte and stalls turns a level-triggered poll
// into a busy loop.
#ifndef GRPCFD_FDCHANNEL_WIRE_HELLO_H_
#define GRPCFD_FDCHANNEL_WIRE_HELLO_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/token.h"

namespace grpcfd {
namespace internal {

inline constexpr size_t kHelloSize = 64;
inline constexpr size_t kHelloReplySize = 64;
inline constexpr size_t kMagicSize = 8;
// The first byte is neither the 'P' of HTTP/2's preface nor TLS's 0x16, nor any ASCII character:
// one byte decides.
inline constexpr unsigned char kHelloMagic[kMagicSize] = {0x8e, 'G', 'R', 'P', 'C', 'F', 'D', '\n'};
inline constexpr unsigned char kHelloReplyMagic[kMagicSize] = {0x8f, 'G', 'R', 'P',
                                                               'C',  'F', 'D', '\n'};

// The versions of the protocol that this library speaks.
inline constexpr uint16_t kMinVersion = 1;
inline constexpr uint16_t kMaxVersion = 2;
// From this version on a hello may name a gRPC connection, and the server may ask for what a call
// brings once more.
inline constexpr uint16_t kNamesVersion = 2;

// What each side is prepared to hold of the other's descriptors.
struct ReceiveLimits {
  uint32_t max_fds_per_call = 0;  // 1 or more
  uint32_t window = 0;            // Unclaimed descriptors in the session, 1 or more
  uint32_t max_session_fds = 0;   // Session-scoped descriptors, 0 or more
};

// What a sender that takes `own` itself sends to a peer that takes `peer`: the lower of the two, so
// that a peer cannot have it send more than it means to. Session-scoped descriptors are the
// program's own doing, one by one, so there the peer's word counts.
ReceiveLimits SendLimits(const ReceiveLimits& peer, const ReceiveLimits& own);

struct Hello {
  uint16_t min_version = kMinVersion;
  uint16_t max_version = kMaxVersion;
  Token token;
  ReceiveLimits limits;
  // The gRPC connection that the session is for; zero if none. A server of version 1 calls a hello
  // with one malformed.
  ConnectionId connection;
};

// The server's answer. The numbers are wire format.
enum class HelloStatus : uint16_t {
  kOk = 0,
  kUnsupportedVersion = 1,  // reply.version is the highest version the server speaks
  kTokenInUse = 2,          // a living session has this token, and connection
  kTooManySessions = 3,     // of this uid, or in total
  kRefused = 4,             // the server does not serve this peer, or cannot tell who it is
  kMalformed = 5,           // the hello could not be read
  kShuttingDown = 6,
  kOutOfDescriptors = 7,  // the server could not make the session's socket
  kElsewhere = 8,         // this process has no such connection, or does not have it yet
};

struct HelloReply {
  HelloStatus status = HelloStatus::kOk;
  uint16_t version = kMaxVersion;  // the one that both speak, if kOk
  uint64_t session_id = 0;         // unique in the server process, never 0 if kOk
  ReceiveLimits limits;            // the server's
};

enum class FirstBytes { kHello, kOther, kNeedMore };

// Tells a hello from everything else by the bytes read so far (one or more). kNeedMore only while
// all of them match the magic.
FirstBytes ClassifyFirstBytes(absl::Span<const char> bytes);

void EncodeHello(const Hello& hello, std::array<char, kHelloSize>* out);
void EncodeHelloReply(const HelloReply& reply, std::array<char, kHelloReplySize>* out);

// INVALID_ARGUMENT, saying which field, what was expected and what came: wrong size, magic,
// min_version > max_version or 0, a zero limit, an all-zero token, a connection from a client that
// speaks version 1 only, a reserved byte that is not zero, an unknown status.
absl::StatusOr<Hello> DecodeHello(absl::Span<const char> bytes);
absl::StatusOr<HelloReply> DecodeHelloReply(absl::Span<const char> bytes);

// The highest version in both [min, max] ranges, or 0 if there is none.
uint16_t NegotiateVersion(uint16_t peer_min, uint16_t peer_max);

// The status that a client reports for a reply other than kOk: UNAVAILABLE for kShuttingDown,
// kTokenInUse, kElsewhere; RESOURCE_EXHAUSTED for kTooManySessions, kOutOfDescriptors;
// PERMISSION_DENIED for kRefused; FAILED_PRECONDITION for kUnsupportedVersion; INTERNAL for
// kMalformed. Says what to do.
absl::Status HelloStatusToStatus(const HelloReply& reply);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_WIRE_HELLO_H_
