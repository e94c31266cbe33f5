// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The client side: channels whose calls carry descriptors.
//
//   auto channel = grpcfd::CreateChannel("unix:/run/app.sock", grpc::InsecureChannelCredentials());
//   grpc::ClientContext context;
//   auto fds = grpcfd::FromContext(&context);
//   GRPCFD_ASSIGN_OR_RETURN(*request.mutable_memory(), grpcfd::Attach(*fds, memory));
//   GRPCFD_RETURN_IF_ERROR(stub->Attach(&context, request, &reply));
//   GRPCFD_ASSIGN_OR_RETURN(grpcfd::UniqueFd event, grpcfd::Take(*fds, reply.event()));
//
// A descriptor belongs to the call whose context it was sent with, from before the call starts
// until the context and every handle from FromContext are gone.
#ifndef GRPCFD_CLIENT_H_
#define GRPCFD_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/client_interceptor.h>

#include <memory>
#include <string>
#include <vector>

#include "grpcfd/fd_channel.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/in_band.h"

namespace grpcfd {

// The descriptors of the call that `context` is or will be used for. Call it on the thread that
// prepares the context; before the call to send with it, and before, during or after it for the
// same handle again. The handle may be used on any thread. Takes the context's slot for call
// credentials; credentials that are there already are applied as before.
//
// Before the call SendFd only queues. If the call cannot bring the descriptors along, it fails,
// with a status that says why, and no handler runs with a part of them:
//   FAILED_PRECONDITION  the channel has no grpcfd factory, its target is not a unix socket, or
//                        several, the server is not a grpcfd server, or set_credentials replaced
//                        what FromContext had set
//   INVALID_ARGUMENT     more descriptors than a limit allows
//   PERMISSION_DENIED    an authorize_session refused the session, this program's or the server's
//   RESOURCE_EXHAUSTED   the server did not take enough of those sent before, until the deadline,
//                        or has its limit of sessions; or a limit of the kernel was reached
//   DEADLINE_EXCEEDED    there was no session with the server by the call's deadline
//   UNAVAILABLE          no session with the server
//   INTERNAL             the server's answer to the request for a session is against the protocol
std::shared_ptr<FdTransceiver> FromContext(grpc::ClientContext* context);

// Channels of Wire::kInBand ignore these: they send no `grpcfd-urls`, and a call's descriptors go
// once, with the attempt that reaches a connection.
struct ClientInterceptorOptions {
  // Also send the URLs of the first 16 descriptors in the metadata entry `grpcfd-urls`, for logs,
  // and for servers that read them there.
  bool urls_in_metadata = true;

  // Send a call's descriptors for each attempt that gRPC makes of it, instead of once when the call
  // is made. A call that is made again, by a retryPolicy, or transparently after the server was
  // restarted, then finds them on the attempt that runs, whatever became of those before. This is
  // always on for calls with set_wait_for_ready(true). It is also on for all calls of a channel
  // from CreateCustomChannel whose arguments have a service configuration with a "retryPolicy",
  // unless retries are switched off.
  //
  // It costs an interceptor and a call-credentials plugin for each call that uses FromContext
  // (`per_attempt_us` of benchmarks/run.sh). The call's descriptors stay open here until the first
  // part of the response is there, since gRPC may make another attempt until then. A reader at the
  // other end of a pipe that was sent sees the end only after that. A call that has call
  // credentials of its own, in its context or from a chain factory, costs more, because gRPC makes
  // threads for the combination. Credentials of the channel (grpc::CompositeChannelCredentials)
  // cost nothing extra.
  bool send_per_attempt = false;
};

// The factory that ties the calls of a channel to `fd_channel`, for programs that have client
// interceptors of their own:
//
//   std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> creators;
//   creators.push_back(std::make_unique<MyTracing>());
//   creators.push_back(grpcfd::MakeClientInterceptorFactory(fd_channel));
//   grpcfd::NameConnections(fd_channel, &args);
//   auto channel = grpc::experimental::CreateCustomChannelWithInterceptors(
//       target, creds, args, std::move(creators));
//
// It may stand anywhere in the vector, with one exception: interceptors that make calls of their
// own through InterceptorBatchMethods::GetInterceptedChannel() (caches, say) come before it, and
// before the chain factories of grpcfd/credentials.h. gRPC takes the number of interceptors that a
// call has for that of factories, and these make none: one that stands behind them would meet
// itself again, endlessly. A call without descriptors costs nothing: the factory makes no
// interceptor for it.
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientInterceptorFactory(
    std::shared_ptr<FdChannel> fd_channel, const ClientInterceptorOptions& options = {});

struct ChannelOptions {
  // kFdChannel, or kInBand for servers that use Go's grpcfd. With kInBand gRPC connects to a relay
  // in this process, which connects to the target; ClientContext::peer() names the relay. Call
  // credentials that neither gRPC nor grpcfd made do not go together with descriptors then.
  Wire wire = Wire::kFdChannel;
  // For kInBand.
  InBandOptions in_band;

  // An FdChannel of the program's own, made for the same target: to register descriptors for many
  // calls with, say. Channels may share one. With one for another target calls with descriptors
  // fail with INVALID_ARGUMENT. For kFdChannel.
  std::shared_ptr<FdChannel> fd_channel;
  // For the FdChannel that is made if `fd_channel` is unset. Limits of calls and the time to
  // connect hold for both wires.
  FdChannelOptions fd_channel_options;
  // For kFdChannel.
  ClientInterceptorOptions interceptor;
  // Give each connection of the channel a name, as NameConnections does; for kFdChannel. Without
  // names, calls with descriptors work only while one server process accepts at the target, and
  // fail for a while when it is restarted (docs/guides/restarts.md). Channels with names share no
  // connections with others.
  bool name_connections = true;
};

// For programs that make their channels themselves: gives each connection that a channel with
// `arguments` makes an abstract socket name of 128 random bits, so that descriptors land in the
// process where the connection is, and servers can tell who calls (grpcfd::PeerFromContext).
// ServerContext::peer() then says `unix-abstract:grpcfd-` and 32 hexadecimal digits. A socket
// mutator that the program has set stays in force. Use the arguments for one channel. Does nothing
// for connections that are not of unix sockets, where the kernel refuses the name, and with a gRPC
// that has no socket mutators.
void NameConnections(const std::shared_ptr<FdChannel>& fd_channel,
                     grpc::ChannelArguments* arguments);

// As grpc::CreateCustomChannel, with descriptors. `interceptor_creators` are the program's own, in
// their order; grpcfd's comes after them. A target that is not a unix socket, or a list of them
// (`unix:/a,/b`), works as before for calls without descriptors.
std::shared_ptr<grpc::Channel> CreateCustomChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
    const grpc::ChannelArguments& arguments,
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>
        interceptor_creators = {},
    const ChannelOptions& options = {});

// The same with default arguments.
std::shared_ptr<grpc::Channel> CreateChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials);

// The FdChannel of a channel from CreateChannel, CreateCustomChannel or InProcessChannel, or with a
// factory of MakeClientInterceptorFactory: for Stats() and Register(), say. Null if there is none:
// a channel of gRPC's own, a target that is not a unix socket, or Wire::kInBand.
std::shared_ptr<FdChannel> GetFdChannel(const grpc::Channel& channel);

}  // namespace grpcfd

#endif  // GRPCFD_CLIENT_H_
