// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// DescriptorQuota: who pays for the descriptors that a session holds. A server's sessions have an
// account of their user (fdchannel/server/quota.h); a client's have none.
#ifndef GRPCFD_FDCHANNEL_SESSION_DESCRIPTOR_QUOTA_H_
#define GRPCFD_FDCHANNEL_SESSION_DESCRIPTOR_QUOTA_H_

#include <stddef.h>

#include "absl/status/status.h"

namespace grpcfd {
namespace internal {

// Thread-safe. Called under session locks, so it must not call back.
class DescriptorQuota {
 public:
  virtual ~DescriptorQuota() = default;
  // RESOURCE_EXHAUSTED, naming the limit, if `n` more are too many.
  virtual absl::Status Charge(size_t n) = 0;
  virtual void Release(size_t n) = 0;
  // Charges as many of `n` as there is room for, as far as halving finds it; returns how many.
  size_t ChargeUpTo(size_t n) {
    while (n != 0 && !Charge(n).ok()) n /= 2;
    return n;
  }
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_DESCRIPTOR_QUOTA_H_
