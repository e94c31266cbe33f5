// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// One FakeFdPair::Call holds both directions under one mutex; an End is a direction to send to, one
// to receive from. Receives that cannot be served at once wait on one condition variable, blocking
// ones on their caller's stack, asynchronous ones in a list that a thread serves, which is started
// when the first of them has to wait.
#include "grpcfd/testing/fake_fd_pair.h"

#include <stdint.h>

#include <algorithm>
#include <list>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

class FakeFdPair::Call {
 public:
  enum Direction { kToServer = 0, kToClient = 1 };
  enum class Op { kTake, kDup };

  explicit Call(const Options& options) : options_(options) {}

  ~Call() { Stop(); }

  absl::StatusOr<InodeUrl> Send(Direction direction, BorrowedFd fd);
  absl::StatusOr<UniqueFd> Receive(Direction direction, Op op, const InodeUrl& url,
                                   absl::Time deadline);
  void ReceiveAsync(Direction direction, const InodeUrl& url, absl::Time deadline,
                    FdReceiver::FdCallback done);
  void EndCall();
  size_t unclaimed() const;

  // Ends the call and waits for the thread. Idempotent, but not thread-safe.
  void Stop();

 private:
  struct Slot {
    DevIno dev_ino;
    UniqueFd fd;  // Not valid once it was taken.
  };
  struct AsyncReceive {
    Direction direction;
    InodeUrl url;
    absl::Time deadline;
    FdReceiver::FdCallback done;
    std::optional<absl::StatusOr<UniqueFd>> result;
  };

  absl::Time Latest(absl::Time deadline) const {
    return std::min(deadline, absl::Now() + options_.recv_timeout);
  }

  // The outcome of a receive as things stand, or nothing if there is still something to wait for.
  std::optional<absl::StatusOr<UniqueFd>> Try(Direction direction, Op op, const InodeUrl& url,
                                              absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Serves the asynchronous receives until the call has ended.
  void Serve();

  const Options options_;
  mutable internal::Mutex mutex_;
  internal::CondVar changed_;  // Signalled on whatever could end a wait.
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Slot> slots_[2] ABSL_GUARDED_BY(mutex_);
  std::list<AsyncReceive> waiting_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<InodeUrl> FakeFdPair::Call::Send(Direction direction, BorrowedFd fd) {
  const absl::StatusOr<DevIno> dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  // The receiver of a real call gets a new number that is close-on-exec, whatever was sent; so
  // here.
  absl::StatusOr<UniqueFd> duplicate = fd.Dup();
  if (!duplicate.ok()) return duplicate.status();

  internal::MutexLock lock(&mutex_);
  if (ended_) return absl::FailedPreconditionError("cannot send a descriptor: the call has ended");
  std::vector<Slot>& slots = slots_[direction];
  if (slots.size() >= options_.max_fds_per_call) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot send a descriptor: the call already has ", slots.size(),
                     ", which is the limit (max_fds_per_call)"));
  }
  const InodeUrl url(*dev_ino, static_cast<uint32_t>(slots.size()));
  slots.push_back(Slot{*dev_ino, *std::move(duplicate)});
  changed_.NotifyAll();
  return url;
}

std::optional<absl::StatusOr<UniqueFd>> FakeFdPair::Call::Try(Direction direction, Op op,
                                                              const InodeUrl& url,
                                                              absl::Time deadline) {
  if (ended_) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot receive ", url.ToString(), ": the call has ended"));
  }
  if (url.session_index().has_value()) {
    return absl::NotFoundError(absl::StrCat(
        url.ToString(), " names a session-scoped descriptor, and the fake pair has no session"));
  }
  std::vector<Slot>& slots = slots_[direction];
  Slot* slot = nullptr;
  bool taken_before = false;
  if (url.index().has_value()) {
    if (*url.index() < slots.size()) {
      slot = &slots[*url.index()];
      if (slot->dev_ino != url.dev_ino()) {
        return absl::InvalidArgumentError(absl::StrCat("expected ", url.ToString(),
                                                       ", but the descriptor of that index is ",
                                                       InodeUrl(slot->dev_ino).ToString()));
      }
      if (!slot->fd.valid()) {
        return absl::FailedPreconditionError(
            absl::StrCat(url.ToString(), " was taken before; use DupFd to leave a descriptor"));
      }
    }
  } else {
    for (Slot& candidate : slots) {
      if (candidate.dev_ino != url.dev_ino()) continue;
      if (candidate.fd.valid()) {
        slot = &candidate;
        break;
      }
      taken_before = true;
    }
  }
  if (slot != nullptr) {
    if (op == Op::kTake) return std::move(slot->fd);
    return BorrowedFd(slot->fd).Dup();
  }
  if (absl::Now() < deadline) return std::nullopt;
  // Of a URL without an index another one may come at any time, even if those so far are taken; so
  // this is known only at the deadline.
  if (taken_before) {
    return absl::FailedPreconditionError(
        absl::StrCat("every descriptor of ", url.ToString(),
                     " was taken before, and no further one came before the deadline"));
  }
  return absl::DeadlineExceededError(
      absl::StrCat(url.ToString(), " did not come before the deadline; the peer has sent ",
                   slots.size(), " descriptors"));
}

