// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/session_handle.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {
namespace {

absl::Status Ended(uint64_t id, const PeerCredentials& peer) {
  // A client asks who its server is only if its program wants to know.
  const std::string with = peer.uid == static_cast<uid_t>(-1)
                               ? std::string()
                               : absl::StrCat(" with pid ", peer.pid, ", uid ", peer.uid);
  return absl::UnavailableError(
      absl::StrCat("session ", id, with, " has ended; a new call gets a new one"));
}

}  // namespace

bool SessionHandle::alive() const {
  const auto session = session_.lock();
  return session != nullptr && session->alive();
}

absl::StatusOr<SessionFd> SessionHandle::RegisterFd(BorrowedFd fd, absl::Time deadline) {
  const auto session = session_.lock();
  if (session == nullptr) return Ended(id_, peer_);
  return RegisterInSession(session, indices_.get(), fd, deadline);
}

absl::StatusOr<UniqueFd> SessionHandle::DupFd(const InodeUrl& url) {
  const auto session = session_.lock();
  if (session == nullptr) return Ended(id_, peer_);
  return session->ReceiveScoped(url);
}

void SessionHandle::Close(const std::string& reason) {
  const auto session = session_.lock();
  if (session != nullptr) session->Kill(CloseCode::kRefused, absl::UnavailableError(reason));
}

}  // namespace internal
}  // namespace grpcfd
