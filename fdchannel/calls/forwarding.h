// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Passes the descriptors of one call on to the next; grpcfd/forward.h is the public form.
//
// The messages set the pace: after reading a message, the forwarder finds the descriptors that were
// sent before it in the socket, and passes them on before the message. A separate thread that
// forwarded each descriptor as it arrives would race the message that names it.
#ifndef GRPCFD_FDCHANNEL_CALLS_FORWARDING_H_
#define GRPCFD_FDCHANNEL_CALLS_FORWARDING_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "fdchannel/calls/call.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {
namespace internal {

using ForwardFilter = std::function<bool(const InodeUrl& url, BorrowedFd fd)>;

// Passes on what has come with `from` and `filter` (all, if empty) lets pass, and closes the rest.
// With `keep` everything stays to be taken, and duplicates go.
absl::Status Forward(const std::shared_ptr<Call>& from, Call* to, const ForwardFilter& filter,
                     bool keep);

// For calls of the in-band wire, whose descriptors have names but no indices: they belong to the
// connection, and nothing but the message says which are the call's.
//
// Passes on duplicates of what `urls` name, each once, as they come: waits for them as DupFd does.
// Under the index that the URL has, if it has one; the others after those, under the next ones.
//   INVALID_ARGUMENT  an index that no sender can have used
//   others            as FdReceiver::DupFd, Call::ClaimIndices, FdSender::SendFd
absl::Status ForwardNamed(FdReceiver* from, std::vector<InodeUrl> urls, Call* to,
                          const ForwardFilter& filter);
absl::Status ForwardNamed(FdReceiver* from, std::vector<InodeUrl> urls, FdSender* to,
                          const ForwardFilter& filter);
// As Forward(), to such a call.
absl::Status ForwardWithoutIndices(Call* from, FdSender* to, const ForwardFilter& filter,
                                   bool keep);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_CALLS_FORWARDING_H_
