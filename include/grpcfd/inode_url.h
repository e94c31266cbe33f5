// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Inode URLs: `inode://{dev}/{ino}[?fd={index}|?session={index}]`, the name a descriptor has in
// messages and metadata.
//
// Protobuf messages carry strings, not descriptors: the sender puts the URL into the message, and
// the receiver asks for the descriptor of that URL. The form is that of Go's grpcfd, and Go ignores
// the query, so both sides can read each other's URLs.
//
// (dev, ino) is a name, not an identity. All eventfds of a machine share one inode (so do epolls,
// timerfds and signalfds), both ends of a pipe have the same, and so have a read-only and a
// read-write open of one file. The index tells them apart: it counts the descriptors of one call
// and direction from 0. A URL without an index means the lowest one of that inode that has not been
// taken yet.
#ifndef GRPCFD_INODE_URL_H_
#define GRPCFD_INODE_URL_H_

#include <stdint.h>
#include <stdio.h>

#include <optional>
#include <ostream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"

namespace grpcfd {

// What fstat(2) calls st_dev and st_ino: names a file on this host, while it is held open.
struct DevIno {
  uint64_t dev = 0;
  uint64_t ino = 0;

  friend bool operator==(const DevIno& a, const DevIno& b) {
    return a.dev == b.dev && a.ino == b.ino;
  }
  friend bool operator!=(const DevIno& a, const DevIno& b) { return !(a == b); }
  friend bool operator<(const DevIno& a, const DevIno& b) {
    return a.dev != b.dev ? a.dev < b.dev : a.ino < b.ino;
  }
  template <typename H>
  friend H AbslHashValue(H h, const DevIno& d) {
    return H::combine(std::move(h), d.dev, d.ino);
  }
};

// A parsed inode URL. A plain value: thread-compatible, copyable.
class InodeUrl {
 public:
  // inode://0/0, which names no descriptor.
  InodeUrl() = default;
  explicit InodeUrl(DevIno dev_ino) : dev_ino_(dev_ino) {}
  InodeUrl(DevIno dev_ino, uint32_t index) : dev_ino_(dev_ino), index_(index) {}

  // Names a session-scoped descriptor: one that was registered for many calls
  // (grpcfd/fd_session.h).
  static InodeUrl ForSession(DevIno dev_ino, uint32_t session_index) {
    InodeUrl url(dev_ino);
    url.session_index_ = session_index;
    return url;
  }

  // Parses `url`. The scheme is matched without regard to case, leading zeros are accepted, and
  // query parameters other than `fd` and `session`, as well as a fragment, are ignored. There is at
  // most one of these two. INVALID_ARGUMENT, with the input quoted (its first 256 bytes, if longer)
  // and what was expected, for everything else. What is accepted here, Go's parser accepts too.
  static absl::StatusOr<InodeUrl> Parse(const std::string& url);

  const DevIno& dev_ino() const { return dev_ino_; }
  uint64_t dev() const { return dev_ino_.dev; }
  uint64_t ino() const { return dev_ino_.ino; }

  // The position among the descriptors of one call and direction, counted from 0, if the URL names
  // it.
  const std::optional<uint32_t>& index() const { return index_; }

  // The position among the session-scoped descriptors of one session and direction, if the URL
  // names it.
  const std::optional<uint32_t>& session_index() const { return session_index_; }

  // Whether the URL means one descriptor and no other: it has an index of either kind.
  bool has_index() const { return index_.has_value() || session_index_.has_value(); }

  // `inode://{dev}/{ino}`, with `?fd={index}` or `?session={index}` if there is one. Parse() reads
  // it back as an equal value.
  std::string ToString() const;

  friend bool operator==(const InodeUrl& a, const InodeUrl& b) {
    return a.dev_ino_ == b.dev_ino_ && a.index_ == b.index_ && a.session_index_ == b.session_index_;
  }
  friend bool operator!=(const InodeUrl& a, const InodeUrl& b) { return !(a == b); }
  friend std::ostream& operator<<(std::ostream& out, const InodeUrl& url) {
    return out << url.ToString();
  }

 private:
  DevIno dev_ino_;
  std::optional<uint32_t> index_;
  std::optional<uint32_t> session_index_;
};

// The (dev, ino) of an open descriptor, by statx(2) with AT_EMPTY_PATH | AT_STATX_DONT_SYNC: the
// numbers of fstat(2), but a file on a network file system cannot make it wait. INVALID_ARGUMENT
// for a negative or closed number.
absl::StatusOr<DevIno> FdToDevIno(BorrowedFd fd);

// The URL, without an index, of an open descriptor. Errors as FdToDevIno. The URL alone keeps
// nothing open.
absl::StatusOr<InodeUrl> FdToUrl(BorrowedFd fd);

// The URL of anything that BorrowedFd can borrow from: a FILE*, a socket class. Errors as
// FdToDevIno.
template <typename T>
absl::StatusOr<InodeUrl> FileToUrl(T&& file) {
  // Not forwarded: a temporary lives long enough to be looked at.
  return FdToUrl(BorrowedFd(file));
}

// The URL of the file a path leads to, symbolic links followed. NOT_FOUND if there is none,
// PERMISSION_DENIED if a directory on the way may not be searched, INVALID_ARGUMENT for other
// failures of the path (a file where a directory should be, a loop of links, too long, empty, a NUL
// byte in it).
absl::StatusOr<InodeUrl> FilenameToUrl(const std::string& path);

// The (dev, ino) part of a URL, for code ported from Go.
DevIno UrlToDevIno(const InodeUrl& url);

// Parses `url` and returns its (dev, ino) part. Errors as InodeUrl::Parse.
absl::StatusOr<DevIno> UrlStringToDevIno(const std::string& url);

}  // namespace grpcfd

#endif  // GRPCFD_INODE_URL_H_
