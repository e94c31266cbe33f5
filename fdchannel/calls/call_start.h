// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Starts a client's call, or one attempt of it, on the session of its channel. If there is no
// session, or the one that is there turns out to be dead, the call gets the next one.
#ifndef GRPCFD_FDCHANNEL_CALLS_CALL_START_H_
#define GRPCFD_FDCHANNEL_CALLS_CALL_START_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/client/channel_core.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/call_metadata.h"

namespace grpcfd {
namespace internal {

// Whether the server had gone away unnoticed when the call started. Nothing was sent then, so the
// call can use the next session.
bool MetDeadSession(const absl::Status& status, const Session& session);

// Starts `call`, which is in ClientCall's phase "starting" or between two attempts, if that needs
// no waiting: true, and `*result` is what the RPC must say, or why nothing was sent.
bool TryStart(ChannelCore& channel, ClientCall* call, absl::StatusOr<CallMetadata>* result);

// The same, connecting first if need be. Never blocks; `done` is called once, on the poller's
// thread, or on this one if the outcome is at hand. With `wait_for_ready` a server that cannot be
// reached is tried again until the call's deadline; without it one failed attempt to connect is
// UNAVAILABLE. A session that was made for the call and is dead when it comes is a failed attempt.
// A call that is started per attempt is not kept: if it goes meanwhile, the outcome is CANCELLED.
// Errors as ChannelCore::AwaitSession and Session::Send.
void StartAsync(const std::shared_ptr<ChannelCore>& channel,
                const std::shared_ptr<ClientCall>& call, bool wait_for_ready,
                ClientCall::StartCallback done);

// Ends the waits of `call`, for a session or for room, which are CANCELLED: those for a session on
// this thread.
void GiveUp(ChannelCore& channel, const std::weak_ptr<ClientCall>& call);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_CALL_START_H_
