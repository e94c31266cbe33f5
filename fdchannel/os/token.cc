// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/token.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {

absl::StatusOr<Token> Token::Mint() {
  std::array<char, kTokenSize> bytes;
  ssize_t got;
  do {
    // Up to 256 bytes come whole or not at all (getrandom(2)). GRND_NONBLOCK: early in the boot of
    // a machine the pool is not seeded, and making a channel must not hang for that.
    got = ::getrandom(bytes.data(), bytes.size(), GRND_NONBLOCK);
  } while (got < 0 && errno == EINTR);
  if (got != static_cast<ssize_t>(bytes.size())) {
    const int error = got < 0 ? errno : EIO;
    return absl::UnavailableError(absl::StrCat(
        "getrandom(2) gave no ", kTokenSize, " bytes for a channel token: ", strerror(error),
        error == EAGAIN ? "; try again once the machine's random pool is seeded"
                        : "; allow the system call in the process's sandbox"));
  }
  const Token token(bytes);
  // All zero means "no token" on the wire. It comes by chance once in 2^128, and from a broken
  // kernel.
  if (token.zero()) return absl::UnavailableError("getrandom(2) gave zeros only; try again");
  return token;
}

}  // namespace internal
}  // namespace grpcfd
