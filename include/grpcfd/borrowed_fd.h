// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// BorrowedFd: a view of a descriptor that somebody else owns.
//
// Why it exists: functions that only look at a descriptor, or duplicate it, should say so in their
// signature. `SendFd(BorrowedFd)` leaves the caller's descriptor open and the caller's;
// `SendFd(UniqueFd&&)` takes it. With a bare `int` for both, every call site is a guess.
//
// How people get it wrong: they keep the view longer than the owner. A BorrowedFd is a parameter
// type; it is valid while the owner is, and a closed descriptor's number may be given to another
// file at any time.
#ifndef GRPCFD_BORROWED_FD_H_
#define GRPCFD_BORROWED_FD_H_

#include <stdio.h>

#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// A descriptor number that is borrowed, never closed. Trivially copyable; thread-safe as an `int`
// is.
class BorrowedFd {
 public:
  // Borrows a raw number. Explicit: an int that means something else must not turn into a
  // descriptor.
  explicit constexpr BorrowedFd(int fd) noexcept : fd_(fd) {}

  // Borrows from an owner. Implicit, because nothing can be misunderstood.
  BorrowedFd(const UniqueFd& fd) noexcept : fd_(fd.get()) {}  // NOLINT(google-explicit-constructor)

  // Borrows a stdio stream's descriptor. The caller flushes first: bytes that still sit in the
  // stream's buffer are not in the file. A null stream, or one without a descriptor (fmemopen(3)),
  // gives an invalid view.
  explicit BorrowedFd(FILE* file) noexcept : fd_(file == nullptr ? -1 : ::fileno(file)) {}

  // Borrows from anything that names its descriptor `fd()` (a tun device class, say) or
  // `native_handle()` (sockets of Asio and the like).
  template <
      typename T, typename = decltype(std::declval<T&>().fd()),
      typename = std::enable_if_t<std::is_convertible_v<decltype(std::declval<T&>().fd()), int>>>
  explicit BorrowedFd(T& owner) : fd_(owner.fd()) {}
  template <typename T, typename = decltype(std::declval<T&>().native_handle()), typename = void,
            typename = std::enable_if_t<
                std::is_convertible_v<decltype(std::declval<T&>().native_handle()), int>>>
  explicit BorrowedFd(T& owner) : fd_(owner.native_handle()) {}

  // The number, or a negative one for "none".
  constexpr int get() const noexcept { return fd_; }
  constexpr bool valid() const noexcept { return fd_ >= 0; }

  // A new descriptor of the same open file, close-on-exec and numbered 3 or higher (so that it can
  // never pose as stdin, stdout or stderr; fcntl(2), F_DUPFD_CLOEXEC). INVALID_ARGUMENT if the view
  // is invalid or its descriptor closed; RESOURCE_EXHAUSTED at RLIMIT_NOFILE.
  absl::StatusOr<UniqueFd> Dup() const;

 private:
  int fd_;
};

}  // namespace grpcfd

#endif  // GRPCFD_BORROWED_FD_H_
