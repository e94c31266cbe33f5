// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdFacts: what a ReceivePolicy judges a descriptor by. Looking (system calls, outside all locks)
// and judging (a comparison, under the session's lock, once the call and so its policy are known)
// are apart, because descriptors may come before the RPC whose method decides.
//
// Why that leaves no gap: none of these facts can change to the worse in between. Type and access
// mode belong to the open file, and seals are only ever added (fcntl(2), F_ADD_SEALS).
//
// Nothing here may block, whatever file a peer sends: no ioctl(2) to a device (isatty(3) is one,
// and a character device may be served by a process, through CUSE), no statfs(2), no fstat(2) but
// where a sandbox refuses statx(2) (urls/statx.h).
#ifndef GRPCFD_FDCHANNEL_FDS_FD_FACTS_H_
#define GRPCFD_FDCHANNEL_FDS_FD_FACTS_H_

#include <stdint.h>

#include <string>

#include "absl/status/status.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/receive_policy.h"

namespace grpcfd {
namespace internal {

// The rules of a policy.
struct PolicyRules {
  static bool Accepts(const ReceivePolicy& policy, FdType type) {
    return (policy.types_ >> static_cast<unsigned>(type) & 1u) != 0;
  }
  static bool Accepts(const ReceivePolicy& policy, FdAccess access) {
    return (policy.access_ >> static_cast<unsigned>(access) & 1u) != 0;
  }
  static uint32_t RequiredSeals(const ReceivePolicy& policy) { return policy.seals_; }
  static uint32_t MaxFds(const ReceivePolicy& policy) { return policy.max_fds_; }
};

struct FdFacts {
  FdType type = FdType::kUnknown;
  FdAccess access = FdAccess::kReadWrite;
  bool sealable = false;
  uint32_t seals = 0;
};

// What to find out. kLookNothing is for policies that accept all: only device and inode.
enum FdLook : unsigned {
  kLookNothing = 0,
  kLookType = 1,  // Type as far as statx(2) knows.
  kLookKind = 2,  // Also which socket, which anonymous file. Implies kLookType.
  kLookAccess = 4,
  kLookSeals = 8,
};

// What a policy needs to know, as a set of FdLook.
unsigned LookFor(const ReceivePolicy& policy);

// One statx(2), and what else `look` asks for. `*dev_ino` is {0, 0} and the type kUnknown if the
// kernel refuses even that.
void LookAt(BorrowedFd fd, unsigned look, DevIno* dev_ino, FdFacts* facts);

// OK, or PERMISSION_DENIED, saying which rule refuses descriptor `index` and what it is.
absl::Status Judge(const ReceivePolicy& policy, const FdFacts& facts, uint32_t index);
// The same without a text.
bool Accepts(const ReceivePolicy& policy, const FdFacts& facts, uint32_t index);

// "F_SEAL_SHRINK|F_SEAL_GROW", or "none".
std::string SealNames(uint32_t seals);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_FDS_FD_FACTS_H_
