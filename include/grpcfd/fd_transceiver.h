// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdSender, FdReceiver, FdTransceiver: the descriptors of one call, seen from one end.
//
// Handlers and clients hold one: grpcfd::FromContext returns it, in the client for the calls it
// makes and in the server for the calls it serves. A URL names a descriptor; the descriptor travels
// beside the call, and is closed at the end of the call if nobody has taken it.
//
// The sender keeps the same open file as the receiver: the two share the file offset and
// O_NONBLOCK, and the sender can still write or truncate the file. See grpcfd/receive_policy.h and
// grpcfd/mapped_memory.h.
//
// The public methods are not virtual. Those that an implementation overrides are private and have
// names of their own, so a derived class hides nothing. Unit tests of a service use the mocks or
// the in-memory pair of grpcfd/testing.
#ifndef GRPCFD_FD_TRANSCEIVER_H_
#define GRPCFD_FD_TRANSCEIVER_H_

#include <fcntl.h>
#include <stdio.h>

#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/deadline.h"
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
//   FAILED_PRECONDITION the call cannot carry descriptors (any more): its request was sent, or its
//                       context is gone, say; the text says why
//   CANCELLED           the call was cancelled
//   ALREADY_EXISTS      on the in-band wire only: the connection has another open file of the inode
//   UNAVAILABLE         the session with the peer is gone
class FdSender {
 public:
  virtual ~FdSender() = default;

  // Sends a duplicate; the caller's descriptor stays open and the caller's. A UniqueFd that is not
  // moved comes here.
  absl::StatusOr<InodeUrl> SendFd(BorrowedFd fd) { return SendBorrowed(fd); }

  // Sends `fd` itself and closes it here once it is on its way, also if sending fails. No duplicate
  // is made. Needs std::move: SendFd(std::move(fd)).
  absl::StatusOr<InodeUrl> SendFd(UniqueFd&& fd) { return SendOwned(std::move(fd)); }

  // A bare number says neither who owns the descriptor nor who closes it.
  template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
  absl::StatusOr<InodeUrl> SendFd(T) {
    static_assert(!std::is_integral_v<T>,
                  "SendFd needs to know who owns the descriptor: SendFd(BorrowedFd(fd)) sends a "
                  "duplicate, SendFd(UniqueFd(fd)) gives it away");
    return absl::InvalidArgumentError("not reached");
  }

  // Opens `path`, symbolic links followed, with the open(2) flags `flags` and sends that. O_CLOEXEC
  // is added. With O_PATH, the default and what Go's grpcfd does, the peer gets a handle for the
  // file that cannot be read or written, but may be reopened through /proc/self/fd if the peer's
  // own rights allow. NOT_FOUND and PERMISSION_DENIED as open(2) says, before anything is sent.
  absl::StatusOr<InodeUrl> SendFilename(const std::string& path, int flags = O_PATH) {
    return SendPath(path, flags);
  }

  // Sends a duplicate of whatever BorrowedFd can borrow from: a FILE* (call fflush() first), a
  // socket class.
  template <typename T>
  absl::StatusOr<InodeUrl> SendFile(T&& file) {
    static_assert(std::is_lvalue_reference_v<T> || !std::is_same_v<T, UniqueFd>,
                  "SendFile sends a duplicate; to give a UniqueFd away call SendFd(std::move(fd))");
    // Not forwarded: a temporary lives long enough to be looked at.
    return SendFd(BorrowedFd(file));
  }

 private:
  virtual absl::StatusOr<InodeUrl> SendBorrowed(BorrowedFd fd) = 0;
  virtual absl::StatusOr<InodeUrl> SendOwned(UniqueFd fd) = 0;
  // Opens `path` and gives the descriptor to SendOwned.
  virtual absl::StatusOr<InodeUrl> SendPath(const std::string& path, int flags);
};

