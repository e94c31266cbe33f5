// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the in-band wire share: options, and a service that sends back what it got.
#ifndef GRPCFD_TESTS_INTERCEPTORS_IN_BAND_TEST_UTIL_H_
#define GRPCFD_TESTS_INTERCEPTORS_IN_BAND_TEST_UTIL_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <string>

#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace testing_internal {

inline ChannelOptions InBand() {
  ChannelOptions options;
  options.wire = Wire::kInBand;
  return options;
}

inline TestServer::Setup Listen(PortWire wire, InBandOptions in_band = {}) {
  return [wire, in_band](grpc::ServerBuilder*, ListenOptions* options) {
    options->wire = wire;
    options->in_band = in_band;
  };
}

// Sends back what it got: each descriptor's content in the payload, and one of its own.
inline grpc::Status Exchange(grpc::ServerContext* context, const test::ExchangeRequest& request,
                             test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  for (const std::string& url : request.urls()) {
    auto fd = fds->RecvFd(url);
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    reply->set_payload(reply->payload() + Content(*fd) + "|");
  }
  auto url = fds->SendFd(MemoryFile("reply to " + reply->payload()));
  if (!url.ok()) return ToGrpcStatus(url.status());
  reply->add_urls(url->ToString());
  return grpc::Status::OK;
}

class InBandTest : public ::testing::Test {
 protected:
  void Serve(TestServer* server) {
    server->service.exchange =
        [](grpc::ServerContext* context, const test::ExchangeRequest* request,
           test::ExchangeReply* reply) { return Exchange(context, *request, reply); };
  }

  // One call with one descriptor each way.
  grpc::Status ExchangeOne(test::TestService::Stub* stub, const std::string& content) {
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    auto fds = FromContext(&context);
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    auto url = fds->SendFd(MemoryFile(content));
    if (!url.ok()) return ToGrpcStatus(url.status());
    request.add_urls(url->ToString());
    grpc::Status status = stub->Exchange(&context, request, &reply);
    if (!status.ok()) return status;
    EXPECT_EQ(content + "|", reply.payload());
    if (reply.urls_size() != 1) return grpc::Status(grpc::StatusCode::INTERNAL, "no URL");
    auto fd = fds->RecvFd(reply.urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    EXPECT_EQ("reply to " + content + "|", Content(*fd));
    return grpc::Status::OK;
  }
};

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_IN_BAND_TEST_UTIL_H_
