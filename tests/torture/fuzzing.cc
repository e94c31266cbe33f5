// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Row 6, as far as any compiler can do it: the corpus, and mutations of it. The coverage-guided
// form is fuzz/run.sh; tests/torture.sh --full runs that.
#include <spawn.h>
#include <sys/wait.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/torture/torture.h"

extern char** environ;

namespace grpcfd {
namespace torture {

void Row06(Row* row) {
  // Those that read, five of the seven, share the count.
  const uint64_t each = row->Count(10'000'000) / 5;
  std::string program = GRPCFD_FUZZ_REPLAY, corpus = GRPCFD_FUZZ_CORPUS, option = "--runs",
              runs = std::to_string(each);
  char* argv[] = {program.data(), corpus.data(), option.data(), runs.data(), nullptr};
  pid_t pid = -1;
  ASSERT_EQ(0, posix_spawn(&pid, program.c_str(), nullptr, nullptr, argv, environ)) << program;
  int status = -1;
  ASSERT_EQ(pid, waitpid(pid, &status, 0));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "fuzz_replay: status " << status;
  row->Done(5 * each);
  row->Figure("corpus and mutations, 5 parsers; session and listener a fiftieth each");
}

}  // namespace torture
}  // namespace grpcfd
