// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// CoreOf: what an FdServer or FdChannel is made of, for grpcfd's own parts. The public headers do
// not show it.
#ifndef GRPCFD_FDCHANNEL_FDS_CORE_ACCESS_H_
#define GRPCFD_FDCHANNEL_FDS_CORE_ACCESS_H_

namespace grpcfd {
namespace internal {

struct CoreAccess {
  template <typename Owner>
  static const auto& Of(const Owner& owner) {
    return owner.core_;
  }
};

// A std::shared_ptr of ServerCore or ChannelCore.
template <typename Owner>
const auto& CoreOf(const Owner& owner) {
  return CoreAccess::Of(owner);
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_FDS_CORE_ACCESS_H_
