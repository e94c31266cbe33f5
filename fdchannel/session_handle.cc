// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session_handle.h"

#include "absl/status/status.h"

namespace grpcfd {
namespace internal {

bool SessionHandle::alive() const {
  const auto session = session_.lock();
  return session != nullptr && session->alive();
}

absl::StatusOr<SessionFd> SessionHandle::Register(BorrowedFd fd, absl::Time deadline) {
  const auto session = session_.lock();
  if (session == nullptr) return absl::UnavailableError("the session has ended");
  return RegisterInSession(session, indices_.get(), fd, deadline);
}

absl::StatusOr<UniqueFd> SessionHandle::DupFd(const InodeUrl& url) {
  const auto session = session_.lock();
  if (session == nullptr) return absl::UnavailableError("the session has ended");
  return session->ReceiveScoped(url);
}

void SessionHandle::Close(const std::string& reason) {
  const auto session = session_.lock();
  if (session != nullptr) session->Kill(CloseCode::kRefused, absl::UnavailableError(reason));
}

}  // namespace internal
}  // namespace grpcfd
