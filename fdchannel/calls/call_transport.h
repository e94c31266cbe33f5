// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// CallTransport: carries the descriptors of one call, or of one attempt of it, both ways. There are
// two: a session (session_transport.h) and gRPC's own connection (inband). The call's own state is
// above it, once for all wires: client_call.h, server_call.h.
//
// Each kind of transport is started in its own way: a session may have to wait for room, a
// connection takes what is queued at once. The rest is here.
#ifndef GRPCFD_FDCHANNEL_CALLS_CALL_TRANSPORT_H_
#define GRPCFD_FDCHANNEL_CALLS_CALL_TRANSPORT_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/session.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

struct IndexedFd {
  InodeUrl url;  // With an index, unless the wire has none.
  ReapedFd fd;
};
// Most calls have one.
using IndexedFds = absl::InlinedVector<IndexedFd, 1>;

// Thread-safe.
class CallTransport {
 public:
  using Op = Session::Op;
  using FdCallback = Session::FdCallback;
  using StatusCallback = std::function<void(absl::Status)>;

  virtual ~CallTransport() = default;

  // Whether a descriptor has an index in its call. Without one it belongs to the connection, and
  // only the message that names it knows which call it is for.
  virtual bool indexed() const = 0;
  // How many the peer may be sent for one call at once, and may send.
  virtual size_t max_to_send() const = 0;
  virtual size_t max_to_receive() const = 0;
  // For messages.
  virtual std::string peer() const = 0;
  // Closes what came by it.
  virtual std::shared_ptr<Reaper> reaper() const = 0;
  // Whether any descriptor ever came, if it is not known for which call.
  virtual bool AnyCame() const = 0;

  // Sends one descriptor under `url`. `adopted`, if not null, is what `fd` borrows from, and may be
  // moved from. Waits for room as `options` say. Errors as FdSender::SendFd.
  virtual absl::Status Send(const InodeUrl& url, BorrowedFd fd, UniqueFd* adopted,
                            const WaitOptions& options) = 0;
  // Sends these, by index, in as few messages as they fit. They stay the caller's.
  virtual absl::Status SendAll(const IndexedFds& fds, const WaitOptions& options) = 0;
  // Sends one as soon as there is room. Never blocks; `done` is called when it is sent, or cannot
  // be, on this thread or the poller's.
  virtual void SendLater(IndexedFd fd, absl::Time deadline, StatusCallback done) = 0;

  // Errors as FdReceiver.
  virtual absl::StatusOr<UniqueFd> Receive(const InodeUrl& url, Op op,
                                           const WaitOptions& options) = 0;
  // Never blocks. `done` is called on this thread if the outcome is at hand, else on the poller's.
  // The transport must stay until then, or until End().
  virtual void ReceiveAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) = 0;
  // The URLs, by index, of what has come and was not taken; as Session::Arrived.
  virtual absl::StatusOr<std::vector<InodeUrl>> Arrived() = 0;

  // The call was cancelled: waits, and later requests for what is not there, get CANCELLED.
  virtual void Cancel() = 0;
  // The same, only for waits to send.
  virtual void CancelSends() = 0;
  // The peer has ended the call: what has not come is NOT_FOUND.
  virtual void Complete() = 0;
  // The call is over here. `sent`: this side sent descriptors in it. Idempotent.
  virtual void End(bool sent) = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_CALL_TRANSPORT_H_
