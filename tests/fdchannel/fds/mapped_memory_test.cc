// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/mapped_memory.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <utility>

#include "tests/fdchannel/fd_test_util.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMax = 1 << 20;
constexpr int kFrozenSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_WRITE;
constexpr int kSharedSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

MappedMemory::MapOptions Shared(bool writable) {
  MappedMemory::MapOptions options;
  options.frozen = false;
  options.writable = writable;
  return options;
}

// A memfd as a peer may have made it.
UniqueFd Memfd(const std::string& content, int seals, off_t size = -1) {
  UniqueFd fd(::memfd_create("mapped-memory-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(::pwrite(fd.get(), content.data(), content.size(), 0),
            static_cast<ssize_t>(content.size()));
  if (size >= 0) {
    EXPECT_EQ(::ftruncate(fd.get(), size), 0);
  }
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

std::string Text(const MappedMemory& memory) {
  return std::string(static_cast<const char*>(memory.data()), memory.size());
}

TEST(MappedMemoryTest, FromBytesToMap) {
  auto fd = MappedMemory::FromBytes("hello", 5);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(::fcntl(fd->get(), F_GET_SEALS) & kFrozenSeals, kFrozenSeals);
  EXPECT_EQ(::fcntl(fd->get(), F_GETFD), FD_CLOEXEC);
  auto memory = MappedMemory::Map(*fd, kMax);
  ASSERT_TRUE(memory.ok()) << memory.status();
  fd->Reset();  // The mapping does not need it.
  EXPECT_EQ(Text(*memory), "hello");
  EXPECT_EQ(memory->writable_data(), nullptr);
}

TEST(MappedMemoryTest, CreateWriteFreezeMap) {
  auto memory = MappedMemory::Create(10000, "frames");
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->size(), 10000u);
  ASSERT_NE(memory->writable_data(), nullptr);
  memset(memory->writable_data(), 'x', memory->size());
  auto fd = std::move(*memory).Freeze();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(memory->data(), nullptr);
  auto mapped = MappedMemory::Map(*fd, 10000);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(Text(*mapped), std::string(10000, 'x'));
  // Nobody changes it any more, by whatever descriptor.
  EXPECT_EQ(::pwrite(fd->get(), "y", 1, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(fd->get(), 1), -1);
  const UniqueFd reopened(
      ::open(("/proc/self/fd/" + std::to_string(fd->get())).c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(reopened.valid());
  EXPECT_EQ(::pwrite(reopened.get(), "y", 1, 0), -1);
  EXPECT_EQ(::fallocate(fd->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
}

TEST(MappedMemoryTest, FreezeFailsWhileSomebodyElseMapsItForWriting) {
  auto memory = MappedMemory::Create(4096);
  ASSERT_TRUE(memory.ok());
  // Not Share(), which ends sealing: a descriptor that leaked, as in a child that was forked.
  std::string path;
  for (int fd = 3; fd < 1024 && path.empty(); ++fd) {
    char name[64] = {};
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    if (::readlink(link.c_str(), name, sizeof(name) - 1) > 0 &&
        std::string(name).find("memfd:grpcfd ") != std::string::npos) {
      path = link;
    }
  }
  ASSERT_FALSE(path.empty());
  const UniqueFd other(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(other.valid());
  void* const mapping = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, other.get(), 0);
  ASSERT_NE(mapping, MAP_FAILED);
  const auto frozen = std::move(*memory).Freeze();
  EXPECT_TRUE(absl::IsFailedPrecondition(frozen.status())) << frozen.status();
  EXPECT_THAT(frozen.status().message(), HasSubstr("a mapping for writing exists"));
  ::munmap(mapping, 4096);
}

TEST(MappedMemoryTest, ShareForWritingByBoth) {
  auto memory = MappedMemory::Create(4096);
  ASSERT_TRUE(memory.ok());
  auto fd = memory->Share(MappedMemory::PeerAccess::kReadWrite);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(::fcntl(fd->get(), F_GET_SEALS) & kFrozenSeals, kSharedSeals);
  auto peer = MappedMemory::Map(*fd, kMax, Shared(/*writable=*/true));
  ASSERT_TRUE(peer.ok()) << peer.status();
  static_cast<char*>(peer->writable_data())[0] = 'p';
  EXPECT_EQ(static_cast<const char*>(memory->data())[0], 'p');
  static_cast<char*>(memory->writable_data())[1] = 'o';
  EXPECT_EQ(static_cast<const char*>(peer->data())[1], 'o');
  EXPECT_EQ(::fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), -1);
  EXPECT_TRUE(memory->Share(MappedMemory::PeerAccess::kReadWrite).ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(memory->Share(MappedMemory::PeerAccess::kReadOnly).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(std::move(*memory).Freeze().status()));
}

TEST(MappedMemoryTest, ShareForReadingOnly) {
  auto memory = MappedMemory::Create(4096);
  ASSERT_TRUE(memory.ok());
  auto fd = memory->Share(MappedMemory::PeerAccess::kReadOnly);
  ASSERT_TRUE(fd.ok()) << fd.status();
  auto peer = MappedMemory::Map(*fd, kMax, Shared(/*writable=*/false));
  ASSERT_TRUE(peer.ok()) << peer.status();
  static_cast<char*>(memory->writable_data())[7] = 'o';
  EXPECT_EQ(static_cast<const char*>(peer->data())[7], 'o');
  EXPECT_TRUE(
      absl::IsPermissionDenied(MappedMemory::Map(*fd, kMax, Shared(/*writable=*/true)).status()));
  EXPECT_EQ(::pwrite(fd->get(), "y", 1, 0), -1);
  // F_SEAL_FUTURE_WRITE is not F_SEAL_WRITE: the owner still writes.
  const auto frozen = MappedMemory::Map(*fd, kMax);
  EXPECT_TRUE(absl::IsFailedPrecondition(frozen.status())) << frozen.status();
  EXPECT_THAT(frozen.status().message(),
              AllOf(HasSubstr("missing is F_SEAL_WRITE"), HasSubstr("F_SEAL_FUTURE_WRITE")));
  EXPECT_TRUE(memory->Share(MappedMemory::PeerAccess::kReadOnly).ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(memory->Share(MappedMemory::PeerAccess::kReadWrite).status()));
}

TEST(MappedMemoryTest, RefusesEachMissingSeal) {
  for (const int missing : {F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_SEAL}) {
    const UniqueFd fd = Memfd("content", kFrozenSeals & ~missing);
    const auto memory = MappedMemory::Map(fd, kMax);
    EXPECT_TRUE(absl::IsFailedPrecondition(memory.status())) << memory.status();
    EXPECT_THAT(memory.status().message(), HasSubstr("missing is F_SEAL_"));
  }
  const UniqueFd shared = Memfd("content", kSharedSeals);
  EXPECT_TRUE(MappedMemory::Map(shared, kMax, Shared(false)).ok());
  MappedMemory::MapOptions more = Shared(false);
  more.more_seals = F_SEAL_FUTURE_WRITE;
  EXPECT_TRUE(absl::IsFailedPrecondition(MappedMemory::Map(shared, kMax, more).status()));
  EXPECT_TRUE(MappedMemory::Map(Memfd("x", kSharedSeals | F_SEAL_FUTURE_WRITE), kMax, more).ok());
  // Sealed against writing is as good as any when the caller does not insist.
  EXPECT_TRUE(MappedMemory::Map(Memfd("x", kFrozenSeals), kMax, Shared(false)).ok());
}

TEST(MappedMemoryTest, RefusesSizesOutsideTheRange) {
  const UniqueFd hundred = Memfd("", kFrozenSeals, 100);
  EXPECT_TRUE(MappedMemory::Map(hundred, 100).ok());
  EXPECT_TRUE(absl::IsOutOfRange(MappedMemory::Map(hundred, 99).status()));
  EXPECT_TRUE(absl::IsOutOfRange(MappedMemory::Map(hundred, 0).status()));
  MappedMemory::MapOptions options;
  options.min_size = 100;
  EXPECT_TRUE(MappedMemory::Map(hundred, 100, options).ok());
  options.min_size = 101;
  EXPECT_TRUE(absl::IsOutOfRange(MappedMemory::Map(hundred, kMax, options).status()));
  EXPECT_TRUE(absl::IsOutOfRange(MappedMemory::Map(Memfd("", kFrozenSeals), kMax).status()));
  // Sparse: 2^50 bytes of nothing.
  const UniqueFd huge = Memfd("", kFrozenSeals, off_t{1} << 50);
  const auto refused = MappedMemory::Map(huge, kMax);
  EXPECT_TRUE(absl::IsOutOfRange(refused.status()));
  EXPECT_THAT(refused.status().message(),
              AllOf(HasSubstr("1125899906842624"), HasSubstr("1 to 1048576")));
  // Even if the caller sets no bound worth its name: more than the address space.
  EXPECT_TRUE(absl::IsResourceExhausted(
      MappedMemory::Map(Memfd("", kFrozenSeals, off_t{1} << 62), UINT64_MAX).status()));
}

TEST(MappedMemoryTest, RefusesWhatIsNoMemfd) {
  const TempDir dir;
  const UniqueFd file(::open(dir.File("f").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(file.get(), "12345", 5), 5);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd directory(::open(dir.path().c_str(), O_DIRECTORY | O_CLOEXEC));
  for (const UniqueFd* fd : {&event, &directory}) {
    EXPECT_TRUE(absl::IsInvalidArgument(MappedMemory::Map(*fd, kMax).status()));
  }
  // On a tmpfs a file has seals to look at, but never the ones that count.
  EXPECT_THAT(
      MappedMemory::Map(file, kMax).status().code(),
      ::testing::AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kFailedPrecondition));
  EXPECT_TRUE(absl::IsInvalidArgument(MappedMemory::Map(BorrowedFd(-1), kMax).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MappedMemory::Map(BorrowedFd(1000000), kMax).status()));
}

TEST(MappedMemoryTest, RefusesHugePages) {
  const UniqueFd fd(::memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
  if (!fd.valid()) {
    // A kernel without them has none to refuse.
    EXPECT_TRUE(errno == ENOSYS || errno == EINVAL || errno == ENODEV || errno == EPERM ||
                errno == ENOMEM || errno == ENOENT)
        << strerror(errno);
    return;
  }
  ASSERT_EQ(::ftruncate(fd.get(), 2 << 20), 0);
  ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, kFrozenSeals), 0);
  const auto memory = MappedMemory::Map(fd, 4 << 20);
  EXPECT_TRUE(absl::IsInvalidArgument(memory.status())) << memory.status();
  EXPECT_THAT(memory.status().message(), HasSubstr("MFD_HUGETLB"));
}

TEST(MappedMemoryTest, LooksAtTheAccessMode) {
  const UniqueFd fd = Memfd("content", kSharedSeals);
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  const UniqueFd ro(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd wo(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const UniqueFd handle(::open(path.c_str(), O_PATH | O_CLOEXEC));
  EXPECT_TRUE(MappedMemory::Map(ro, kMax, Shared(false)).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(MappedMemory::Map(ro, kMax, Shared(true)).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(MappedMemory::Map(wo, kMax, Shared(false)).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(MappedMemory::Map(handle, kMax, Shared(false)).status()));
  EXPECT_EQ(MappedMemory::Map(ro, kMax, Shared(false))->writable_data(), nullptr);
}

TEST(MappedMemoryTest, RefusesOptionsThatContradict) {
  MappedMemory::MapOptions options;
  options.writable = true;
  EXPECT_TRUE(
      absl::IsInvalidArgument(MappedMemory::Map(Memfd("x", kFrozenSeals), kMax, options).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MappedMemory::Create(0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MappedMemory::Create(UINT64_MAX).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MappedMemory::Create(1, std::string(250, 'n')).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MappedMemory::FromBytes("", 0).status()));
}

TEST(MappedMemoryTest, OnlyWhatWasCreatedHereIsSharedOrFrozen) {
  auto memory = MappedMemory::Map(Memfd("x", kFrozenSeals), kMax);
  ASSERT_TRUE(memory.ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(memory->Share(MappedMemory::PeerAccess::kReadWrite).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(std::move(*memory).Freeze().status()));
}

TEST(MappedMemoryTest, PopulatesOnRequest) {
  MappedMemory::MapOptions options;
  options.populate = true;
  constexpr size_t kPages = 16;
  const UniqueFd fd = Memfd("", kFrozenSeals, kPages * 4096);
  struct stat before;
  ASSERT_EQ(::fstat(fd.get(), &before), 0);
  EXPECT_EQ(before.st_blocks, 0) << "all of it is a hole";
  auto memory = MappedMemory::Map(fd, kMax, options);
  ASSERT_TRUE(memory.ok()) << memory.status();
  struct stat after;
  ASSERT_EQ(::fstat(fd.get(), &after), 0);
  EXPECT_EQ(after.st_blocks * 512, static_cast<blkcnt_t>(kPages * 4096));
}

TEST(MappedMemoryTest, MovesAndUnmaps) {
  auto a = MappedMemory::Map(Memfd("aaa", kFrozenSeals), kMax);
  auto b = MappedMemory::Map(Memfd("bbb", kFrozenSeals), kMax);
  ASSERT_TRUE(a.ok() && b.ok());
  MappedMemory c = std::move(*a);
  EXPECT_EQ(a->data(), nullptr);
  EXPECT_EQ(a->size(), 0u);
  EXPECT_EQ(Text(c), "aaa");
  c = std::move(*b);
  EXPECT_EQ(Text(c), "bbb");
  MappedMemory& same = c;
  c = std::move(same);
  EXPECT_EQ(Text(c), "bbb");
}

// A peer that truncates, grows and writes as fast as it can, while this side maps and reads. Either
// the memory is refused, or it is whole and does not change. Without the check of the seals this
// ends in SIGBUS.
TEST(MappedMemoryTest, APeerThatRacesLosesOrIsRefused) {
  constexpr int kRounds = 1000;
  int mapped = 0, refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    const UniqueFd fd(::memfd_create("race", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(fd.get(), 8192), 0);
    std::atomic<bool> go{false};
    std::thread peer([&] {
      while (!go.load()) std::this_thread::yield();
      for (int i = 0; i < 4; ++i) {
        [[maybe_unused]] int ignored = ::ftruncate(fd.get(), i % 2 == 0 ? 0 : 8192);
        [[maybe_unused]] ssize_t wrote = ::pwrite(fd.get(), "evil", 4, 4096);
        if (i == round % 4) ::fcntl(fd.get(), F_ADD_SEALS, kFrozenSeals);
      }
    });
    go = true;
    for (int tries = 0; tries < 8; ++tries) {
      auto memory = MappedMemory::Map(fd, kMax);
      if (!memory.ok()) {
        ++refused;
        EXPECT_TRUE(absl::IsFailedPrecondition(memory.status()) ||
                    absl::IsOutOfRange(memory.status()))
            << memory.status();
        continue;
      }
      ++mapped;
      const std::string first = Text(*memory);
      EXPECT_EQ(first, Text(*memory));
    }
    peer.join();
    auto memory = MappedMemory::Map(fd, kMax);
    if (memory.ok()) ++mapped;
  }
  EXPECT_GT(mapped, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
