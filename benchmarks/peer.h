// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What is compared: ways to make a call to another process that carries descriptors. Each has a
// caller, used by the measuring process, and a server, run by the other one.
//
// Why one interface: the figures are only worth something if all of them do the same work. The
// receiver looks at each descriptor (fstat) and closes it; the call returns when that is done. The
// content is checked in calls that are not timed.
#ifndef GRPCFD_BENCHMARKS_PEER_H_
#define GRPCFD_BENCHMARKS_PEER_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace benchmarks {

// Used by one thread.
class Caller {
 public:
  virtual ~Caller() = default;
  // A call that carries `fds`, which the caller has no more use for. Ends the process with a
  // message if it fails: a benchmark of failures measures nothing.
  virtual void Call(std::vector<UniqueFd> fds) = 0;
  // The same; returns the content that the receiver read from each.
  virtual std::vector<std::string> CallAndVerify(std::vector<UniqueFd> fds) = 0;
};

// Raw SCM_RIGHTS over SOCK_SEQPACKET: the kernel's own price.
std::unique_ptr<Caller> ConnectRaw(const std::string& path);
void ServeRaw(const std::string& path);

// One message of it, with descriptors; and one that is there already, whose descriptors are
// inspected as below, and closed.
void SendByHand(const UniqueFd& socket, const std::vector<UniqueFd>& fds);
void TakeByHand(const UniqueFd& socket, std::vector<std::string>* contents);

// sd-bus, peer to peer, without a bus daemon.
std::unique_ptr<Caller> ConnectSdBus(const std::string& path);
void ServeSdBus(const std::string& path);

// Cap'n Proto RPC. One caller a process: it has the event loop of the calling thread.
std::unique_ptr<Caller> ConnectCapnp(const std::string& path);
void ServeCapnp(const std::string& path);

// The metadata of calls that are named by hand: as much as grpcfd's own.
inline constexpr char kIdleEntry[] = "bench-bin";
inline constexpr size_t kIdleEntrySize = 48;

// --- The work ---

// The receiver's part for one descriptor: fstat(2), and its content if asked. The caller closes.
void Inspect(int fd, std::vector<std::string>* contents);

// Ends the process with `what` and errno's text.
[[noreturn]] void Die(const std::string& what);

// A socket of this type that listens at `path`, and one that is connected to it.
UniqueFd Listen(const std::string& path, int type);
UniqueFd Connect(const std::string& path, int type);
UniqueFd Accept(const UniqueFd& listener);

}  // namespace benchmarks
}  // namespace grpcfd

#endif  // GRPCFD_BENCHMARKS_PEER_H_
