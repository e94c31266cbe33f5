// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A user's program with a schema that imports grpcfd/v1/descriptor.proto.

#include <stdio.h>

#include "consumer.pb.h"
#include "grpcfd/message.h"

namespace {

// Where nothing can be sent or received.
class Nowhere final : public grpcfd::FdTransceiver {
 private:
  absl::StatusOr<grpcfd::InodeUrl> SendBorrowed(grpcfd::BorrowedFd fd) override {
    return grpcfd::FdToUrl(fd);
  }
  absl::StatusOr<grpcfd::InodeUrl> SendOwned(grpcfd::UniqueFd fd) override {
    return grpcfd::FdToUrl(fd);
  }
  absl::StatusOr<grpcfd::UniqueFd> ReceiveFd(const grpcfd::InodeUrl&, absl::Time) override {
    return absl::UnavailableError("nowhere");
  }
  absl::StatusOr<grpcfd::UniqueFd> DuplicateFd(const grpcfd::InodeUrl&, absl::Time) override {
    return absl::UnavailableError("nowhere");
  }
  void ReceiveFdAsync(const grpcfd::InodeUrl&, absl::Time, FdCallback done) override {
    done(absl::UnavailableError("nowhere"));
  }
};

}  // namespace

int main() {
  Nowhere nowhere;
  consumer::Request request;
  request.set_config("file:///dev/null");
  const absl::Status attached =
      grpcfd::Attach(nowhere, grpcfd::BorrowedFd(stderr), request.mutable_memory());
  const absl::Status all = grpcfd::AttachAll(nowhere, &request);
  printf("%s\n", request.ShortDebugString().c_str());
  const absl::Status taken = grpcfd::TakeAll(nowhere, request).status();
  return attached.ok() && all.ok() && request.config().rfind("inode://", 0) == 0 &&
                 absl::IsUnavailable(taken)
             ? 0
             : 1;
}
