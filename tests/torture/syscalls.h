// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A seam between the library and the kernel: counts the library's system calls and makes one of
// them fail.
//
// Why by the linker: `torture` links the static library with --wrap=FUNCTION for each of these, so
// the library's objects are the very ones that ship and know nothing of it. gRPC's own calls come
// from its shared objects, which the linker does not touch.
//
// Only calls on threads that are not in a ScopedTestCode count, so that the code of the test gets
// no faults.
#ifndef GRPCFD_TESTS_TORTURE_SYSCALLS_H_
#define GRPCFD_TESTS_TORTURE_SYSCALLS_H_

#include <stdint.h>

#include <string>

namespace grpcfd {
namespace torture {

enum class Syscall {
  kRecvmsg,
  kRecvmmsg,
  kSendmsg,
  kAccept4,
  kConnect,
  kSocket,
  kSocketpair,
  kFcntl,
  kEpollCtl,
  kEpollCreate,
  kEpollWait,
  kEventfd,
  kGetsockopt,
  kPpoll,
};
constexpr int kSyscalls = static_cast<int>(Syscall::kPpoll) + 1;

const char* SyscallName(Syscall call);

// How often the library made this call since ResetSyscalls(), and how often with a result of -1.
uint64_t SyscallCount(Syscall call);
uint64_t SyscallFailures(Syscall call);
// Of kSendmsg: those with ancillary data.
uint64_t SendsWithControl();
void ResetSyscalls();

// The k-th call (from 1) of this kind from now on fails with `error`, without reaching the kernel.
// 0: no call fails. Whether it has happened yet is said by Injected().
void FailSyscall(Syscall call, uint64_t k, int error);
// The k-th one transfers one byte of those asked for, on a stream socket.
void ShortenSyscall(Syscall call, uint64_t k);
// Every one of this kind fails so, if getsockopt(2) only with this option name, until
// StopFailing().
void FailEvery(Syscall call, int error, int option = -1);
void StopFailing();
bool Injected();

// While one exists on a thread, its calls are the test's own.
class ScopedTestCode {
 public:
  ScopedTestCode();
  ~ScopedTestCode();
  ScopedTestCode(const ScopedTestCode&) = delete;
  ScopedTestCode& operator=(const ScopedTestCode&) = delete;
};

}  // namespace torture
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_TORTURE_SYSCALLS_H_
