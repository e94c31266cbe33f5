// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Frames: what travels over a session's SOCK_SEQPACKET socket. The layout is written down, with the
// meaning of each field and the reasons, in PROTOCOL.md beside this file; this is its encoder and
// decoder.
//
// Each field is read from its offset, little-endian. A cast of the buffer to a struct would
// depend on the compiler's alignment and padding, and on the machine's byte order. A frame that
// is not exactly right is refused, and nothing in it is used: the peer does not speak this
// protocol.
#ifndef GRPCFD_FDCHANNEL_WIRE_FRAME_H_
#define GRPCFD_FDCHANNEL_WIRE_FRAME_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace grpcfd {
namespace internal {

// Every frame has this many bytes, whatever its type: the receiver's buffers are fixed, and the
// kernel charges the sender the same for each, which is what makes SIOCOUTQ a count of unread
// frames.
inline constexpr size_t kFrameSize = 64;
inline constexpr size_t kMaxDiscardIds = 5;
inline constexpr size_t kMaxWithdrawIndices = 10;
inline constexpr size_t kMaxLandedIds = 5;
inline constexpr size_t kMaxCloseText = 40;

enum class FrameType : uint8_t {
  kData = 1,    // Carries descriptors of one call.
  kCredit = 2,  // How many descriptors the receiver has disposed of since the session began.
  kDiscard =
      3,       // Calls the sender has ended: what the receiver still holds for them can be closed.
  kClose = 4,  // The sender cuts the session, and says why.
  kWithdraw = 5,  // Session-scoped descriptors that the sender takes back.
  // From version 2 on.
  kLanded = 6,  // The server has these calls: the client need not keep what they brought.
  kResend = 7,  // The server has a call that names a session which is not here.
  kResent = 8,  // The client's answer: what the call brings came before this frame, or is gone.
};

// Why a session is cut. The numbers are wire format.
enum class CloseCode : uint32_t {
  kProtocolError = 1,
  kResourceExhausted = 2,
  kShutdown = 3,
  kRefused = 4,
  kConnectionEnded = 5,  // gRPC's, which the session was for.
};

// A client's answer to RESEND. The numbers are wire format.
enum class ResendOutcome : uint32_t {
  kSent = 1,
  kGone = 2,  // The client does not have the call, or not what it brought, any more.
};

// A call, as both ends of a session name it. `id` is chosen by the client, unique within its token,
// and never 0; `attempt` counts gRPC's retries of it from 0. In a kData frame id 0 means no call:
// the descriptors are session-scoped.
struct CallKey {
  uint64_t id = 0;
  uint32_t attempt = 0;

  friend bool operator==(const CallKey& a, const CallKey& b) {
    return a.id == b.id && a.attempt == b.attempt;
  }
  template <typename H>
  friend H AbslHashValue(H h, const CallKey& k) {
    return H::combine(std::move(h), k.id, k.attempt);
  }
};

// A decoded frame. Which fields count depends on `type`.
struct Frame {
  FrameType type = FrameType::kData;
  CallKey call;                                          // kData, kResend, kResent
  uint32_t first_index = 0;                              // kData: index of the first descriptor
  uint16_t fd_count = 0;                                 // kData: 1 to 253
  uint64_t credit_total = 0;                             // kCredit
  uint32_t discard_count = 0;                            // kDiscard: 1 to kMaxDiscardIds
  std::array<uint64_t, kMaxDiscardIds> discard{};        // kDiscard: call ids, all attempts
  uint32_t withdraw_count = 0;                           // kWithdraw: 1 to kMaxWithdrawIndices
  std::array<uint32_t, kMaxWithdrawIndices> withdraw{};  // kWithdraw: indices
  uint32_t landed_count = 0;                             // kLanded: 1 to kMaxLandedIds
  std::array<uint64_t, kMaxLandedIds> landed{};          // kLanded: call ids, of attempt 0
  ResendOutcome outcome = ResendOutcome::kSent;          // kResent
  CloseCode close_code = CloseCode::kProtocolError;      // kClose
  std::string close_text;  // kClose: printable ASCII, at most kMaxCloseText bytes
};

using FrameBuffer = std::array<char, kFrameSize>;

// Writes `frame`; fields that do not belong to its type are written as zero. `close_text` is cut to
// kMaxCloseText, and bytes of it that are not printable ASCII become '?'.
void EncodeFrame(const Frame& frame, FrameBuffer* out);
// The same for a kData frame.
void EncodeData(const CallKey& call, uint32_t first_index, uint16_t fd_count, FrameBuffer* out);

// Reads one message into a new frame. INVALID_ARGUMENT, saying which field, what was expected and
// what came, if the size is not kFrameSize, the type is unknown, a count is out of range, a call id
// is 0 where there must be one, an attempt comes without a call, first_index + fd_count does not
// fit 32 bits, or a byte that must be zero is not; what is in the frame then means nothing.
absl::Status DecodeFrame(absl::Span<const char> message, Frame* frame);
inline absl::StatusOr<Frame> DecodeFrame(absl::Span<const char> message) {
  Frame frame;
  absl::Status status = DecodeFrame(message, &frame);
  if (!status.ok()) return status;
  return frame;
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_WIRE_FRAME_H_
