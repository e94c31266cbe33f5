// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/call_credentials.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcfd/client.h"
#include "grpcfd/credentials.h"
#include "interceptors/grpc/foreign_cast.h"

namespace grpcfd {
namespace internal {

void FlatCredentials::Add(const std::shared_ptr<grpc::CallCredentials>& credentials) {
  if (credentials == nullptr) return;
  if (auto* ours = ForeignCast<const Credentials>(credentials.get())) {
    ours->Flatten(this);
  } else if (std::find(plain.begin(), plain.end(), credentials) == plain.end()) {
    plain.push_back(credentials);
  }
}

Slots Credentials::PlainOf(const Slot& first, const Slot& second) {
  FlatCredentials flat;
  flat.Add(first);
  flat.Add(second);
  return std::move(flat.plain);
}

absl::Status Credentials::AdmitCalls(const void* call, const FlatCredentials& flat,
                                     Terms* terms) const {
  for (const auto& fd_call : flat.calls) {
    if (!fd_call->BindTo(call)) {
      return absl::FailedPreconditionError(
          "the call's credentials hold the descriptors of another call: a ClientContext serves one "
          "call, and so does its FromContext; PerRpcCredentials serve many");
    }
    terms->bound.push_back(fd_call);
    // A factory has started it, or put it aside to be started. Otherwise there is none on this
    // channel.
    if (fd_call->begun()) continue;
    absl::Status why = absl::FailedPreconditionError(
        "the call was to bring or to get descriptors, but its channel cannot carry them: it was "
        "not made by grpcfd::CreateCustomChannel and has no grpcfd::MakeClientInterceptorFactory");
    const bool has_queued = fd_call->has_queued();
    fd_call->FailStart(why);
    if (has_queued) return why;
  }
  return absl::OkStatus();
}

absl::Status Credentials::Admit(const void* call, Terms* terms) {
  FlatCredentials flat;
  Flatten(&flat);
  absl::Status refusal = flat.refusal;
  if (refusal.ok()) refusal = AdmitCalls(call, flat, terms);
  if (refusal.ok()) refusal = CheckSets(flat);
  if (!refusal.ok()) return refusal;
  terms->plain = std::move(flat.plain);
  terms->source = std::move(flat.attempts);
  return absl::OkStatus();
}

absl::Status CheckSets(const FlatCredentials& flat) {
  for (const auto& set : flat.sets) {
    const bool joined = std::any_of(flat.calls.begin(), flat.calls.end(),
                                    [&set](const auto& c) { return set->HasJoined(c); });
    if (!joined && !set->empty()) {
      return absl::FailedPreconditionError(
          "the call's PerRpcCredentials carry descriptors, but no "
          "grpcfd::MakeClientInterceptorFactory of the channel saw them (it must stand after a "
          "chain factory that sets them)");
    }
  }
  return absl::OkStatus();
}

ClientCall* ContextCredentials::OnlyCall(grpc::CallCredentials* slot) {
  if (slot == nullptr) return nullptr;
  const std::type_info* const type = TypeInfoOf(slot);
  if (type == nullptr || *type != typeid(ContextCredentials)) return nullptr;
  auto* const credentials = static_cast<ContextCredentials*>(slot);
  return credentials->inner_ == nullptr ? credentials : nullptr;
}

void ContextCredentials::Flatten(FlatCredentials* flat) const {
  flat->Add(inner_);
  // What is not to be changed is the chain, not the call in it.
  const auto call = const_cast<ContextCredentials*>(this)->shared_from_this();
  if (std::find(flat->calls.begin(), flat->calls.end(), call) == flat->calls.end()) {
    flat->calls.push_back(call);
  }
}

void ChainedCredentials::Flatten(FlatCredentials* flat) const {
  flat->Add(first_);
  flat->Add(second_);
}

void AttemptCredentials::Flatten(FlatCredentials* flat) const {
  flat->Add(inner_);
  flat->attempts = attempts_;
}

void RefusingCredentials::Flatten(FlatCredentials* flat) const {
  if (flat->refusal.ok()) flat->refusal = status_;
  // So that FromContext still finds the call.
  flat->Add(replaced_);
}

void PerRpcCredentialsImpl::Flatten(FlatCredentials* flat) const {
  flat->Add(inner_);
  if (std::find(flat->sets.begin(), flat->sets.end(), set_) == flat->sets.end()) {
    flat->sets.push_back(set_);
  }
}

// --- SharedSet ---

namespace {

absl::Status NoCallLeft() {
  return absl::FailedPreconditionError(
      "no call made with these credentials is there any more: take descriptors while the call's "
      "ClientContext lives");
}

// AskCalls without blocking: each call has one look, then the latest waits. Holds none of them: a
// call ends with its context.
class InTurn final : public std::enable_shared_from_this<InTurn> {
 public:
  InTurn(const std::vector<std::shared_ptr<ClientCall>>& calls, const InodeUrl& url,
         absl::Time deadline, FdReceiver::FdCallback done)
      : calls_(calls.begin(), calls.end()),
        url_(url),
        deadline_(deadline),
        done_(std::move(done)) {}

