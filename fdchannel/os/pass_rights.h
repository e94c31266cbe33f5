// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SO_PASSRIGHTS: whether peers may send descriptors to a socket at all.
//
// Why it exists: any process that can connect to a socket can leave descriptors in it, before the
// hello. They are charged to nobody here, and dropping them can block: the last close of a
// socket with SO_LINGER, or of a file in a FUSE mount, waits for the peer. Since Linux 6.16 a
// receiver can refuse them at the sender: switched off, sendmsg(2) with descriptors to it is EPERM.
// Sockets accepted from a listener inherit the setting, from the moment of connect(2) on (kernel
// facts, tests/fdchannel/kernel_facts_test.cc). So listeners have it off, and the two ends of a
// session, which the server makes itself, have it on.
//
// On older kernels descriptors that come with a hello are closed off the poller's thread, and the
// connection is cut.
#ifndef GRPCFD_FDCHANNEL_OS_PASS_RIGHTS_H_
#define GRPCFD_FDCHANNEL_OS_PASS_RIGHTS_H_

#include <sys/socket.h>

#include "grpcfd/borrowed_fd.h"

// Linux 6.16, include/uapi/asm-generic/socket.h. Debian 12's headers are older. parisc and sparc,
// which number socket options on their own, need their own headers.
#if !defined(SO_PASSRIGHTS) && !defined(__hppa__) && !defined(__sparc__)
#define SO_PASSRIGHTS 83
#endif

namespace grpcfd {
namespace internal {

enum class PassRights {
  kOff,
  kOn,
  kLeave,  // The kernel's default: on. For tests of what happens on kernels without the option.
};

// Sets it on a unix socket. False if this kernel does not have it: the socket takes descriptors
// then.
inline bool SetPassRights(BorrowedFd socket, PassRights rights) {
  if (rights == PassRights::kLeave) return false;
#ifdef SO_PASSRIGHTS
  const int value = rights == PassRights::kOn ? 1 : 0;
  return ::setsockopt(socket.get(), SOL_SOCKET, SO_PASSRIGHTS, &value, sizeof(value)) == 0;
#else
  return false;
#endif
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_PASS_RIGHTS_H_
