// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

#include "benchmarks/peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace grpcfd {
namespace benchmarks {
namespace {

sockaddr_un Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) Die("path too long for a unix socket: " + path);
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

void Die(const std::string& what) {
  const int error = errno;
  fprintf(stderr, "benchmark: %s (%s)\n", what.c_str(), strerror(error));
  exit(1);
}

void Inspect(int fd, std::vector<std::string>* contents) {
  struct stat stat_of_fd;
  if (::fstat(fd, &stat_of_fd) != 0) Die("fstat of a received descriptor");
  if (contents == nullptr) return;
  char buffer[64];
  const ssize_t size = ::pread(fd, buffer, sizeof(buffer), 0);
  if (size < 0) Die("pread of a received descriptor");
  contents->emplace_back(buffer, static_cast<size_t>(size));
}

UniqueFd Listen(const std::string& path, int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  if (!fd.valid() ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(fd.get(), 8) != 0) {
    Die("listen at " + path);
  }
  return fd;
}

UniqueFd Connect(const std::string& path, int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  if (!fd.valid() ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    Die("connect to " + path);
  }
  return fd;
}

UniqueFd Accept(const UniqueFd& listener) {
  UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) Die("accept");
  return fd;
}

}  // namespace benchmarks
}  // namespace grpcfd
