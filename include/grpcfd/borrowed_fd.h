// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// BorrowedFd: a view of a descriptor that has another owner.
//
// A function that takes a BorrowedFd looks at the descriptor or duplicates it, and leaves it open:
// it stays the caller's. One that takes a UniqueFd&& takes the descriptor over.
//
// A BorrowedFd is a parameter type: it is valid while the owner is. The number of a closed
// descriptor may be given to another file at any time, so do not store one.
#ifndef GRPCFD_BORROWED_FD_H_
#define GRPCFD_BORROWED_FD_H_

#include <stdio.h>

#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

namespace internal {

// Whether `T` has an fd(), or a native_handle(), that returns a number.
template <typename T, typename = void>
struct HasFd : std::false_type {};
template <typename T>
struct HasFd<T, std::enable_if_t<std::is_convertible_v<decltype(std::declval<T&>().fd()), int>>>
    : std::true_type {};
template <typename T, typename = void>
struct HasNativeHandle : std::false_type {};
template <typename T>
struct HasNativeHandle<
    T, std::enable_if_t<std::is_convertible_v<decltype(std::declval<T&>().native_handle()), int>>>
    : std::true_type {};

}  // namespace internal

// A descriptor number that is borrowed, never closed. Trivially copyable; thread-safe as an `int`
// is.
class BorrowedFd {
 public:
  // Borrows a raw number. Explicit: an int that means something else must not turn into a
  // descriptor.
  explicit constexpr BorrowedFd(int fd) noexcept : fd_(fd) {}

  // Borrows from an owner.
  BorrowedFd(const UniqueFd& fd) noexcept : fd_(fd.get()) {}  // NOLINT(google-explicit-constructor)

  // Borrows a stdio stream's descriptor. Call fflush() first: bytes that are still in the stream's
  // buffer are not in the file. A null stream, or one without a descriptor (fmemopen(3)),
  // gives an invalid view.
  explicit BorrowedFd(FILE* file) noexcept : fd_(file == nullptr ? -1 : ::fileno(file)) {}

  // Borrows from anything that names its descriptor `fd()` (a tun device class, say) or
  // `native_handle()` (sockets of Asio and the like). fd() is used if there are both.
  template <typename T, std::enable_if_t<internal::HasFd<T>::value, int> = 0>
  explicit BorrowedFd(T& owner) : fd_(owner.fd()) {}
  template <
      typename T,
      std::enable_if_t<!internal::HasFd<T>::value && internal::HasNativeHandle<T>::value, int> = 0>
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
