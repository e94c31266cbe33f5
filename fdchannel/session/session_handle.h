// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SessionHandle: the FdSession that callbacks and handlers get. It knows the session weakly: a
// program that keeps the handle must not keep the session's socket and all it holds.
#ifndef GRPCFD_FDCHANNEL_SESSION_SESSION_HANDLE_H_
#define GRPCFD_FDCHANNEL_SESSION_SESSION_HANDLE_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <utility>

#include "fdchannel/session/counters.h"
#include "fdchannel/session/scoped_indices.h"
#include "fdchannel/session/session.h"
#include "grpcfd/fd_session.h"

namespace grpcfd {
namespace internal {

// Thread-safe once Bind() was called.
class SessionHandle final : public FdSession {
 public:
  // `indices` are those of all that register in the session.
  SessionHandle(uint64_t id, PeerCredentials peer, std::shared_ptr<ScopedIndices> indices)
      : id_(id), peer_(std::move(peer)), indices_(std::move(indices)) {}
  // Call before sharing the handle. Apart from the constructor because the session's death
  // notice names the handle.
  void Bind(const std::shared_ptr<Session>& session) {
    session_ = session;
    counters_ = session->shared_counters();
  }

  uint64_t id() const override { return id_; }
  const PeerCredentials& peer() const override { return peer_; }
  bool alive() const override;
  using FdSession::Register;
  absl::StatusOr<SessionFd> RegisterFd(BorrowedFd fd, absl::Time deadline) override;
  absl::StatusOr<UniqueFd> DupFd(const InodeUrl& url) override;
  SessionStats Stats() const override { return ToSessionStats(counters_->Values()); }
  void Close(const std::string& reason) override;

 private:
  const uint64_t id_;
  const PeerCredentials peer_;
  const std::shared_ptr<ScopedIndices> indices_;
  std::weak_ptr<Session> session_;
  std::shared_ptr<Counters> counters_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SESSION_HANDLE_H_
