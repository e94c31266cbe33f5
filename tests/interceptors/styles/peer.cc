// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/interceptors/styles/peer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/interceptors/styles/drivers.h"
#include "tests/interceptors/styles/script.h"

extern char** environ;

namespace grpcfd {
namespace styles {

Peer::Peer(std::vector<std::string> arguments, UniqueFd given) {
  Pipe in;
  Pipe out;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, given.get(), kGiven);
  std::string self = "/proc/self/exe";
  std::vector<char*> argv = {self.data()};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  EXPECT_EQ(0, posix_spawn(&pid_, self.c_str(), &actions, nullptr, argv.data(), environ));
  posix_spawn_file_actions_destroy(&actions);
  stdin_ = std::move(in.write);
  stdout_ = fdopen(out.read.Release(), "r");
}

Peer::~Peer() {
  Kill();
  fclose(stdout_);
}

std::string Peer::Line() {
  char line[1024];
  if (fgets(line, sizeof(line), stdout_) == nullptr) return std::string();
  line[strcspn(line, "\n")] = '\0';
  return line;
}

void Peer::Say(const std::string& line) {
  const std::string text = line + "\n";
  EXPECT_EQ(static_cast<ssize_t>(text.size()), write(stdin_.get(), text.data(), text.size()));
}

void Peer::Kill() {
  if (pid_ <= 0) return;
  EXPECT_EQ(0, kill(pid_, SIGKILL));
  EXPECT_EQ(pid_, waitpid(pid_, nullptr, 0));
  pid_ = -1;
}

namespace {

void Print(const std::string& line) {
  printf("%s\n", line.c_str());
  fflush(stdout);
}

// The next line of stdin; false at its end.
bool Hear(std::string* line) {
  char buffer[1024];
  if (fgets(buffer, sizeof(buffer), stdin) == nullptr) return false;
  buffer[strcspn(buffer, "\n")] = '\0';
  *line = buffer;
  return true;
}

UniqueFd TakeGiven() {
  (void)fcntl(Peer::kGiven, F_SETFD, FD_CLOEXEC);
  return UniqueFd(Peer::kGiven);
}

// Says what its handler has seen: contents, URLs and problems, separated by blanks.
int Serve(Style style, const std::string& address) {
  Stage stage(Ending::kKilled, TakeGiven());
  stage.on_reached = [](const Report& report) {
    Print(absl::StrCat(absl::StrJoin(report.read, ","), " ", absl::StrJoin(report.urls, ","), " ",
                       absl::StrJoin(report.problems, ",")));
  };
  const auto server = StartServer(style, address, &stage);
  Print("ready");
  std::string line;
  while (Hear(&line)) {
  }
  return 0;
}

// Takes what it is told to, and says what is in it.
int Call(Style style, Shape shape, const std::string& address) {
  const auto channel = grpcfd::CreateChannel(address, grpc::InsecureChannelCredentials());
  grpc::ClientContext context;
  ClientScript script(shape, &context, TakeGiven());
  const auto call = StartCall(style, channel, &script);
  std::string line;
  while (Hear(&line)) Print(ContentOf(Take(style, script.fds().get(), line)));
  context.TryCancel();
  script.AwaitDone();
  return 0;
}

}  // namespace

int RunAsPeer(int argc, char** argv) {
  if (argc == 4 && strcmp(argv[1], "--serve") == 0) return Serve(StyleNamed(argv[2]), argv[3]);
  if (argc == 5 && strcmp(argv[1], "--call") == 0) {
    return Call(StyleNamed(argv[2]), ShapeNamed(argv[3]), argv[4]);
  }
  return -1;
}

}  // namespace styles
}  // namespace grpcfd
