// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/path_lock.h"

namespace grpcfd {
namespace internal {
namespace {

// Linux 6.6, newer than Debian 12's headers; the number is the same on all architectures.
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

std::string Binding(const SocketAddress& address) {
  return absl::StrCat("bind ", address.ToString());
}

absl::Status NotASocket(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, " exists and is not a socket: it is left alone; choose another path"));
}

// Whether the file at `path` is a socket, and which. The file itself: bind(2) does not follow a
// symbolic link either.
absl::StatusOr<DevIno> SocketFile(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) != 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("lstat(", path, ")"));
  }
  if (!S_ISSOCK(st.st_mode)) return NotASocket(path);
  return DevIno{st.st_dev, st.st_ino};
}

// What an O_PATH handle of a socket file is to calls that take a path.
std::string ProcPath(const UniqueFd& handle) {
  return absl::StrCat("/proc/self/fd/", handle.get());
}

// 0, or the errno of a connect(2) to `path`, which fits into a sockaddr_un.
int ConnectTo(const std::string& path) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return errno;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return ::connect(probe.get(), reinterpret_cast<const struct sockaddr*>(&address),
                   sizeof(address)) == 0
             ? 0
             : errno;
}

// A socket file, held. Between a look at a path, a connect(2) to it and a second look, it may have
// named three files; what is asked here is asked of one.
class HeldFile {
 public:
  static absl::StatusOr<HeldFile> Open(const std::string& path) {
    HeldFile file;
    file.handle_ = UniqueFd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat st;
    if (!file.handle_.valid() || ::fstat(file.handle_.get(), &st) != 0) {
      const int error = errno;
      return absl::ErrnoToStatus(error, absl::StrCat("open ", path));
    }
    if (!S_ISSOCK(st.st_mode)) return NotASocket(path);
    file.id_ = DevIno{st.st_dev, st.st_ino};
    file.owner_ = st.st_uid;
    return file;
  }

  const DevIno& id() const { return id_; }
  uid_t owner() const { return owner_; }

  // What connect(2) says: 0 and EAGAIN if a server listens, ECONNREFUSED if none does (any more,
  // or yet), anything else if it cannot be told. Through the handle, as in
  // kernel_facts_test.cc, AHandleOfASocketFileIsGoodForConnecting; by `path` where there is no
  // /proc, and the answer counts only if the path still names this file then.
  int Probe(const std::string& path) const {
    int error = ConnectTo(ProcPath(handle_));
    if (error != ENOENT) return error;
    error = ConnectTo(path);
    struct stat st;
    const bool same = ::lstat(path.c_str(), &st) == 0 && DevIno{st.st_dev, st.st_ino} == id_;
    return same ? error : EAGAIN;
  }
  bool SomebodyListens(const std::string& path) const {
    const int error = Probe(path);
    return error == 0 || error == EAGAIN;
  }

 private:
  UniqueFd handle_;
  DevIno id_;
  uid_t owner_ = 0;
};

// Removes the socket file at `path` if it is `file`. Between a look and an unlink(2) another server
// may take the path, and lose its file; so it is moved aside first, looked at where nobody else
// puts anything, and moved back if it is another's. 0, or errno; ESTALE if it is another's.
int RemoveFile(const std::string& path, const DevIno& file) {
  const std::string aside = absl::StrCat(path, ".grpcfd-", ::getpid(), "-", ::gettid());
  if (::rename(path.c_str(), aside.c_str()) != 0) return errno;
  auto moved = SocketFile(aside);
  if (moved.ok() && *moved == file) return ::unlink(aside.c_str()) == 0 ? 0 : errno;
  // Unless a third one has taken the path meanwhile.
  if (::renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) != 0 &&
      errno == EINVAL) {
    // A file system without RENAME_NOREPLACE.
    (void)::rename(aside.c_str(), path.c_str());
  }
  ::unlink(aside.c_str());
  return ESTALE;
}

// Removes the socket file of a server that is gone. Under the PathLock, if there is one.
absl::Status RemoveStale(const SocketAddress& address) {
  const std::string& path = address.name();
  auto file = HeldFile::Open(path);
  if (!file.ok()) return absl::IsNotFound(file.status()) ? absl::OkStatus() : file.status();
  const std::string whose = absl::StrCat(Binding(address), ": the socket file that is there (user ",
                                         file->owner(), "'s) ");
  int error = file->Probe(path);
  switch (error) {
    case ECONNREFUSED:
      break;
    case 0:
    case EAGAIN:
      return absl::AlreadyExistsError(
          absl::StrCat(Binding(address), ": a server is listening there"));
    case EPROTOTYPE:
      return absl::AlreadyExistsError(absl::StrCat(whose, "is a socket of another type, in use"));
    default:
      return absl::ErrnoToStatus(
          error, absl::StrCat(whose,
                              "may be a server's, connect(2) cannot tell: remove the file, "
                              "or choose another path"));
  }
  error = RemoveFile(path, file->id());
  if (error == ESTALE) {
    return absl::AlreadyExistsError(
        absl::StrCat(Binding(address), ": another process has just taken it"));
  }
  if (error != 0 && error != ENOENT) {
    return absl::ErrnoToStatus(
        error, absl::StrCat(whose,
                            "is stale, but cannot be removed: remove it, or choose another "
                            "path"));
  }
  return absl::OkStatus();
}

int BindFd(const UniqueFd& fd, const SocketAddress& address) {
  sockaddr_un sockaddr;
  const socklen_t length = address.ToSockaddr(&sockaddr);
  return ::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length) == 0 ? 0
                                                                                            : errno;
}

