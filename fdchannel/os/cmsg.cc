// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/cmsg.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

namespace grpcfd {
namespace internal {
namespace {

// Never zeroed: the kernel reads only what msg_controllen covers, and this code reads only what the
// kernel says it wrote. Clearing 1 KiB for each RPC would cost more than the rest of the call's
// bookkeeping.
constexpr size_t kControlSize = CMSG_SPACE(kMaxFdsPerMessage * sizeof(int));
struct alignas(cmsghdr) ControlBuffer {
  char bytes[kControlSize];
};

// From <linux/socket.h> (Linux 6.5), which glibc 2.36 does not have: a pidfd of the sender,
// installed in this process if SO_PASSPIDFD is set. An accepted socket inherits that from a
// listener that was handed in from outside.
constexpr int kScmPidfd = 4;

// Standard streams end at 2. A received descriptor numbered 0, 1 or 2 in a process that closed
// those would be read or written by code that means the terminal (Go, CVE-2021-44717).
constexpr int kLowestFd = 3;

// Adopts one descriptor that the kernel has just installed, and moves it to kLowestFd or higher.
// Returns an invalid one if there was no room for that.
UniqueFd Adopt(int fd) {
  UniqueFd owned(fd);
  if (fd >= kLowestFd || fd < 0) return owned;
  return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, kLowestFd));
}

// Takes every descriptor out of the control buffer of a successful receive, before anybody looks at
// anything else. The lengths come from the kernel, but a seccomp supervisor or a broken emulation
// (gVisor, qemu-user) may stand between; so nothing outside the buffer is read, and a rest shorter
// than a descriptor is none.
void AdoptAll(const msghdr& header, ReceivedMessage* message) {
  message->data_truncated = (header.msg_flags & MSG_TRUNC) != 0;
  message->control_truncated = (header.msg_flags & MSG_CTRUNC) != 0;
  const char* const control = static_cast<const char*>(header.msg_control);
  const size_t size = std::min(static_cast<size_t>(header.msg_controllen), kControlSize);
  // Walked by hand: CMSG_NXTHDR of older C libraries follows a cmsg_len past the end of the buffer.
  size_t offset = 0;
  while (size - offset >= CMSG_LEN(0)) {
    cmsghdr entry;
    memcpy(&entry, control + offset, sizeof(entry));
    if (entry.cmsg_len < CMSG_LEN(0)) break;  // Would not advance.
    const size_t length = std::min(static_cast<size_t>(entry.cmsg_len), size - offset);
    const bool rights = entry.cmsg_level == SOL_SOCKET && entry.cmsg_type == SCM_RIGHTS;
    const bool pidfd = entry.cmsg_level == SOL_SOCKET && entry.cmsg_type == kScmPidfd;
    if (rights || pidfd) {
      const char* const payload = control + offset + CMSG_LEN(0);
      const size_t count = (length - CMSG_LEN(0)) / sizeof(int);
      FdVector* const fds = &message->fds;
      if (rights && fds->size() + count > fds->capacity()) fds->reserve(fds->size() + count);
      for (size_t i = 0; i < count; ++i) {
        int fd;
        memcpy(&fd, payload + i * sizeof(fd), sizeof(fd));
        UniqueFd owned = Adopt(fd);
        if (pidfd) continue;  // Not asked for: closed here.
        if (owned.valid()) {
          fds->push_back(std::move(owned));
        } else {
          message->control_truncated = true;  // Lost, as if the kernel had had no room.
        }
      }
    }
    offset += std::min(CMSG_ALIGN(length), size - offset);
  }
}

void Clear(ReceivedMessage* message) {
  message->size = 0;
  message->data_truncated = false;
  message->control_truncated = false;
  message->fds.clear();
}

void PrepareReceive(char* data, size_t size, size_t max_fds, iovec* vector, ControlBuffer* control,
                    msghdr* header) {
  vector->iov_base = data;
  vector->iov_len = size;
  header->msg_name = nullptr;
  header->msg_namelen = 0;
  header->msg_iov = vector;
  header->msg_iovlen = 1;
  header->msg_control = control->bytes;
  header->msg_controllen = sizeof(control->bytes);
  if (max_fds < kMaxFdsPerMessage) {
    // CMSG_SPACE would let one more through.
    header->msg_controllen = max_fds != 0 ? CMSG_LEN(max_fds * sizeof(int)) : 0;
  }
  header->msg_flags = 0;
}

constexpr int kReceiveFlags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;

}  // namespace

bool IoResult::would_block() const { return error == EAGAIN || error == EWOULDBLOCK; }

