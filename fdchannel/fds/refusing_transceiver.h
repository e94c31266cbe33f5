// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// RefusingTransceiver: the descriptors of a call that cannot carry any. Each method reports why, so
// a handler needs no check of its own before it asks.
#ifndef GRPCFD_FDCHANNEL_FDS_REFUSING_TRANSCEIVER_H_
#define GRPCFD_FDCHANNEL_FDS_REFUSING_TRANSCEIVER_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
class RefusingTransceiver final : public FdTransceiver {
 public:
  // `why` is not OK.
  explicit RefusingTransceiver(absl::Status why) : why_(std::move(why)) {}

  absl::Status status() const override { return why_; }

 private:
  absl::StatusOr<InodeUrl> SendBorrowed(BorrowedFd) override { return why_; }
  absl::StatusOr<InodeUrl> SendOwned(UniqueFd) override { return why_; }
  // Opens nothing.
  absl::StatusOr<InodeUrl> SendPath(const std::string&, int) override { return why_; }
  absl::StatusOr<UniqueFd> ReceiveFd(const InodeUrl&, absl::Time) override { return why_; }
  void ReceiveFdAsync(const InodeUrl&, absl::Time, FdCallback done) override { done(why_); }
  absl::StatusOr<UniqueFd> DuplicateFd(const InodeUrl&, absl::Time) override { return why_; }

  const absl::Status why_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_FDS_REFUSING_TRANSCEIVER_H_
