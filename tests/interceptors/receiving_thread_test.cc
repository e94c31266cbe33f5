// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The thread that asks for a descriptor reads the socket itself. There is no reading thread to
// pass it on, so a call with a descriptor costs little more than one without
// (docs/decisions/0002).
//
// Linked with --wrap=recvmsg,--wrap=recvmmsg: the library's own calls come here first. gRPC's, in
// its shared library, do not.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <mutex>
#include <vector>

#include "tests/interceptors/test_service.h"

namespace {

std::mutex mutex;
bool recording = false;
std::vector<pid_t> receivers;

void Record(const msghdr& message) {
  for (const cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr;
       c = CMSG_NXTHDR(const_cast<msghdr*>(&message), const_cast<cmsghdr*>(c))) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    std::lock_guard<std::mutex> lock(mutex);
    if (recording) receivers.push_back(gettid());
  }
}

}  // namespace

extern "C" {
ssize_t __real_recvmsg(int fd, msghdr* message, int flags);
int __real_recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout);

ssize_t __wrap_recvmsg(int fd, msghdr* message, int flags) {
  const ssize_t result = __real_recvmsg(fd, message, flags);
  if (result >= 0) Record(*message);
  return result;
}

int __wrap_recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout) {
  const int result = __real_recvmmsg(fd, messages, count, flags, timeout);
  for (int i = 0; i < result; ++i) Record(messages[i].msg_hdr);
  return result;
}
}

namespace grpcfd {
namespace {

TEST(ReceivingThreadTest, EveryDescriptorIsReceivedByTheThreadThatAskedForIt) {
  testing_internal::TestServer server;
  std::vector<pid_t> askers;  // One call at a time: no lock needed between its two ends.
  server.service.exchange = [&askers](grpc::ServerContext* context,
                                      const test::ExchangeRequest* request,
                                      test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    askers.push_back(gettid());
    EXPECT_TRUE(fds->RecvFd(request->urls(0)).ok());
    reply->add_urls(fds->SendFd(testing_internal::MemoryFile("back"))->ToString());
    return grpc::Status::OK;
  };
  auto stub = server.Stub();
  const auto call = [&] {
    grpc::ClientContext context;
    testing_internal::SetDeadline(&context, 10);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    request.add_urls(fds->SendFd(testing_internal::MemoryFile("there"))->ToString());
    test::ExchangeReply reply;
    ASSERT_TRUE(stub->Exchange(&context, request, &reply).ok());
    askers.push_back(gettid());
    ASSERT_TRUE(fds->RecvFd(reply.urls(0)).ok());
  };
  call();  // Brings the session up, whose own socket travels as a descriptor too.
  askers.clear();
  {
    std::lock_guard<std::mutex> lock(mutex);
    recording = true;
  }
  for (int i = 0; i < 200; ++i) call();
  std::lock_guard<std::mutex> lock(mutex);
  recording = false;
  EXPECT_EQ(400u, receivers.size());
  EXPECT_EQ(askers, receivers);
}

}  // namespace
}  // namespace grpcfd
