// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/fds/fd_facts.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "urls/statx.h"

// Linux 6.3, newer than Debian 12's headers: no change of the file's executable bits.
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

namespace grpcfd {
namespace internal {
namespace {

// Terminals by their major number (the kernel's Documentation/admin-guide/devices.txt): old and
// Unix98 pseudoterminals, consoles and serial lines, /dev/tty and /dev/ptmx, USB serial lines. What
// has a dynamic number counts as a character device.
bool IsTerminal(uint32_t major) {
  switch (major) {
    case 2:
    case 3:
    case 4:
    case 5:
    case 166:
    case 188:
    case 204:
      return true;
    default:
      return major >= 136 && major <= 143;
  }
}

FdType SocketType(BorrowedFd fd) {
  int domain = 0;
  socklen_t size = sizeof(domain);
  // An O_PATH handle of a socket *file* is not a socket to getsockopt(2), but a unix one's it is.
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) {
    return FdType::kUnixSocket;
  }
  return domain == AF_UNIX ? FdType::kUnixSocket : FdType::kOtherSocket;
}

// Eventfds, epolls and their like share one inode, whose mode has no type. Their names differ, and
// no file of a peer's making can have such a mode.
FdType AnonymousType(BorrowedFd fd) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd.get());
  char name[64];
  const ssize_t size = ::readlink(path, name, sizeof(name));
  if (size <= 0) return FdType::kUnknown;
  static constexpr char kEpollName[] = "anon_inode:[eventpoll]";
  return static_cast<size_t>(size) == sizeof(kEpollName) - 1 &&
                 memcmp(name, kEpollName, sizeof(kEpollName) - 1) == 0
             ? FdType::kEpoll
             : FdType::kAnonymous;
}

FdType TypeOf(BorrowedFd fd, unsigned look, const InodeFacts& inode) {
  const bool kind = (look & kLookKind) != 0;
  switch (inode.type) {
    case S_IFREG:
      return FdType::kRegularFile;
    case S_IFDIR:
      return FdType::kDirectory;
    case S_IFLNK:
      return FdType::kSymlink;
    case S_IFIFO:
      return FdType::kPipe;
    case S_IFBLK:
      return FdType::kBlockDevice;
    case S_IFCHR:
      return IsTerminal(inode.rdev_major) ? FdType::kTerminal : FdType::kCharDevice;
    case S_IFSOCK:
      return kind ? SocketType(fd) : FdType::kOtherSocket;
    case 0:
      return kind ? AnonymousType(fd) : FdType::kAnonymous;
    default:
      return FdType::kUnknown;
  }
}

FdAccess AccessOf(BorrowedFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0) return FdAccess::kPath;
  switch (flags & O_ACCMODE) {
    case O_RDONLY:
      return FdAccess::kReadOnly;
    case O_WRONLY:
      return FdAccess::kWriteOnly;
    default:
      return FdAccess::kReadWrite;
  }
}

}  // namespace

unsigned LookFor(const ReceivePolicy& policy) {
  unsigned look = kLookNothing;
  for (unsigned type = 0; type <= static_cast<unsigned>(FdType::kUnknown); ++type) {
    if (!PolicyRules::Accepts(policy, static_cast<FdType>(type))) look |= kLookType;
  }
  const bool epoll = PolicyRules::Accepts(policy, FdType::kEpoll);
  if (PolicyRules::Accepts(policy, FdType::kUnixSocket) !=
          PolicyRules::Accepts(policy, FdType::kOtherSocket) ||
      epoll != PolicyRules::Accepts(policy, FdType::kAnonymous) ||
      epoll != PolicyRules::Accepts(policy, FdType::kUnknown)) {
    look |= kLookKind;
  }
  for (unsigned access = 0; access <= static_cast<unsigned>(FdAccess::kPath); ++access) {
    if (!PolicyRules::Accepts(policy, static_cast<FdAccess>(access))) look |= kLookAccess;
  }
  if (PolicyRules::RequiredSeals(policy) != 0) look |= kLookType | kLookSeals;
  return look;
}

void LookAt(BorrowedFd fd, unsigned look, DevIno* dev_ino, FdFacts* facts) {
  *dev_ino = DevIno{};
  *facts = FdFacts();
  InodeFacts inode;
  if (!fd.valid() || StatxInode(fd.get(), "", AT_EMPTY_PATH, &inode) != 0) {
    facts->access = FdAccess::kPath;
    return;
  }
  *dev_ino = inode.dev_ino;
  if (look == kLookNothing) return;
  facts->type = TypeOf(fd, look, inode);
  if ((look & kLookAccess) != 0) facts->access = AccessOf(fd);
  if ((look & kLookSeals) != 0 && facts->type == FdType::kRegularFile) {
    const int seals = ::fcntl(fd.get(), F_GET_SEALS);
    facts->sealable = seals >= 0;
    facts->seals = seals < 0 ? 0 : static_cast<uint32_t>(seals);
  }
}

bool Accepts(const ReceivePolicy& policy, const FdFacts& facts, uint32_t index) {
  return index < PolicyRules::MaxFds(policy) && PolicyRules::Accepts(policy, facts.type) &&
         PolicyRules::Accepts(policy, facts.access) &&
         (facts.type != FdType::kRegularFile ||
          (facts.seals & PolicyRules::RequiredSeals(policy)) == PolicyRules::RequiredSeals(policy));
}

absl::Status Judge(const ReceivePolicy& policy, const FdFacts& facts, uint32_t index) {
  if (Accepts(policy, facts, index)) return absl::OkStatus();
  const std::string what = ToString(facts.type);
  if (index >= PolicyRules::MaxFds(policy)) {
    return absl::PermissionDeniedError(
        absl::StrFormat("the receive policy takes %d descriptors of a call (MaxFds), this is "
                        "number %d, counted from 0",
                        PolicyRules::MaxFds(policy), index));
  }
  if (!PolicyRules::Accepts(policy, facts.type)) {
    return absl::PermissionDeniedError(
        absl::StrCat("the receive policy refuses this type of file (Accept, Refuse): ", what));
  }
  if (!PolicyRules::Accepts(policy, facts.access)) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the receive policy refuses this access mode (AcceptAccess, RefuseAccess): ", what, ", ",
        ToString(facts.access)));
  }
  return absl::PermissionDeniedError(
      absl::StrCat("the receive policy requires the seals ",
                   SealNames(PolicyRules::RequiredSeals(policy)), " (RequireSeals), this ", what,
                   facts.sealable ? absl::StrCat(" has ", SealNames(facts.seals))
                                  : std::string(" cannot be sealed: it is no memfd")));
}

std::string SealNames(uint32_t seals) {
  static constexpr struct {
    uint32_t seal;
    const char* name;
  } kNames[] = {
      {F_SEAL_SEAL, "F_SEAL_SEAL"}, {F_SEAL_SHRINK, "F_SEAL_SHRINK"},
      {F_SEAL_GROW, "F_SEAL_GROW"}, {F_SEAL_WRITE, "F_SEAL_WRITE"},
      {F_SEAL_EXEC, "F_SEAL_EXEC"}, {F_SEAL_FUTURE_WRITE, "F_SEAL_FUTURE_WRITE"},
  };
  std::string names;
  for (const auto& known : kNames) {
    if ((seals & known.seal) == 0) continue;
    absl::StrAppend(&names, names.empty() ? "" : "|", known.name);
    seals &= ~known.seal;
  }
  if (seals != 0) absl::StrAppendFormat(&names, "%s0x%x", names.empty() ? "" : "|", seals);
  return names.empty() ? "none" : names;
}

}  // namespace internal
}  // namespace grpcfd
