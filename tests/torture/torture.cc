// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/torture/torture.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

extern char** environ;

namespace grpcfd {
namespace torture {

using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;

// --- Row ---

uint64_t Row::Count(uint64_t full_count, uint64_t at_least) const {
  const uint64_t count = count_ != 0 ? count_ : full_ ? full_count : (full_count + 99) / 100;
  return std::max(count, at_least);
}

void Row::Figure(const std::string& text) {
  if (!figure_.empty()) figure_ += "; ";
  figure_ += text;
}

bool Row::NeedsRoot(const char* part) {
  if (::geteuid() == 0) return true;
  NotRun(absl::StrCat(part, ": needs root"));
  return false;
}

void Row::NotRun(const std::string& why) {
  not_run_ = true;
  Figure("not run: " + why);
}

bool Failed() { return ::testing::UnitTest::GetInstance()->Failed(); }

// --- Times ---

void Times::Add(absl::Duration time) {
  std::lock_guard<std::mutex> lock(mutex_);
  times_.push_back(time);
}

std::vector<absl::Duration> Times::Sorted() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<absl::Duration> sorted = times_;
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

void Times::Expect(absl::Duration limit) const {
  const std::vector<absl::Duration> sorted = Sorted();
  ASSERT_FALSE(sorted.empty());
  // Of a few, one may be late.
  const size_t late = std::max<size_t>(1, sorted.size() / 100);
  if (sorted.size() > late) {
    EXPECT_LE(sorted[sorted.size() - 1 - late], limit) << "99 % were to be within";
  }
  EXPECT_LE(sorted.back(), 10 * limit) << "all were to be within ten times";
}

std::string Times::ToString() const {
  const std::vector<absl::Duration> sorted = Sorted();
  if (sorted.empty()) return "no times";
  const auto ms = [&sorted](size_t index) {
    return absl::StrFormat("%.1f", absl::ToDoubleMilliseconds(sorted[index]));
  };
  return absl::StrCat("p50 ", ms((sorted.size() - 1) / 2), " p99 ",
                      ms((sorted.size() - 1) * 99 / 100), " max ", ms(sorted.size() - 1), " ms");
}

// --- Processes ---

namespace {

struct Spawned {
  pid_t pid = -1;
  UniqueFd in;
  UniqueFd out;
};

Spawned Spawn(const std::string& program, std::vector<std::string> arguments) {
  Spawned spawned;
  int in[2], out[2];
  EXPECT_EQ(0, pipe2(in, O_CLOEXEC));
  EXPECT_EQ(0, pipe2(out, O_CLOEXEC));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  std::string name = program;
  std::vector<char*> argv = {name.data()};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  EXPECT_EQ(0, posix_spawn(&spawned.pid, program.c_str(), &actions, nullptr, argv.data(), environ))
      << program;
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  spawned.in = UniqueFd(in[1]);
  spawned.out = UniqueFd(out[0]);
  return spawned;
}

// The program beside this one.
std::string ChildProgram() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  EXPECT_GT(length, 0);
  const std::string self(path, length > 0 ? static_cast<size_t>(length) : 0);
  return self + "_child";
}

// What an executed child has open, by what it is. gRPC and the C library open descriptors that a
// child inherits; they are there from the start.
std::map<std::string, int> Inherited() {
  Spawned spawned = Spawn(ChildProgram(), {});
  std::map<std::string, int> inherited;
  FILE* const out = fdopen(spawned.out.Release(), "r");
  char line[512];
  while (fgets(line, sizeof(line), out) != nullptr) {
    line[strcspn(line, "\n")] = '\0';
    const char* const target = strchr(line, ' ');
    if (target == nullptr) continue;
    // gRPC 1.51 opens these for its threads, without close-on-exec.
    if (strstr(target, "[eventpoll]") != nullptr || strstr(target, "[eventfd]") != nullptr)
      continue;
    ++inherited[target + 1];
  }
  fclose(out);
  int status = -1;
  EXPECT_EQ(spawned.pid, waitpid(spawned.pid, &status, 0));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  return inherited;
}

}  // namespace

void ExpectNothingInherited() {
  // The first is taken before any row has begun: what the shell or ctest left open.
  static const std::map<std::string, int> at_start = Inherited();
  for (const auto& [target, count] : Inherited()) {
    const auto it = at_start.find(target);
    EXPECT_LE(count, it == at_start.end() ? 0 : it->second) << "a child inherits " << target;
  }
}

Peer::Peer(const std::string& name, std::vector<std::string> arguments, As as) {
  arguments.insert(arguments.begin(), {"peer", as == As::kNobody ? "nobody" : "self", name});
  Spawned spawned = Spawn("/proc/self/exe", std::move(arguments));
  pid_ = spawned.pid;
  stdin_ = std::move(spawned.in);
  stdout_ = fdopen(spawned.out.Release(), "r");
}

Peer::~Peer() {
  stdin_.Reset();
  if (!killed_) {
    // It ends when its stdin does; what it still has to say must not fill the pipe.
    while (!Line().empty()) {
    }
    int status = -1;
    EXPECT_EQ(pid_, waitpid(pid_, &status, 0));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "peer: status " << status;
  }
  fclose(stdout_);
}

std::string Peer::Line() {
  char line[512];
  if (fgets(line, sizeof(line), stdout_) == nullptr) return std::string();
  line[strcspn(line, "\n")] = '\0';
  return line;
}

void Peer::Say(const std::string& line) {
  const std::string text = line + "\n";
  EXPECT_EQ(static_cast<ssize_t>(text.size()), ::write(stdin_.get(), text.data(), text.size()));
}

void Peer::Kill() {
  EXPECT_EQ(0, ::kill(pid_, SIGKILL));
  EXPECT_EQ(pid_, waitpid(pid_, nullptr, 0));
  killed_ = true;
}

int CountFds(const std::string& text) {
  int count = 0;
  DIR* const dir = opendir("/proc/self/fd");
  EXPECT_NE(nullptr, dir);
  if (dir == nullptr) return -1;
  while (const dirent* entry = readdir(dir)) {
    char target[256] = {};
    if (readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1) < 0) continue;
    if (strstr(target, text.c_str()) != nullptr) ++count;
  }
  closedir(dir);
  return count;
}

