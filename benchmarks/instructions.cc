// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The way of descriptors from one end to the other and back, in one thread and without gRPC, for
// benchmarks/instructions.sh: callgrind counts the instructions, which a busy machine does not
// change. Each call does what a call by gRPC does with this library: queue, start, write the
// metadata, read it, take, answer, end.
//
//   grpcfd_bench_instructions CALLS DESCRIPTORS
//   grpcfd_bench_instructions --compiler            prints whose code this is
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "benchmarks/peer.h"
#include "fdchannel/calls/client_call.h"
#include "fdchannel/calls/server_call.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/call_metadata.h"

namespace grpcfd {
namespace benchmarks {
namespace {

using internal::CallMetadata;
using internal::ClientCall;
using internal::SeqpacketSocket;
using internal::ServerCall;
using internal::Session;

constexpr uint32_t kLimit = 253;

std::shared_ptr<Session> MakeSession(Session::Role role, UniqueFd socket) {
  Session::Config config;
  config.role = role;
  config.id = 1;
  // Any but zero will do.
  const auto token = internal::Token::Mint();
  if (!token.ok()) Die(token.status().ToString());
  config.token = *token;
  config.local = {kLimit, 4 * kLimit};
  config.remote = {kLimit, 4 * kLimit};
  config.peer = "pid 17, uid 1000";
  config.reaper = std::make_shared<internal::Reaper>();
  return Session::Create(std::make_unique<SeqpacketSocket>(std::move(socket)), std::move(config),
                         [] {});
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status().ToString());
  return *std::move(value);
}

void Call(const std::shared_ptr<Session>& client, const std::shared_ptr<Session>& server,
          uint64_t id, const UniqueFd& file, int count) {
  // The client, up to the moment at which gRPC takes over.
  const auto call = std::make_shared<ClientCall>();
  std::vector<std::string> urls;
  for (int i = 0; i < count; ++i) {
    UniqueFd fd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 3));
    urls.push_back(Must(call->SendFd(std::move(fd))).ToString());
  }
  ClientCall::Start start;
  start.limits.max_fds_per_call = kLimit;
  const absl::Status status = call->BeginStart(start);
  if (!status.ok()) Die(status.ToString());
  absl::StatusOr<CallMetadata> said;
  if (!call->TryStartOn(client, id, &said)) Die("the session has no room");
  const auto entry = EncodeCallMetadata(Must(std::move(said)));

  // The server, from the moment at which gRPC has read the metadata.
  const CallMetadata metadata = Must(internal::DecodeCallMetadata(entry));
  ServerCall::Config config;
  config.key = metadata.key();
  config.announced = metadata.count;
  const auto served = std::make_shared<ServerCall>(server, config);
  FdTransceiver* const handler = served.get();
  for (const std::string& url : urls) Inspect(Must(handler->RecvFd(url)).get(), nullptr);
  const std::string answer = Must(handler->SendFd(file)).ToString();
  served->Cancel();  // What gRPC's close amounts to.
  served->End();

  FdTransceiver* const caller = call.get();
  Inspect(Must(caller->RecvFd(answer)).get(), nullptr);
}

int Main(int calls, int descriptors) {
  auto sockets = Must(internal::MakeSessionSockets());
  const auto client = MakeSession(Session::Role::kClient, std::move(sockets.first));
  const auto server = MakeSession(Session::Role::kServer, std::move(sockets.second));
  // The counts grow with the digits of the inode. They are few here, and stay; those of a memfd
  // grow for as long as the machine runs.
  const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (int i = 0; i < calls; ++i) {
    Call(client, server, static_cast<uint64_t>(i) + 1, file, descriptors);
  }
  return 0;
}

}  // namespace
}  // namespace benchmarks
}  // namespace grpcfd

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--compiler") {
#if defined(__clang__)
    printf("clang-%d\n", __clang_major__);
#else
    printf("g++-%d\n", __GNUC__);
#endif
    return 0;
  }
  if (argc != 3) grpcfd::benchmarks::Die("expected CALLS DESCRIPTORS");
  return grpcfd::benchmarks::Main(atoi(argv[1]), atoi(argv[2]));
}
