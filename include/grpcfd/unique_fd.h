// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// UniqueFd: the one owner of an open file descriptor.
//
// Conversions are explicit: use valid() and get(). It does not convert to `int`, which would be a
// number that nobody owns, or to `bool`, for which -1 is true.
//
// close(2) is not retried after EINTR: on Linux the number is free again when it returns, whatever
// it returned, and a retry could close another file.
#ifndef GRPCFD_UNIQUE_FD_H_
#define GRPCFD_UNIQUE_FD_H_

#include <errno.h>
#include <unistd.h>

#include <utility>

namespace grpcfd {

// Owns at most one descriptor and closes it in its destructor.
//
// Thread-compatible: distinct objects may be used from distinct threads; one object needs the
// caller's own synchronisation, as an `int` would.
class UniqueFd {
 public:
  // Owns nothing.
  UniqueFd() noexcept = default;

  // Adopts `fd`: from here on this object closes it. A negative number means "nothing".
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}

  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(other.Release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;

  ~UniqueFd() { Reset(); }

  // The number, or -1. It stays owned by this object: do not close it, do not store it.
  int get() const noexcept { return fd_; }

  // Whether this object owns a descriptor.
  bool valid() const noexcept { return fd_ >= 0; }

  // Gives the descriptor away: the caller closes it from now on. Returns -1 if there was none.
  [[nodiscard]] int Release() noexcept { return std::exchange(fd_, -1); }

  // Closes what is owned, if anything, and adopts `fd`. Keeps errno. The result of close(2) is not
  // reported: call fsync(2) before if you need the deferred write errors of a file.
  void Reset(int fd = -1) noexcept {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) {
      const int saved_errno = errno;
      ::close(old);  // Never retried, see above.
      errno = saved_errno;
    }
  }

  friend void swap(UniqueFd& a, UniqueFd& b) noexcept { std::swap(a.fd_, b.fd_); }

 private:
  int fd_ = -1;
};

}  // namespace grpcfd

#endif  // GRPCFD_UNIQUE_FD_H_
