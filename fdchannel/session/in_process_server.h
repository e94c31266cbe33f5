// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// InProcessServer: a server as a client channel of the same process sees it. It answers a hello
// without a socket.
#ifndef GRPCFD_FDCHANNEL_SESSION_IN_PROCESS_SERVER_H_
#define GRPCFD_FDCHANNEL_SESSION_IN_PROCESS_SERVER_H_

#include <functional>

#include "absl/status/status.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Thread-safe.
class InProcessServer {
 public:
  virtual ~InProcessServer() = default;

  // Answers the hello of a client in this process. `done` is called on the server's thread, with
  // the client's end of the session if the reply grants one. An error means that `done` is not
  // called.
  using InProcessCallback = std::function<void(const HelloReply& reply, UniqueFd client_end)>;
  virtual absl::Status AnswerInProcess(const Hello& hello, InProcessCallback done) = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_IN_PROCESS_SERVER_H_
