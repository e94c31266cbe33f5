// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the listener share: a server on a socket of its own, what its thread costs
// while it has nothing to do, and connections of other users.
#ifndef GRPCFD_TESTS_FDCHANNEL_SERVER_LISTENER_TEST_UTIL_H_
#define GRPCFD_TESTS_FDCHANNEL_SERVER_LISTENER_TEST_UTIL_H_

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {

inline constexpr uid_t kOtherUid = 65534;

// What the thread of this name costs while it has nothing to do. One that sleeps and wakes goes to
// sleep again each time; one that spins never does, but uses the processor.
class IdleCost {
 public:
  explicit IdleCost(const std::string& thread_name) {
    int thread = 0;
    // A thread has its name once it runs.
    EXPECT_TRUE(Eventually([&] {
      DIR* const dir = ::opendir("/proc/self/task");
      EXPECT_NE(dir, nullptr);
      while (const dirent* entry = ::readdir(dir)) {
        std::string name;
        std::getline(std::ifstream(absl::StrCat("/proc/self/task/", entry->d_name, "/comm")), name);
        if (name == thread_name) thread = ::atoi(entry->d_name);
      }
      ::closedir(dir);
      return thread != 0;
    })) << thread_name;
    // Opened beforehand, for when no descriptor is left.
    status_.Reset(
        ::open(absl::StrCat("/proc/self/task/", thread, "/status").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(status_.valid());
    // The clock of a thread's processor time (clock_getcpuclockid(3) does the same for processes).
    clock_ = static_cast<clockid_t>((~static_cast<unsigned>(thread) << 3) | 6u);
  }

  // Runs for `time`; this measures, it synchronises nothing.
  void Measure(absl::Duration time) {
    const int64_t wake_ups = Sleeps();
    const absl::Duration used = Used();
    ::poll(nullptr, 0, static_cast<int>(absl::ToInt64Milliseconds(time)));
    wake_ups_ = Sleeps() - wake_ups;
    share_ = absl::FDivDuration(Used() - used, time);
  }
  int64_t wake_ups() const { return wake_ups_; }
  // Of one processor, 0 to 1.
  double share() const { return share_; }

 private:
  absl::Duration Used() const {
    timespec used;
    EXPECT_EQ(::clock_gettime(clock_, &used), 0);
    return absl::DurationFromTimespec(used);
  }
  int64_t Sleeps() const {
    char text[8192];
    const ssize_t size = ::pread(status_.get(), text, sizeof(text) - 1, 0);
    EXPECT_GT(size, 0);
    text[size > 0 ? size : 0] = '\0';
    const char* const count = ::strstr(text, "\nvoluntary_ctxt_switches:");
    EXPECT_NE(count, nullptr);
    return count == nullptr ? 0 : ::atoll(::strchr(count, ':') + 1);
  }

  UniqueFd status_;
  clockid_t clock_;
  int64_t wake_ups_ = 0;
  double share_ = 0;
};

// Bytes that the peer of a unix stream has not read yet.
inline bool AllRead(BorrowedFd fd) {
  int unread = -1;
  EXPECT_EQ(::ioctl(fd.get(), SIOCOUTQ, &unread), 0);
  return unread == 0;
}

// Connects as another user, if this process may. gRPC servers and tests run as root or not; the
// kernel keeps ids per thread.
inline UniqueFd ConnectAs(uid_t uid, const SocketAddress& address, bool* as_other) {
  UniqueFd connection;
  std::thread([&] {
    *as_other = ::syscall(SYS_setresuid, uid, uid, uid) == 0;
    connection = Connect(address);
  }).join();
  return connection;
}

class ListenerTest : public ::testing::Test {
 protected:
  ListenerTest() : path_(dir_.File("s")) {}

  TestServer& Serve(const ServerLimits& limits = {}, const BindOptions& bind = {}) {
    server_ = std::make_unique<TestServer>(path_, limits, bind);
    server_->Start();
    return *server_;
  }

  const TempDir dir_;
  const std::string path_;
  std::unique_ptr<TestServer> server_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_SERVER_LISTENER_TEST_UTIL_H_
