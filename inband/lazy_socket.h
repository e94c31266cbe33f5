// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// LazySocket: a unix stream socket whose bytes are read at once and taken out of the kernel later.
//
// Why it exists: taking bytes out of a unix socket tells their sender that it has
// room again (unix_write_space in net/unix/af_unix.c), whether or not it ever ran out
// of it. gRPC and Go's runtime ask epoll for EPOLLOUT for the life of a connection,
// so each read here wakes a thread there for nothing, and that thread often runs
// before this one can write what it has read. So small reads peek (MSG_PEEK with
// SO_PEEK_OFF, socket(7)), and what was peeked is taken out afterwards, much of it at
// once.
//
// The reader must see to it that Settle() is called soon, whatever happens. Otherwise
// the sender's buffer fills, and both ends may wait for each other. Close() settles
// first: if a socket is closed with unread bytes in it, the other end gets ECONNRESET
// instead of the end of the stream.
#ifndef GRPCFD_INBAND_LAZY_SOCKET_H_
#define GRPCFD_INBAND_LAZY_SOCKET_H_

#include <stddef.h>

#include "fdchannel/os/cmsg.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// Thread-compatible. Nobody else may read from the socket.
class LazySocket {
 public:
  LazySocket() = default;
  // If the kernel does not support SO_PEEK_OFF for it, every read is an ordinary one.
  explicit LazySocket(UniqueFd fd);
  ~LazySocket() { Close(); }
  LazySocket(const LazySocket&) = delete;
  LazySocket& operator=(const LazySocket&) = delete;

  BorrowedFd fd() const { return fd_; }

  // Receives at most `size` bytes, without waiting; 0 at the end of the stream. Descriptors that
  // come with them are dropped, so use it only if the other end sends none.
  IoResult Receive(char* data, size_t size);

  // Bytes that were received and are still in the kernel.
  size_t unsettled() const { return unsettled_; }
  // Takes them out.
  void Settle();
  void Close();

 private:
  UniqueFd fd_;
  bool peeks_ = false;
  bool bulk_ = false;  // Much came last time: copying it twice costs more than waking the sender.
  size_t unsettled_ = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_LAZY_SOCKET_H_
