// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/peer_credentials.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

// Linux 6.5. Debian 12's headers are older than the kernels that its containers run on, so the
// number is given here and the running kernel is asked. parisc and sparc, which number socket
// options on their own, have their own headers.
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace grpcfd {
namespace {

absl::Status NotAPeer(const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(
      "peer credentials need a connected unix socket, got ", what, "; refuse this peer"));
}

}  // namespace

bool PeerCredentials::HasExited() const {
  if (!pidfd.valid()) return false;
  pollfd entry = {pidfd.get(), POLLIN, 0};  // Readable once the process has ended (pidfd_open(2)).
  int ready;
  do {
    ready = ::poll(&entry, 1, /*timeout=*/0);
  } while (ready < 0 && errno == EINTR);
  return ready > 0 && (entry.revents & (POLLIN | POLLHUP)) != 0;
}

absl::StatusOr<PeerCredentials> PeerCredentials::Dup() const {
  PeerCredentials copy;
  copy.uid = uid;
  copy.gid = gid;
  copy.pid = pid;
  if (pidfd.valid()) {
    auto duplicate = BorrowedFd(pidfd).Dup();
    if (!duplicate.ok()) return duplicate.status();
    copy.pidfd = *std::move(duplicate);
  }
  return copy;
}

absl::StatusOr<PeerCredentials> GetPeerCredentials(BorrowedFd socket, PidfdMode mode) {
  // SO_PEERCRED alone tells too little: it succeeds on TCP sockets, with uid -1, and on a listening
  // socket, where it names the listener itself.
  int domain = 0;
  socklen_t size = sizeof(domain);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) {
    const int error = errno;
    return NotAPeer(absl::ErrnoToStatus(error, "SO_DOMAIN").ToString());
  }
  if (domain != AF_UNIX) return NotAPeer(absl::StrCat("a socket of address family ", domain));
  sockaddr_storage address;
  size = sizeof(address);
  if (::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    const int error = errno;
    return NotAPeer(absl::ErrnoToStatus(error, "getpeername").ToString());
  }
  ucred credentials;
  size = sizeof(credentials);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    const int error = errno;
    return NotAPeer(absl::ErrnoToStatus(error, "SO_PEERCRED").ToString());
  }
  PeerCredentials peer;
  if (size != sizeof(credentials) || credentials.uid == peer.uid) {
    // A datagram socket that was connected, not made as a pair: the kernel has frozen no one's
    // identity.
    return NotAPeer("a socket whose peer the kernel does not know");
  }
  peer.uid = credentials.uid;
  peer.gid = credentials.gid;
  peer.pid = credentials.pid;
  if (mode == PidfdMode::kNone) return peer;

  int pidfd = -1;
  size = sizeof(pidfd);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0) {
    peer.pidfd.Reset(pidfd);  // Close-on-exec from birth, as every pidfd.
    return peer;
  }
  const int error = errno;
  switch (error) {
    case ENOPROTOOPT:  // Before Linux 6.5.
    case EINVAL:       // Some kernels: the peer was reaped before anybody asked for a pidfd.
    case ESRCH:        // The same, elsewhere.
    case ENODATA:      // No pid was recorded.
      return peer;
    default:
      return absl::ErrnoToStatus(error,
                                 "SO_PEERPIDFD of a connected unix socket; refuse this peer");
  }
}

}  // namespace grpcfd