IoResult SendMessage(BorrowedFd socket, absl::Span<const char> data, absl::Span<const int> fds) {
  IoResult result;
  if (data.empty() || fds.size() > kMaxFdsPerMessage) {
    result.error = EINVAL;
    return result;
  }
  iovec vector;
  vector.iov_base = const_cast<char*>(data.data());  // sendmsg(2) only reads it.
  vector.iov_len = data.size();
  ControlBuffer control;
  msghdr header;
  header.msg_name = nullptr;
  header.msg_namelen = 0;
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_flags = 0;
  if (fds.empty()) {
    header.msg_control = nullptr;
    header.msg_controllen = 0;
  } else {
    const size_t size = fds.size() * sizeof(int);
    cmsghdr entry;
    entry.cmsg_level = SOL_SOCKET;
    entry.cmsg_type = SCM_RIGHTS;
    entry.cmsg_len = CMSG_LEN(size);
    memcpy(control.bytes, &entry, sizeof(entry));
    memcpy(control.bytes + CMSG_LEN(0), fds.data(), size);
    // The padding behind an odd number of descriptors goes into the kernel too: no stack rubbish
    // there.
    memset(control.bytes + CMSG_LEN(size), 0, CMSG_SPACE(size) - CMSG_LEN(size));
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(size);
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    result.error = errno;
  } else {
    result.bytes = static_cast<size_t>(sent);
  }
  return result;
}

void TakeOutOfBandInline(BorrowedFd socket) {
  const int on = 1;
  // Fails for no socket that there is.
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
}

IoResult ReceiveMessage(BorrowedFd socket, char* data, size_t size, ReceivedMessage* message,
                        size_t max_fds) {
  Clear(message);
  IoResult result;
  iovec vector;
  ControlBuffer control;
  msghdr header;
  ssize_t received;
  do {
    // Again on each attempt: the kernel may have written the lengths before it was interrupted.
    PrepareReceive(data, size, max_fds, &vector, &control, &header);
    received = ::recvmsg(socket.get(), &header, kReceiveFlags);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    result.error = errno;
    return result;
  }
  AdoptAll(header, message);
  message->size = static_cast<size_t>(received);
  result.bytes = message->size;
  return result;
}

IoResult ReceiveMessages(BorrowedFd socket, char* data, size_t slot_size,
                         absl::Span<ReceivedMessage> messages, size_t max_fds) {
  IoResult result;
  if (messages.size() == 1) {
    // recvmmsg(2) with one slot does the same work and copies one more structure.
    result = ReceiveMessage(socket, data, slot_size, &messages[0], max_fds);
    if (result.ok()) result.bytes = 1;
    return result;
  }
  for (ReceivedMessage& message : messages) Clear(&message);
  if (messages.empty()) {
    result.error = EINVAL;
    return result;
  }
  const size_t slots = std::min(messages.size(), kMaxBatch);
  iovec vectors[kMaxBatch];
  ControlBuffer controls[kMaxBatch];
  mmsghdr headers[kMaxBatch];
  int received;
  do {
    for (size_t i = 0; i < slots; ++i) {
      PrepareReceive(data + i * slot_size, slot_size, max_fds, &vectors[i], &controls[i],
                     &headers[i].msg_hdr);
      headers[i].msg_len = 0;
    }
    received = ::recvmmsg(socket.get(), headers, static_cast<unsigned int>(slots), kReceiveFlags,
                          /*timeout=*/nullptr);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    result.error = errno;
    return result;
  }
  const size_t count = std::min(static_cast<size_t>(received), slots);
  for (size_t i = 0; i < count; ++i) {
    AdoptAll(headers[i].msg_hdr, &messages[i]);
    messages[i].size = headers[i].msg_len;
  }
  // At the end of the stream the kernel fills every slot that is left with an empty message.
  for (size_t i = 0; i < count; ++i) {
    ++result.bytes;
    const ReceivedMessage& message = messages[i];
    if (message.size == 0 && message.fds.empty() && !message.control_truncated) break;
  }
  return result;
}

bool NothingUnread(BorrowedFd socket) {
  int bytes = 0;
  if (::ioctl(socket.get(), FIONREAD, &bytes) != 0 || bytes != 0) return false;
  int type = 0;
  socklen_t size = sizeof(type);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0) return false;
  if (type == SOCK_STREAM) return true;  // Its descriptors come with bytes.
  // Messages of a SOCK_SEQPACKET may be empty, and have descriptors all the same. One that is
  // looked at without room for the sender's credentials is marked; the end of the session is not.
  const int on = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) return false;
  char byte;
  iovec vector;
  vector.iov_base = &byte;
  vector.iov_len = sizeof(byte);
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  ssize_t seen;
  do {
    header.msg_flags = 0;
    seen = ::recvmsg(socket.get(), &header, MSG_PEEK | MSG_DONTWAIT);
    // That the peer left something unread is reported once, and does not matter here.
  } while (seen < 0 && (errno == EINTR || errno == ECONNRESET));
  return seen == 0 && (header.msg_flags & MSG_CTRUNC) == 0;
}

}  // namespace internal
}  // namespace grpcfd
