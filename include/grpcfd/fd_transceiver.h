// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdSender, FdReceiver, FdTransceiver: the descriptors of one call, seen from one end.
//
// Why it exists: this is what handlers and clients hold. `grpcfd::FromContext` returns one, in the
// client for the calls it makes and in the server for the calls it serves. The classes are abstract
// so that a unit test of a service can hand in the mocks or the in-memory pair of grpcfd/testing.
//
// How people get it wrong:
//  * Treating a URL as the descriptor. A URL names it; the descriptor rides beside the call, and
//    whoever does not take it before the call ends finds it closed.
//  * Asking twice. RecvFd takes: the second RecvFd of one descriptor is FAILED_PRECONDITION. DupFd
//    copies and leaves.
//  * Mapping or trusting what arrived without a look. The sender keeps the same open file: it
//    shares the file offset and O_NONBLOCK, and can still write or truncate it.
//  * Implementing an interface and losing half of it. Each name is one pure virtual form and a few
//    convenient ones, and in C++ a member declared in a derived class hides every base member of
//    that name. Whoever calls through FdSender&, FdReceiver& or FdTransceiver& never notices; a
//    class that derives from them and is used under its own type writes
//        using FdSender::SendFilename;
//        using FdReceiver::DupFd;
//        using FdReceiver::RecvFd;
//        using FdReceiver::RecvFdAsync;
//    beside its overrides. The mocks of grpcfd/testing do.
#ifndef GRPCFD_FD_TRANSCEIVER_H_
#define GRPCFD_FD_TRANSCEIVER_H_

#include <fcntl.h>
#include <stdio.h>

#include <functional>
#include <memory>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// A FILE* that is closed with fclose(3).
struct FileCloser {
  void operator()(FILE* file) const { ::fclose(file); }
};
using UniqueFile = std::unique_ptr<FILE, FileCloser>;

// Sends descriptors to the peer of a call.
//
// Thread-safe. Every method returns the URL under which the peer finds the descriptor, its index
// included, or the error at once; after an error nothing was sent and nothing is kept. Errors of
// all methods:
//   INVALID_ARGUMENT    the descriptor is negative or closed, or the call already has its limit of
//                       descriptors (SessionLimits::max_fds_per_call). A client's call that was not
//                       made yet takes any number, and fails with this when it is made
//   RESOURCE_EXHAUSTED  the peer has not taken enough of what was sent before, until the call's
//                       deadline: in calls without one SessionLimits::recv_timeout from now, in
//                       callback and completion queue servers at once; or this process is at
//                       RLIMIT_NOFILE
//   FAILED_PRECONDITION the call cannot carry descriptors (any more); the text says why
//   CANCELLED           the call was cancelled while this waited for the peer to take some
//   ALREADY_EXISTS      on the in-band wire only: the connection has another open file of the inode
//   UNAVAILABLE         the session with the peer is gone
class FdSender {
 public:
  virtual ~FdSender() = default;

  // Sends a duplicate; the caller's descriptor stays open and the caller's. A UniqueFd that is not
  // moved comes here.
  virtual absl::StatusOr<InodeUrl> SendFd(BorrowedFd fd) = 0;

  // Sends `fd` itself and closes it here once it is on its way, also if sending fails. No duplicate
  // is made. Needs std::move: SendFd(std::move(fd)).
  virtual absl::StatusOr<InodeUrl> SendFd(UniqueFd&& fd) = 0;

  // Opens `path`, symbolic links followed, with the open(2) flags `flags` and sends that. O_CLOEXEC
  // is added. NOT_FOUND and PERMISSION_DENIED as open(2) says, before anything is sent.
  virtual absl::StatusOr<InodeUrl> SendFilename(const std::string& path, int flags) = 0;

  // The same with O_PATH, as in Go's grpcfd: the peer gets a handle for the file that cannot be
  // read or written, but may be reopened through /proc/self/fd if the peer's own rights allow.
  absl::StatusOr<InodeUrl> SendFilename(const std::string& path) {
    return SendFilename(path, O_PATH);
  }

