// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A second process that serves or calls, to be killed. It is this program again, started by
// posix_spawn(3) before it knows of gRPC, so that nothing is forked that has threads.
#ifndef GRPCFD_TESTS_INTERCEPTORS_STYLES_PEER_H_
#define GRPCFD_TESTS_INTERCEPTORS_STYLES_PEER_H_

#include <stdio.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "grpcfd/grpcfd.h"

namespace grpcfd {
namespace styles {

// Its stdin and stdout are connected to us, and its descriptor kGiven is the one it was given.
// Killed with the object at the latest.
class Peer {
 public:
  static constexpr int kGiven = 3;

  Peer(std::vector<std::string> arguments, UniqueFd given);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // A line of what it prints, without the newline; empty at the end.
  std::string Line();
  void Say(const std::string& line);
  // With SIGKILL; returns when it is dead.
  void Kill();

 private:
  pid_t pid_ = -1;
  UniqueFd stdin_;
  FILE* stdout_ = nullptr;
};

// What the second process does, until it is killed or its stdin ends: `--serve STYLE ADDRESS` or
// `--call STYLE SHAPE ADDRESS`. -1 if the arguments are others.
int RunAsPeer(int argc, char** argv);

}  // namespace styles
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_STYLES_PEER_H_
