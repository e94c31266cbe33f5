// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/fds/fd_facts.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <vector>

#include "tests/fdchannel/fds/file_samples.h"
#include "tests/fdchannel/seccomp.h"

namespace grpcfd {
namespace internal {
namespace {

TEST(FdFactsTest, KnowsEachKindOfFile) {
  const TempDir dir;
  for (const Sample& sample : Samples(dir)) {
    DevIno dev_ino;
    FdFacts facts;
    LookAt(sample.fd, kLookType | kLookKind | kLookAccess | kLookSeals, &dev_ino, &facts);
    EXPECT_EQ(ToString(facts.type), ToString(sample.type)) << sample.name;
    EXPECT_EQ(ToString(facts.access), ToString(sample.access)) << sample.name;
    EXPECT_EQ(dev_ino, *FdToDevIno(sample.fd)) << sample.name;
  }
}

// Where a sandbox refuses statx(2), fstatat(2) gives the same facts.
TEST(FdFactsTest, KnowsEachKindOfFileWithoutStatx) {
  const TempDir dir;
  const std::vector<Sample> samples = Samples(dir);
  std::vector<DevIno> inodes;
  for (const Sample& sample : samples) inodes.push_back(*FdToDevIno(sample.fd));
  for (const int error : {ENOSYS, EPERM}) {
    const int wrong = RunRefusing({{SYS_statx, {}}}, error, [&] {
      int count = 0;
      for (size_t i = 0; i < samples.size(); ++i) {
        DevIno dev_ino;
        FdFacts facts;
        LookAt(samples[i].fd, kLookType | kLookKind | kLookAccess, &dev_ino, &facts);
        count += facts.type != samples[i].type || facts.access != samples[i].access ||
                 dev_ino != inodes[i];
      }
      return count;
    });
    EXPECT_EQ(wrong, 0) << "errno " << error;
  }
  // What the kernel itself says is passed on.
  const int passed = RunRefusing({{SYS_statx, {}}}, ENOSYS, [] {
    return absl::IsInvalidArgument(FdToDevIno(BorrowedFd(1000000)).status()) &&
                   absl::IsNotFound(FilenameToUrl("/no/such/file").status())
               ? 0
               : 1;
  });
  EXPECT_EQ(passed, 0);
}

TEST(FdFactsTest, AClosedNumberIsOfUnknownType) {
  for (const int number : {-1, -100, 1000000}) {
    DevIno dev_ino{1, 2};
    FdFacts facts;
    LookAt(BorrowedFd(number), kLookType | kLookKind, &dev_ino, &facts);
    EXPECT_EQ(facts.type, FdType::kUnknown);
    EXPECT_EQ(dev_ino, DevIno{});
    EXPECT_FALSE(Accepts(ReceivePolicy::Strict(), facts, 0));
  }
}

TEST(FdFactsTest, LooksForNoMoreThanThePolicyNeeds) {
  EXPECT_EQ(LookFor(ReceivePolicy()), kLookNothing);
  EXPECT_EQ(LookFor(ReceivePolicy().MaxFds(3)), kLookNothing);
  EXPECT_EQ(LookFor(ReceivePolicy().Refuse({FdType::kDirectory})), kLookType);
  EXPECT_EQ(LookFor(ReceivePolicy().RefuseAccess({FdAccess::kPath})), kLookAccess);
  EXPECT_EQ(LookFor(ReceivePolicy().RequireSeals(F_SEAL_SHRINK)),
            static_cast<unsigned>(kLookType | kLookSeals));
  EXPECT_EQ(LookFor(ReceivePolicy().Refuse({FdType::kEpoll})),
            static_cast<unsigned>(kLookType | kLookKind));
  EXPECT_EQ(LookFor(ReceivePolicy().Refuse({FdType::kUnixSocket})),
            static_cast<unsigned>(kLookType | kLookKind));
  EXPECT_EQ(LookFor(ReceivePolicy().AcceptOnly({FdType::kRegularFile})), kLookType);
}

TEST(FdFactsTest, NamesSeals) {
  EXPECT_EQ(SealNames(0), "none");
  EXPECT_EQ(SealNames(F_SEAL_SHRINK | F_SEAL_GROW), "F_SEAL_SHRINK|F_SEAL_GROW");
  EXPECT_EQ(SealNames(0x10000), "0x10000");
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
