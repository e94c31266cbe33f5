// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// All code that touches ancillary data (cmsg(3)) lives in this pair of files.
//
// Why it exists: SCM_RIGHTS is easy to get nearly right. This is the one place that deals with what
// the kernel does unasked:
//  * recvmsg(2) installs descriptors in this process before the message has been checked. So each
//    one, from every header, is owned by a UniqueFd before the first check; a check that fails then
//    cannot leak.
//  * MSG_CTRUNC means that descriptors were dropped: RLIMIT_NOFILE was reached or a security module
//    refused one. errno says nothing, and *some* of the descriptors were installed. It is reported,
//    never ignored.
//  * CMSG_SPACE rounds up, so a buffer for one descriptor lets two through without MSG_CTRUNC.
//    Buffers here always have room for kMaxFdsPerMessage, and the caller compares the count with
//    what the frame announced.
//  * Without MSG_CMSG_CLOEXEC a concurrent fork+exec inherits what is being received; fcntl(2)
//    afterwards is too late.
//  * A stream socket silently drops the descriptors of a message without data, so sending no bytes
//    is refused.
//  * A process that has closed its standard streams receives descriptors numbered 0 to 2, and then
//    code that means the terminal uses them. What is received here is numbered 3 or higher.
//
// Thread safety: free functions, thread-safe as the system calls are. None of them blocks
// (MSG_DONTWAIT), none of them raises SIGPIPE (MSG_NOSIGNAL), and EINTR is retried inside.
#ifndef GRPCFD_FDCHANNEL_OS_CMSG_H_
#define GRPCFD_FDCHANNEL_OS_CMSG_H_

#include <stddef.h>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// SCM_MAX_FD in the kernel's include/net/scm.h: more in one sendmsg(2) is EINVAL for all of them.
inline constexpr size_t kMaxFdsPerMessage = 253;

using FdVector = absl::InlinedVector<UniqueFd, 4>;

// What one send or receive did: `error` is 0 or an errno value, captured at once.
struct IoResult {
  int error = 0;
  size_t bytes = 0;  // Valid if error is 0. After a receive: 0 at the end of the stream.

  bool ok() const { return error == 0; }
  bool would_block() const;  // EAGAIN, EWOULDBLOCK
};

// Sends `data` with `fds` in one sendmsg(2). `data` must not be empty; `fds` may be, and holds at
// most kMaxFdsPerMessage. Otherwise EINVAL, without a system call. On a stream socket fewer bytes
// than asked may be sent; the descriptors went with the first byte then and must not be sent again
// with the rest. The descriptors stay the caller's: close them only afterwards.
IoResult SendMessage(BorrowedFd socket, absl::Span<const char> data, absl::Span<const int> fds);

// Has bytes that the peer of a unix stream socket sends with MSG_OOB come in their place among the
// others. One that is passed over is dropped within the recvmsg(2) that passes it, and descriptors
// with it (af_unix.c, manage_oob): nobody sees them, and their close can block the receiver.
void TakeOutOfBandInline(BorrowedFd socket);

// One received message.
struct ReceivedMessage {
  size_t size = 0;                 // Bytes of data.
  bool data_truncated = false;     // MSG_TRUNC: the message was longer than the buffer.
  bool control_truncated = false;  // MSG_CTRUNC: descriptors were lost on the way in.
  FdVector fds;                    // All that were installed, owned.
};

// Receives at most `size` bytes into `data` with one recvmsg(2). Whatever `*message` held is
// dropped. Ancillary data of other kinds is ignored (a pidfd that nobody asked for is closed).
//
// The kernel drops the descriptors of a message above `max_fds`, at most kMaxFdsPerMessage, within
// the call: if they were the last ones of their files, it closes those, which may block. So only a
// thread that serves nobody else may ask for fewer than that.
IoResult ReceiveMessage(BorrowedFd socket, char* data, size_t size, ReceivedMessage* message,
                        size_t max_fds = kMaxFdsPerMessage);

// Receives up to `messages.size()` messages of at most `slot_size` bytes, the i-th into `data + i *
// slot_size`, with one recvmmsg(2). `result.bytes` counts the messages. At most kMaxBatch per call.
// The end of a SOCK_SEQPACKET is a message of size 0 without descriptors; nothing after it counts,
// but what came with it is in `messages`, for the caller to close. `max_fds` is of each message.
inline constexpr size_t kMaxBatch = 8;
IoResult ReceiveMessages(BorrowedFd socket, char* data, size_t slot_size,
                         absl::Span<ReceivedMessage> messages, size_t max_fds = kMaxFdsPerMessage);

// Whether nothing is unread in a unix socket that was shut down in both directions. Nothing can
// come any more, so closing it drops no descriptor of the peer's, and cannot block.
bool NothingUnread(BorrowedFd socket);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_CMSG_H_
