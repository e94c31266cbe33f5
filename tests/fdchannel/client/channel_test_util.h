// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of FdChannel share: a channel to a server that they start, and a call that starts
// in the background.
#ifndef GRPCFD_TESTS_FDCHANNEL_CLIENT_CHANNEL_TEST_UTIL_H_
#define GRPCFD_TESTS_FDCHANNEL_CLIENT_CHANNEL_TEST_UTIL_H_

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fdchannel/client/channel_core.h"
#include "grpcfd/testing/inode_holders.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {

inline std::shared_ptr<FdChannel> MakeChannel(const std::string& path,
                                              const FdChannelOptions& options = {}) {
  auto channel = FdChannel::Create("unix:" + path, options);
  EXPECT_TRUE(channel.ok()) << channel.status();
  return *std::move(channel);
}

inline DevIno DevInoOf(BorrowedFd fd) {
  auto dev_ino = FdToDevIno(fd);
  EXPECT_TRUE(dev_ino.ok()) << dev_ino.status();
  return *dev_ino;
}

// How many descriptors of this process are open on the file, but for those in flight.
inline size_t Holders(const DevIno& dev_ino) {
  auto count = CountHolders(dev_ino, {::getpid()});
  EXPECT_TRUE(count.ok()) << count.status();
  return *count;
}

class ChannelTest : public ::testing::Test {
 protected:
  ChannelTest() : path_(dir_.File("s")) {}

  // A server that does not accept yet, with a full backlog.
  std::vector<UniqueFd> ServeWithFullBacklog() {
    BindOptions bind;
    bind.backlog = 1;
    server_ = std::make_unique<TestServer>(path_, ServerLimits(), bind);
    std::vector<UniqueFd> waiting;
    for (;;) {
      UniqueFd next = Connect(server_->address(), SOCK_NONBLOCK);
      if (!next.valid()) return waiting;
      waiting.push_back(std::move(next));
    }
  }
  TestServer& Serve(const ServerLimits& limits = {}) {
    server_.reset();
    server_ = std::make_unique<TestServer>(path_, limits);
    server_->Start();
    return *server_;
  }

  // A call with one descriptor of this content, there and back. OK if the handler got just that.
  absl::Status RoundTrip(ChannelCore& channel, TestServer& server, const std::string& content) {
    auto call = std::make_shared<ClientCall>();
    auto url = call->SendFd(MakeFile(content));
    if (!url.ok()) return url.status();
    absl::Status status = StartCall(channel, call);
    if (!status.ok()) return status;
    auto served = server.Serve(call->metadata());
    if (served == nullptr) return absl::InternalError("no session");
    auto fd = served->RecvFd(*url);
    if (!fd.ok()) return fd.status();
    if (Content(*fd) != content) return absl::DataLossError(Content(*fd));
    auto back = served->SendFd(MakeFile("back " + content));
    if (!back.ok()) return back.status();
    auto returned = call->RecvFd(*back);
    if (!returned.ok()) return returned.status();
    if (Content(*returned) != "back " + content) return absl::DataLossError(Content(*returned));
    return absl::OkStatus();
  }

  const TempDir dir_;
  const std::string path_;
  std::unique_ptr<TestServer> server_;
};

struct AsyncCall {
  std::shared_ptr<ClientCall> call = std::make_shared<ClientCall>();
  absl::StatusOr<InodeUrl> url;
  Outcome outcome;

  void Start(ChannelCore& channel, bool wait_for_ready, absl::Duration patience = kPatience) {
    url = call->SendFd(MakeFile("async"));
    ClientCall::Start start;
    start.limits = channel.options().limits;
    start.deadline = absl::Now() + patience;
    ASSERT_TRUE(call->BeginStart(start).ok());
    StartAsync(channel.shared_from_this(), call, wait_for_ready, outcome.Callback());
  }
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_FDCHANNEL_CLIENT_CHANNEL_TEST_UTIL_H_
