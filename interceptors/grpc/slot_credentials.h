// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SlotCredentials: the base of what grpcfd puts into a ClientContext's slot for call credentials.
//
// Why it exists: versions of gRPC differ in when they let such an object speak, and about what.
// CMake compiles one of two files, by what the classes of the gRPC at hand have:
//   slot_credentials_virtual.cc  CallCredentials::ApplyToCall is virtual (gRPC 1.51): called when
//                                the call is made, with the call itself, in-process calls included
//   slot_credentials_plugin.cc   it is not (gRPC since about 1.65): the object is a plugin of
//                                gRPC's core, asked for each attempt of the call once that has a
//                                connection, and never in-process. It does not learn which call
//                                asks, and a call that it refuses ends with UNAVAILABLE.
// So whoever can refuse a call earlier does: an interceptor factory.
#ifndef GRPCFD_INTERCEPTORS_GRPC_SLOT_CREDENTIALS_H_
#define GRPCFD_INTERCEPTORS_GRPC_SLOT_CREDENTIALS_H_

#include <grpc/grpc.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "fdchannel/calls/client_call.h"
#include "interceptors/grpc/attempt_plugin.h"

namespace grpcfd {
namespace internal {

using Slot = std::shared_ptr<grpc::CallCredentials>;
using Slots = absl::InlinedVector<Slot, 1>;

#if GRPCFD_GRPC_SLOT_BY_PLUGIN
// Whether a call that is made has been admitted, or refused, before its interceptors run.
inline constexpr bool kSlotAdmitsAtOnce = false;

class SlotSource;

// Before CallCredentials, which takes over what is made from it.
class SlotPlugin {
 protected:
  SlotPlugin();
  ~SlotPlugin();
  const std::shared_ptr<SlotSource> source_;
};
#else
inline constexpr bool kSlotAdmitsAtOnce = true;

class SlotPlugin {};
#endif

class SlotCredentials : private SlotPlugin, public grpc::CallCredentials {
 public:
  SlotCredentials(const SlotCredentials&) = delete;
  SlotCredentials& operator=(const SlotCredentials&) = delete;

  // What applies to a call that is admitted.
  struct Terms {
    // Credentials that are not grpcfd's. No pointer is there twice.
    Slots plain;
    // Who is asked for each attempt; may be null.
    std::shared_ptr<AttemptSource> source;
    // The calls that are tied to it. If it is refused after all, they start without descriptors.
    absl::InlinedVector<std::shared_ptr<ClientCall>, 1> bound;
  };

  // `call` names the call, or who speaks for it; it is the same one each time that it is asked for
  // one call, and only compared. A status that is not OK refuses the call; `terms->bound` counts
  // then, too.
  virtual absl::Status Admit(const void* call, Terms* terms) = 0;
  // The same for the usual call, to which nothing applies. False, with nothing done, for others.
  virtual bool AdmitAtOnce(const void* /*call*/) { return false; }

#if GRPCFD_GRPC_SLOT_BY_PLUGIN
  void Adopt(const std::shared_ptr<SlotCredentials>& self);

 protected:
  // `plain_of` takes apart what these credentials wrap, each of which may be null.
  SlotCredentials(const Slot& first, const Slot& second,
                  Slots (*plain_of)(const Slot& first, const Slot& second));
#else
  // Ends the call with a status that says why if it is refused. True always: false would read as
  // CANCELLED.
  bool ApplyToCall(grpc_call* call) override;
  grpc::string DebugString() override { return "grpcfd call credentials"; }

  void Adopt(const std::shared_ptr<SlotCredentials>& /*self*/) {}

 protected:
  SlotCredentials(const Slot& /*first*/, const Slot& /*second*/,
                  Slots (* /*plain_of*/)(const Slot& first, const Slot& second)) {}

 private:
  // "These are not gRPC's own": CompositeCallCredentials then says so, by returning null.
  grpc::SecureCallCredentials* AsSecureCredentials() final { return nullptr; }
#endif
};

// The only way to make one.
template <typename Kind, typename... Arguments>
std::shared_ptr<Kind> MakeSlot(Arguments&&... arguments) {
  auto made = std::make_shared<Kind>(std::forward<Arguments>(arguments)...);
#if GRPCFD_GRPC_SLOT_BY_PLUGIN
  made->Adopt(made);
#endif
  return made;
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_SLOT_CREDENTIALS_H_