  void Ask() {
    // Not by recursion: most calls that have nothing say so at once, and there may be many.
    while (next_ < calls_.size()) {
      const std::shared_ptr<ClientCall> call = calls_[next_++].lock();
      if (call == nullptr) continue;
      second_ = false;
      call->RecvFdAsync(url_, absl::InfinitePast(),
                        [self = shared_from_this()](absl::StatusOr<UniqueFd> fd) {
                          self->fd_ = std::move(fd);
                          if (self->second_.exchange(true)) self->Answered();
                        });
      if (!second_.exchange(true)) return;  // The callback goes on.
      if (fd_.ok()) return done_(std::move(fd_));
    }
    for (const auto& one : calls_) {
      const std::shared_ptr<ClientCall> call = one.lock();
      if (call != nullptr) return call->RecvFdAsync(url_, deadline_, std::move(done_));
    }
    done_(NoCallLeft());
  }

 private:
  void Answered() {
    if (fd_.ok()) return done_(std::move(fd_));
    Ask();
  }

  const std::vector<std::weak_ptr<ClientCall>> calls_;
  const InodeUrl url_;
  const absl::Time deadline_;
  FdReceiver::FdCallback done_;
  size_t next_ = 0;
  absl::StatusOr<UniqueFd> fd_;
  // Of the callback and the asking thread, the second one goes on.
  std::atomic<bool> second_{false};
};

}  // namespace

absl::StatusOr<InodeUrl> ContextCredentials::Send(BorrowedFd fd, UniqueFd* adopted) {
  // The context holds a reference, and the caller another. Whoever holds the only one cannot make
  // the call any more.
  if (weak_from_this().use_count() == 1 && !begun()) {
    return absl::FailedPreconditionError(
        "the call's context is gone, or has other credentials now: no call can take the "
        "descriptor along");
  }
  return ClientCall::Send(fd, adopted);
}

absl::StatusOr<InodeUrl> SharedSet::SendBorrowed(BorrowedFd fd) {
  auto copy = fd.Dup();
  if (!copy.ok()) return copy.status();
  return SendFd(*std::move(copy));
}

absl::StatusOr<InodeUrl> SharedSet::SendOwned(UniqueFd fd) {
  const auto dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  MutexLock lock(&mutex_);
  const InodeUrl url(*dev_ino, static_cast<uint32_t>(fds_.size()));
  fds_.push_back(std::move(fd));
  urls_.push_back(url);
  return url;
}

bool SharedSet::empty() const {
  MutexLock lock(&mutex_);
  return fds_.empty();
}

absl::Status SharedSet::Join(const std::shared_ptr<ClientCall>& call) {
  MutexLock lock(&mutex_);
  if (HasJoinedLocked(call)) return absl::OkStatus();
  absl::Status status = call->Preload(fds_, urls_);
  if (!status.ok()) return status;
  calls_.erase(
      std::remove_if(calls_.begin(), calls_.end(), [](const auto& c) { return c.expired(); }),
      calls_.end());
  calls_.push_back(call);
  return absl::OkStatus();
}

bool SharedSet::HasJoined(const std::shared_ptr<ClientCall>& call) const {
  MutexLock lock(&mutex_);
  return HasJoinedLocked(call);
}

bool SharedSet::HasJoinedLocked(const std::shared_ptr<ClientCall>& call) const {
  return std::any_of(calls_.begin(), calls_.end(), [&call](const auto& joined) {
    return !joined.owner_before(call) && !call.owner_before(joined);
  });
}

std::vector<std::shared_ptr<ClientCall>> SharedSet::Calls() {
  std::vector<std::shared_ptr<ClientCall>> living;
  MutexLock lock(&mutex_);
  for (auto it = calls_.rbegin(); it != calls_.rend(); ++it) {
    if (auto call = it->lock()) living.push_back(std::move(call));
  }
  return living;
}

template <typename Ask>
absl::StatusOr<UniqueFd> SharedSet::AskCalls(const Ask& ask, absl::Time deadline) {
  const auto calls = Calls();
  if (calls.empty()) return NoCallLeft();
  // Whichever has it; then the latest may still get it.
  for (const auto& call : calls) {
    auto fd = ask(call.get(), absl::InfinitePast());
    if (fd.ok()) return fd;
  }
  return ask(calls.front().get(), deadline);
}

absl::StatusOr<UniqueFd> SharedSet::ReceiveFd(const InodeUrl& url, absl::Time deadline) {
  return AskCalls([&url](ClientCall* call, absl::Time until) { return call->RecvFd(url, until); },
                  deadline);
}

absl::StatusOr<UniqueFd> SharedSet::DuplicateFd(const InodeUrl& url, absl::Time deadline) {
  return AskCalls([&url](ClientCall* call, absl::Time until) { return call->DupFd(url, until); },
                  deadline);
}

void SharedSet::ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) {
  const auto calls = Calls();
  if (calls.empty()) return done(NoCallLeft());
  std::make_shared<InTurn>(calls, url, deadline, std::move(done))->Ask();
}

}  // namespace internal

