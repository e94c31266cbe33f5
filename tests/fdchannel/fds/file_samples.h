// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Samples: open files of each kind that a ReceivePolicy tells apart.
#ifndef GRPCFD_TESTS_FDCHANNEL_FDS_FILE_SAMPLES_H_
#define GRPCFD_TESTS_FDCHANNEL_FDS_FILE_SAMPLES_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "grpcfd/receive_policy.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {

struct Sample {
  std::string name;
  FdType type;
  FdAccess access;
  UniqueFd fd;
};

inline UniqueFd OpenFile(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  EXPECT_TRUE(fd.valid()) << path << ": " << strerror(errno);
  return fd;
}

// One open file of each kind.
inline std::vector<Sample> Samples(const TempDir& dir) {
  std::vector<Sample> samples;
  const auto add = [&samples](const char* name, FdType type, FdAccess access, UniqueFd fd) {
    EXPECT_TRUE(fd.valid()) << name << ": " << strerror(errno);
    samples.push_back(Sample{name, type, access, std::move(fd)});
  };
  const std::string file = dir.File("file");
  add("file rw", FdType::kRegularFile, FdAccess::kReadWrite, OpenFile(file, O_CREAT | O_RDWR));
  add("file ro", FdType::kRegularFile, FdAccess::kReadOnly, OpenFile(file, O_RDONLY));
  add("file wo", FdType::kRegularFile, FdAccess::kWriteOnly, OpenFile(file, O_WRONLY));
  add("file path", FdType::kRegularFile, FdAccess::kPath, OpenFile(file, O_PATH));
  add("memfd", FdType::kRegularFile, FdAccess::kReadWrite, MakeFile("x"));
  add("directory", FdType::kDirectory, FdAccess::kReadOnly, OpenFile(dir.path(), O_DIRECTORY));
  add("directory path", FdType::kDirectory, FdAccess::kPath, OpenFile(dir.path(), O_PATH));
  EXPECT_EQ(::symlink("file", dir.File("link").c_str()), 0);
  add("link", FdType::kSymlink, FdAccess::kPath, OpenFile(dir.File("link"), O_PATH | O_NOFOLLOW));
  int ends[2] = {-1, -1};
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  add("pipe reader", FdType::kPipe, FdAccess::kReadOnly, UniqueFd(ends[0]));
  add("pipe writer", FdType::kPipe, FdAccess::kWriteOnly, UniqueFd(ends[1]));
  EXPECT_EQ(::mkfifo(dir.File("fifo").c_str(), 0600), 0);
  add("fifo", FdType::kPipe, FdAccess::kReadWrite, OpenFile(dir.File("fifo"), O_RDWR));
  for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    add("unix socket", FdType::kUnixSocket, FdAccess::kReadWrite,
        UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0)));
  }
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = Address(dir.File("socket")).ToSockaddr(&address);
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
  add("socket file", FdType::kUnixSocket, FdAccess::kPath, OpenFile(dir.File("socket"), O_PATH));
  add("tcp", FdType::kOtherSocket, FdAccess::kReadWrite,
      UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  add("netlink", FdType::kOtherSocket, FdAccess::kReadWrite,
      UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)));
  UniqueFd terminal(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  EXPECT_EQ(::grantpt(terminal.get()), 0);
  EXPECT_EQ(::unlockpt(terminal.get()), 0);
  char name[64];
  EXPECT_EQ(::ptsname_r(terminal.get(), name, sizeof(name)), 0);
  add("terminal slave", FdType::kTerminal, FdAccess::kReadWrite, OpenFile(name, O_RDWR | O_NOCTTY));
  add("terminal master", FdType::kTerminal, FdAccess::kReadWrite, std::move(terminal));
  add("/dev/null", FdType::kCharDevice, FdAccess::kWriteOnly, OpenFile("/dev/null", O_WRONLY));
  add("/dev/zero", FdType::kCharDevice, FdAccess::kReadOnly, OpenFile("/dev/zero", O_RDONLY));
  add("epoll", FdType::kEpoll, FdAccess::kReadWrite, UniqueFd(::epoll_create1(EPOLL_CLOEXEC)));
  add("eventfd", FdType::kAnonymous, FdAccess::kReadWrite, UniqueFd(::eventfd(0, EFD_CLOEXEC)));
  add("timerfd", FdType::kAnonymous, FdAccess::kReadWrite,
      UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)));
  sigset_t signals;
  sigemptyset(&signals);
  add("signalfd", FdType::kAnonymous, FdAccess::kReadWrite,
      UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC)));
  // Where a test may make one, a block device needs no driver: nobody opens it for I/O.
  if (::mknod(dir.File("block").c_str(), S_IFBLK | 0600, makedev(7, 250)) == 0) {
    add("block device", FdType::kBlockDevice, FdAccess::kPath, OpenFile(dir.File("block"), O_PATH));
  }
  return samples;
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_FDS_FILE_SAMPLES_H_
