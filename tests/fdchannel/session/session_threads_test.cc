// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Many threads in one session, and which of them reads.
//
// The functions at the end of this file stand in for the C library's recvmsg and recvmmsg, and note
// which thread received descriptors.
#include <dlfcn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "tests/fdchannel/session/session_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

// Threads that received descriptors, while recording.
Mutex g_mutex;
bool g_recording ABSL_GUARDED_BY(g_mutex) = false;
std::vector<pid_t> g_receivers ABSL_GUARDED_BY(g_mutex);

pid_t ThreadId() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

TEST_F(SessionTest, ManyThreadsNeverSwap) {
  MakeBoth();
  std::vector<std::thread> threads;
  std::atomic<uint64_t> ids{0};
  std::atomic<bool> done{false};
  // Whatever is started meanwhile inherits none of it.
  std::thread forker([&] {
    while (!done) {
      FILE* const child = ::popen("exec ls -l /proc/self/fd", "re");
      ASSERT_NE(child, nullptr);
      std::string listing;
      char buffer[512];
      while (const size_t n = ::fread(buffer, 1, sizeof(buffer), child)) listing.append(buffer, n);
      EXPECT_EQ(::pclose(child), 0);
      EXPECT_THAT(listing, Not(HasSubstr("memfd")));
    }
  });
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 60; ++round) {
        const uint64_t id = ++ids;
        const std::string content = absl::StrCat("thread ", t, " round ", round);
        const std::vector<UniqueFd> files = MakeFiles(2, content);
        ASSERT_TRUE(client_->Send({id, 0}, 0, Numbers(files), Within(kLong)).ok());
        Call there(server_, id, 2);
        Call here(client_, id, 0, /*open_ended=*/true);
        for (const uint32_t i : {1u, 0u}) {
          auto fd = there.Take(Url(files[i], i));
          ASSERT_TRUE(fd.ok()) << fd.status();
          EXPECT_EQ(Content(*fd), absl::StrCat(content, i));
          ASSERT_TRUE(server_->Send({id, 0}, 1 - i, {fd->get()}, Within(kLong)).ok());
        }
        auto back = here.Take(Url(files[0], 1));
        ASSERT_TRUE(back.ok()) << back.status();
        EXPECT_EQ(Content(*back), content + "0");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  forker.join();
  EXPECT_EQ(server_->held(), 0u);
}

TEST_F(SessionTest, OneCallAtATimeEveryReceiveRunsOnTheThreadThatAsks) {
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  {
    MutexLock lock(&g_mutex);
    g_recording = true;
  }
  for (uint64_t id = 1; id <= 200; ++id) {
    ASSERT_TRUE(client_->Send({id, 0}, 0, {file.get(), file.get()}, Within(kLong)).ok());
    Call there(server_, id, 2);
    Call here(client_, id, 0, /*open_ended=*/true);
    ASSERT_TRUE(there.Take(Url(file, 0)).ok());
    ASSERT_TRUE(there.Take(Url(file, 1)).ok());
    ASSERT_TRUE(server_->Send({id, 0}, 0, {file.get()}, Within(kLong)).ok());
    ASSERT_TRUE(here.Take(Url(file, 0)).ok());
  }
  MutexLock lock(&g_mutex);
  g_recording = false;
  EXPECT_EQ(g_receivers.size(), 400u);
  EXPECT_THAT(g_receivers, Each(ThreadId()));
  g_receivers.clear();
}

}  // namespace

void NoteReceive(const msghdr& header) {
  if (header.msg_controllen == 0) return;
  MutexLock lock(&g_mutex);
  if (g_recording) g_receivers.push_back(ThreadId());
}

}  // namespace internal
}  // namespace grpcfd

// The next definition is the sanitizer's or the C library's.
extern "C" ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
  using Function = ssize_t (*)(int, struct msghdr*, int);
  static const auto next = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "recvmsg"));
  const ssize_t result = next(fd, message, flags);
  if (result >= 0) grpcfd::internal::NoteReceive(*message);
  return result;
}

extern "C" int recvmmsg(int fd, struct mmsghdr* messages, unsigned int count, int flags,
                        struct timespec* timeout) {
  using Function = int (*)(int, struct mmsghdr*, unsigned int, int, struct timespec*);
  static const auto next = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "recvmmsg"));
  const int result = next(fd, messages, count, flags, timeout);
  for (int i = 0; i < result; ++i) grpcfd::internal::NoteReceive(messages[i].msg_hdr);
  return result;
}
