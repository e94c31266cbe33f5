// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/lazy_socket.h"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

namespace grpcfd {
namespace internal {
namespace {

// Reads of so many bytes are not the kind whose wake-ups cost more than their copies.
constexpr size_t kBulk = 4096;

}  // namespace

LazySocket::LazySocket(UniqueFd fd) : fd_(std::move(fd)) {
  const int start = 0;
  peeks_ = ::setsockopt(fd_.get(), SOL_SOCKET, SO_PEEK_OFF, &start, sizeof(start)) == 0;
}

IoResult LazySocket::Receive(char* data, size_t size) {
  const bool peek = peeks_ && !bulk_;
  if (!peek) Settle();
  IoResult result;
  ssize_t got;
  do {
    got = ::recv(fd_.get(), data, size, MSG_DONTWAIT | (peek ? MSG_PEEK : 0));
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    result.error = errno;
    bulk_ = false;
    return result;
  }
  result.bytes = static_cast<size_t>(got);
  if (peek) unsettled_ += result.bytes;
  bulk_ = result.bytes >= kBulk;
  return result;
}

void LazySocket::Settle() {
  char scratch[2048];
  while (unsettled_ > 0) {
    const ssize_t got =
        ::recv(fd_.get(), scratch, std::min(unsettled_, sizeof(scratch)), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;  // Cannot happen: the bytes were there.
    unsettled_ -= static_cast<size_t>(got);
  }
  unsettled_ = 0;
}

void LazySocket::Close() {
  Settle();
  fd_.Reset();
}

}  // namespace internal
}  // namespace grpcfd
