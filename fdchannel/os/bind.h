// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// BoundSocket: a listening unix socket, and the file it is bound to.
//
// Why it exists: the file of a unix socket outlives a server that crashed, and bind(2) refuses a
// path that exists. Deleting the file before binding is the usual answer, but it silently takes
// the address away from a server that is alive.
//
// The mode is set on the socket before it is bound. So the file never has more of it than was asked
// for, and it has all of it before listen(2). The umask, which is the whole process's, is left
// alone. A file is removed only if no server answers there, under a lock that is held until the new
// socket listens. At exit only the file that this socket made is removed.
#ifndef GRPCFD_FDCHANNEL_OS_BIND_H_
#define GRPCFD_FDCHANNEL_OS_BIND_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <limits>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "fdchannel/os/pass_rights.h"
#include "fdchannel/os/socket_address.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

struct BindOptions {
  // Of the socket file, whatever the umask; unset: 0777 less the umask.
  std::optional<mode_t> mode;
  bool allow_abstract = false;
  // Connections that may wait to be accepted. The kernel cuts it to net.core.somaxconn (listen(2)),
  // which is what gRPC asks for.
  int backlog = std::numeric_limits<int>::max();
  // Whether connections may bring descriptors (SO_PASSRIGHTS). kOn for those that carry them
  // in-band.
  PassRights pass_rights = PassRights::kOff;
};

// Move-only; removes its file when destroyed. Thread-compatible.
class BoundSocket {
 public:
  // Binds and listens.
  //   ALREADY_EXISTS       a server is listening there, or the path is something else than a socket
  //   FAILED_PRECONDITION  an abstract name without allow_abstract
  //   PERMISSION_DENIED    the file there is another user's, and cannot be tried or removed
  //   UNAVAILABLE          another process of this user is binding the same path at this moment
  //   PERMISSION_DENIED, NOT_FOUND, RESOURCE_EXHAUSTED, INVALID_ARGUMENT as bind(2) says
  static absl::StatusOr<BoundSocket> Bind(const SocketAddress& address, const BindOptions& options);

  // Adopts a socket that is bound and listening already (socket activation, sd_listen_fds(3)). Its
  // file is not ours to remove. INVALID_ARGUMENT if it is not a listening unix stream socket. Made
  // non-blocking and close-on-exec.
  // SO_PASSRIGHTS is set on the socket itself, so it holds for all who share it.
  static absl::StatusOr<BoundSocket> Adopt(UniqueFd socket,
                                           PassRights pass_rights = PassRights::kOff);

  BoundSocket(BoundSocket&&) = default;
  BoundSocket& operator=(BoundSocket&& other) noexcept;  // Closes its old socket.
  ~BoundSocket() { Close(); }

  const UniqueFd& fd() const { return fd_; }
  // Whether the kernel refuses descriptors that peers send to its connections, and did so from the
  // first of them on.
  bool refuses_fds() const { return refuses_fds_; }

  // Whether this socket made a file that is still its to remove.
  bool has_file() const { return !path_.empty(); }
  // Removes the file, if it is still the one this socket made, and goes on listening: for those who
  // have a handle of it. Idempotent.
  void RemoveOwnFile();
  // Stops listening and removes the file, if it is still the one this socket made. Idempotent.
  void Close();

 private:
  BoundSocket(UniqueFd fd, std::string path, DevIno file)
      : fd_(std::move(fd)), path_(std::move(path)), file_(file) {}
  void SetRights(PassRights pass_rights);

  UniqueFd fd_;
  std::string path_;  // Empty: nothing to remove.
  DevIno file_;
  bool refuses_fds_ = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_BIND_H_