// --- Public functions ---

std::shared_ptr<grpc::CallCredentials> ChainCallCredentials(
    std::shared_ptr<grpc::CallCredentials> first, std::shared_ptr<grpc::CallCredentials> second) {
  if (first == nullptr) return second;
  if (second == nullptr) return first;
  return internal::MakeSlot<internal::ChainedCredentials>(std::move(first), std::move(second));
}

std::shared_ptr<grpc::CallCredentials> PerRpcCredentials(
    std::shared_ptr<grpc::CallCredentials> inner) {
  if (FromPerRpcCredentials(inner) != nullptr) return inner;
  return internal::MakeSlot<internal::PerRpcCredentialsImpl>(
      std::make_shared<internal::SharedSet>(), std::move(inner));
}

std::shared_ptr<grpc::CallCredentials> PerRpcCredentialsFromContext(
    const grpc::ClientContext& context) {
  // credentials() of gRPC 1.51 is not const, but changes nothing.
  internal::FlatCredentials flat;
  flat.Add(const_cast<grpc::ClientContext&>(context).credentials());
  if (flat.sets.empty()) return nullptr;
  std::shared_ptr<grpc::CallCredentials> inner;
  for (const auto& plain : flat.plain) inner = ChainCallCredentials(std::move(inner), plain);
  return internal::MakeSlot<internal::PerRpcCredentialsImpl>(flat.sets.back(), std::move(inner));
}

std::shared_ptr<FdTransceiver> FromPerRpcCredentials(
    const std::shared_ptr<grpc::CallCredentials>& credentials) {
  internal::FlatCredentials flat;
  flat.Add(credentials);
  // As in Go, the last one counts.
  return flat.sets.empty() ? nullptr : flat.sets.back();
}

}  // namespace grpcfd
