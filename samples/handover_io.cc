// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "handover_io.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace handover {
namespace {

using grpcfd::BorrowedFd;
using grpcfd::UniqueFd;

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

// Nothing here takes long. The bound is for the case that something is wrong: an error, not a
// program that hangs.
constexpr int kPatienceMs = 10000;

absl::Status Errno(const char* what) { return absl::ErrnoToStatus(errno, what); }

// Owns at once what a system call returned, so that nothing between here and there can lose it.
absl::StatusOr<UniqueFd> Owned(int fd, const char* what) {
  if (fd < 0) return Errno(what);
  return UniqueFd(fd);
}

absl::Status WaitUntilReadable(BorrowedFd fd) {
  pollfd entry = {fd.get(), POLLIN, 0};
  int ready;
  do {
    ready = poll(&entry, 1, kPatienceMs);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return Errno("poll");
  if (ready == 0) return absl::DeadlineExceededError("nothing to read within 10 s");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> MakeUnlinkedFile(const std::string& content) {
  const char* directory = getenv("TMPDIR");
  std::string path = absl::StrCat(directory == nullptr ? "/tmp" : directory, "/handover-XXXXXX");
  absl::StatusOr<UniqueFd> file = Owned(mkostemp(path.data(), O_CLOEXEC), "mkostemp");
  if (!file.ok()) return file;
  if (unlink(path.c_str()) != 0) return Errno("unlink");
  if (absl::Status status = WriteToFile(*file, content, 0); !status.ok()) return status;
  return file;
}

absl::StatusOr<UniqueFd> ReopenReadOnly(BorrowedFd file) {
  // The only way in to a file without a name (proc(5), "/proc/pid/fd").
  const std::string path = absl::StrCat("/proc/self/fd/", file.get());
  return Owned(open(path.c_str(), O_RDONLY | O_CLOEXEC), "open");
}

absl::StatusOr<UniqueFd> MakeMemoryFile(const std::string& name, const std::string& content) {
  absl::StatusOr<UniqueFd> file =
      Owned(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create");
  if (!file.ok()) return file;
  if (absl::Status status = WriteToFile(*file, content, 0); !status.ok()) return status;
  return file;
}

absl::Status Seal(BorrowedFd memory_file) {
  if (fcntl(memory_file.get(), F_ADD_SEALS, kSeals) != 0) return Errno("fcntl(F_ADD_SEALS)");
  return absl::OkStatus();
}

bool IsSealed(BorrowedFd memory_file) {
  const int seals = fcntl(memory_file.get(), F_GET_SEALS);  // -1 if it is not a memory file
  return seals >= 0 && (seals & kSeals) == kSeals;
}

absl::StatusOr<UniqueFd> MakeEvent() {
  return Owned(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
}

absl::Status AddToEvent(BorrowedFd event, uint64_t value) {
  if (write(event.get(), &value, sizeof(value)) != sizeof(value)) return Errno("write to an event");
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ReadEvent(BorrowedFd event) {
  uint64_t value = 0;
  if (read(event.get(), &value, sizeof(value)) != sizeof(value)) return Errno("read of an event");
  return value;
}

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Errno("pipe2");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

absl::StatusOr<UniqueFd> ListenOnLoopback() {
  absl::StatusOr<UniqueFd> listener =
      Owned(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  if (!listener.ok()) return listener;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = 0;  // The kernel chooses.
  if (bind(listener->get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Errno("bind");
  }
  if (listen(listener->get(), 1) != 0) return Errno("listen");
  return listener;
}

absl::StatusOr<UniqueFd> ConnectTo(BorrowedFd listener) {
  sockaddr_in address = {};
  socklen_t size = sizeof(address);
  if (getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return Errno("getsockname");
  }
  absl::StatusOr<UniqueFd> connection =
      Owned(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  if (!connection.ok()) return connection;
  if (connect(connection->get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    return Errno("connect");
  }
  return connection;
}

absl::StatusOr<UniqueFd> Accept(BorrowedFd listener) {
  if (absl::Status status = WaitUntilReadable(listener); !status.ok()) return status;
  return Owned(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept4");
}

absl::Status FinishSending(BorrowedFd connection) {
  if (shutdown(connection.get(), SHUT_WR) != 0) return Errno("shutdown");
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(BorrowedFd file) {
  std::string content;
  char buffer[4096];
  while (true) {
    const ssize_t size =
        pread(file.get(), buffer, sizeof(buffer), static_cast<off_t>(content.size()));
    if (size < 0) return Errno("pread");
    if (size == 0) return content;
    content.append(buffer, static_cast<size_t>(size));
  }
}

absl::Status WriteToFile(BorrowedFd file, const std::string& text, size_t position) {
  const ssize_t size = pwrite(file.get(), text.data(), text.size(), static_cast<off_t>(position));
  if (size < 0) return Errno("pwrite");
  if (static_cast<size_t>(size) != text.size()) return absl::DataLossError("pwrite: cut short");
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadToEnd(BorrowedFd stream) {
  std::string content;
  char buffer[4096];
  while (true) {
    if (absl::Status status = WaitUntilReadable(stream); !status.ok()) return status;
    const ssize_t size = read(stream.get(), buffer, sizeof(buffer));
    if (size < 0) return Errno("read");
    if (size == 0) return content;
    content.append(buffer, static_cast<size_t>(size));
  }
}

absl::Status WriteToStream(BorrowedFd stream, const std::string& text) {
  // A few bytes into an empty pipe or connection: they fit, so one write(2) takes them all.
  const ssize_t size = write(stream.get(), text.data(), text.size());
  if (size < 0) return Errno("write");
  if (static_cast<size_t>(size) != text.size()) return absl::DataLossError("write: cut short");
  return absl::OkStatus();
}

absl::Status Expect(const std::string& expected, const std::string& actual) {
  if (actual == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("expected '", expected, "', found '", actual, "'"));
}

absl::StatusOr<DescriptorTable> OpenDescriptors() {
  struct Closer {
    void operator()(DIR* directory) const { closedir(directory); }
  };
  const std::unique_ptr<DIR, Closer> directory(opendir("/proc/self/fd"));
  if (directory == nullptr) return Errno("/proc/self/fd");
  DescriptorTable table;
  while (const dirent* entry = readdir(directory.get())) {
    if (entry->d_name[0] == '.') continue;
    const int fd = atoi(entry->d_name);
    if (fd == dirfd(directory.get())) continue;  // The one that is used for looking.
    char target[256];
    const ssize_t size = readlinkat(dirfd(directory.get()), entry->d_name, target, sizeof(target));
    // Gone since readdir(3): another thread has closed it.
    if (size >= 0) table[fd] = std::string(target, static_cast<size_t>(size));
  }
  return table;
}

}  // namespace handover
