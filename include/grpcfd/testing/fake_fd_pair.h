// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FakeFdPair: the two ends of one call's descriptors, in memory.
//
// Why it exists: a unit test of a handler needs another end of the call, not a server. What one
// end sends the other receives, as real descriptors of the same open file, with the rules and the
// status codes of a real call:
//     grpcfd::FakeFdPair call;
//     request.set_memory_url(call.client()->SendFd(memory)->ToString());
//     Serve(call.server().get(), request, &reply);
//     absl::StatusOr<grpcfd::UniqueFd> event = call.client()->RecvFd(reply.event_url());
//
// As in a real call, RecvFd waits (recv_timeout at the longest) and then says DEADLINE_EXCEEDED, so
// a thread must not wait for what it is to send itself afterwards. Windows and quotas between
// processes, sessions that die, cancellation and a peer that can send no more are not modelled: use
// the mocks for UNAVAILABLE, CANCELLED and NOT_FOUND.
#ifndef GRPCFD_TESTING_FAKE_FD_PAIR_H_
#define GRPCFD_TESTING_FAKE_FD_PAIR_H_

#include <stddef.h>

#include <memory>

#include "absl/time/time.h"
#include "grpcfd/fd_transceiver.h"

namespace grpcfd {

// One call. Thread-safe, but for its destructor.
class FakeFdPair {
 public:
  struct Options {
    // Descriptors of one direction; the next one is INVALID_ARGUMENT.
    size_t max_fds_per_call = 16;
    // How long a receive waits at the longest, whatever its deadline: the fake call has none of its
    // own.
    absl::Duration recv_timeout = absl::Seconds(10);
  };

  FakeFdPair();
  explicit FakeFdPair(const Options& options);

  // Ends the call, and returns when every callback of RecvFdAsync has been called. Must not run in
  // one.
  ~FakeFdPair();

  FakeFdPair(const FakeFdPair&) = delete;
  FakeFdPair& operator=(const FakeFdPair&) = delete;

  // The two ends. They may be kept longer than the pair; the call is over then.
  const std::shared_ptr<FdTransceiver>& client() const { return client_; }
  const std::shared_ptr<FdTransceiver>& server() const { return server_; }

  // Ends the call: closes what was sent and not taken, in both directions. From here on every
  // method of both ends is FAILED_PRECONDITION, also those that are waiting. Idempotent.
  void EndCall();

  // How many descriptors were sent, by both ends, and not taken: what EndCall() would close.
  size_t unclaimed() const;

 private:
  class Call;
  class End;

  const std::shared_ptr<Call> call_;
  const std::shared_ptr<FdTransceiver> client_;
  const std::shared_ptr<FdTransceiver> server_;
};

}  // namespace grpcfd

#endif  // GRPCFD_TESTING_FAKE_FD_PAIR_H_
