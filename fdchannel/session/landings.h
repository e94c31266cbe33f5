// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Landings: what the two ends of a session say about where a call's descriptors have to be.
//
// A client sends a call's descriptors before it knows which of its connections gRPC picks for the
// call. If the call reaches a process that has not got that session, the server there asks for them
// again (RESEND), by the session of the connection that the call came by; the client sends them and
// says so (RESENT). Until a server has the call the client keeps what the call brought; so a server
// says which calls it has (LANDED), many in one frame, soon but not at once.
#ifndef GRPCFD_FDCHANNEL_SESSION_LANDINGS_H_
#define GRPCFD_FDCHANNEL_SESSION_LANDINGS_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "fdchannel/session/descriptor_inbox.h"
#include "fdchannel/wire/frame.h"

namespace grpcfd {
namespace internal {

// Thread-compatible: a part of a Session, guarded by its mutex.
class Landings {
 public:
  using Callback = std::function<void(absl::Status)>;
  // To be called, or done, on the poller's thread: calls have locks of their own, and whoever reads
  // the socket may hold one.
  struct Outcome {
    std::vector<std::pair<Callback, absl::Status>> answered;
    std::vector<std::shared_ptr<InboxOwner>> landed;
    std::vector<CallKey> resends;

    bool empty() const { return answered.empty() && landed.empty() && resends.empty(); }
  };

  // Nothing is to be called.
  bool quiet() const { return outcome_.empty(); }
  Outcome TakeOutcome() { return std::exchange(outcome_, Outcome()); }

  // --- Frames that are to go. Next() is valid until Sent() ---

  bool has_frame() const { return !asking_.empty() || !answers_.empty() || landed_due_; }
  Frame Next() const;
  void Sent();

  // --- A server ---

  // Asks the client for the call once more. `done` gets OK when all of it has come.
  void Ask(const CallKey& call, Callback done);
  bool awaits_answers() const { return !asked_.empty(); }
  void Answered(const CallKey& call, ResendOutcome outcome);
  // Nobody waits for the answer any more.
  void GiveUp(const CallKey& call) { asked_.erase(call); }
  // The session is dead: nobody answers any more.
  void FailAll(const absl::Status& status);
  // The call is here. True if the client is to be told within a while, and nothing else made that
  // so already: the caller then calls TellSoon() later.
  bool HasLanded(uint64_t call);
  // What has landed until now is due.
  void TellSoon() { landed_due_ = !landed_.empty(); }

  // --- A client ---

  void Landed(std::shared_ptr<InboxOwner> owner) { outcome_.landed.push_back(std::move(owner)); }
  void Asked(const CallKey& call) { outcome_.resends.push_back(call); }
  void Answer(const CallKey& call, ResendOutcome outcome) { answers_.emplace_back(call, outcome); }

 private:
  Outcome outcome_;
  absl::flat_hash_map<CallKey, Callback> asked_;
  // Not sent yet.
  std::vector<CallKey> asking_;
  std::vector<std::pair<CallKey, ResendOutcome>> answers_;
  std::vector<uint64_t> landed_;
  bool landed_due_ = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_LANDINGS_H_
