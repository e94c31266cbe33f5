// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Per-RPC call credentials, chained; and descriptors that travel with credentials, as in Go's
// grpcfd.
//
// A ClientContext has one slot for call credentials. grpcfd keeps a call's descriptors there, a
// channel may have defaults for all its calls, and the call may have its own: chained, all of them
// arrive. gRPC's CompositeCallCredentials combines only credentials that gRPC itself made, and
// returns null for any other; a null in the slot silently removes what was there.
//
// Set credentials before FromContext(&context), or chain them. context.set_credentials() afterwards
// replaces the descriptors; grpcfd notices and fails the call with FAILED_PRECONDITION.
#ifndef GRPCFD_CREDENTIALS_H_
#define GRPCFD_CREDENTIALS_H_

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_interceptor.h>

#include <memory>

#include "grpcfd/fd_transceiver.h"

namespace grpcfd {

// Credentials that apply both. If one is null, returns the other.
// Metadata of both arrives, first that of `first`; a key that is in both arrives twice, in this
// order. Works with grpcfd's own credentials on either side. If one fails, the call fails as gRPC
// has it for a single one (1.51: UNAVAILABLE with the text of the one that failed). Credentials of
// classes that are neither gRPC's nor grpcfd's can be used alone, but not be combined: such a call
// fails with FAILED_PRECONDITION. Thread-safe.
std::shared_ptr<grpc::CallCredentials> ChainCallCredentials(
    std::shared_ptr<grpc::CallCredentials> first, std::shared_ptr<grpc::CallCredentials> second);

// Credentials that carry descriptors: each call that is made with them, on however many contexts
// and channels, in turn or at once, brings the full set. What is added after a call started goes to
// later calls. `inner`, which may be null, is applied to the calls too. Given credentials that
// carry descriptors already, it returns them unchanged. Thread-safe; the set is closed with the
// last reference.
//
// Set them before FromContext(&context), if both are used for one call: the set's descriptors, as
// it is at that moment, come first, then the call's own. A set that comes after descriptors of the
// call's own, or of another set, is refused: the call fails with FAILED_PRECONDITION.
std::shared_ptr<grpc::CallCredentials> PerRpcCredentials(
    std::shared_ptr<grpc::CallCredentials> inner = nullptr);

// The set of `credentials`; null if they carry none. SendFd and its like add to the set and return
// the URL under which each call will have the descriptor. RecvFd and its like ask the calls made
// with these credentials whose ClientContext is still there, the latest first; FAILED_PRECONDITION
// if there is none.
std::shared_ptr<FdTransceiver> FromPerRpcCredentials(
    const std::shared_ptr<grpc::CallCredentials>& credentials);

// The credentials with descriptors that `context` has, by set_credentials, alone or chained with
// others: with the same set, so that calls of other contexts can bring it too. Null if there are
// none. As PerRPCCredentialsFromCallOptions of Go's grpcfd.
std::shared_ptr<grpc::CallCredentials> PerRpcCredentialsFromContext(
    const grpc::ClientContext& context);

// Interceptor factories that chain `defaults` in front of the credentials of each unary call, or of
// each streaming call, of a channel. Each leaves the other kind alone. They may stand anywhere
// among the channel's factories and be there twice: a default is applied once. If `defaults` carry
// descriptors (PerRpcCredentials), they stand before MakeClientInterceptorFactory.
//
// Whether gRPC lets call credentials travel is its own decision: on an insecure channel only those
// made with GRPC_SECURITY_NONE, on local (UDS) and TLS channels others too. What it refuses it
// refuses with its own status.
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> ChainUnaryInterceptorFactory(
    std::shared_ptr<grpc::CallCredentials> defaults);
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>
ChainStreamInterceptorFactory(std::shared_ptr<grpc::CallCredentials> defaults);

}  // namespace grpcfd

#endif  // GRPCFD_CREDENTIALS_H_