  // Sends a duplicate of whatever BorrowedFd can borrow from: a FILE* (flushed by the caller), a
  // socket class.
  template <typename T>
  absl::StatusOr<InodeUrl> SendFile(T&& file) {
    static_assert(std::is_lvalue_reference_v<T> || !std::is_same_v<T, UniqueFd>,
                  "SendFile sends a duplicate; to give a UniqueFd away call SendFd(std::move(fd))");
    // Not forwarded: a temporary lives long enough to be looked at.
    return SendFd(BorrowedFd(file));
  }
};

// Receives the descriptors that the peer of a call sent.
//
// Thread-safe. A received descriptor is close-on-exec and belongs to the caller. Errors of all
// methods:
//   INVALID_ARGUMENT    the URL cannot be parsed, or names another inode than the descriptor of
//                       that index has
//   NOT_FOUND           the peer can send no more, and this descriptor was not among what it sent
//   FAILED_PRECONDITION the descriptor was taken before, or the call has ended
//   DEADLINE_EXCEEDED   it did not come before the deadline
//   CANCELLED           the call was cancelled
//   PERMISSION_DENIED   the ReceivePolicy of this end refused it, and it was closed
//   RESOURCE_EXHAUSTED  it came but this process could not take it in (RLIMIT_NOFILE, or a limit of
//                       grpcfd)
//   UNAVAILABLE         the session with the peer is gone, or the descriptor was lost with an
//                       earlier one
class FdReceiver {
 public:
  using FdCallback = std::function<void(absl::StatusOr<UniqueFd>)>;

  virtual ~FdReceiver() = default;

  // Takes the descriptor of `url`. Waits for it until `deadline` or the call's deadline, whichever
  // is earlier; on a call without one until SessionLimits::recv_timeout from now at the
  // latest.
  virtual absl::StatusOr<UniqueFd> RecvFd(const InodeUrl& url, absl::Time deadline) = 0;

  // The same, without blocking: `done` is called once with the result, on a thread of grpcfd's (or
  // on the caller's, before this returns, if the descriptor or an error is at hand). It must not
  // block.
  virtual void RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) = 0;

  // A duplicate of the descriptor of `url`, which stays to be taken. Waits as RecvFd does.
  virtual absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url, absl::Time deadline) = 0;

  // The forms for every day: the URL as the message has it, or a (dev, ino) pair as in Go's grpcfd,
  // which stands for the URL without an index; no deadline but the call's.
  absl::StatusOr<UniqueFd> RecvFd(const std::string& url,
                                  absl::Time deadline = absl::InfiniteFuture());
  absl::StatusOr<UniqueFd> RecvFd(const DevIno& dev_ino,
                                  absl::Time deadline = absl::InfiniteFuture());
  absl::StatusOr<UniqueFd> RecvFd(const InodeUrl& url);
  absl::StatusOr<UniqueFd> DupFd(const std::string& url,
                                 absl::Time deadline = absl::InfiniteFuture());
  absl::StatusOr<UniqueFd> DupFd(const DevIno& dev_ino,
                                 absl::Time deadline = absl::InfiniteFuture());
  absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url);
  void RecvFdAsync(const std::string& url, FdCallback done);
  void RecvFdAsync(const std::string& url, absl::Time deadline, FdCallback done);
  void RecvFdAsync(const InodeUrl& url, FdCallback done);

  // Takes the descriptor and opens it as a stdio stream; `mode` as for fdopen(3), so "w" does not
  // truncate and "a" sets O_APPEND on the open file that the sender shares. INVALID_ARGUMENT also
  // if `mode` is none of fdopen's, before anything is taken, and if the descriptor's access mode
  // does not allow it (an O_PATH descriptor allows none); the descriptor is closed then.
  absl::StatusOr<UniqueFile> RecvFile(const std::string& url, const std::string& mode);
  absl::StatusOr<UniqueFile> RecvFile(const InodeUrl& url, const std::string& mode);
};

// Both directions of one call.
class FdTransceiver : public FdSender, public FdReceiver {};

}  // namespace grpcfd

#endif  // GRPCFD_FD_TRANSCEIVER_H_
