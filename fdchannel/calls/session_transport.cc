// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/session_transport.h"

#include <utility>

#include "absl/types/span.h"
#include "fdchannel/wire/indices.h"

namespace grpcfd {
namespace internal {

std::vector<uint32_t> IndicesOf(const IndexedFds& fds) {
  std::vector<uint32_t> indices;
  indices.reserve(fds.size());
  for (const IndexedFd& fd : fds) indices.push_back(*fd.url.index());
  return indices;
}

std::vector<int> NumbersOf(const IndexedFds& fds) {
  std::vector<int> numbers;
  numbers.reserve(fds.size());
  for (const IndexedFd& fd : fds) numbers.push_back(fd.fd.get());
  return numbers;
}

CallMetadata SessionTransport::Metadata(uint32_t count, uint32_t holes) const {
  CallMetadata metadata;
  metadata.attempt = key().attempt;
  metadata.count = count;
  metadata.holes = holes;
  metadata.call_id = key().id;
  metadata.session_id = session_->id();
  metadata.token = session_->token();
  return metadata;
}

absl::Status SessionTransport::Send(const InodeUrl& url, BorrowedFd fd, UniqueFd* /*adopted*/,
                                    const WaitOptions& options) {
  // Sent before this returns, so no duplicate is needed to keep it open.
  const int number = fd.get();
  return session_->Send(key(), *url.index(), absl::MakeConstSpan(&number, 1), options);
}

absl::Status SessionTransport::SendAll(const IndexedFds& fds, const WaitOptions& options) {
  return session_->Send(key(), Indices(IndicesOf(fds)), NumbersOf(fds), options);
}

void SessionTransport::SendLater(IndexedFd fd, absl::Time deadline, StatusCallback done) {
  const uint32_t index = *fd.url.index();
  // The session waits with the number; the callback owns the descriptor.
  auto sending = std::make_shared<ReapedFd>(std::move(fd.fd));
  session_->SendAsync(key(), index, {sending->get()}, deadline,
                      [sending, done = std::move(done)](absl::Status status) {
                        sending->Close();
                        done(std::move(status));
                      });
}

}  // namespace internal
}  // namespace grpcfd
