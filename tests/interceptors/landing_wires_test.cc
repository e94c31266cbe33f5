// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Restarts of a port that serves both wires: the fdchannel's clients land where their calls do, and
// all others work as before.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/hello.h"
#include "tests/fdchannel/server/server_test_util.h"
#include "tests/interceptors/landing_test_util.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace {

using testing_internal::Content;
using testing_internal::Exchange;
using testing_internal::LandingTest;
using testing_internal::Load;
using testing_internal::MakeChannel;
using testing_internal::MemoryFile;
using testing_internal::PlainCall;
using testing_internal::Process;
using testing_internal::SetDeadline;
using testing_internal::Style;
using testing_internal::Text;

class BothWiresTest : public LandingTest {
 protected:
  std::unique_ptr<Process> Serve(const std::string& name, const std::string& path) const {
    ListenOptions options;
    options.wire = PortWire::kBoth;
    return std::make_unique<Process>(name, "unix:" + path, options);
  }

  std::shared_ptr<grpc::Channel> StockChannel() const {
    return grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  }

  // A call with a descriptor each way of a client that speaks version 1 of the protocol: its hello
  // names no connection, and neither does its gRPC connection.
  std::string ExchangeByVersion1(const std::string& content) const {
    internal::Hello hello = internal::HelloWith(internal::MintToken());
    hello.max_version = 1;
    internal::Answer answer = internal::SayHello(internal::Address(path_), hello);
    if (answer.fds.size() != 1 || answer.reply->version != 1) return "no session of version 1";
    const UniqueFd session = std::move(answer.fds[0]);

    constexpr internal::CallKey kCall{7, 0};
    const UniqueFd file = MemoryFile(content);
    internal::FrameBuffer frame;
    internal::EncodeData(kCall, /*first_index=*/0, /*fd_count=*/1, &frame);
    const int number = file.get();
    if (!internal::SendMessage(session, frame, absl::MakeConstSpan(&number, 1)).ok()) return "send";
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    internal::CallMetadata said;
    said.token = hello.token;
    said.session_id = answer.reply->session_id;
    said.call_id = kCall.id;
    said.count = 1;
    const auto bytes = internal::EncodeCallMetadata(said);
    context.AddMetadata(internal::kCallMetadataKey, std::string(bytes.data(), bytes.size()));
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    request.add_urls(absl::StrCat(FdToUrl(file)->ToString(), "?fd=0"));
    const grpc::Status status =
        test::TestService::NewStub(StockChannel())->Exchange(&context, request, &reply);
    if (!status.ok()) return Text(status);
    return AwaitContent(session) == absl::StrCat(reply.payload(), " got ", content) ? "" : "lost";
  }

  // Of the first descriptor that comes. Anything but DATA and CREDIT is not of version 1.
  static std::string AwaitContent(const UniqueFd& session) {
    char bytes[internal::kFrameSize];
    internal::ReceivedMessage message;
    while (internal::WaitReadable(session) &&
           internal::ReceiveMessage(session, bytes, sizeof(bytes), &message).ok() &&
           message.size != 0) {
      const auto frame = internal::DecodeFrame(absl::MakeConstSpan(bytes, message.size));
      if (!frame.ok()) return frame.status().ToString();
      if (frame->type == internal::FrameType::kData) return Content(message.fds[0]);
      if (frame->type != internal::FrameType::kCredit) return "a frame of version 2";
    }
    return "none came";
  }
};

TEST_F(BothWiresTest, ARollingRestartFailsNoCallAndTheOtherClientsWorkAsBefore) {
  auto server = Serve("number 0", path_);
  ChannelOptions in_band;
  in_band.wire = Wire::kInBand;
  Load named(MakeChannel(address_), Style::kSync, /*wait_for_ready=*/false);
  const auto stock = StockChannel();
  for (int i = 1; i <= 10 && !HasFailure(); ++i) {
    named.AwaitMore(100);
    // A call of the in-band wire is tied to the connection that its first attempt had.
    auto relayed = test::TestService::NewStub(MakeChannel(address_, in_band));
    for (int n = 0; n < 10; ++n) {
      EXPECT_EQ(Exchange(relayed.get(), absl::StrCat("relayed ", i, ".", n), false), "");
      EXPECT_EQ(PlainCall(test::TestService::NewStub(stock).get(), true), "");
      EXPECT_EQ(ExchangeByVersion1(absl::StrCat("file ", i, ".", n)), "");
    }
    const std::string beside = path_ + ".next";
    auto next = Serve(absl::StrCat("number ", i), beside);
    ASSERT_EQ(rename(beside.c_str(), path_.c_str()), 0);
    server->Drain();
    server->AwaitDrained();
    EXPECT_GT(server->calls, 0);
    server = std::move(next);
  }
  named.AwaitMore(100);
  named.ExpectNoFailures();
}

}  // namespace
}  // namespace grpcfd
