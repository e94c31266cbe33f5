// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
//   torture ROW [--full] [--count N]   runs one row, prints
//   RESULT|row|injected|count|outcome|figure torture list                       prints the rows'
//   numbers and what they inject torture peer AS NAME ARGUMENTS...  the other process of a row; not
//   for people
//
// Exit status: 0 if the row held, 1 if not, 2 for wrong usage, 3 if it could not be run here.
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {
namespace {

struct Entry {
  const char* number;
  const char* injected;
  void (*run)(Row* row);
};

constexpr Entry kRows[] = {
    {"01", "0 to 600 descriptors in a call, both directions", Row01},
    {"02", "room for 0 to N descriptors of an N-descriptor call", Row02},
    {"03", "frames that lie about their descriptors or size", Row03},
    {"04", "split hellos, queued frames, mixed counts, 16 senders", Row04},
    {"05", "gaps, repeats, unknown calls, second hellos, versions", Row05},
    {"06", "fuzzed hello, frame, cmsg, URL and metadata", Row06},
    {"07", "random bytes and control messages on a live listener", Row07},
    {"08", "each system call fails, with each errno", Row08},
    {"09", "kill -9 of client and server", Row09},
    {"10", "the fdchannel dies without gRPC, and the reverse", Row10},
    {"11", "63 clients that never read", Row11},
    {"12", "a flood of unclaimed descriptors", Row12},
    {"13", "descriptors whose RPC never comes", Row13},
    {"14", "an RPC whose descriptors never come", Row14},
    {"15", "cancellation and deadline at every stage", Row15},
    {"16", "a handler that ignores, throws or keeps", Row16},
    {"17", "stalled and silent connections, slow hellos, floods", Row17},
    {"18", "EMFILE on accept", Row18},
    {"19", "other protocols, partial magic, garbage first", Row19},
    {"20", "connect storm before start and during Shutdown", Row20},
    {"21", "fork and exec storm while receiving", Row21},
    {"22", "directories, O_PATH, sockets, epoll, devices, terminals", Row22},
    {"23", "memfds unsealed, truncated after the check, sparse", Row23},
    {"24", "another's token, another uid, dead pid, failed lookup", Row24},
    {"25", "bind: umask, stale file, live server, links, swaps, length", Row25},
    {"26", "soak: 64 clients, 16 threads, mixed faults", Row26},
    {"27", "a close that blocks, and what queues behind it", Row27},
    {"28", "more than fits, so that the kernel closes", Row28},
    {"29", "bursts of full messages that nobody asks for", Row29},
    {"30", "connections that look like gRPC's, and stop", Row30},
    {"31", "a hostile server's descriptors, at a client", Row31},
    {"32", "restarts under a flood of hellos with others' names", Row32},
};

// Gives up root for good. Before any thread exists.
bool BecomeNobody() {
  const passwd* const nobody = getpwnam("nobody");
  return nobody != nullptr && setgroups(0, nullptr) == 0 &&
         setresgid(nobody->pw_gid, nobody->pw_gid, nobody->pw_gid) == 0 &&
         setresuid(nobody->pw_uid, nobody->pw_uid, nobody->pw_uid) == 0;
}

int RunRow(const Entry& entry, bool full, uint64_t count) {
  Row row(full, count);
  ExpectNothingInherited();  // Takes note of what is there before.
  testing_internal::WarmUp();
  const absl::Time begin = absl::Now();
  {
    FdLeakChecker leaks;
    entry.run(&row);
    leaks.WaitUntilClean(absl::Seconds(10));
  }
  ExpectNothingInherited();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  const char* outcome = Failed() ? "FAILED" : row.not_run() ? "not run" : "held";
  printf("RESULT|%s|%s|%llu|%s|%s%s%.1f s\n", entry.number, entry.injected,
         static_cast<unsigned long long>(row.done()), outcome, row.figure().c_str(),
         row.figure().empty() ? "" : "; ", seconds);
  if (Failed()) return 1;
  return row.not_run() ? 3 : 0;
}

int Usage() {
  fprintf(stderr, "usage: torture ROW [--full] [--count N] | torture list\n");
  return 2;
}

int Main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc >= 4 && strcmp(argv[1], "peer") == 0) {
    if (strcmp(argv[2], "nobody") == 0 && !BecomeNobody()) return 1;
    return RunPeer(argv[3], std::vector<std::string>(argv + 4, argv + argc));
  }
  if (argc == 2 && strcmp(argv[1], "list") == 0) {
    for (const Entry& entry : kRows) printf("%s|%s\n", entry.number, entry.injected);
    return 0;
  }
  std::optional<std::string> number;
  bool full = false;
  uint64_t count = 0;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--full") == 0) {
      full = true;
    } else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) {
      if (!absl::SimpleAtoi(argv[++i], &count)) return Usage();
    } else if (!number.has_value()) {
      number = argv[i];
    } else {
      return Usage();
    }
  }
  if (!number.has_value()) return Usage();
  for (const Entry& entry : kRows) {
    if (*number == entry.number) return RunRow(entry, full, count);
  }
  return Usage();
}

}  // namespace
}  // namespace torture
}  // namespace grpcfd

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  // Rows hold thousands of descriptors; where the soft limit is low, the hard one may not be.
  rlimit nofile{};
  if (getrlimit(RLIMIT_NOFILE, &nofile) == 0 && nofile.rlim_cur < 16384) {
    nofile.rlim_cur = nofile.rlim_max < 16384 ? nofile.rlim_max : 16384;
    setrlimit(RLIMIT_NOFILE, &nofile);
  }
  return grpcfd::torture::Main(argc, argv);
}
