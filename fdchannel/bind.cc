// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {
namespace {

absl::Status BindError(const SocketAddress& address, const char* call, int error) {
  const std::string text = absl::StrCat(call, " ", address.ToString());
  if (error == EADDRINUSE) {
    return absl::AlreadyExistsError(absl::StrCat(text, ": a server is listening there"));
  }
  return absl::ErrnoToStatus(error, text);
}

// Whether the file at `path` is a socket, and which. The file itself: bind(2) does not follow a symbolic link either.
absl::StatusOr<DevIno> SocketFile(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("lstat(", path, ")"));
  }
  if (!S_ISSOCK(st.st_mode)) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists and is no socket: it is left alone; choose another path"));
  }
  return DevIno{st.st_dev, st.st_ino};
}

// Whether nobody listens at `address` any more: connect(2) says ECONNREFUSED.
bool Refuses(const SocketAddress& address) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un sockaddr;
  const socklen_t length = address.ToSockaddr(&sockaddr);
  return probe.valid() &&
         ::connect(probe.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length) != 0 &&
         errno == ECONNREFUSED;
}

// Removes the socket file of a server that is gone. Two processes that start at once must not both find it stale, and the second remove
// the first one's new file: hence the lock file, and the second look under it.
absl::Status RemoveStale(const SocketAddress& address) {
  const std::string& path = address.name();
  auto before = SocketFile(path);
  if (!before.ok()) return absl::IsNotFound(before.status()) ? absl::OkStatus() : before.status();
  if (!Refuses(address)) return BindError(address, "bind", EADDRINUSE);

  const std::string lock_path = absl::StrCat(path, ".lock");
  const UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("open ", lock_path));
  // Not waited for: whoever holds it may never let go.
  struct stat held, named;
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(lock.get(), &held) != 0 ||
      ::lstat(lock_path.c_str(), &named) != 0 || held.st_ino != named.st_ino ||
      held.st_dev != named.st_dev) {
    return absl::UnavailableError(
        absl::StrCat(path, " is stale, and another process that clears it away has ", lock_path,
                     ": start again in a moment"));
  }
  absl::Status status;
  auto after = SocketFile(path);
  if (!after.ok()) {
    if (!absl::IsNotFound(after.status())) status = after.status();
  } else if (*after != *before || !Refuses(address)) {
    status = BindError(address, "bind", EADDRINUSE);
  } else if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("unlink ", path));
  }
  ::unlink(lock_path.c_str());  // While it is still locked: whoever opened it before sees that it is gone.
  return status;
}

}  // namespace

absl::StatusOr<BoundSocket> BoundSocket::Bind(const SocketAddress& address,
                                              const BindOptions& options) {
  const bool abstract = address.kind() == SocketAddress::Kind::kAbstract;
  if (abstract && !options.allow_abstract) {
    return absl::FailedPreconditionError(absl::StrCat(
        address.ToString(),
        " is an abstract name: no file mode protects it, and every process of the network namespace "
        "may connect; set ListenOptions::allow_abstract if that is meant"));
  }
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "socket");
  // bind(2) gives the file the socket's mode less the umask; on the socket itself nobody can look in between.
  if (!abstract && options.mode.has_value() && ::fchmod(fd.get(), *options.mode) != 0) {
    return absl::ErrnoToStatus(errno, "fchmod of the socket");
  }
  sockaddr_un sockaddr;
  const socklen_t length = address.ToSockaddr(&sockaddr);
  const auto bind = [&] {
    return ::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length) == 0
               ? 0
               : errno;
  };
  int error = bind();
  if (error == EADDRINUSE && !abstract) {
    absl::Status removed = RemoveStale(address);
    if (!removed.ok()) return removed;
    error = bind();
  }
  if (error != 0) return BindError(address, "bind", error);

  DevIno file;
  std::string path;
  if (!abstract) {
    path = address.name();
    auto bound = SocketFile(path);
    if (!bound.ok()) return bound.status();
    file = *bound;
  }
  BoundSocket result(std::move(fd), std::move(path), file);
  if (::listen(result.fd_.get(), options.backlog) != 0) return BindError(address, "listen", errno);
  return result;
}

absl::StatusOr<BoundSocket> BoundSocket::Adopt(UniqueFd socket) {
  int domain = 0, type = 0, listening = 0;
  socklen_t size = sizeof(int);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the descriptor to listen on is no socket: ", strerror(errno)));
  }
  if (domain != AF_UNIX || type != SOCK_STREAM || listening == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the socket to listen on must be a unix stream socket that is listening; domain ",
                     domain, ", type ", type, ", listening ", listening, " came"));
  }
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, "fcntl of the socket to listen on");
  }
  return BoundSocket(std::move(socket), std::string(), DevIno{});
}

void BoundSocket::Close() {
  if (!fd_.valid()) return;
  if (!path_.empty()) {
    auto now = SocketFile(path_);
    if (now.ok() && *now == file_) ::unlink(path_.c_str());
  }
  fd_.Reset();
}

}  // namespace internal
}  // namespace grpcfd
