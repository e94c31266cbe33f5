// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SessionConfig and WaitOptions: what a Session is given when it is made, and how long one of its
// methods may wait.
#ifndef GRPCFD_FDCHANNEL_SESSION_SESSION_CONFIG_H_
#define GRPCFD_FDCHANNEL_SESSION_SESSION_CONFIG_H_

#include <stdint.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "fdchannel/fds/fd_facts.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/os/token.h"
#include "fdchannel/session/counters.h"
#include "fdchannel/session/descriptor_quota.h"
#include "fdchannel/session/in_flight.h"
#include "fdchannel/session/read_room.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/receive_policy.h"

namespace grpcfd {
namespace internal {

class Session;

enum class SessionRole { kClient, kServer };

struct SessionConfig {
  SessionRole role = SessionRole::kServer;
  uint64_t id = 0;
  Token token;
  uint16_t version = kMinVersion;                    // Of the protocol.
  bool keeps = false;                                // A client's: see Session::keeps().
  ReceiveLimits local;                               // What we hold of the peer's.
  ReceiveLimits remote;                              // What the peer holds of ours.
  absl::Duration early_timeout = absl::Seconds(10);  // For descriptors whose RPC never comes.
  // A client's policy is for all its calls. A server's is for what no call asks for; its calls have
  // the policies of their methods. Null accepts all.
  std::shared_ptr<const ReceivePolicy> policy;
  unsigned look = kLookNothing;    // What the policies of the inboxes need to know (LookFor).
  std::string peer;                // For messages: "pid 17, uid 1000".
  std::shared_ptr<Poller> poller;  // May be null in tests: then nobody watches.
  std::shared_ptr<Reaper> reaper;
  std::shared_ptr<DescriptorQuota> quota;  // May be null.
  // Of the peer's user, for what a look brings. Null, in tests: there is always room.
  std::shared_ptr<ReadRoom> room;
  std::shared_ptr<Counters> counters;  // Null: the session makes its own.
  // What may be in flight to all peers together; null: the window alone counts. `uid` is whose part
  // of it this session uses.
  std::shared_ptr<InFlightBudget> in_flight;
  uid_t uid = 0;
  // A client's: the server asks for a call that it has not got. On the poller's thread; it ends
  // with AnswerResend().
  std::function<void(const std::shared_ptr<Session>& session, const CallKey& call)> on_resend;
};

struct WaitOptions {
  absl::Time deadline = absl::InfiniteFuture();
  // The limit if `deadline` is infinite, counted from the start of the wait. Most calls do not
  // wait, and so need not read the clock.
  absl::Duration patience = absl::InfiniteDuration();
  // Asked now and then while waiting, if set; true ends the wait with CANCELLED. gRPC's synchronous
  // server tells of a cancellation only when asked.
  const std::function<bool()>* cancelled = nullptr;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_SESSION_CONFIG_H_
