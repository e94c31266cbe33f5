// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// RunRefusing: what the library does where a sandbox or an older kernel refuses a system call.
#ifndef GRPCFD_TESTS_FDCHANNEL_SECCOMP_H_
#define GRPCFD_TESTS_FDCHANNEL_SECCOMP_H_

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <optional>
#include <vector>

namespace grpcfd {
namespace internal {

struct RefusedCall {
  int number;
  // If it has one: only with this second argument, which fcntl(2) calls its command.
  std::optional<uint32_t> second_argument;
};

// Runs `body` in a child process in which the calls of `refused` fail with `error`. Returns what
// `body` returned (0 to 99), 101 if the filter cannot be installed, or 102 if the child crashed.
inline int RunRefusing(const std::vector<RefusedCall>& refused, int error,
                       const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    const uint32_t answer = SECCOMP_RET_ERRNO | (static_cast<uint32_t>(error) & SECCOMP_RET_DATA);
    std::vector<sock_filter> program;
    for (const RefusedCall& call : refused) {
      program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
      const auto number = static_cast<uint32_t>(call.number);
      if (call.second_argument.has_value()) {
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3));
        program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])));
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, *call.second_argument, 0, 1));
      } else {
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
      }
      program.push_back(BPF_STMT(BPF_RET | BPF_K, answer));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    sock_fprog filter = {static_cast<unsigned short>(program.size()),  // NOLINT
                         program.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
      ::_exit(101);
    }
    ::_exit(body());
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 102;
  return WEXITSTATUS(status);
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SECCOMP_H_