absl::StatusOr<UniqueFd> FakeFdPair::Call::Receive(Direction direction, Op op, const InodeUrl& url,
                                                   absl::Time deadline) {
  const absl::Time latest = Latest(deadline);
  internal::MutexLock lock(&mutex_);
  while (true) {
    std::optional<absl::StatusOr<UniqueFd>> result = Try(direction, op, url, latest);
    if (result.has_value()) return *std::move(result);
    changed_.WaitUntil(&mutex_, latest);
  }
}

void FakeFdPair::Call::ReceiveAsync(Direction direction, const InodeUrl& url, absl::Time deadline,
                                    FdReceiver::FdCallback done) {
  const absl::Time latest = Latest(deadline);
  std::optional<absl::StatusOr<UniqueFd>> result;
  {
    internal::MutexLock lock(&mutex_);
    result = Try(direction, Op::kTake, url, latest);
    if (!result.has_value()) {
      waiting_.push_back(AsyncReceive{direction, url, latest, std::move(done), std::nullopt});
      if (!thread_.joinable()) thread_ = std::thread([this] { Serve(); });
      changed_.NotifyAll();
      return;
    }
  }
  done(*std::move(result));
}

void FakeFdPair::Call::Serve() {
  internal::MutexLock lock(&mutex_);
  while (true) {
    std::list<AsyncReceive> ready;
    absl::Time earliest = absl::InfiniteFuture();
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      const auto current = it++;
      current->result = Try(current->direction, Op::kTake, current->url, current->deadline);
      if (current->result.has_value()) {
        ready.splice(ready.end(), waiting_, current);
      } else {
        earliest = std::min(earliest, current->deadline);
      }
    }
    if (!ready.empty()) {
      lock.Unlock();
      for (AsyncReceive& receive : ready) receive.done(*std::move(receive.result));
      ready.clear();
      lock.Lock();
      continue;
    }
    if (ended_) return;  // Nothing waits any more, and no wait can begin.
    changed_.WaitUntil(&mutex_, earliest);
  }
}

void FakeFdPair::Call::EndCall() {
  std::vector<Slot> unclaimed[2];  // Closed when the lock is no longer held.
  internal::MutexLock lock(&mutex_);
  ended_ = true;
  std::swap(unclaimed[kToServer], slots_[kToServer]);
  std::swap(unclaimed[kToClient], slots_[kToClient]);
  changed_.NotifyAll();
}

size_t FakeFdPair::Call::unclaimed() const {
  internal::MutexLock lock(&mutex_);
  size_t count = 0;
  for (const std::vector<Slot>& slots : slots_) {
    for (const Slot& slot : slots) count += slot.fd.valid() ? 1 : 0;
  }
  return count;
}

void FakeFdPair::Call::Stop() {
  EndCall();
  std::thread thread;
  {
    internal::MutexLock lock(&mutex_);
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

class FakeFdPair::End final : public FdTransceiver {
 public:
  End(std::shared_ptr<Call> call, Call::Direction out, Call::Direction in)
      : call_(std::move(call)), out_(out), in_(in) {}

 private:
  absl::StatusOr<InodeUrl> SendBorrowed(BorrowedFd fd) override { return call_->Send(out_, fd); }

  absl::StatusOr<InodeUrl> SendOwned(UniqueFd fd) override { return call_->Send(out_, fd); }

  absl::StatusOr<UniqueFd> ReceiveFd(const InodeUrl& url, absl::Time deadline) override {
    return call_->Receive(in_, Call::Op::kTake, url, deadline);
  }

  void ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override {
    call_->ReceiveAsync(in_, url, deadline, std::move(done));
  }

  absl::StatusOr<UniqueFd> DuplicateFd(const InodeUrl& url, absl::Time deadline) override {
    return call_->Receive(in_, Call::Op::kDup, url, deadline);
  }

  const std::shared_ptr<Call> call_;
  const Call::Direction out_;
  const Call::Direction in_;
};

FakeFdPair::FakeFdPair() : FakeFdPair(Options()) {}

FakeFdPair::FakeFdPair(const Options& options)
    : call_(std::make_shared<Call>(options)),
      client_(std::make_shared<End>(call_, Call::kToServer, Call::kToClient)),
      server_(std::make_shared<End>(call_, Call::kToClient, Call::kToServer)) {}

FakeFdPair::~FakeFdPair() { call_->Stop(); }

void FakeFdPair::EndCall() { call_->EndCall(); }

size_t FakeFdPair::unclaimed() const { return call_->unclaimed(); }

}  // namespace grpcfd