// Receives the descriptors that the peer of a call sent.
//
// Thread-safe. A received descriptor is close-on-exec and belongs to the caller. Errors of all
// methods:
//   INVALID_ARGUMENT    the URL cannot be parsed, or names another inode than the descriptor of
//                       that index has
//   NOT_FOUND           the peer can send no more, and this descriptor was not among what it sent
//   FAILED_PRECONDITION the descriptor was taken before, or the call has ended. In callback and
//                       completion queue servers, whose threads must not wait, also if it has not
//                       come and RecvFd or DupFd got no deadline: pass one, or call RecvFdAsync
//   DEADLINE_EXCEEDED   it did not come before the deadline
//   CANCELLED           the call was cancelled
//   PERMISSION_DENIED   the ReceivePolicy of this end refused it, and it was closed
//   RESOURCE_EXHAUSTED  it came but this process could not take it in (RLIMIT_NOFILE, or a limit of
//                       grpcfd)
//   UNAVAILABLE         the session with the peer is gone, or the descriptor was lost with an
//                       earlier one
class FdReceiver {
 public:
  // Called once, so it may own what it captures.
  using FdCallback = absl::AnyInvocable<void(absl::StatusOr<UniqueFd>)>;

  virtual ~FdReceiver() = default;

  // Takes the descriptor of `url`: a second RecvFd of it is FAILED_PRECONDITION. Waits for it until
  // `deadline` or the call's deadline, whichever is earlier; on a call without one until
  // SessionLimits::recv_timeout from now at the latest.
  //
  // The URL is a string as the message has it, or a parsed one. A (dev, ino) pair, as in Go's
  // grpcfd, stands for the URL without an index.
  absl::StatusOr<UniqueFd> RecvFd(const InodeUrl& url, Deadline deadline = Deadline::Infinite()) {
    return ReceiveFd(url, deadline.time());
  }
  absl::StatusOr<UniqueFd> RecvFd(const std::string& url, Deadline deadline = Deadline::Infinite());
  absl::StatusOr<UniqueFd> RecvFd(const DevIno& dev_ino, Deadline deadline = Deadline::Infinite()) {
    return ReceiveFd(InodeUrl(dev_ino), deadline.time());
  }

  // A duplicate of the descriptor of `url`, which stays to be taken. Waits as RecvFd does.
  absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url, Deadline deadline = Deadline::Infinite()) {
    return DuplicateFd(url, deadline.time());
  }
  absl::StatusOr<UniqueFd> DupFd(const std::string& url, Deadline deadline = Deadline::Infinite());
  absl::StatusOr<UniqueFd> DupFd(const DevIno& dev_ino, Deadline deadline = Deadline::Infinite()) {
    return DuplicateFd(InodeUrl(dev_ino), deadline.time());
  }

  // RecvFd without blocking: `done` is called once with the result, on a thread of grpcfd's (or on
  // the caller's, before this returns, if the descriptor or an error is at hand). It must not
  // block.
  void RecvFdAsync(const InodeUrl& url, Deadline deadline, FdCallback done) {
    ReceiveFdAsync(url, deadline.time(), std::move(done));
  }
  void RecvFdAsync(const InodeUrl& url, FdCallback done) {
    ReceiveFdAsync(url, absl::InfiniteFuture(), std::move(done));
  }
  void RecvFdAsync(const std::string& url, Deadline deadline, FdCallback done);
  void RecvFdAsync(const std::string& url, FdCallback done);

  // Takes the descriptor and opens it as a stdio stream; `mode` as for fdopen(3), so "w" does not
  // truncate and "a" sets O_APPEND on the open file that the sender shares. INVALID_ARGUMENT also
  // if `mode` is not one of fdopen's, before anything is taken, and if the descriptor's access mode
  // does not allow it (an O_PATH descriptor allows none); the descriptor is closed then.
  absl::StatusOr<UniqueFile> RecvFile(const std::string& url, const std::string& mode);
  absl::StatusOr<UniqueFile> RecvFile(const InodeUrl& url, const std::string& mode);

 private:
  virtual absl::StatusOr<UniqueFd> ReceiveFd(const InodeUrl& url, absl::Time deadline) = 0;
  virtual void ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) = 0;
  virtual absl::StatusOr<UniqueFd> DuplicateFd(const InodeUrl& url, absl::Time deadline) = 0;
};

// Both directions of one call.
class FdTransceiver : public FdSender, public FdReceiver {
 public:
  // OK if the call can carry descriptors, as far as is known now. If not, every method reports this
  // status, so it need not be asked for first.
  virtual absl::Status status() const { return absl::OkStatus(); }
};

}  // namespace grpcfd

#endif  // GRPCFD_FD_TRANSCEIVER_H_
