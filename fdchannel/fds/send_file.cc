// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/fds/send_file.h"

#include <errno.h>
#include <fcntl.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {

absl::StatusOr<UniqueFd> OpenForSending(const std::string& path, int flags) {
  if (path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("a path cannot hold a NUL byte: \"", absl::CEscape(path), "\""));
  }
  int fd;
  do {
    // The mode counts only with O_CREAT.
    fd = ::open(path.c_str(), flags | O_CLOEXEC, 0600);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("open(\"", absl::CEscape(path), "\")"));
  }
  return UniqueFd(fd);
}

}  // namespace internal
}  // namespace grpcfd