// Binds, in the place of a stale file if need be.
absl::Status BindOverStale(const UniqueFd& fd, const SocketAddress& address) {
  int error = BindFd(fd, address);
  if (error == EADDRINUSE && address.kind() == SocketAddress::Kind::kPath) {
    absl::Status removed = RemoveStale(address);
    if (!removed.ok()) return removed;
    error = BindFd(fd, address);
  }
  if (error == EADDRINUSE) {
    return absl::AlreadyExistsError(absl::StrCat(Binding(address), ": another socket has it"));
  }
  return error == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, Binding(address));
}

// Gives the file the bits that the umask has cut off. Nobody can connect yet, so nothing is open
// that should not be, and nobody who should get in is kept out.
absl::Status WidenMode(const std::string& path, const DevIno& file, mode_t mode) {
  const UniqueFd opened(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!opened.valid() || ::fstat(opened.get(), &st) != 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("open ", path));
  }
  if (DevIno{st.st_dev, st.st_ino} != file || (st.st_mode & 07777) == mode) return absl::OkStatus();
  // chmod(2) of the path would follow a symbolic link that took the name meanwhile, and fchmod(2)
  // takes no such handle.
  if (::syscall(SYS_fchmodat2, opened.get(), "", mode, AT_EMPTY_PATH) == 0 ||
      ::chmod(ProcPath(opened).c_str(), mode) == 0) {
    return absl::OkStatus();
  }
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat("chmod ", path,
                                                 ", which needs Linux 6.6 or /proc (or a umask "
                                                 "that leaves the mode as it is)"));
}

}  // namespace

absl::StatusOr<BoundSocket> BoundSocket::Bind(const SocketAddress& address,
                                              const BindOptions& options) {
  const bool abstract = address.kind() == SocketAddress::Kind::kAbstract;
  if (abstract && !options.allow_abstract) {
    return absl::FailedPreconditionError(
        absl::StrCat(address.ToString(),
                     " is an abstract name: no file mode protects it, and every process of the "
                     "network namespace may connect; set ListenOptions::allow_abstract if that is "
                     "meant"));
  }
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "socket");
  std::optional<PathLock> lock;
  if (!abstract) {
    auto taken = PathLock::Take(address.name());
    if (!taken.ok()) {
      return absl::Status(taken.status().code(),
                          absl::StrCat(Binding(address), ": ", taken.status().message()));
    }
    lock.emplace(*std::move(taken));
  }
  const bool with_mode = !abstract && options.mode.has_value();
  // The file gets the socket's mode less the umask (net/unix/af_unix.c, unix_bind_bsd): never more
  // than what was asked for. What is missing comes before listen(2).
  if (with_mode && ::fchmod(fd.get(), *options.mode) != 0) {
    return absl::ErrnoToStatus(errno, "fchmod of the socket");
  }
  absl::Status status = BindOverStale(fd, address);
  if (!status.ok()) return status;

  DevIno file;
  std::string path;
  if (!abstract) {
    path = address.name();
    // If another has taken the path since bind(2), this is its file. Close() asks before it
    // removes.
    auto bound = SocketFile(path);
    if (!bound.ok()) return bound.status();
    file = *bound;
  }
  BoundSocket result(std::move(fd), std::move(path), file);
  if (with_mode) {
    status = WidenMode(result.path_, file, *options.mode);
    if (!status.ok()) return status;
  }
  result.SetRights(options.pass_rights);
  if (::listen(result.fd_.get(), options.backlog) != 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("listen ", address.ToString()));
  }
  return result;
}

absl::StatusOr<BoundSocket> BoundSocket::Adopt(UniqueFd socket, PassRights pass_rights) {
  int domain = 0, type = 0, listening = 0;
  socklen_t size = sizeof(int);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the descriptor to listen on is not a socket: ", strerror(errno)));
  }
  if (domain != AF_UNIX || type != SOCK_STREAM || listening == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the socket to listen on must be a unix stream socket that is listening; domain ", domain,
        ", type ", type, ", listening ", listening, " came"));
  }
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, "fcntl of the socket to listen on");
  }
  BoundSocket result(std::move(socket), std::string(), DevIno{});
  // refuses_fds() stays false: those who connected before may have sent some.
  SetPassRights(result.fd_, pass_rights);
  return result;
}

BoundSocket& BoundSocket::operator=(BoundSocket&& other) noexcept {
  if (this != &other) {
    Close();
    fd_ = std::move(other.fd_);
    path_ = std::move(other.path_);
    file_ = other.file_;
    refuses_fds_ = other.refuses_fds_;
  }
  return *this;
}

void BoundSocket::SetRights(PassRights pass_rights) {
  refuses_fds_ = SetPassRights(fd_, pass_rights) && pass_rights == PassRights::kOff;
}

void BoundSocket::RemoveOwnFile() {
  if (path_.empty()) return;
  // The bound socket keeps its file's inode, so this number is no other file's.
  auto now = SocketFile(path_);
  if (now.ok() && *now == file_) (void)RemoveFile(path_, file_);
  path_.clear();
}

void BoundSocket::Close() {
  if (!fd_.valid()) return;
  if (!path_.empty()) {
    // From here on nobody listens at the file that this socket made, even with a duplicate of
    // the descriptor. An inode number is used again, so the same one may be a living server's.
    ::shutdown(fd_.get(), SHUT_RDWR);
    auto now = SocketFile(path_);
    if (now.ok() && *now == file_) {
      auto held = HeldFile::Open(path_);
      if (!held.ok() || !held->SomebodyListens(path_)) (void)RemoveFile(path_, file_);
    }
  }
  fd_.Reset();
}

}  // namespace internal
}  // namespace grpcfd
