// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/client/fd_registry.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

absl::StatusOr<SessionFd> FdRegistry::Register(BorrowedFd fd, absl::Time deadline) {
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  auto copy = fd.Dup();
  if (!copy.ok()) return copy.status();
  const auto shared = std::make_shared<const UniqueFd>(*std::move(copy));
  const auto index = indices_->Next();
  if (!index.ok()) return index.status();
  std::shared_ptr<Session> session;
  uint64_t generation = 0;
  {
    MutexLock lock(&mutex_);
    if (entries_.size() >= limit_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the channel has max_session_fds = ", limit_,
                       " session-scoped descriptors: withdraw some, or raise the limit at both "
                       "ends"));
    }
    if (attached_) session = session_.lock();
    generation = generation_;
    Entry& entry = entries_[*index];
    entry.fd = shared;
    entry.sending = session != nullptr;
  }
  if (session != nullptr) {
    WaitOptions options;
    options.deadline = deadline;
    const absl::Status sent = session->SendScoped(*index, shared->get(), options);
    Sent(session, generation, *index, sent);
    if (!sent.ok() && !absl::IsUnavailable(sent)) {
      Withdraw(*index);
      return sent;
    }
    // A dead session is not an error: the next one gets it.
  }
  return SessionFd(InodeUrl::ForSession(*dev_ino, *index),
                   [weak = weak_from_this(), index = *index] {
                     if (auto self = weak.lock()) self->Withdraw(index);
                   });
}

void FdRegistry::Withdraw(uint32_t index) {
  Entry withdrawn;  // Closed without the lock.
  std::shared_ptr<Session> session;
  uint64_t generation = 0;
  bool attached = false;
  {
    MutexLock lock(&mutex_);
    const auto it = entries_.find(index);
    if (it == entries_.end()) return;
    if (it->second.sending) {
      it->second.withdrawn = true;
      return;
    }
    withdrawn = std::move(it->second);
    entries_.erase(it);
    generation = generation_;
    if (withdrawn.sent == generation) session = session_.lock();
    attached = attached_;
    // Others may not have had room.
    for (auto& [other, entry] : entries_) entry.failed = 0;
  }
  if (session == nullptr) return;
  session->WithdrawScoped(index);
  if (attached) SendUnsent(session, generation, absl::InfinitePast(), [](const absl::Status&) {});
}

void FdRegistry::Attach(const std::shared_ptr<Session>& session, absl::Time deadline, Done done) {
  uint64_t generation;
  std::vector<Entry> withdrawn;  // Closed without the lock.
  {
    MutexLock lock(&mutex_);
    generation = ++generation_;
    session_ = session;
    attached_ = false;
    // What was being sent to the session before this one is not being sent to this one.
    for (auto it = entries_.begin(); it != entries_.end();) {
      it->second.sending = false;
      if (it->second.withdrawn) {
        withdrawn.push_back(std::move(it->second));
        it = entries_.erase(it);
      } else {
        ++it;
      }
    }
  }
  SendUnsent(session, generation, deadline, std::move(done));
}

void FdRegistry::SendUnsent(const std::shared_ptr<Session>& session, uint64_t generation,
                            absl::Time deadline, Done done) {
  absl::Status status;
  while (!absl::IsUnavailable(status)) {
    uint32_t index = 0;
    std::shared_ptr<const UniqueFd> fd;
    {
      MutexLock lock(&mutex_);
      if (generation != generation_) break;  // A later session exists.
      auto it = entries_.begin();
      while (it != entries_.end() && (it->second.sent == generation || it->second.sending ||
                                      it->second.failed == generation)) {
        ++it;
      }
      if (it == entries_.end()) {
        // In the same step as the look: what is registered from here on is sent by Register().
        attached_ = true;
        break;
      }
      it->second.sending = true;
      index = it->first;
      fd = it->second.fd;
    }
    if (!session->TrySendScoped(index, fd->get(), &status)) {
      session->SendScopedAsync(index, fd->get(), deadline,
                               [self = shared_from_this(), session, generation, deadline, index, fd,
                                done = std::move(done)](absl::Status late) mutable {
                                 self->Sent(session, generation, index, late);
                                 if (absl::IsUnavailable(late)) return done(std::move(late));
                                 self->SendUnsent(session, generation, deadline, std::move(done));
                               });
      return;
    }
    Sent(session, generation, index, status);
  }
  done(absl::IsUnavailable(status) ? std::move(status) : absl::OkStatus());
}

void FdRegistry::Sent(const std::shared_ptr<Session>& session, uint64_t generation, uint32_t index,
                      const absl::Status& status) {
  Entry withdrawn;  // Closed without the lock.
  {
    MutexLock lock(&mutex_);
    const auto it = entries_.find(index);
    if (it == entries_.end() || generation != generation_) return;
    it->second.sending = false;
    (status.ok() ? it->second.sent : it->second.failed) = generation;
    if (!it->second.withdrawn) return;
    withdrawn = std::move(it->second);
    entries_.erase(it);
  }
  if (status.ok()) session->WithdrawScoped(index);
}

}  // namespace internal
}  // namespace grpcfd
