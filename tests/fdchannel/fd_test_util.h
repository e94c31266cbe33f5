// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the wire layer share: files that can be told apart by their content, socket
// pairs, and all single-byte mutations of a message.
#ifndef GRPCFD_TESTS_FDCHANNEL_FD_TEST_UTIL_H_
#define GRPCFD_TESTS_FDCHANNEL_FD_TEST_UTIL_H_

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {
namespace internal {

// A memory file with this content: two of them are never confused.
inline UniqueFd MakeFile(const std::string& content) {
  UniqueFd fd(::memfd_create("grpcfd-test", MFD_CLOEXEC));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(::pwrite(fd.get(), content.data(), content.size(), 0),
            static_cast<ssize_t>(content.size()));
  return fd;
}

inline std::string Content(BorrowedFd fd) {
  char buffer[256];
  const ssize_t size = ::pread(fd.get(), buffer, sizeof(buffer), 0);
  EXPECT_GE(size, 0) << "descriptor " << fd.get();
  return std::string(buffer, size > 0 ? static_cast<size_t>(size) : 0);
}

struct SocketPair {
  UniqueFd a;
  UniqueFd b;
};

inline SocketPair MakePair(int type) {
  int fds[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds), 0);
  SocketPair pair;
  pair.a.Reset(fds[0]);
  pair.b.Reset(fds[1]);
  return pair;
}

// `count` files with the contents "<prefix>0", "<prefix>1", ...
inline std::vector<UniqueFd> MakeFiles(size_t count, const std::string& prefix = "file ") {
  std::vector<UniqueFd> files;
  for (size_t i = 0; i < count; ++i) files.push_back(MakeFile(prefix + std::to_string(i)));
  return files;
}

inline std::vector<int> Numbers(const std::vector<UniqueFd>& fds) {
  std::vector<int> numbers;
  for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
  return numbers;
}

inline bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

// How many descriptors this process has open.
inline size_t OpenFdCount() {
  size_t count = 0;
  DIR* const dir = ::opendir("/proc/self/fd");
  EXPECT_NE(dir, nullptr);
  while (::readdir(dir) != nullptr) ++count;
  ::closedir(dir);
  return count;
}

inline bool IsCloseOnExec(BorrowedFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFD);
  return flags >= 0 && (flags & FD_CLOEXEC) != 0;
}

// Leaves room for exactly `room` more descriptors in this process, until destroyed: the gaps in the
// table are filled and the soft limit is set right above.
class ScopedFdRoom {
 public:
  explicit ScopedFdRoom(int room) {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &old_), 0);
    int highest = 2;
    DIR* const dir = ::opendir("/proc/self/fd");
    EXPECT_NE(dir, nullptr);
    while (const dirent* entry = ::readdir(dir)) highest = std::max(highest, ::atoi(entry->d_name));
    ::closedir(dir);
    for (;;) {
      UniqueFd filler(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      EXPECT_TRUE(filler.valid());
      if (!filler.valid() || filler.get() > highest) break;
      fillers_.push_back(std::move(filler));
    }
    rlimit lowered = old_;
    lowered.rlim_cur = static_cast<rlim_t>(highest + 1 + room);
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &lowered), 0);
  }
  ~ScopedFdRoom() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &old_), 0); }
  ScopedFdRoom(const ScopedFdRoom&) = delete;
  ScopedFdRoom& operator=(const ScopedFdRoom&) = delete;

 private:
  rlimit old_{};
  std::vector<UniqueFd> fillers_;
};

// Calls `visit(position, mutated)` for each of the 255 other values of each byte of `bytes`.
template <size_t kSize, typename Visit>
void ForEachMutation(const std::array<char, kSize>& bytes, const Visit& visit) {
  for (size_t position = 0; position < kSize; ++position) {
    std::array<char, kSize> mutated = bytes;
    for (int value = 0; value < 256; ++value) {
      if (static_cast<char>(value) == bytes[position]) continue;
      mutated[position] = static_cast<char>(value);
      visit(position, mutated);
    }
  }
}

// Half-open ranges of bytes that a message gives a meaning; all others are reserved.
using Ranges = std::vector<std::pair<size_t, size_t>>;

inline bool Contains(const Ranges& ranges, size_t position) {
  return std::any_of(ranges.begin(), ranges.end(), [position](const std::pair<size_t, size_t>& r) {
    return r.first <= position && position < r.second;
  });
}

inline absl::Span<const char> Bytes(const std::string& text) {
  return absl::Span<const char>(text.data(), text.size());
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_FD_TEST_UTIL_H_
