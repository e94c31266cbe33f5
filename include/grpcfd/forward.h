// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Forwarding: a server that is a client of the next hop passes a call's descriptors on, and those
// of the reply back.
//
//   grpc::Status Attach(grpc::ServerContext* context, const AttachRequest* request,
//                       AttachReply* reply) override {
//     auto next = grpc::ClientContext::FromServerContext(*context);
//     GRPCFD_RETURN_IF_ERROR(grpcfd::ForwardFds(context, next.get()));
//     grpc::Status status = stub_->Attach(next.get(), *request, reply);
//     GRPCFD_RETURN_IF_ERROR(grpcfd::ForwardFds(next.get(), context));
//     return status;
//   }
//
// The last hop finds each descriptor under the URL that the first one wrote: a URL names the file
// (device and inode, which are the same at each hop) and the descriptor's index in its call, and
// forwarding keeps the indices. So the message passes unchanged, and nobody in between needs to
// know which of its fields hold URLs.
//
//  * Forward when the message has been read: what was sent before it is there then. In a stream,
//    forward after each Read, before the Write.
//  * Forward before you send descriptors of your own, which would take the indices of the others.
//  * A call of the in-band wire (Wire::kInBand) needs ForwardOptions::urls: there descriptors
//    belong to the connection, and only the message knows which are the call's.
//  * Without a filter everything is passed on, whatever a peer sends: directories, terminals,
//    sockets.
#ifndef GRPCFD_FORWARD_H_
#define GRPCFD_FORWARD_H_

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"

namespace grpcfd {

struct ForwardOptions {
  // Whether a descriptor goes on; unset: all do. Called in the order of the indices, on the calling
  // thread. The URL has the index; `fd` is good for fstat(2), fcntl(2), Dup() and the like during
  // the call, and shares offset and flags with the sender's. What it refuses is closed, and leaves
  // a hole: a request for it at the next hop gets NOT_FOUND.
  std::function<bool(const InodeUrl& url, BorrowedFd fd)> filter;

  // Take nothing from `from`, and pass duplicates on: for a handler that looks at the descriptors
  // itself, or tries a second server when the first one fails. What is kept occupies the window of
  // the session it came with until it is taken or the call ends, so streams of many must not keep.
  bool keep = false;

  // What the message names: its URLs, those that it got from the previous hop. If `from` came or
  // went by the in-band wire (docs/guides/go.md) they say what to pass on, and without them nobody
  // can: then ForwardFds says FAILED_PRECONDITION, unless nothing ever came on that connection. An
  // empty list means that there is nothing.
  //     options.urls.emplace(request->urls().begin(), request->urls().end());
  // On that wire duplicates go, whatever `keep` says, and a descriptor that has not come yet is
  // waited for as RecvFd does, which blocks. An fdchannel knows what came with a call: for its
  // calls this is ignored, so one forwarder can serve both.
  std::optional<std::vector<std::string>> urls;
};

// From the call that is being served to the one that is about to be made: passes on what has come
// with `from` and was not taken, under the same indices. It does FromContext(to), so that the reply
// may bring descriptors. Call it before the call is made; if the request is a stream, again after
// each message that was read from it and before it is written on. Nothing goes twice.
//
// OK also if there is nothing to forward: `from` may be a plain call, or `to` go to a server
// without grpcfd. If there is something, and the next hop cannot take it, the call fails as
// FromContext(ClientContext*) says. In a stream it never waits for room at the next hop: a
// descriptor that finds none stays with `from` until it can go on its own, up to the deadline of
// `to`, and the message need not wait for it; if that fails, the next ForwardFds says so. gRPC's
// ClientContext::FromServerContext passes the deadline on where nobody can read it: without a
// set_deadline that wait is SessionLimits::recv_timeout.
//
// Errors, after which `to` is not to be called (descriptors that it has already are closed with
// it):
//   INVALID_ARGUMENT    the metadata of `from`, or one of ForwardOptions::urls, cannot be read
//   FAILED_PRECONDITION one of the indices is in use: something was sent with `to` before; or `to`
//                       has sent its one request; or `from` is of the in-band wire, and there are
//                       no ForwardOptions::urls
//   ALREADY_EXISTS      `to` is of the in-band wire, and its connection has another open file of
//                       the inode (docs/guides/go.md). For calls that are not made yet: when they
//                       are
//   DEADLINE_EXCEEDED   `from` is of the in-band wire, and what a URL names did not come in time
//   RESOURCE_EXHAUSTED  this process is at RLIMIT_NOFILE, a limit of grpcfd's did not let the
//                       descriptors come, or, in a stream, the next hop took none until the
//                       deadline
//   UNAVAILABLE         a session is gone, and with it descriptors that were announced
absl::Status ForwardFds(grpc::ServerContextBase* from, grpc::ClientContext* to,
                        const ForwardOptions& options = {});

// The way back, from the call that was made to the one that is being served. Call it when the reply
// is there, before it is sent on; for a stream of replies after each message that was read, before
// it is written. A synchronous unary call waits for room; others do not, as above. INVALID_ARGUMENT
// also if there are more than the caller takes for one call.
absl::Status ForwardFds(grpc::ClientContext* from, grpc::ServerContextBase* to,
                        const ForwardOptions& options = {});

}  // namespace grpcfd

#endif  // GRPCFD_FORWARD_H_
