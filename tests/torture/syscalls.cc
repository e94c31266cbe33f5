// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/torture/syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <atomic>

namespace grpcfd {
namespace torture {
namespace {

constexpr const char* kNames[kSyscalls] = {
    "recvmsg", "recvmmsg",  "sendmsg",       "accept4",    "connect", "socket",     "socketpair",
    "fcntl",   "epoll_ctl", "epoll_create1", "epoll_wait", "eventfd", "getsockopt", "ppoll"};

struct Plan {
  std::atomic<int> call{-1};
  std::atomic<uint64_t> k{0};
  std::atomic<uint64_t> seen{0};
  std::atomic<int> error{0};
  std::atomic<int> option{-1};
  std::atomic<bool> every{false};
  std::atomic<bool> shorten{false};
  std::atomic<bool> injected{false};
};

// Constant-initialised: the library may be called before any constructor here has run.
std::atomic<uint64_t> counts[kSyscalls];
std::atomic<uint64_t> failures[kSyscalls];
std::atomic<uint64_t> sends_with_control;
Plan plan;
thread_local int test_code = 0;

enum class Verdict { kPass, kFail, kShorten };

// Counts a call, and says what is to happen to it. errno is set for kFail.
Verdict Judge(Syscall call, int option = -1) {
  if (test_code != 0) return Verdict::kPass;
  const int index = static_cast<int>(call);
  counts[index].fetch_add(1, std::memory_order_relaxed);
  if (plan.call.load() != index) return Verdict::kPass;
  if (plan.option.load() >= 0 && plan.option.load() != option) return Verdict::kPass;
  if (!plan.every.load() && plan.seen.fetch_add(1) + 1 != plan.k.load()) return Verdict::kPass;
  plan.injected = true;
  if (plan.shorten.load()) return Verdict::kShorten;
  failures[index].fetch_add(1, std::memory_order_relaxed);
  errno = plan.error.load();
  return Verdict::kFail;
}

// Notes the outcome of a call that was made.
template <typename Result>
Result Note(Syscall call, Result result) {
  if (result < 0 && test_code == 0) {
    failures[static_cast<int>(call)].fetch_add(1, std::memory_order_relaxed);
  }
  return result;
}

bool IsStream(int fd);
bool IsReadable(int fd);

// EAGAIN of a receive on a SOCK_SEQPACKET socket says that it is empty, and the library believes it
// (kernel_facts_test.cc: EagainOfASeqpacketMeansThatItIsEmpty). So it is not said of one that is
// not.
bool WouldLie(int fd) { return errno == EAGAIN && !IsStream(fd) && IsReadable(fd); }

}  // namespace

const char* SyscallName(Syscall call) { return kNames[static_cast<int>(call)]; }
uint64_t SyscallCount(Syscall call) { return counts[static_cast<int>(call)]; }
uint64_t SyscallFailures(Syscall call) { return failures[static_cast<int>(call)]; }
uint64_t SendsWithControl() { return sends_with_control; }

void ResetSyscalls() {
  for (auto& count : counts) count = 0;
  for (auto& count : failures) count = 0;
  sends_with_control = 0;
}

void StopFailing() {
  plan.call = -1;
  plan.every = false;
  plan.shorten = false;
  plan.option = -1;
}

void FailSyscall(Syscall call, uint64_t k, int error) {
  StopFailing();
  plan.k = k;
  plan.seen = 0;
  plan.error = error;
  plan.injected = false;
  if (k != 0) plan.call = static_cast<int>(call);
}

void ShortenSyscall(Syscall call, uint64_t k) {
  StopFailing();
  plan.k = k;
  plan.seen = 0;
  plan.injected = false;
  plan.shorten = true;
  plan.call = static_cast<int>(call);
}

void FailEvery(Syscall call, int error, int option) {
  StopFailing();
  plan.error = error;
  plan.option = option;
  plan.every = true;
  plan.injected = false;
  plan.call = static_cast<int>(call);
}

bool Injected() { return plan.injected; }

ScopedTestCode::ScopedTestCode() { ++test_code; }
ScopedTestCode::~ScopedTestCode() { --test_code; }

}  // namespace torture
}  // namespace grpcfd

extern "C" {

ssize_t __real_recvmsg(int fd, msghdr* message, int flags);
int __real_recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout);
ssize_t __real_sendmsg(int fd, const msghdr* message, int flags);
int __real_accept4(int fd, sockaddr* address, socklen_t* length, int flags);
int __real_connect(int fd, const sockaddr* address, socklen_t length);
int __real_socket(int domain, int type, int protocol);
int __real_socketpair(int domain, int type, int protocol, int* fds);
int __real_fcntl(int fd, int command, ...);
int __real_epoll_ctl(int epoll, int operation, int fd, epoll_event* event);
int __real_epoll_create1(int flags);
int __real_epoll_wait(int epoll, epoll_event* events, int count, int timeout);
int __real_eventfd(unsigned int value, int flags);
int __real_getsockopt(int fd, int level, int option, void* value, socklen_t* length);
int __real_ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask);

}  // extern "C"

