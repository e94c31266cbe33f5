// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/client_call.h"

#include <algorithm>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "fdchannel/send_file.h"

namespace grpcfd {
namespace internal {

ClientCall::~ClientCall() {
  // The last reference is gone, so nobody else is in here. The lock is for the analysis.
  MutexLock lock(&mutex_);
  if (session_ != nullptr) session_->End(inbox_.get(), /*sent=*/next_index_ != 0);
}

absl::StatusOr<InodeUrl> ClientCall::SendFd(BorrowedFd fd) { return Send(fd, nullptr); }

absl::StatusOr<InodeUrl> ClientCall::SendFd(UniqueFd&& fd) {
  UniqueFd adopted = std::move(fd);
  return Send(BorrowedFd(adopted), &adopted);
}

absl::StatusOr<InodeUrl> ClientCall::SendFilename(const std::string& path, int flags) {
  absl::StatusOr<UniqueFd> fd = OpenForSending(path, flags);
  if (!fd.ok()) return fd.status();
  return SendFd(*std::move(fd));
}

InodeUrl ClientCall::Enqueue(const DevIno& dev_ino, UniqueFd fd) {
  queue_.push_back(Queued{InodeUrl(dev_ino, next_index_++), std::move(fd)});
  return queue_.back().url;
}

absl::StatusOr<InodeUrl> ClientCall::Send(BorrowedFd fd, UniqueFd* adopted) {
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  UniqueFd queued;
  {
    MutexLock lock(&mutex_);
    if (phase_ == Phase::kQueueing && adopted != nullptr) {
      return Enqueue(*dev_ino, std::move(*adopted));
    }
  }
  if (adopted == nullptr) {
    auto copy = fd.Dup();
    if (!copy.ok()) return copy.status();
    queued = *std::move(copy);
  } else {
    queued = std::move(*adopted);
  }

  MutexLock lock(&mutex_);
  if (phase_ == Phase::kQueueing) return Enqueue(*dev_ino, std::move(queued));
  auto session = Started(absl::InfiniteFuture());
  if (!session.ok()) return session.status();
  if (!start_.client_streams) {
    return absl::FailedPreconditionError(
        "the call has sent its request: only streams of requests send descriptors later");
  }
  const uint32_t index = next_index_++;
  const CallKey key = inbox_->key();
  WaitOptions options;
  options.deadline = Limit(absl::InfiniteFuture());
  lock.Unlock();
  const int number = queued.get();
  absl::Status status = (*session)->Send(key, index, absl::MakeConstSpan(&number, 1), options);
  lock.Lock();
  if (!status.ok()) {
    // An index that was not used leaves no hole, unless another sender has the next one already.
    if (next_index_ == index + 1) --next_index_;
    return status;
  }
  return InodeUrl(*dev_ino, index);
}

absl::Status ClientCall::Preload(const std::vector<UniqueFd>& fds,
                                 const std::vector<InodeUrl>& urls) {
  std::vector<UniqueFd> copies;
  copies.reserve(fds.size());
  for (const UniqueFd& fd : fds) {
    auto copy = BorrowedFd(fd).Dup();
    if (!copy.ok()) return copy.status();
    copies.push_back(*std::move(copy));
  }
  if (fds.empty()) return absl::OkStatus();
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kWithout) return without_;
  if (phase_ != Phase::kQueueing || next_index_ != 0) {
    return absl::FailedPreconditionError(
        "the descriptors of PerRpcCredentials must be a call's first, and this call has others "
        "already, or "
        "has started: set the credentials before FromContext, and only one that carries "
        "descriptors");
  }
  for (size_t i = 0; i < copies.size(); ++i) {
    Enqueue(urls[i].dev_ino(), std::move(copies[i]));
  }
  return absl::OkStatus();
}

bool ClientCall::has_queued() const {
  MutexLock lock(&mutex_);
  return !queue_.empty();
}

bool ClientCall::begun() const {
  MutexLock lock(&mutex_);
  return phase_ != Phase::kQueueing;
}

bool ClientCall::begun_for(const void* rpc) const {
  MutexLock lock(&mutex_);
  return phase_ != Phase::kQueueing && start_.rpc == rpc && transport_call_ == nullptr;
}

bool ClientCall::starting() const {
  MutexLock lock(&mutex_);
  return phase_ == Phase::kStarting;
}

bool ClientCall::Claim(const void* transport_call) {
  MutexLock lock(&mutex_);
  if (transport_call_ == nullptr) transport_call_ = transport_call;
  return transport_call_ == transport_call;
}

std::vector<InodeUrl> ClientCall::queued_urls() const {
  MutexLock lock(&mutex_);
  std::vector<InodeUrl> urls;
  urls.reserve(queue_.size());
  for (const Queued& queued : queue_) urls.push_back(queued.url);
  return urls;
}

// --- Starting ---

absl::Status ClientCall::BeginStart(const Start& start) {
  MutexLock lock(&mutex_);
  if (phase_ == Phase::kWithout && transport_call_ == nullptr) return without_;
  if (phase_ != Phase::kQueueing) {
    return absl::FailedPreconditionError(
        "a second call was started with the descriptors of one: a ClientContext serves one call, "
        "and "
        "so does its FromContext; PerRpcCredentials serve many");
  }
  phase_ = Phase::kStarting;
  start_ = start;
  announced_ = next_index_;
  if (next_index_ > start.limits.max_fds_per_call) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the call has %d descriptors, more than max_fds_per_call = %d of its "
                        "channel; raise the limit "
                        "at both ends, or use several calls",
                        next_index_, start.limits.max_fds_per_call));
  }
  return absl::OkStatus();
}

