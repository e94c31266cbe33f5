// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C++ client and server as a program under test of the conformance suite; README.md beside it
// has the commands. It uses what is below gRPC, for the suite makes no RPCs.
#include <dirent.h>

#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "fdchannel/fds/core_access.h"
#include "tests/fdchannel/server/server_test_util.h"
#include "tests/hex.h"

namespace grpcfd {
namespace internal {
namespace {

using Answer = absl::StatusOr<std::string>;
using Words = std::vector<std::string>;

// `take` waits so long for what does not come.
constexpr absl::Duration kTakePatience = absl::Seconds(1);

Answer ContentOf(const absl::StatusOr<UniqueFd>& fd) {
  if (!fd.ok()) return fd.status();
  return Content(*fd);
}

Answer Text(const absl::StatusOr<InodeUrl>& url) {
  if (!url.ok()) return url.status();
  return url->ToString();
}

std::string CountDescriptors() {
  DIR* directory = ::opendir("/proc/self/fd");
  int count = -3;  // ".", "..", and the one that reads the directory.
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return absl::StrCat(count);
}

class Peer {
 public:
  Answer Run(const Words& words) {
    const std::map<std::string, std::pair<size_t, std::function<Answer()>>> commands = {
        {"open", {5, [&] { return Open(words); }}},
        {"start", {2, [&] { return Start(words[1]); }}},
        {"over", {2, [&] { return Over(words[1]); }}},
        {"register", {2, [&] { return Register(words[1]); }}},
        {"unregister", {2, [&] { return Unregister(words[1]); }}},
        {"listen", {5, [&] { return Listen(words); }}},
        {"serve", {3, [&] { return Serve(words[1], words[2]); }}},
        {"shutdown", {1, [&] { return ShutDown(); }}},
        {"attach", {3, [&] { return Text(Call(words[1])->SendFd(MakeFile(words[2]))); }}},
        {"take", {3, [&] { return Take(words[1], words[2]); }}},
        {"end", {2, [&] { return End(words[1]); }}},
        {"fds", {1, [&] { return Answer(CountDescriptors()); }}},
    };
    const auto command = commands.find(words[0]);
    if (command == commands.end() || command->second.first != words.size()) {
      return absl::UnimplementedError("unknown command");
    }
    return command->second.second();
  }

 private:
  static SessionLimits Limits(const Words& words) {
    SessionLimits limits;
    EXPECT_TRUE(absl::SimpleAtoi(words[2], &limits.max_fds_per_call));
    EXPECT_TRUE(absl::SimpleAtoi(words[3], &limits.session_window));
    EXPECT_TRUE(absl::SimpleAtoi(words[4], &limits.max_session_fds));
    return limits;
  }

  // --- Client ---

  Answer Open(const Words& words) {
    FdChannelOptions options;
    options.limits = Limits(words);
    absl::StatusOr<std::shared_ptr<FdChannel>> channel =
        FdChannel::Create("unix:" + words[1], options);
    if (!channel.ok()) return channel.status();
    channel_ = *std::move(channel);
    return "";
  }
  Answer Start(const std::string& name) {
    Call(name);
    const std::shared_ptr<ClientCall> call = client_calls_[name];
    ClientCall::Start start;
    start.rpc = call.get();
    start.client_streams = true;
    start.deadline = absl::Now() + absl::Seconds(10);
    const absl::Status status = StartCall(*CoreOf(*channel_), call, start);
    if (!status.ok()) return status;
    const auto entry = EncodeCallMetadata(call->metadata());
    return absl::BytesToHexString(std::string(entry.data(), entry.size()));
  }
  Answer Over(const std::string& name) {
    client_calls_[name]->OnEnded();
    return "";
  }
  Answer Register(const std::string& content) {
    absl::StatusOr<SessionFd> fd =
        channel_->Register(MakeFile(content), absl::Now() + kTakePatience);
    if (!fd.ok()) return fd.status();
    const std::string url = fd->url().ToString();
    registered_[url] = *std::move(fd);
    return url;
  }
  Answer Unregister(const std::string& url) {
    registered_.erase(url);
    return "";
  }

  // --- Server ---

  Answer Listen(const Words& words) {
    ServerLimits limits;
    limits.session = Limits(words);
    server_ = std::make_unique<TestServer>(words[1], limits);
    server_->Start();
    return "";
  }
  // What the interceptor does with the metadata of an RPC.
  Answer Serve(const std::string& name, const std::string& hex) {
    const std::string bytes = hex == "-" ? "" : testing_internal::FromHex(hex);
    absl::StatusOr<CallMetadata> metadata = DecodeCallMetadata(Bytes(bytes));
    if (!metadata.ok()) return metadata.status();
    if (!metadata->bound()) return absl::FailedPreconditionError("not bound to a session");
    auto session = server_->core().FindSession(metadata->token, metadata->session_id);
    if (!session.ok()) return session.status();
    ServerCall::Config config;
    config.key = metadata->key();
    config.announced = metadata->count;
    config.holes = metadata->holes;
    config.client_streams = true;
    config.server_streams = true;
    server_calls_[name] = std::make_shared<ServerCall>(*std::move(session), config);
    return "";
  }
  Answer ShutDown() {
    server_->core().ShutDown();
    return "";
  }

  // --- Both ---

  FdTransceiver* Call(const std::string& name) {
    const auto served = server_calls_.find(name);
    if (served != server_calls_.end()) return served->second.get();
    std::shared_ptr<ClientCall>& call = client_calls_[name];
    if (call == nullptr) call = std::make_shared<ClientCall>();
    return call.get();
  }
  Answer Take(const std::string& name, const std::string& url) {
    return ContentOf(Call(name)->RecvFd(url, absl::Now() + kTakePatience));
  }
  Answer End(const std::string& name) {
    server_calls_.erase(name);
    client_calls_.erase(name);
    return "";
  }

  std::shared_ptr<FdChannel> channel_;
  std::unique_ptr<TestServer> server_;
  std::map<std::string, SessionFd> registered_;
  std::map<std::string, std::shared_ptr<ClientCall>> client_calls_;
  std::map<std::string, std::shared_ptr<ServerCall>> server_calls_;
};

int Main() {
  Peer peer;
  std::string line;
  while (std::getline(std::cin, line)) {
    const Answer answer = peer.Run(absl::StrSplit(line, ' ', absl::SkipEmpty()));
    if (answer.ok()) {
      std::cout << "ok " << *answer << std::endl;
    } else {
      std::cout << "error " << absl::StatusCodeToString(answer.status().code()) << " "
                << answer.status().message() << std::endl;
    }
  }
  return ::testing::Test::HasFailure() ? 1 : 0;
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd

int main() { return grpcfd::internal::Main(); }