namespace grpcfd {
namespace torture {
namespace {

bool IsReadable(int fd) {
  pollfd polled = {fd, POLLIN, 0};
  return poll(&polled, 1, 0) == 1;
}

bool IsStream(int fd) {
  int type = 0;
  socklen_t length = sizeof(type);
  return __real_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

}  // namespace
}  // namespace torture
}  // namespace grpcfd

using grpcfd::torture::IsStream;
using grpcfd::torture::Judge;
using grpcfd::torture::Note;
using grpcfd::torture::Syscall;
using grpcfd::torture::Verdict;
using grpcfd::torture::WouldLie;

extern "C" {

ssize_t __wrap_recvmsg(int fd, msghdr* message, int flags) {
  const Verdict verdict = Judge(Syscall::kRecvmsg);
  const int error = errno;
  if (verdict == Verdict::kFail && !WouldLie(fd)) {
    errno = error;
    return -1;
  }
  if (verdict == Verdict::kShorten && IsStream(fd) && message->msg_iovlen == 1) {
    message->msg_iov[0].iov_len = 1;
  }
  return Note(Syscall::kRecvmsg, __real_recvmsg(fd, message, flags));
}

int __wrap_recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout) {
  const Verdict verdict = Judge(Syscall::kRecvmmsg);
  const int error = errno;
  if (verdict == Verdict::kFail && !WouldLie(fd)) {
    errno = error;
    return -1;
  }
  if (verdict == Verdict::kShorten) count = 1;
  return Note(Syscall::kRecvmmsg, __real_recvmmsg(fd, messages, count, flags, timeout));
}

ssize_t __wrap_sendmsg(int fd, const msghdr* message, int flags) {
  const Verdict verdict = Judge(Syscall::kSendmsg);
  if (verdict == Verdict::kFail) return -1;
  if (message->msg_controllen != 0 && grpcfd::torture::test_code == 0) {
    ++grpcfd::torture::sends_with_control;
  }
  if (verdict == Verdict::kShorten && IsStream(fd) && message->msg_iovlen == 1) {
    iovec one = message->msg_iov[0];
    one.iov_len = 1;
    msghdr shortened = *message;
    shortened.msg_iov = &one;
    return Note(Syscall::kSendmsg, __real_sendmsg(fd, &shortened, flags));
  }
  return Note(Syscall::kSendmsg, __real_sendmsg(fd, message, flags));
}

int __wrap_accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  if (Judge(Syscall::kAccept4) == Verdict::kFail) return -1;
  return Note(Syscall::kAccept4, __real_accept4(fd, address, length, flags));
}

int __wrap_connect(int fd, const sockaddr* address, socklen_t length) {
  if (Judge(Syscall::kConnect) == Verdict::kFail) return -1;
  return Note(Syscall::kConnect, __real_connect(fd, address, length));
}

int __wrap_socket(int domain, int type, int protocol) {
  if (Judge(Syscall::kSocket) == Verdict::kFail) return -1;
  return Note(Syscall::kSocket, __real_socket(domain, type, protocol));
}

int __wrap_socketpair(int domain, int type, int protocol, int* fds) {
  if (Judge(Syscall::kSocketpair) == Verdict::kFail) return -1;
  return Note(Syscall::kSocketpair, __real_socketpair(domain, type, protocol, fds));
}

int __wrap_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  // Only what makes descriptors; F_GETFL and its like fail for no reason of row 8.
  if (command == F_DUPFD_CLOEXEC && Judge(Syscall::kFcntl) == Verdict::kFail) return -1;
  return __real_fcntl(fd, command, argument);
}

int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) {
  if (Judge(Syscall::kEpollCtl) == Verdict::kFail) return -1;
  return Note(Syscall::kEpollCtl, __real_epoll_ctl(epoll, operation, fd, event));
}

int __wrap_epoll_create1(int flags) {
  if (Judge(Syscall::kEpollCreate) == Verdict::kFail) return -1;
  return Note(Syscall::kEpollCreate, __real_epoll_create1(flags));
}

int __wrap_epoll_wait(int epoll, epoll_event* events, int count, int timeout) {
  if (Judge(Syscall::kEpollWait) == Verdict::kFail) return -1;
  return Note(Syscall::kEpollWait, __real_epoll_wait(epoll, events, count, timeout));
}

int __wrap_eventfd(unsigned int value, int flags) {
  if (Judge(Syscall::kEventfd) == Verdict::kFail) return -1;
  return Note(Syscall::kEventfd, __real_eventfd(value, flags));
}

int __wrap_getsockopt(int fd, int level, int option, void* value, socklen_t* length) {
  if (Judge(Syscall::kGetsockopt, option) == Verdict::kFail) return -1;
  return Note(Syscall::kGetsockopt, __real_getsockopt(fd, level, option, value, length));
}

int __wrap_ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  if (Judge(Syscall::kPpoll) == Verdict::kFail) return -1;
  return Note(Syscall::kPpoll, __real_ppoll(fds, count, timeout, mask));
}

}  // extern "C"