std::vector<int> ClientCall::QueuedNumbers() const {
  std::vector<int> numbers;
  numbers.reserve(queue_.size());
  for (const Queued& queued : queue_) numbers.push_back(queued.fd.get());
  return numbers;
}

void ClientCall::AttachLocked(const std::shared_ptr<Session>& session, CallKey key) {
  if (session_ != nullptr) session_->End(inbox_.get(), /*sent=*/false);
  session_ = session;
  inbox_ = std::make_unique<CallInbox>(key, session->policy());
  // A server announces nothing beforehand, and the client cannot know that it has sent its last.
  session_->Attach(inbox_.get(), /*announced=*/0, /*open_ended=*/true);
}

void ClientCall::FinishStart(const absl::Status& status, std::vector<Queued>* done_with) {
  // The descriptors are in the socket, or will never be. Closing may block, so the caller does it
  // without the lock.
  done_with->swap(queue_);
  if (status.ok()) {
    phase_ = Phase::kStarted;
  } else {
    phase_ = Phase::kWithout;
    without_ = status;
  }
  started_.NotifyAll();
}

bool ClientCall::TrySendQueued(const std::shared_ptr<Session>& session, CallKey key,
                               absl::Status* status) {
  std::vector<Queued> done_with;  // Outlives the lock.
  MutexLock lock(&mutex_);
  AttachLocked(session, key);
  absl::InlinedVector<int, 16> numbers;
  for (const Queued& queued : queue_) numbers.push_back(queued.fd.get());
  if (!session->TrySend(key, 0, numbers, status)) return false;
  if (status->ok()) FinishStart(*status, &done_with);
  return true;
}

