// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/frame.h"

#include <string.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/wire/wire.h"

namespace grpcfd {
namespace internal {
namespace {

// Offsets, as in PROTOCOL.md, "Frames".
constexpr size_t kTypeAt = 0;
constexpr size_t kFlagsAt = 1;
constexpr size_t kFdCountAt = 2;
constexpr size_t kFirstIndexAt = 4;
constexpr size_t kCallIdAt = 8;
constexpr size_t kAttemptAt = 16;
constexpr size_t kCodeAt = 20;
constexpr size_t kPayloadAt = 24;

static_assert(kPayloadAt + kMaxDiscardIds * sizeof(uint64_t) == kFrameSize, "payload");
static_assert(kMaxLandedIds == kMaxDiscardIds, "both have ids");
static_assert(kPayloadAt + kMaxWithdrawIndices * sizeof(uint32_t) == kFrameSize, "payload");
static_assert(kPayloadAt + kMaxCloseText == kFrameSize, "payload");

bool Printable(char c) { return c >= 0x20 && c <= 0x7e; }

absl::Status Refuse(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("frame refused: ", what, "; the peer does not speak this protocol"));
}

// Refuses a byte in [begin, end) that is not zero.
absl::Status RequireZero(absl::Span<const char> message, size_t begin, size_t end,
                         const char* type) {
  const size_t at = FirstNonZero(message, begin, end);
  if (at == end) return absl::OkStatus();
  return Refuse(absl::StrCat("byte ", at, " of a ", type, " frame must be 0, got 0x",
                             ToHex(message.subspan(at, 1))));
}

absl::Status DecodeData(absl::Span<const char> message, Frame* frame) {
  const char* const in = message.data();
  frame->type = FrameType::kData;
  frame->fd_count = LoadLittleEndian<uint16_t>(in + kFdCountAt);
  frame->first_index = LoadLittleEndian<uint32_t>(in + kFirstIndexAt);
  frame->call.id = LoadLittleEndian<uint64_t>(in + kCallIdAt);
  frame->call.attempt = LoadLittleEndian<uint32_t>(in + kAttemptAt);
  if (frame->fd_count < 1 || frame->fd_count > kMaxFdsPerMessage) {
    return Refuse(absl::StrCat("fd_count of a DATA frame must be 1 to ", kMaxFdsPerMessage,
                               ", got ", frame->fd_count));
  }
  constexpr uint32_t kMaxEnd = std::numeric_limits<uint32_t>::max();
  if (frame->first_index > kMaxEnd - frame->fd_count) {
    return Refuse(absl::StrCat("first_index + fd_count of a DATA frame must not exceed ", kMaxEnd,
                               ", got ", frame->first_index, " + ", frame->fd_count));
  }
  if (frame->call.id == 0 && frame->call.attempt != 0) {
    return Refuse(absl::StrCat("attempt of a DATA frame without a call must be 0, got ",
                               frame->call.attempt));
  }
  if (FirstNonZero(message, kCodeAt, kFrameSize) == kFrameSize) return absl::OkStatus();
  return RequireZero(message, kCodeAt, kFrameSize, "DATA");
}

absl::Status DecodeCredit(absl::Span<const char> message, Frame* frame) {
  constexpr size_t kTotalEnd = kPayloadAt + sizeof(uint64_t);
  absl::Status zero = RequireZero(message, kFdCountAt, kPayloadAt, "CREDIT");
  if (zero.ok()) zero = RequireZero(message, kTotalEnd, kFrameSize, "CREDIT");
  if (!zero.ok()) return zero;
  frame->type = FrameType::kCredit;
  frame->credit_total = LoadLittleEndian<uint64_t>(message.data() + kPayloadAt);
  return absl::OkStatus();
}

// Call ids, as many as the frame says.
absl::Status DecodeIds(absl::Span<const char> message, const char* type, uint32_t* count,
                       std::array<uint64_t, kMaxDiscardIds>* ids) {
  const char* const in = message.data();
  *count = LoadLittleEndian<uint32_t>(in + kCodeAt);
  if (*count < 1 || *count > ids->size()) {
    return Refuse(absl::StrCat("the count of a ", type, " frame must be 1 to ", ids->size(),
                               ", got ", *count));
  }
  for (uint32_t i = 0; i < *count; ++i) {
    (*ids)[i] = LoadLittleEndian<uint64_t>(in + kPayloadAt + i * sizeof(uint64_t));
    if ((*ids)[i] == 0) {
      return Refuse(absl::StrCat("call id ", i, " of a ", type, " frame must not be 0"));
    }
  }
  const size_t ids_end = kPayloadAt + *count * sizeof(uint64_t);
  absl::Status zero = RequireZero(message, kFdCountAt, kCodeAt, type);
  if (zero.ok()) zero = RequireZero(message, ids_end, kFrameSize, type);
  return zero;
}

void EncodeIds(absl::Span<const uint64_t> ids, char* bytes) {
  StoreLittleEndian<uint32_t>(static_cast<uint32_t>(ids.size()), bytes + kCodeAt);
  for (size_t i = 0; i < ids.size(); ++i) {
    StoreLittleEndian<uint64_t>(ids[i], bytes + kPayloadAt + i * sizeof(uint64_t));
  }
}

absl::Status DecodeDiscard(absl::Span<const char> message, Frame* frame) {
  frame->type = FrameType::kDiscard;
  return DecodeIds(message, "DISCARD", &frame->discard_count, &frame->discard);
}

absl::Status DecodeLanded(absl::Span<const char> message, Frame* frame) {
  frame->type = FrameType::kLanded;
  return DecodeIds(message, "LANDED", &frame->landed_count, &frame->landed);
}

absl::Status DecodeResend(absl::Span<const char> message, FrameType type, Frame* frame) {
  const char* const in = message.data();
  const bool answer = type == FrameType::kResent;
  const char* const name = answer ? "RESENT" : "RESEND";
  frame->type = type;
  frame->call.id = LoadLittleEndian<uint64_t>(in + kCallIdAt);
  frame->call.attempt = LoadLittleEndian<uint32_t>(in + kAttemptAt);
  if (frame->call.id == 0) {
    return Refuse(absl::StrCat("the call id of a ", name, " frame must not be 0"));
  }
  const uint32_t code = LoadLittleEndian<uint32_t>(in + kCodeAt);
  const uint32_t highest = answer ? static_cast<uint32_t>(ResendOutcome::kGone) : 0;
  if (code > highest || (answer && code == 0)) {
    return Refuse(absl::StrCat("the code of a ", name, " frame must be ", answer ? "1 to 2" : "0",
                               ", got ", code));
  }
  frame->outcome = answer ? static_cast<ResendOutcome>(code) : ResendOutcome::kSent;
  absl::Status zero = RequireZero(message, kFdCountAt, kCallIdAt, name);
  if (zero.ok()) zero = RequireZero(message, kPayloadAt, kFrameSize, name);
  if (!zero.ok()) return zero;
  return absl::OkStatus();
}

absl::Status DecodeWithdraw(absl::Span<const char> message, Frame* frame) {
  const char* const in = message.data();
  frame->type = FrameType::kWithdraw;
  frame->withdraw_count = LoadLittleEndian<uint32_t>(in + kCodeAt);
  if (frame->withdraw_count < 1 || frame->withdraw_count > kMaxWithdrawIndices) {
    return Refuse(absl::StrCat("the count of a WITHDRAW frame must be 1 to ", kMaxWithdrawIndices,
                               ", got ", frame->withdraw_count));
  }
  for (uint32_t i = 0; i < frame->withdraw_count; ++i) {
    frame->withdraw[i] = LoadLittleEndian<uint32_t>(in + kPayloadAt + i * sizeof(uint32_t));
  }
  const size_t end = kPayloadAt + frame->withdraw_count * sizeof(uint32_t);
  absl::Status zero = RequireZero(message, kFdCountAt, kCodeAt, "WITHDRAW");
  if (zero.ok()) zero = RequireZero(message, end, kFrameSize, "WITHDRAW");
  if (!zero.ok()) return zero;
  return absl::OkStatus();
}

absl::Status DecodeClose(absl::Span<const char> message, Frame* frame) {
  absl::Status zero = RequireZero(message, kFdCountAt, kCodeAt, "CLOSE");
  if (!zero.ok()) return zero;
  const uint32_t code = LoadLittleEndian<uint32_t>(message.data() + kCodeAt);
  if (code == 0) return Refuse("the code of a CLOSE frame must not be 0");
  frame->type = FrameType::kClose;
  // Codes of later versions are kept as numbers: the session ends in any case.
  frame->close_code = static_cast<CloseCode>(code);
  size_t end = kPayloadAt;
  while (end < kFrameSize && Printable(message[end])) ++end;
  const size_t bad = FirstNonZero(message, end, kFrameSize);
  if (bad != kFrameSize) {
    return Refuse(
        absl::StrCat("the text of a CLOSE frame must be printable ASCII and then zeros, "
                     "got 0x",
                     ToHex(message.subspan(bad, 1)), " at byte ", bad));
  }
  frame->close_text.assign(message.data() + kPayloadAt, end - kPayloadAt);
  return absl::OkStatus();
}

}  // namespace

void EncodeData(const CallKey& call, uint32_t first_index, uint16_t fd_count, FrameBuffer* out) {
  out->fill(0);
  char* const bytes = out->data();
  bytes[kTypeAt] = static_cast<char>(FrameType::kData);
  StoreLittleEndian<uint16_t>(fd_count, bytes + kFdCountAt);
  StoreLittleEndian<uint32_t>(first_index, bytes + kFirstIndexAt);
  StoreLittleEndian<uint64_t>(call.id, bytes + kCallIdAt);
  StoreLittleEndian<uint32_t>(call.attempt, bytes + kAttemptAt);
}

void EncodeFrame(const Frame& frame, FrameBuffer* out) {
  if (frame.type == FrameType::kData) {
    return EncodeData(frame.call, frame.first_index, frame.fd_count, out);
  }
  out->fill(0);
  char* const bytes = out->data();
  bytes[kTypeAt] = static_cast<char>(frame.type);
  switch (frame.type) {
    case FrameType::kData:
      break;
    case FrameType::kCredit:
      StoreLittleEndian<uint64_t>(frame.credit_total, bytes + kPayloadAt);
      break;
    case FrameType::kDiscard:  // subspan() cuts at the end of the array.
      EncodeIds(absl::MakeConstSpan(frame.discard).subspan(0, frame.discard_count), bytes);
      break;
    case FrameType::kLanded:
      EncodeIds(absl::MakeConstSpan(frame.landed).subspan(0, frame.landed_count), bytes);
      break;
    case FrameType::kResent:
      StoreLittleEndian<uint32_t>(static_cast<uint32_t>(frame.outcome), bytes + kCodeAt);
      [[fallthrough]];
    case FrameType::kResend:
      StoreLittleEndian<uint64_t>(frame.call.id, bytes + kCallIdAt);
      StoreLittleEndian<uint32_t>(frame.call.attempt, bytes + kAttemptAt);
      break;
    case FrameType::kWithdraw: {
      const uint32_t count =
          std::min(frame.withdraw_count, static_cast<uint32_t>(kMaxWithdrawIndices));
      StoreLittleEndian<uint32_t>(count, bytes + kCodeAt);
      for (uint32_t i = 0; i < count; ++i) {
        StoreLittleEndian<uint32_t>(frame.withdraw[i], bytes + kPayloadAt + i * sizeof(uint32_t));
      }
      break;
    }
    case FrameType::kClose: {
      StoreLittleEndian<uint32_t>(static_cast<uint32_t>(frame.close_code), bytes + kCodeAt);
      const size_t size = std::min(frame.close_text.size(), kMaxCloseText);
      for (size_t i = 0; i < size; ++i) {
        const char c = frame.close_text[i];
        bytes[kPayloadAt + i] = Printable(c) ? c : '?';
      }
      break;
    }
  }
}

absl::Status DecodeFrame(absl::Span<const char> message, Frame* frame) {
  if (message.size() != kFrameSize) {
    return Refuse(absl::StrCat("a frame has ", kFrameSize, " bytes, got ", message.size()));
  }
  if (message[kFlagsAt] != 0) {
    return Refuse(absl::StrCat("flags must be 0, got 0x", ToHex(message.subspan(kFlagsAt, 1))));
  }
  const unsigned char type = static_cast<unsigned char>(message[kTypeAt]);
  switch (static_cast<FrameType>(type)) {
    case FrameType::kData:
      return DecodeData(message, frame);
    case FrameType::kCredit:
      return DecodeCredit(message, frame);
    case FrameType::kDiscard:
      return DecodeDiscard(message, frame);
    case FrameType::kClose:
      return DecodeClose(message, frame);
    case FrameType::kWithdraw:
      return DecodeWithdraw(message, frame);
    case FrameType::kLanded:
      return DecodeLanded(message, frame);
    case FrameType::kResend:
    case FrameType::kResent:
      return DecodeResend(message, static_cast<FrameType>(type), frame);
  }
  return Refuse(absl::StrCat("the type must be 1 to 8, got ", type));
}

}  // namespace internal
}  // namespace grpcfd
