// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A test program as its own second process.
#ifndef GRPCFD_TESTS_INTERCEPTORS_CHILD_H_
#define GRPCFD_TESTS_INTERCEPTORS_CHILD_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "grpcfd/unique_fd.h"

extern char** environ;

namespace grpcfd {
namespace testing_internal {

// A child running this program with `arguments`, its stdin and stdout connected to us.
class Child {
 public:
  explicit Child(std::vector<std::string> arguments) {
    int in[2], out[2];
    EXPECT_EQ(0, pipe2(in, O_CLOEXEC));
    EXPECT_EQ(0, pipe2(out, O_CLOEXEC));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::string self = "/proc/self/exe";
    std::vector<char*> argv = {self.data()};
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(0, posix_spawn(&pid_, self.c_str(), &actions, nullptr, argv.data(), environ));
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    stdin_ = UniqueFd(in[1]);
    stdout_ = fdopen(out[0], "r");
  }
  // Ends its stdin, which is its sign to exit, and waits.
  ~Child() {
    stdin_.Reset();
    fclose(stdout_);
    if (killed_) return;
    int status = -1;
    EXPECT_EQ(pid_, waitpid(pid_, &status, 0));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }

  // SIGKILL, and waits for the end.
  void Kill() {
    killed_ = true;
    EXPECT_EQ(0, kill(pid_, SIGKILL));
    EXPECT_EQ(pid_, waitpid(pid_, nullptr, 0));
  }

  // A line of what it prints, without the newline; empty at the end.
  std::string Line() {
    char line[512];
    if (fgets(line, sizeof(line), stdout_) == nullptr) return std::string();
    line[strcspn(line, "\n")] = '\0';
    return line;
  }

 private:
  pid_t pid_ = -1;
  bool killed_ = false;
  UniqueFd stdin_;
  FILE* stdout_ = nullptr;
};

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_CHILD_H_
