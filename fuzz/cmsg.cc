// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Ancillary data. The kernel writes it right; a seccomp supervisor, gVisor or qemu-user may not. So
// recvmsg(2) is replaced (--wrap) by one that hands up what the input says, and with it close(2)
// and fcntl(2): numbers that the input made up must not close what this process has open.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>

#include "fdchannel/os/cmsg.h"
#include "fuzz/targets.h"

extern "C" {
ssize_t __real_recvmsg(int fd, msghdr* message, int flags);
int __real_close(int fd);
int __real_fcntl(int fd, int command, ...);
ssize_t __wrap_recvmsg(int fd, msghdr* message, int flags);
int __wrap_close(int fd);
int __wrap_fcntl(int fd, int command, ...);
}

namespace grpcfd {
namespace fuzz {
namespace {

// Numbers above what a process has: the kernel would never give them.
constexpr int kFirst = 1 << 20;

// What the replaced calls answer with, while a FuzzCmsg is under way on this thread.
struct Scene {
  std::string control;
  size_t control_length = 0;
  int flags = 0;
  ssize_t result = 0;
  std::set<int> open;
  int next = kFirst;
};
thread_local Scene* scene = nullptr;

}  // namespace

void FuzzCmsg(const uint8_t* data, size_t size) {
  Input input(data, size);
  Scene now;
  now.flags = (input.Byte() & 1 ? MSG_CTRUNC : 0) | (input.Byte() & 1 ? MSG_TRUNC : 0);
  now.result = input.Byte() % 65;
  const bool honest = (input.Byte() & 1) != 0;
  size_t rights = 0;
  if (honest) {
    // Headers as the kernel writes them, of any kind and number.
    while (!input.empty() && now.control.size() < 512) {
      const size_t count = input.Byte() % 8;
      cmsghdr entry{};
      entry.cmsg_level = SOL_SOCKET;
      entry.cmsg_type = input.Byte() % 3 == 0 ? SCM_CREDENTIALS : SCM_RIGHTS;
      entry.cmsg_len = CMSG_LEN(count * sizeof(int));
      std::string bytes(CMSG_SPACE(count * sizeof(int)), '\0');
      memcpy(&bytes[0], &entry, sizeof(entry));
      for (size_t i = 0; i < count; ++i) {
        // Now and then below 3, as in a process that has closed its standard streams.
        int fd = input.Byte() % 16 == 0 ? static_cast<int>(input.Byte() % 3) : now.next++;
        if (entry.cmsg_type != SCM_RIGHTS || now.open.count(fd) != 0) fd = now.next++;
        if (entry.cmsg_type == SCM_RIGHTS) {
          now.open.insert(fd);
          ++rights;
        }
        memcpy(&bytes[CMSG_LEN(0) + i * sizeof(fd)], &fd, sizeof(fd));
      }
      now.control += bytes;
    }
    now.control_length = now.control.size();
  } else {
    now.control_length = input.Byte() | input.Byte() << 8;
    now.control = input.Bytes(4096);
  }
  scene = &now;
  {
    internal::ReceivedMessage message;
    char buffer[64];
    const internal::IoResult io =
        internal::ReceiveMessage(BorrowedFd(kFirst - 1), buffer, sizeof(buffer), &message);
    Require(io.ok());
    if (honest) Require(message.fds.size() == rights);
    for (const UniqueFd& fd : message.fds) Require(fd.get() >= 3);
  }
  scene = nullptr;
  // Every one that was there has been closed.
  if (honest) Require(now.open.empty());
}

}  // namespace fuzz
}  // namespace grpcfd

using grpcfd::fuzz::scene;

extern "C" {

ssize_t __wrap_recvmsg(int fd, msghdr* message, int flags) {
  if (scene == nullptr) return __real_recvmsg(fd, message, flags);
  const size_t room = message->msg_controllen;
  memcpy(message->msg_control, scene->control.data(), std::min(room, scene->control.size()));
  if (scene->control.size() < room) {
    memset(static_cast<char*>(message->msg_control) + scene->control.size(), 0,
           room - scene->control.size());
  }
  message->msg_controllen = scene->control_length;  // The input's word, true or not.
  message->msg_flags = scene->flags;
  return scene->result;
}

int __wrap_close(int fd) {
  if (scene == nullptr) return __real_close(fd);
  scene->open.erase(fd);
  return 0;
}

int __wrap_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (scene == nullptr) return __real_fcntl(fd, command, argument);
  if (command != F_DUPFD_CLOEXEC) return 0;
  const int copy = scene->next++;
  scene->open.insert(copy);
  return copy;
}

}  // extern "C"