void ClientCall::SendQueuedAsync(const std::shared_ptr<Session>& session, CallKey key,
                                 std::function<void(absl::Status)> done) {
  // The session waits with numbers, so the descriptors are kept out of reach of StartWithout: it
  // may come meanwhile, and a number that it closed would be another file's by the time it is sent.
  auto sending = std::make_shared<std::vector<Queued>>();
  std::vector<int> numbers;
  absl::Time deadline;
  absl::Status given_up;
  {
    MutexLock lock(&mutex_);
    if (phase_ == Phase::kStarting) {
      AttachLocked(session, key);
      numbers = QueuedNumbers();
      sending->swap(queue_);
      deadline = Limit(absl::InfiniteFuture());
    } else {
      given_up = without_;
    }
  }
  if (!given_up.ok()) return done(std::move(given_up));
  session->SendAsync(
      key, 0, std::move(numbers), deadline,
      [self = shared_from_this(), sending, done = std::move(done)](absl::Status status) {
        std::vector<Queued> done_with;
        {
          MutexLock lock(&self->mutex_);
          if (self->phase_ == Phase::kStarting) {
            if (status.ok()) {
              self->FinishStart(status, &done_with);
            } else {
              self->queue_.swap(*sending);  // Nothing was sent; StartWithout closes them.
            }
          }
        }
        sending->clear();
        done(std::move(status));
      });
}

void ClientCall::StartWithout(const absl::Status& why) {
  std::vector<Queued> done_with;  // Outlives the lock.
  MutexLock lock(&mutex_);
  FinishStart(why, &done_with);
}

CallMetadata ClientCall::metadata() const {
  CallMetadata metadata;
  MutexLock lock(&mutex_);
  if (phase_ != Phase::kStarted) return metadata;
  metadata.attempt = inbox_->key().attempt;
  metadata.count = announced_;
  metadata.call_id = inbox_->key().id;
  metadata.session_id = session_->id();
  metadata.token = session_->token();
  return metadata;
}

absl::StatusOr<std::shared_ptr<Session>> ClientCall::Started(absl::Time deadline) {
  if (phase_ == Phase::kQueueing) {
    return absl::FailedPreconditionError(
        "the call has not started: nothing can have come back yet");
  }
  deadline = Limit(deadline);
  while (phase_ == Phase::kStarting) {
    if (!started_.WaitUntil(&mutex_, deadline) && phase_ == Phase::kStarting) {
      return absl::DeadlineExceededError("the session with the server was not there in time");
    }
  }
  if (phase_ == Phase::kWithout) return without_;
  return session_;
}

// --- Receiving ---

absl::Time ClientCall::Limit(absl::Time deadline) const {
  deadline = std::min(deadline, start_.deadline);
  return deadline == absl::InfiniteFuture() ? absl::Now() + start_.limits.recv_timeout : deadline;
}

absl::StatusOr<UniqueFd> ClientCall::Receive(const InodeUrl& url, absl::Time deadline,
                                             Session::Op op) {
  std::shared_ptr<Session> session;
  CallInbox* inbox;
  WaitOptions options;
  {
    MutexLock lock(&mutex_);
    auto started = Started(deadline);
    if (!started.ok()) return started.status();
    session = *std::move(started);
    inbox = inbox_.get();
    options.deadline = Limit(deadline);
  }
  return session->Receive(inbox, url, op, options);
}

absl::StatusOr<UniqueFd> ClientCall::RecvFd(const InodeUrl& url, absl::Time deadline) {
  return Receive(url, deadline, Session::Op::kTake);
}

absl::StatusOr<UniqueFd> ClientCall::DupFd(const InodeUrl& url, absl::Time deadline) {
  return Receive(url, deadline, Session::Op::kDup);
}

void ClientCall::RecvFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  std::shared_ptr<Session> session;
  CallInbox* inbox = nullptr;
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    // Never blocks: a call that is still starting has nothing to wait for with.
    if (phase_ == Phase::kStarting) {
      status = absl::FailedPreconditionError("the call has not started yet");
    } else if (auto started = Started(deadline); started.ok()) {
      session = *std::move(started);
      inbox = inbox_.get();
      deadline = Limit(deadline);
    } else {
      status = started.status();
    }
  }
  if (!status.ok()) return done(std::move(status));
  session->ReceiveAsync(inbox, url, Session::Op::kTake, deadline, std::move(done));
}

}  // namespace internal
}  // namespace grpcfd
