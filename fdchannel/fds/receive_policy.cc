// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/receive_policy.h"

#include <string>

#include "fdchannel/fds/fd_facts.h"

namespace grpcfd {
std::string ToString(FdType type) {
  switch (type) {
    case FdType::kRegularFile:
      return "regular file";
    case FdType::kDirectory:
      return "directory";
    case FdType::kSymlink:
      return "symbolic link";
    case FdType::kPipe:
      return "pipe";
    case FdType::kUnixSocket:
      return "unix socket";
    case FdType::kOtherSocket:
      return "socket";
    case FdType::kTerminal:
      return "terminal";
    case FdType::kCharDevice:
      return "character device";
    case FdType::kBlockDevice:
      return "block device";
    case FdType::kEpoll:
      return "epoll";
    case FdType::kAnonymous:
      return "anonymous file";
    case FdType::kUnknown:
      break;
  }
  return "file of unknown type";
}

std::string ToString(FdAccess access) {
  switch (access) {
    case FdAccess::kReadOnly:
      return "read-only";
    case FdAccess::kWriteOnly:
      return "write-only";
    case FdAccess::kReadWrite:
      return "read-write";
    case FdAccess::kPath:
      break;
  }
  return "O_PATH";
}

ReceivePolicy ReceivePolicy::Strict() {
  ReceivePolicy policy;
  policy
      .Refuse({FdType::kDirectory, FdType::kSymlink, FdType::kUnixSocket, FdType::kTerminal,
               FdType::kCharDevice, FdType::kBlockDevice, FdType::kEpoll, FdType::kUnknown})
      .RefuseAccess({FdAccess::kPath});
  return policy;
}

ReceivePolicy& ReceivePolicy::Accept(std::initializer_list<FdType> types) {
  for (const FdType type : types) types_ |= 1u << static_cast<unsigned>(type);
  return *this;
}

ReceivePolicy& ReceivePolicy::Refuse(std::initializer_list<FdType> types) {
  for (const FdType type : types) types_ &= ~(1u << static_cast<unsigned>(type));
  return *this;
}

ReceivePolicy& ReceivePolicy::AcceptOnly(std::initializer_list<FdType> types) {
  types_ = 0;
  return Accept(types);
}

ReceivePolicy& ReceivePolicy::AcceptAccess(std::initializer_list<FdAccess> modes) {
  for (const FdAccess mode : modes) access_ |= 1u << static_cast<unsigned>(mode);
  return *this;
}

ReceivePolicy& ReceivePolicy::RefuseAccess(std::initializer_list<FdAccess> modes) {
  for (const FdAccess mode : modes) access_ &= ~(1u << static_cast<unsigned>(mode));
  return *this;
}

ReceivePolicy& ReceivePolicy::RequireSeals(uint32_t seals) {
  seals_ = seals;
  return *this;
}

ReceivePolicy& ReceivePolicy::MaxFds(uint32_t count) {
  max_fds_ = count;
  return *this;
}

bool ReceivePolicy::accepts_all() const {
  return types_ == kAllTypes && access_ == kAllAccess && seals_ == 0 && max_fds_ == kNoMaximum;
}

absl::Status ReceivePolicy::Check(BorrowedFd fd, uint32_t index) const {
  auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  internal::FdFacts facts;
  internal::LookAt(fd, internal::LookFor(*this), &*dev_ino, &facts);
  return internal::Judge(*this, facts, index);
}

}  // namespace grpcfd