absl::Duration ThreadTime(const std::string& name) {
  absl::Duration total;
  DIR* const dir = opendir("/proc/self/task");
  if (dir == nullptr) return total;
  while (const dirent* entry = readdir(dir)) {
    FILE* const stat =
        fopen(absl::StrCat("/proc/self/task/", entry->d_name, "/stat").c_str(), "re");
    if (stat == nullptr) continue;
    char line[1024] = {};
    (void)!fgets(line, sizeof(line), stat);
    fclose(stat);
    const char* const open = strchr(line, '(');
    const char* const close = strrchr(line, ')');
    if (open == nullptr || close == nullptr || std::string(open + 1, close) != name) continue;
    unsigned long user = 0, system = 0;
    if (sscanf(close + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) ==
        2) {
      total += absl::Seconds(1) * static_cast<double>(user + system) / sysconf(_SC_CLK_TCK);
    }
  }
  closedir(dir);
  return total;
}

// --- Calls ---

grpc::Status Echo(grpc::ServerContext* context, const test::ExchangeRequest& request,
                  test::ExchangeReply* reply) {
  if (request.command() == "plain") return grpc::Status::OK;
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  for (const std::string& url : request.urls()) {
    auto fd = fds->RecvFd(url);
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    reply->set_payload(reply->payload() + Content(*fd) + "|");
  }
  for (uint64_t i = 0; i < request.number(); ++i) {
    auto url = fds->SendFd(MemoryFile(absl::StrCat("back ", i)));
    if (!url.ok()) return ToGrpcStatus(url.status());
    reply->add_urls(url->ToString());
  }
  return grpc::Status::OK;
}

std::unique_ptr<TestServer> MakeEchoServer(const ServerLimits& limits) {
  auto fd_server = FdServer::Create([&limits] {
    FdServerOptions options;
    options.limits = limits;
    return options;
  }());
  EXPECT_TRUE(fd_server.ok()) << fd_server.status();
  auto server =
      std::make_unique<TestServer>([fd_server](grpc::ServerBuilder*, ListenOptions* options) {
        if (fd_server.ok()) options->fd_server = *fd_server;
      });
  server->service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                test::ExchangeReply* reply) {
    return Echo(context, *request, reply);
  };
  return server;
}

grpc::Status CallEcho(test::TestService::Stub* stub, int count, int back, absl::Duration deadline) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  std::string expected;
  std::shared_ptr<FdTransceiver> fds = FromContext(&context);
  for (int i = 0; i < count; ++i) {
    const std::string content = absl::StrCat("there ", i);
    auto url = fds->SendFd(MemoryFile(content));
    EXPECT_TRUE(url.ok()) << url.status();
    if (!url.ok()) return ToGrpcStatus(url.status());
    request.add_urls(url->ToString());
    expected += content + "|";
  }
  request.set_number(static_cast<uint64_t>(back));
  grpc::Status status = stub->Exchange(&context, request, &reply);
  if (!status.ok()) return status;
  EXPECT_EQ(expected, reply.payload());
  EXPECT_EQ(back, reply.urls_size());
  for (int i = 0; i < reply.urls_size(); ++i) {
    auto fd = fds->RecvFd(reply.urls(i));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    EXPECT_EQ(absl::StrCat("back ", i), Content(*fd));
  }
  return status;
}

namespace {

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
  return arguments;
}

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const ChannelOptions& options) {
  return grpcfd::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), Arguments(), {},
                                     options);
}

std::shared_ptr<grpc::Channel> MakePlainChannel(const std::string& address) {
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), Arguments());
}

Bystander::Bystander(const std::string& address) : channel_(MakeChannel(address)) {
  thread_ = std::thread([this] {
    auto stub = test::TestService::NewStub(channel_);
    while (!stop_) {
      const grpc::Status status = CallEcho(stub.get(), 1, 1);
      EXPECT_TRUE(status.ok()) << "a bystander's call failed: " << status.error_code() << " "
                               << status.error_message();
      if (!status.ok()) return;
      ++calls_;
      // It is there to be disturbed, not to take the processor.
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  AwaitCall();
}

void Bystander::Stop() {
  if (!thread_.joinable()) return;
  stop_ = true;
  thread_.join();
  channel_.reset();
}

void Bystander::AwaitCall() {
  // One may be under way.
  const uint64_t before = calls_;
  while (calls_ < before + 2 && !Failed()) std::this_thread::yield();
}

}  // namespace torture
}  // namespace grpcfd
