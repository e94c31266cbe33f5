// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdLeakChecker, FdLeakListener, CountOpenFds: a test leaves the descriptor table as it found it.
//
// Neither the compiler nor AddressSanitizer sees a descriptor that is never closed, or one that is
// closed twice and takes another file's number with it. The table of the process in /proc/self/fd
// shows both; numbers, inodes and kinds are compared, not only counts.
//
// For what another thread closes use WaitUntilClean. What libraries open for good at first use must
// be open before the checker is made: with gRPC, make one call first.
//
// A whole binary is checked, test by test, by one line beside its tests:
//     grpcfd::FdLeakListener* const fd_leaks = grpcfd::InstallFdLeakListener();
#ifndef GRPCFD_TESTING_FD_LEAK_CHECKER_H_
#define GRPCFD_TESTING_FD_LEAK_CHECKER_H_

#include <stddef.h>
#include <sys/types.h>

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcfd/inode_url.h"
#include "gtest/gtest.h"

namespace grpcfd {

// How many descriptors this process has open, the one used for counting left out. At RLIMIT_NOFILE,
// where the table cannot be read, every number below the limit (below 65536, if that is more) is
// tried instead. Thread-safe.
size_t CountOpenFds();

// How many descriptors process `pid` has open. NOT_FOUND if there is no such process,
// PERMISSION_DENIED if it may not be looked at. Thread-safe.
absl::StatusOr<size_t> CountOpenFds(pid_t pid);

// Takes a snapshot of the descriptor table and fails the current test if the table is another one
// later.
//
// Thread-compatible. Descriptors that other threads open or close in the meantime count as well.
class FdLeakChecker {
 public:
  // Takes the snapshot.
  FdLeakChecker();

  // Checks, unless Check() or WaitUntilClean() did already.
  ~FdLeakChecker();

  FdLeakChecker(const FdLeakChecker&) = delete;
  FdLeakChecker& operator=(const FdLeakChecker&) = delete;

  // Compares the table with the snapshot, and adds one failure to the current test that lists each
  // descriptor which is new, missing, or another file under an old number. Returns whether there
  // was none.
  bool Check();

  // The same, but gives other threads and processes up to `timeout` to close theirs. Returns as
  // soon as the table is clean.
  bool WaitUntilClean(absl::Duration timeout);

 private:
  struct Entry {
    std::string target;  // what readlink(2) says
    DevIno dev_ino;
  };
  using Table = std::map<int, Entry>;

  static Table ReadTable();
  static bool IsSame(const Entry& before, const Entry& after);
  std::string Difference() const;  // empty if there is none
  bool Report(const std::string& difference);

  const Table before_;
  bool checked_ = false;
};

// Puts an FdLeakChecker around every test, its fixture's SetUp and TearDown included
// (SetUpTestSuite is not).
class FdLeakListener : public ::testing::EmptyTestEventListener {
 public:
  // `grace` is how long a test's asynchronous closes may take; a clean test is not delayed.
  explicit FdLeakListener(absl::Duration grace) : grace_(grace) {}

  void OnTestStart(const ::testing::TestInfo& test) override;
  void OnTestEnd(const ::testing::TestInfo& test) override;

 private:
  const absl::Duration grace_;
  std::unique_ptr<FdLeakChecker> checker_;
};

// Adds an FdLeakListener to this binary's tests. GoogleTest owns it. Call it before RUN_ALL_TESTS,
// for instance to initialise a variable at namespace scope.
FdLeakListener* InstallFdLeakListener(absl::Duration grace = absl::Seconds(5));

}  // namespace grpcfd

#endif  // GRPCFD_TESTING_FD_LEAK_CHECKER_H_
