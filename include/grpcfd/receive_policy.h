// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// ReceivePolicy: which descriptors this process is prepared to receive.
//
// The peer chooses what it sends. A directory, or an O_PATH handle of one, leads out of a chroot or
// a mount namespace; a read-only file can be one that blocks for ever; a device can do things when
// it is merely opened; a unix socket or an epoll can build cycles that only the kernel's garbage
// collector finds. The policy decides before the application sees a descriptor: a refused one is
// closed, and asking for it is PERMISSION_DENIED with a text that names the rule, the type that
// came and the peer. The other descriptors of the call are not affected.
//
// The default accepts everything, as Go's grpcfd does, and costs nothing. Strict() is for servers
// that take files, memory, pipes and events from peers they do not trust.
//
// What a policy cannot tell:
//  * A read-only descriptor of a memfd can be opened for writing through /proc/self/fd; only seals
//    hold. Use RequireSeals().
//  * The sender can still write while the content is checked. See grpcfd/mapped_memory.h.
//  * A regular file need not be on a disk: files of procfs and FUSE mounts are regular files, and
//    a read of one in a FUSE mount may wait for the peer. For shared memory require seals, since
//    only memfds have them.
#ifndef GRPCFD_RECEIVE_POLICY_H_
#define GRPCFD_RECEIVE_POLICY_H_

#include <stdint.h>

#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "grpcfd/borrowed_fd.h"

namespace grpcfd {

namespace internal {
struct PolicyRules;
}  // namespace internal

// What kind of file a descriptor stands for, as the kernel says.
enum class FdType : uint8_t {
  kRegularFile = 0,  // Files, and memfds.
  kDirectory = 1,
  kSymlink = 2,      // Only as an O_PATH handle.
  kPipe = 3,         // Either end of a pipe, or a FIFO.
  kUnixSocket = 4,   // Also an O_PATH handle of a socket file.
  kOtherSocket = 5,  // TCP, UDP, netlink, vsock, ...
  kTerminal = 6,     // A character device whose major number belongs to terminals.
  kCharDevice = 7,   // Any other.
  kBlockDevice = 8,
  kEpoll = 9,
  kAnonymous = 10,  // Eventfds, timerfds, signalfds, pidfds, dma-bufs, inotify, KVM, ...
  kUnknown = 11,    // The kernel did not say: no /proc to tell an epoll by, say.
};

// "directory", "unix socket", ...
std::string ToString(FdType type);

// What may be done with a descriptor, by the flags that it was opened with.
enum class FdAccess : uint8_t {
  kReadOnly = 0,
  kWriteOnly = 1,
  kReadWrite = 2,  // Also access mode 3, which some drivers take for "ioctl only" (open(2)).
  kPath = 3,       // O_PATH: no I/O, but reopening and *at() calls.
};

// "read-only", "O_PATH", ...
std::string ToString(FdAccess access);

// Rules, each of which a descriptor must pass. A value: copied into the options of an FdServer or
// an FdChannel. Methods that change it return it, so that they can be chained:
//
//   options.receive_policy = ReceivePolicy::Strict().MaxFds(4);
//   options.method_policies["/app.Frames/Push"] =
//       ReceivePolicy().AcceptOnly({FdType::kRegularFile}).RequireSeals(F_SEAL_SHRINK);
//
// Cost: nothing for a policy that accepts all; otherwise, for each descriptor that arrives,
// fcntl(F_GETFL) if access modes matter, F_GET_SEALS if seals do and it is a regular file,
// getsockopt(SO_DOMAIN) for sockets and a readlink(2) in /proc/self/fd for anonymous files if their
// kinds are told apart. Its type comes from the statx(2) that is made in any case. None of these
// can block, whatever file the peer sends.
//
// Thread-compatible.
class ReceivePolicy {
 public:
  // Accepts everything.
  ReceivePolicy() = default;

  // Refuses directories, symbolic links, unix sockets, terminals, character and block devices,
  // epolls, what the kernel cannot name, and O_PATH handles of anything. What is left: regular
  // files and memfds, pipes, other sockets, eventfds and their like.
  static ReceivePolicy Strict();

  ReceivePolicy& Accept(std::initializer_list<FdType> types);
  ReceivePolicy& Refuse(std::initializer_list<FdType> types);
  // Accepts these and no others.
  ReceivePolicy& AcceptOnly(std::initializer_list<FdType> types);

  ReceivePolicy& AcceptAccess(std::initializer_list<FdAccess> modes);
  ReceivePolicy& RefuseAccess(std::initializer_list<FdAccess> modes);

  // Regular files must have at least these F_SEAL_* (fcntl(2)); 0 asks for none. What cannot be
  // sealed is refused if it is a regular file; other types are not judged by this rule.
  ReceivePolicy& RequireSeals(uint32_t seals);

  // Of one call and direction at most `count` descriptors, those with the lowest indexes; 0 means
  // that the call may bring none. The limits of grpcfd/limits.h hold besides.
  ReceivePolicy& MaxFds(uint32_t count);

  // Whether no descriptor at all is refused.
  bool accepts_all() const;

  // Whether this policy takes `fd` as descriptor number `index` of a call, for descriptors that
  // came some other way. PERMISSION_DENIED with the rule and the type; INVALID_ARGUMENT if `fd` is
  // negative or closed.
  absl::Status Check(BorrowedFd fd, uint32_t index = 0) const;

  // Whether the rules are the same.
  friend bool operator==(const ReceivePolicy& a, const ReceivePolicy& b) {
    return a.types_ == b.types_ && a.access_ == b.access_ && a.seals_ == b.seals_ &&
           a.max_fds_ == b.max_fds_;
  }

 private:
  friend struct internal::PolicyRules;
  static constexpr uint32_t kAllTypes = (1u << (static_cast<unsigned>(FdType::kUnknown) + 1)) - 1;
  static constexpr uint32_t kAllAccess = (1u << (static_cast<unsigned>(FdAccess::kPath) + 1)) - 1;
  static constexpr uint32_t kNoMaximum = 0xffffffff;

  uint32_t types_ = kAllTypes;
  uint32_t access_ = kAllAccess;
  uint32_t seals_ = 0;
  uint32_t max_fds_ = kNoMaximum;
};

}  // namespace grpcfd

#endif  // GRPCFD_RECEIVE_POLICY_H_
