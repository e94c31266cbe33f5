// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/testing/inode_holders.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A forked child, with all of this process's descriptors, that does nothing until it is ended.
class Child {
 public:
  Child() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) ::abort();
    UniqueFd reader(fds[0]);
    UniqueFd writer(fds[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      writer.Reset();  // Or the end of file would never come.
      char byte;
      while (::read(reader.get(), &byte, 1) > 0) {
      }
      ::_exit(0);
    }
    stop_ = std::move(writer);
  }
  ~Child() { End(); }

  void End() {
    if (pid_ <= 0) return;
    stop_.Reset();
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    pid_ = -1;
  }

  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  UniqueFd stop_;
};

UniqueFd OpenMemory() { return UniqueFd(::memfd_create("inode_holders_test", MFD_CLOEXEC)); }

TEST(InodeHoldersTest, FindsOwnDescriptors) {
  const UniqueFd memory = OpenMemory();
  const absl::StatusOr<UniqueFd> duplicate = BorrowedFd(memory).Dup();
  ASSERT_TRUE(duplicate.ok()) << duplicate.status();
  const DevIno dev_ino = *FdToDevIno(memory);
  const InodeHolder first{::getpid(), std::min(memory.get(), duplicate->get())};
  const InodeHolder second{::getpid(), std::max(memory.get(), duplicate->get())};

  const absl::StatusOr<InodeHolders> own = FindInodeHolders(dev_ino, {::getpid()});
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_THAT(own->holders, ElementsAre(first, second));
  EXPECT_EQ(own->vanished_processes, 0u);
  EXPECT_EQ(own->forbidden_processes, 0u);

  // The same from all processes there are: a memfd of this test is nobody else's.
  const absl::StatusOr<InodeHolders> all = FindInodeHolders(dev_ino);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(all->holders, ElementsAre(first, second));
}

TEST(InodeHoldersTest, FindsDescriptorsOfOtherProcesses) {
  UniqueFd memory = OpenMemory();
  const DevIno dev_ino = *FdToDevIno(memory);
  const int number = memory.get();
  Child child;
  ASSERT_GT(child.pid(), 0);
  EXPECT_EQ(*CountHolders(dev_ino), 2u);
  EXPECT_EQ(*CountHolders(dev_ino, {::getpid()}), 1u);
  EXPECT_EQ(*CountHolders(dev_ino, {child.pid()}), 1u);
  EXPECT_EQ(*CountHolders(dev_ino, {child.pid(), ::getpid()}), 2u);
  EXPECT_EQ(*CountHolders(dev_ino, {}), 0u);

  memory.Reset();
  const absl::StatusOr<InodeHolders> left = FindInodeHolders(dev_ino);
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_THAT(left->holders, ElementsAre(InodeHolder{child.pid(), number}));

  child.End();
  EXPECT_EQ(*CountHolders(dev_ino), 0u);
}

// readlink(2) would say another name after the rename and "(deleted)" after the unlink.
TEST(InodeHoldersTest, FollowsTheInodeNotTheName) {
  std::string path = ::testing::TempDir() + "/inode_holders_test.XXXXXX";
  const UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  const DevIno dev_ino = *FdToDevIno(file);
  ASSERT_EQ(::rename(path.c_str(), (path + ".moved").c_str()), 0);
  EXPECT_EQ(*CountHolders(dev_ino), 1u);
  ASSERT_EQ(::unlink((path + ".moved").c_str()), 0);
  EXPECT_EQ(*CountHolders(dev_ino), 1u);
  const UniqueFd impostor(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  ASSERT_TRUE(impostor.valid());
  EXPECT_EQ(*CountHolders(dev_ino), 1u);
  EXPECT_EQ(::unlink(path.c_str()), 0);
}

TEST(InodeHoldersTest, CountsBothEndsOfAPipe) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd reader(fds[0]);
  UniqueFd writer(fds[1]);
  const DevIno dev_ino = *FdToDevIno(reader);
  EXPECT_EQ(*CountHolders(dev_ino), 2u);
  writer.Reset();
  EXPECT_EQ(*CountHolders(dev_ino), 1u);
}

TEST(InodeHoldersTest, CountsVanishedProcessesApart) {
  const UniqueFd memory = OpenMemory();
  const DevIno dev_ino = *FdToDevIno(memory);
  Child child;
  const pid_t pid = child.pid();
  child.End();
  const absl::StatusOr<InodeHolders> found = FindInodeHolders(dev_ino, {pid, ::getpid()});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->holders.size(), 1u);
  EXPECT_EQ(found->vanished_processes, 1u);
  EXPECT_EQ(found->forbidden_processes, 0u);
  EXPECT_EQ(*CountHolders(dev_ino, {pid, ::getpid()}), 1u);
}

// Run in a child that gives up its rights and then looks at its parent, which is another user's for
// it. Without rights to give up, the child looks at process 1, which is root's.
TEST(InodeHoldersTest, CountsForbiddenProcessesApart) {
  const UniqueFd memory = OpenMemory();
  const DevIno dev_ino = *FdToDevIno(memory);
  const pid_t other = ::geteuid() == 0 ? ::getpid() : 1;
  const pid_t pid = ::fork();
  if (pid == 0) {
    constexpr uid_t kNobody = 65534;
    if (::geteuid() == 0) {
      if (::setresgid(kNobody, kNobody, kNobody) != 0) ::_exit(2);
      if (::setresuid(kNobody, kNobody, kNobody) != 0) ::_exit(3);
      // A change of user leaves the process undumpable, its own /proc included (prctl(2)).
      if (::prctl(PR_SET_DUMPABLE, 1) != 0) ::_exit(4);
    }
    const std::vector<pid_t> pids = {other, ::getpid()};
    const absl::StatusOr<InodeHolders> found = FindInodeHolders(dev_ino, pids);
    if (!found.ok()) ::_exit(5);
    if (found->forbidden_processes != 1) ::_exit(6);
    if (found->holders != std::vector<InodeHolder>{InodeHolder{::getpid(), memory.get()}}) {
      ::_exit(7);
    }
    // A named process gives an error; a look at all returns those that can be seen.
    if (CountHolders(dev_ino, pids).status().code() != absl::StatusCode::kPermissionDenied) {
      ::_exit(8);
    }
    const absl::StatusOr<size_t> all = CountHolders(dev_ino);
    if (!all.ok() || *all != 1) ::_exit(9);
    ::_exit(0);
  }
  ASSERT_GT(pid, 0);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(InodeHoldersTest, ImpossibleProcessIsInvalid) {
  EXPECT_EQ(FindInodeHolders(DevIno{1, 2}, {0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CountHolders(DevIno{1, 2}, {-1}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(InodeHoldersTest, NobodyHoldsWhatIsClosed) {
  UniqueFd memory = OpenMemory();
  const DevIno dev_ino = *FdToDevIno(memory);
  memory.Reset();
  const absl::StatusOr<InodeHolders> found = FindInodeHolders(dev_ino);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_THAT(found->holders, IsEmpty());
}

}  // namespace
}  // namespace grpcfd
