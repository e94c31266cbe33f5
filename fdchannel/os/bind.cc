// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/threads.h"

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

// Whether the file at `path` is a socket, and which. The file itself: bind(2) does not follow a
// symbolic link either.
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

// A socket file, held. Between a look at a path, a connect(2) to it and a second look, it may have
// named three files; what is asked here is asked of one.
class HeldFile {
 public:
  static absl::StatusOr<HeldFile> Open(const std::string& path) {
    HeldFile file;
    file.handle_ = UniqueFd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat st;
    if (!file.handle_.valid() || ::fstat(file.handle_.get(), &st) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
    }
    if (!S_ISSOCK(st.st_mode)) {
      return absl::AlreadyExistsError(
          absl::StrCat(path, " exists and is no socket: it is left alone; choose another path"));
    }
    file.id_ = DevIno{st.st_dev, st.st_ino};
    return file;
  }

  const DevIno& id() const { return id_; }

  // What connect(2) says: 0 and EAGAIN if somebody listens, ECONNREFUSED if nobody does (any more,
  // or yet), anything else if it cannot be told. Through the handle, as in
  // kernel_facts_test.cc, AHandleOfASocketFileIsGoodForConnecting.
  int Probe() const {
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe.valid()) return errno;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = absl::StrCat("/proc/self/fd/", handle_.get());
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    return ::connect(probe.get(), reinterpret_cast<const struct sockaddr*>(&address),
                     sizeof(address)) == 0
               ? 0
               : errno;
  }
  bool SomebodyListens() const {
    const int error = Probe();
    return error == 0 || error == EAGAIN;
  }

 private:
  UniqueFd handle_;
  DevIno id_;
};

// The right to bind a path, from before bind(2) until after listen(2). Two processes that start at
// once must not both find a stale file, and the second remove the first one's new file; and a
// socket that is bound but does not listen yet looks as stale as one whose process is gone. The
// lock is a file beside the socket, removed with the lock.
class PathLock {
 public:
  static absl::StatusOr<PathLock> Take(const SocketAddress& address) {
    PathLock lock(absl::StrCat(address.name(), ".grpcfd-lock"));
    lock.fd_ =
        UniqueFd(::open(lock.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock.fd_.valid()) {
      const int error = errno;
      return absl::ErrnoToStatus(error,
                                 absl::StrCat("bind ", address.ToString(), ": open ", lock.path_));
    }
    // Not waited for: whoever holds it may never let go. And whoever held it when it was opened
    // here may have removed it since.
    struct stat held, named;
    if (::flock(lock.fd_.get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(lock.fd_.get(), &held) != 0 ||
        ::lstat(lock.path_.c_str(), &named) != 0 || held.st_ino != named.st_ino ||
        held.st_dev != named.st_dev) {
      lock.fd_.Reset();
      return absl::UnavailableError(absl::StrCat(address.ToString(),
                                                 " is being bound by another process, which has ",
                                                 lock.path_, ": start again in a moment"));
    }
    return lock;
  }
  PathLock(PathLock&&) = default;
  // While it is still locked: whoever opened it before sees that it is gone.
  ~PathLock() {
    if (fd_.valid()) ::unlink(path_.c_str());
  }

 private:
  explicit PathLock(std::string path) : path_(std::move(path)) {}

  std::string path_;
  UniqueFd fd_;
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

// Removes the socket file of a server that is gone. Under the PathLock.
absl::Status RemoveStale(const SocketAddress& address) {
  const std::string& path = address.name();
  auto file = HeldFile::Open(path);
  if (!file.ok()) return absl::IsNotFound(file.status()) ? absl::OkStatus() : file.status();
  if (file->Probe() != ECONNREFUSED) return BindError(address, "bind", EADDRINUSE);
  const int error = RemoveFile(path, file->id());
  if (error == ESTALE) return BindError(address, "bind", EADDRINUSE);
  if (error != 0 && error != ENOENT) {
    return absl::ErrnoToStatus(error, absl::StrCat("remove ", path));
  }
  return absl::OkStatus();
}

int BindFd(const UniqueFd& fd, const SocketAddress& address) {
  sockaddr_un sockaddr;
  const socklen_t length = address.ToSockaddr(&sockaddr);
  return ::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length) == 0 ? 0
                                                                                            : errno;
}

// The file gets the socket's mode less the umask (net/unix/af_unix.c, unix_bind_bsd), so the mode
// is set on the socket, where nobody can look in between. The umask is the whole process's, except
// for a thread that has asked for its own (unshare(2), CLONE_FS; no privilege needed).
int BindFdWithoutUmask(const UniqueFd& fd, const SocketAddress& address) {
  int error = 0;
  std::thread thread = StartThread("grpcfd-bind", [&] {
    if (::unshare(CLONE_FS) == 0) ::umask(0);
    error = BindFd(fd, address);
  });
  if (!thread.joinable()) return BindFd(fd, address);  // WidenMode does the rest.
  thread.join();
  return error;
}

// Where a seccomp filter forbids unshare(2), the umask did cut the mode. Nobody can connect yet, so
// nothing was open that should not be.
absl::Status WidenMode(const std::string& path, const DevIno& file, mode_t mode) {
  const UniqueFd opened(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!opened.valid() || ::fstat(opened.get(), &st) != 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("open ", path));
  }
  if (DevIno{st.st_dev, st.st_ino} != file || (st.st_mode & 07777) == mode) return absl::OkStatus();
  // chmod(2) would follow a symbolic link that took the name meanwhile.
  if (::chmod(absl::StrCat("/proc/self/fd/", opened.get()).c_str(), mode) != 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("chmod ", path));
  }
  return absl::OkStatus();
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
    auto taken = PathLock::Take(address);
    if (!taken.ok()) return taken.status();
    lock.emplace(*std::move(taken));
  }
  const bool with_mode = !abstract && options.mode.has_value();
  if (with_mode && ::fchmod(fd.get(), *options.mode) != 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, "fchmod of the socket");
  }
  const auto bind = [&] {
    return with_mode ? BindFdWithoutUmask(fd, address) : BindFd(fd, address);
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
    // If another has taken the path since bind(2), this is its file. Close() asks before it
    // removes.
    auto bound = SocketFile(path);
    if (!bound.ok()) return bound.status();
    file = *bound;
  }
  BoundSocket result(std::move(fd), std::move(path), file);
  if (with_mode) {
    absl::Status widened = WidenMode(result.path_, file, *options.mode);
    if (!widened.ok()) return widened;
  }
  result.SetRights(options.pass_rights);
  if (::listen(result.fd_.get(), options.backlog) != 0) return BindError(address, "listen", errno);
  return result;
}

absl::StatusOr<BoundSocket> BoundSocket::Adopt(UniqueFd socket, PassRights pass_rights) {
  int domain = 0, type = 0, listening = 0;
  socklen_t size = sizeof(int);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the descriptor to listen on is no socket: ", strerror(errno)));
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

void BoundSocket::Close() {
  if (!fd_.valid()) return;
  if (!path_.empty()) {
    // From here on nobody listens at the file that this socket made, whoever holds a duplicate of
    // the descriptor. An inode number is used again, so the same one may be a living server's.
    ::shutdown(fd_.get(), SHUT_RDWR);
    auto now = SocketFile(path_);
    if (now.ok() && *now == file_) {
      auto held = HeldFile::Open(path_);
      if (!held.ok() || !held->SomebodyListens()) (void)RemoveFile(path_, file_);
    }
  }
  fd_.Reset();
}

}  // namespace internal
}  // namespace grpcfd
