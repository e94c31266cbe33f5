// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/server/quota.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "fdchannel/session/in_flight.h"

namespace grpcfd {
namespace internal {
namespace {

// A session's socket, its pidfd, and the eventfd that wakes a blocked reader.
constexpr uint64_t kFdsPerSession = 3;
// The listener's socket, epoll, eventfd, and room to accept one connection.
constexpr uint64_t kFdsOfServer = 8;
// RLIMIT_NOFILE may be "unlimited" or a billion; the shares taken of it need not be.
constexpr uint64_t kMostDescriptors = 1 << 20;

// All that the limits let a server hold.
uint64_t Sum(const ServerLimits& limits) {
  return uint64_t{limits.max_fds_total} + kFdsPerSession * limits.max_sessions +
         limits.max_half_open + kFdsOfServer;
}

// Replaces every 0 by what it stands for.
void FillIn(uint64_t nofile, ServerLimits* filled) {
  ServerLimits& limits = *filled;
  const uint64_t room = std::min(nofile, kMostDescriptors);
  if (limits.max_fds_total == 0) {
    limits.max_fds_total = static_cast<uint32_t>(std::max<uint64_t>(1, room / 4));
  }
  if (limits.max_sessions == 0) {
    limits.max_sessions = static_cast<uint32_t>(std::max<uint64_t>(1, room / 8));
  }
  if (limits.max_sessions_per_uid == 0) {
    limits.max_sessions_per_uid = limits.max_sessions - limits.max_sessions / 2;
  }
  if (limits.max_connections_per_uid == 0) {
    limits.max_connections_per_uid = static_cast<uint32_t>(std::max<uint64_t>(4, room / 5 * 2));
  }
  if (limits.max_fds_in_flight == 0) {
    // Each session's own socket is in flight once: in the answer to the hello.
    const uint64_t rest = nofile > limits.max_sessions ? nofile - limits.max_sessions : 0;
    limits.max_fds_in_flight =
        static_cast<uint32_t>(std::max<uint64_t>(1, std::min(room - room / 4, rest)));
  }
}

}  // namespace

uint64_t RoomForReading(const ServerLimits& limits, uint64_t nofile) {
  const uint64_t sum = Sum(limits);
  const uint64_t left = nofile > sum ? nofile - sum : 0;
  return std::min<uint64_t>(left - left / 8, kMaxBatch * kMaxFdsPerMessage);
}

absl::StatusOr<ServerLimits> ResolveLimits(ServerLimits limits, uint64_t nofile) {
  FillIn(nofile, &limits);
  const SessionLimits& session = limits.session;
  if (session.max_fds_per_call == 0 || session.session_window == 0 || limits.max_half_open == 0 ||
      limits.max_fds_per_uid == 0) {
    return absl::InvalidArgumentError(
        "max_fds_per_call, session_window, max_fds_per_uid and max_half_open must be at least 1");
  }
  if (session.session_window < session.max_fds_per_call) {
    return absl::InvalidArgumentError(
        absl::StrFormat("session_window = %d is smaller than max_fds_per_call = %d: a full call "
                        "could never be sent",
                        session.session_window, session.max_fds_per_call));
  }
  const uint64_t sum = Sum(limits);
  if (sum > nofile) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the limits need %d descriptors (max_fds_total %d + %d x max_sessions %d + max_half_open "
        "%d + %d for the server itself), RLIMIT_NOFILE is %d: lower them, or raise it (setrlimit, "
        "LimitNOFILE=)",
        sum, limits.max_fds_total, kFdsPerSession, limits.max_sessions, limits.max_half_open,
        kFdsOfServer, nofile));
  }
  // The other sum: of what is in flight, which is in no table, but has the same limit.
  const uint64_t in_flight = uint64_t{limits.max_fds_in_flight} + limits.max_sessions;
  if (in_flight > nofile) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the limits let %d descriptors be in flight (max_fds_in_flight %d + max_sessions %d, each "
        "session's socket once), RLIMIT_NOFILE is %d: lower them, or raise it (setrlimit, "
        "LimitNOFILE=)",
        in_flight, limits.max_fds_in_flight, limits.max_sessions, nofile));
  }
  const uint64_t for_one =
      InFlightBudget(limits.max_fds_in_flight, InFlightBudget::Shares::kFair, limits.max_sessions)
          .MostForOne(session.session_window);
  if (session.max_fds_per_call > for_one) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "max_fds_per_call = %d is more than one session may have in flight, which is %d with "
        "max_fds_in_flight = %d and max_sessions = %d, so a full call could never be sent: lower "
        "it, or raise max_fds_in_flight and RLIMIT_NOFILE, which is %d",
        session.max_fds_per_call, for_one, limits.max_fds_in_flight, limits.max_sessions, nofile));
  }
  return limits;
}

