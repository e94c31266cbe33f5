// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/client/fd_registry.h"

#include <algorithm>
#include <iterator>
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
  std::vector<std::pair<uint64_t, std::shared_ptr<Session>>> sessions;
  {
    MutexLock lock(&mutex_);
    if (entries_.size() >= limit_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the channel has max_session_fds = ", limit_,
                       " session-scoped descriptors: withdraw some, or raise the limit at both "
                       "ends"));
    }
    Entry& entry = entries_[*index];
    entry.fd = shared;
    for (auto& [number, attached] : sessions_) {
      auto session = attached.complete ? attached.session.lock() : nullptr;
      if (session == nullptr || !session->alive()) continue;
      attached.sending.insert(*index);
      ++entry.senders;
      sessions.emplace_back(number, std::move(session));
    }
  }
  absl::Status failure;
  for (const auto& [number, session] : sessions) {
    WaitOptions options;
    options.deadline = deadline;
    const absl::Status sent = session->SendScoped(*index, shared->get(), options);
    Sent(number, *index, sent);
    // A dead session is not an error: the next one gets it.
    if (!absl::IsUnavailable(sent)) failure.Update(sent);
  }
  if (!failure.ok()) {
    Withdraw(*index);
    return failure;
  }
  return SessionFd(InodeUrl::ForSession(*dev_ino, *index),
                   [weak = weak_from_this(), index = *index] {
                     if (auto self = weak.lock()) self->Withdraw(index);
                   });
}

void FdRegistry::Remove(uint32_t index, Removal* removal) {
  const auto it = entries_.find(index);
  removal->index = index;
  removal->entry = std::move(it->second);
  entries_.erase(it);
  for (auto& [number, attached] : sessions_) {
    // Others may not have had room.
    attached.failed.clear();
    if (attached.sent.erase(index) == 0) continue;
    if (auto session = attached.session.lock()) {
      removal->holders.emplace_back(number, std::move(session));
    }
  }
}

void FdRegistry::Finish(const Removal& removal) {
  for (const auto& [number, session] : removal.holders) {
    session->WithdrawScoped(removal.index);
    SendUnsent(session, number, absl::InfinitePast(), [](const absl::Status&) {});
  }
}

void FdRegistry::Withdraw(uint32_t index) {
  Removal removal;  // Closed without the lock.
  {
    MutexLock lock(&mutex_);
    const auto it = entries_.find(index);
    if (it == entries_.end()) return;
    if (it->second.senders != 0) {
      it->second.withdrawn = true;
      return;
    }
    Remove(index, &removal);
  }
  Finish(removal);
}

void FdRegistry::Attach(const std::shared_ptr<Session>& session, absl::Time deadline, Done done) {
  uint64_t number;
  {
    MutexLock lock(&mutex_);
    for (auto it = sessions_.begin(); it != sessions_.end();) {
      it = it->second.session.expired() ? sessions_.erase(it) : std::next(it);
    }
    number = ++last_number_;
    sessions_[number].session = session;
  }
  SendUnsent(session, number, deadline, std::move(done));
}

void FdRegistry::SendUnsent(const std::shared_ptr<Session>& session, uint64_t number,
                            absl::Time deadline, Done done) {
  absl::Status status;
  while (!absl::IsUnavailable(status)) {
    uint32_t index = 0;
    std::shared_ptr<const UniqueFd> fd;
    {
      MutexLock lock(&mutex_);
      Attached& attached = sessions_[number];
      const auto it = std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) {
        return !entry.second.withdrawn && attached.sent.count(entry.first) == 0 &&
               attached.sending.count(entry.first) == 0 && attached.failed.count(entry.first) == 0;
      });
      if (it == entries_.end()) {
        // In the same step as the look: what is registered from here on is sent by Register().
        attached.complete = true;
        break;
      }
      index = it->first;
      fd = it->second.fd;
      attached.sending.insert(index);
      ++it->second.senders;
    }
    if (!session->TrySendScoped(index, fd->get(), &status)) {
      session->SendScopedAsync(index, fd->get(), deadline,
                               [self = shared_from_this(), session, number, deadline, index, fd,
                                done = std::move(done)](absl::Status late) mutable {
                                 self->Sent(number, index, late);
                                 if (absl::IsUnavailable(late)) return done(std::move(late));
                                 self->SendUnsent(session, number, deadline, std::move(done));
                               });
      return;
    }
    Sent(number, index, status);
  }
  done(absl::IsUnavailable(status) ? std::move(status) : absl::OkStatus());
}

void FdRegistry::Sent(uint64_t number, uint32_t index, const absl::Status& status) {
  Removal removal;  // Closed without the lock.
  {
    MutexLock lock(&mutex_);
    const auto attached = sessions_.find(number);
    if (attached != sessions_.end()) {
      attached->second.sending.erase(index);
      (status.ok() ? attached->second.sent : attached->second.failed).insert(index);
    }
    const auto it = entries_.find(index);
    if (it == entries_.end() || --it->second.senders != 0 || !it->second.withdrawn) return;
    Remove(index, &removal);
  }
  Finish(removal);
}

}  // namespace internal
}  // namespace grpcfd
