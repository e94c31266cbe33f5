// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Token: the unguessable name by which a server ties a call to the session that carries its
// descriptors.
//
// Why it exists: gRPC's peer() is the same text, "unix:", for every client of a unix socket, so a
// call does not say which process made it. The client mints 128 random bits, says them in the hello
// of its session and again in the metadata of its calls. A peer that cannot guess them cannot reach
// into another client's session.
//
// A counter, a pid or a time would not do: a token must not be guessable. If the kernel has no
// random bits, making one fails.
#ifndef GRPCFD_FDCHANNEL_OS_TOKEN_H_
#define GRPCFD_FDCHANNEL_OS_TOKEN_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <array>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace grpcfd {
namespace internal {

inline constexpr size_t kTokenSize = 16;

// A plain value. The default is all zero, which is not a token.
class Token {
 public:
  Token() = default;
  explicit Token(const std::array<char, kTokenSize>& bytes) : bytes_(bytes) {}

  // 128 bits from getrandom(2). UNAVAILABLE if the kernel has none to give; never a weaker source.
  static absl::StatusOr<Token> Mint();

  const std::array<char, kTokenSize>& bytes() const { return bytes_; }
  bool zero() const { return *this == Token(); }

  friend bool operator==(const Token& a, const Token& b) { return a.Halves() == b.Halves(); }
  friend bool operator!=(const Token& a, const Token& b) { return !(a == b); }
  // Hash tables keyed by tokens leak nothing worth guessing: absl's hash is seeded per process.
  template <typename H>
  friend H AbslHashValue(H h, const Token& t) {
    const auto halves = t.Halves();
    return H::combine(std::move(h), halves[0], halves[1]);
  }

 private:
  // Every call looks its token up: as two words, it takes few instructions.
  std::array<uint64_t, 2> Halves() const {
    std::array<uint64_t, 2> halves;
    static_assert(sizeof(halves) == kTokenSize, "all of it");
    memcpy(halves.data(), bytes_.data(), sizeof(halves));
    return halves;
  }

  std::array<char, kTokenSize> bytes_{};
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_TOKEN_H_