class QuotaLedger::Account final : public DescriptorQuota {
 public:
  Account(std::shared_ptr<QuotaLedger> ledger, uid_t uid, User* user)
      : ledger_(std::move(ledger)), uid_(uid), user_(user) {}
  ~Account() override { ledger_->CloseSession(uid_); }
  absl::Status Charge(size_t n) override { return ledger_->Charge(uid_, user_, n); }
  void Release(size_t n) override { ledger_->Release(user_, n); }

 private:
  const std::shared_ptr<QuotaLedger> ledger_;
  const uid_t uid_;
  User* const user_;
};

QuotaLedger::QuotaLedger(const ServerLimits& limits, uint64_t nofile)
    : limits_(limits), room_(std::make_shared<ReadRoom>(RoomForReading(limits, nofile))) {}

std::shared_ptr<ReadRoom> QuotaLedger::RoomOf(uid_t uid) const {
  MutexLock lock(&mutex_);
  const auto user = users_.find(uid);
  return user != users_.end() ? user->second.room : nullptr;
}

absl::StatusOr<std::shared_ptr<DescriptorQuota>> QuotaLedger::OpenSession(uid_t uid) {
  MutexLock lock(&mutex_);
  if (sessions_ >= limits_.max_sessions) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("the server has max_sessions = %d sessions", limits_.max_sessions));
  }
  User& user = users_[uid];
  if (user.sessions >= limits_.max_sessions_per_uid) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "uid %d has max_sessions_per_uid = %d sessions", uid, limits_.max_sessions_per_uid));
  }
  if (user.room == nullptr) {
    user.room = std::make_shared<ReadRoom>(
        std::max<uint64_t>(room_->limit() / 4, kMaxFdsPerMessage), room_);
  }
  ++user.sessions;
  ++sessions_;
  return std::make_shared<Account>(shared_from_this(), uid, &user);
}

absl::Status QuotaLedger::Charge(uid_t uid, User* user, uint64_t n) {
  MutexLock lock(&mutex_);
  const uint64_t per_uid = most_per_uid();
  if (user->held + n > per_uid) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("uid %d holds %d descriptors at this server that nobody took, and %d more "
                        "came; the limit is %d (max_fds_per_uid, and never more than half of "
                        "max_fds_total): take them sooner, or raise it",
                        uid, user->held, n, per_uid));
  }
  if (held_ + n > limits_.max_fds_total) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the server holds %d descriptors that nobody took, and %d more came; the limit is "
        "max_fds_total = %d: take them sooner, or raise it and RLIMIT_NOFILE",
        held_, n, limits_.max_fds_total));
  }
  user->held += n;
  held_ += n;
  return absl::OkStatus();
}

void QuotaLedger::Release(User* user, uint64_t n) {
  MutexLock lock(&mutex_);
  user->held -= n;
  held_ -= n;
}

void QuotaLedger::CloseSession(uid_t uid) {
  MutexLock lock(&mutex_);
  --sessions_;
  const auto user = users_.find(uid);
  // What a session holds it holds by its account.
  if (--user->second.sessions == 0) users_.erase(user);
}

uint64_t QuotaLedger::most_per_uid() const {
  return std::min<uint64_t>(limits_.max_fds_per_uid, (uint64_t{limits_.max_fds_total} + 1) / 2);
}

uint64_t QuotaLedger::held_total() const {
  MutexLock lock(&mutex_);
  return held_;
}

uint64_t QuotaLedger::held_by(uid_t uid) const {
  MutexLock lock(&mutex_);
  auto it = users_.find(uid);
  return it == users_.end() ? 0 : it->second.held;
}

uint64_t QuotaLedger::sessions() const {
  MutexLock lock(&mutex_);
  return sessions_;
}

}  // namespace internal
}  // namespace grpcfd
