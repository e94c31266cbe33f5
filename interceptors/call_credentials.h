// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// grpcfd's own kinds of call credentials: a call's descriptors, a set shared by several calls, a
// chain, and a refusal.
//
// Why it exists: the credentials slot is the only place of a ClientContext where a library can
// leave an object of its own. What is in there stays for the life of the context, is visible to
// interceptor factories, and is asked before anything of the call is sent. So a call's descriptors
// live there, and whoever does not belong there wraps what does.
//
// The kinds nest: the slot may hold a chain of defaults and a call's descriptors that wrap the
// user's credentials. Flatten() takes them apart; the rest of the code uses only the flat view.
//
// When gRPC asks them, and about what, depends on its version (grpc/slot_credentials.h).
#ifndef GRPCFD_INTERCEPTORS_CALL_CREDENTIALS_H_
#define GRPCFD_INTERCEPTORS_CALL_CREDENTIALS_H_

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/fd_transceiver.h"
#include "interceptors/attempts.h"
#include "interceptors/grpc/slot_credentials.h"

namespace grpcfd {
namespace internal {

class SharedSet;

// What a slot holds, taken apart.
struct FlatCredentials {
  // Credentials that are not grpcfd's, in the order in which they apply. No pointer is there twice.
  Slots plain;
  // The call's descriptors, from FromContext; more than one if two contexts' were mixed up.
  absl::InlinedVector<std::shared_ptr<ClientCall>, 1> calls;
  // The sets of PerRpcCredentials.
  absl::InlinedVector<std::shared_ptr<SharedSet>, 1> sets;
  // Sends the call's descriptors for each attempt, if no factory has sent them.
  std::shared_ptr<Attempts> attempts;
  // Why the call must not be made. The rest was in the slot before the refusal.
  absl::Status refusal;

  void Add(const std::shared_ptr<grpc::CallCredentials>& credentials);
};

// Whether each set that holds descriptors has given them to the call. FAILED_PRECONDITION if not.
absl::Status CheckSets(const FlatCredentials& flat);

// Base of all of them.
class Credentials : public SlotCredentials {
 public:
  // Refuses the call if that was said before, or if it has descriptors and no factory of grpcfd's
  // saw it.
  absl::Status Admit(const void* call, Terms* terms) override;

  virtual void Flatten(FlatCredentials* flat) const = 0;

 protected:
  // What they wrap; may be null.
  explicit Credentials(const Slot& first, const Slot& second = nullptr)
      : SlotCredentials(first, second, &PlainOf) {}

 private:
  static Slots PlainOf(const Slot& first, const Slot& second);
  absl::Status AdmitCalls(const void* call, const FlatCredentials& flat, Terms* terms) const;
};

// A call's descriptors, and the credentials that were in the slot before. One object, as each call
// has one.
class ContextCredentials final : public Credentials, public ClientCall {
 public:
  explicit ContextCredentials(std::shared_ptr<grpc::CallCredentials> inner)
      : Credentials(inner), inner_(std::move(inner)) {}
  bool AdmitAtOnce(const void* call) override { return inner_ == nullptr && BindBegun(call); }
  void Flatten(FlatCredentials* flat) const override;

  // The call, if its descriptors are all that the slot holds. Null if there is more, or less.
  static ClientCall* OnlyCall(grpc::CallCredentials* slot);

 private:
  absl::StatusOr<InodeUrl> Send(BorrowedFd fd, UniqueFd* adopted) override;

  const std::shared_ptr<grpc::CallCredentials> inner_;
};

class ChainedCredentials final : public Credentials {
 public:
  ChainedCredentials(std::shared_ptr<grpc::CallCredentials> first,
                     std::shared_ptr<grpc::CallCredentials> second)
      : Credentials(first, second), first_(std::move(first)), second_(std::move(second)) {}
  void Flatten(FlatCredentials* flat) const override;

 private:
  const std::shared_ptr<grpc::CallCredentials> first_;
  const std::shared_ptr<grpc::CallCredentials> second_;
};

// What was in the slot, and that the call's descriptors are sent for each attempt. In the slot of
// one context only, and goes with it.
class AttemptCredentials final : public Credentials {
 public:
  AttemptCredentials(std::shared_ptr<Attempts> attempts,
                     std::shared_ptr<grpc::CallCredentials> inner)
      : Credentials(inner), attempts_(std::move(attempts)), inner_(std::move(inner)) {}
  ~AttemptCredentials() override { attempts_->Detach(); }
  void Flatten(FlatCredentials* flat) const override;

 private:
  const std::shared_ptr<Attempts> attempts_;
  const std::shared_ptr<grpc::CallCredentials> inner_;
};

// Ends the call with `status`. Keeps what it replaces, so that handles stay valid.
class RefusingCredentials final : public Credentials {
 public:
  RefusingCredentials(absl::Status status, std::shared_ptr<grpc::CallCredentials> replaced)
      : Credentials(replaced), status_(std::move(status)), replaced_(std::move(replaced)) {}
  void Flatten(FlatCredentials* flat) const override;

 private:
  const absl::Status status_;
  const std::shared_ptr<grpc::CallCredentials> replaced_;
};

// Descriptors that each call of a PerRpcCredentials brings, and those calls. Thread-safe.
class SharedSet final : public FdTransceiver {
 public:
  absl::StatusOr<InodeUrl> SendBorrowed(BorrowedFd fd) override;
  absl::StatusOr<InodeUrl> SendOwned(UniqueFd fd) override;
  absl::StatusOr<UniqueFd> ReceiveFd(const InodeUrl& url, absl::Time deadline) override;
  void ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override;
  absl::StatusOr<UniqueFd> DuplicateFd(const InodeUrl& url, absl::Time deadline) override;

  bool empty() const;
  // Gives `call` its copies and remembers it for RecvFd; once for each call. Errors as
  // ClientCall::Preload.
  absl::Status Join(const std::shared_ptr<ClientCall>& call);
  bool HasJoined(const std::shared_ptr<ClientCall>& call) const;

 private:
  template <typename Ask>
  absl::StatusOr<UniqueFd> AskCalls(const Ask& ask, absl::Time deadline);
  bool HasJoinedLocked(const std::shared_ptr<ClientCall>& call) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Those that are still there, the latest first.
  std::vector<std::shared_ptr<ClientCall>> Calls();

  mutable Mutex mutex_;
  std::vector<UniqueFd> fds_ ABSL_GUARDED_BY(mutex_);
  std::vector<InodeUrl> urls_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<ClientCall>> calls_ ABSL_GUARDED_BY(mutex_);
};

class PerRpcCredentialsImpl final : public Credentials {
 public:
  PerRpcCredentialsImpl(std::shared_ptr<SharedSet> set,
                        std::shared_ptr<grpc::CallCredentials> inner)
      : Credentials(inner), set_(std::move(set)), inner_(std::move(inner)) {}
  void Flatten(FlatCredentials* flat) const override;

 private:
  const std::shared_ptr<SharedSet> set_;
  const std::shared_ptr<grpc::CallCredentials> inner_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_CALL_CREDENTIALS_H_
