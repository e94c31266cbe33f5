// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What happens to services that are restarted every day, to clients of each API style: no call with
// descriptors fails that a plain one would not. Each server here has an FdServer of its own, so
// that to the client they are what several processes are.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <future>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/interceptors/landing_test_util.h"
#include "tests/interceptors/test_service.h"
#include "tests/interceptors/tls_certificates.h"

namespace grpcfd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing_internal::Exchange;
using testing_internal::ExpectCalls;
using testing_internal::LandingTest;
using testing_internal::ListeningSocket;
using testing_internal::Load;
using testing_internal::MakeCaller;
using testing_internal::MakeChannel;
using testing_internal::NameOf;
using testing_internal::OpenStream;
using testing_internal::PlainCall;
using testing_internal::Process;
using testing_internal::Style;

const auto kStyles = ::testing::Values(Style::kSync, Style::kCallback, Style::kQueue);

std::string NameOfCase(Style style, bool wait_for_ready) {
  return absl::StrCat(NameOf(style), wait_for_ready ? "Waits" : "FailsFast");
}

enum class Transport { kInsecure, kTls, kLocal };

class RestartTest : public LandingTest,
                    public ::testing::WithParamInterface<std::tuple<Style, bool, Transport>> {
 protected:
  RestartTest() {
    if (transport() == Transport::kTls) UseTls();
    if (transport() != Transport::kLocal) return;
    server_credentials_ = grpc::experimental::LocalServerCredentials(UDS);
    channel_credentials_ = grpc::experimental::LocalCredentials(UDS);
  }
  Style style() const { return std::get<0>(GetParam()); }
  bool wait_for_ready() const { return std::get<1>(GetParam()); }
  Transport transport() const { return std::get<2>(GetParam()); }

  std::shared_ptr<grpc::ServerCredentials> server_credentials_ = grpc::InsecureServerCredentials();
  std::shared_ptr<grpc::ChannelCredentials> channel_credentials_ =
      grpc::InsecureChannelCredentials();

 private:
  void UseTls() {
    static const auto* const certificates =
        new testing_internal::TlsCertificates(testing_internal::MakeTlsCertificates());
    grpc::SslServerCredentialsOptions server;
    server.pem_key_cert_pairs.push_back({certificates->private_key, certificates->certificate});
    server_credentials_ = grpc::SslServerCredentials(server);
    grpc::SslCredentialsOptions client;
    client.pem_root_certs = certificates->authority;
    channel_credentials_ = grpc::SslCredentials(client);
  }
};

INSTANTIATE_TEST_SUITE_P(All, RestartTest,
                         ::testing::Combine(kStyles, ::testing::Bool(),
                                            ::testing::Values(Transport::kInsecure, Transport::kTls,
                                                              Transport::kLocal)),
                         [](const auto& info) {
                           const Transport transport = std::get<2>(info.param);
                           return NameOfCase(std::get<0>(info.param), std::get<1>(info.param)) +
                                  (transport == Transport::kTls     ? "Tls"
                                   : transport == Transport::kLocal ? "Local"
                                                                    : "Insecure");
                         });

// The old server drains, held up by another client's stream; the new one has the path.
TEST_P(RestartTest, ARollingRestartFailsNoCall) {
  auto old = std::make_unique<Process>("old", address_, ListenOptions(), server_credentials_);
  std::unique_ptr<Process> next;
  Load load(MakeChannel(address_, {}, channel_credentials_), style(), wait_for_ready());
  load.AwaitMore(100);
  {
    OpenStream stream(address_, channel_credentials_);
    next = TakeThePath(server_credentials_);
    old->Drain();
    load.AwaitMore(1000);
    EXPECT_GT(next->calls, 0);
  }
  old.reset();
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

// The same with the listening socket handed over.
TEST_P(RestartTest, AHandOverOfTheListeningSocketFailsNoCall) {
  const UniqueFd socket = ListeningSocket(path_);
  ListenOptions options;
  options.listen_fd = socket;
  auto old = std::make_unique<Process>("old", address_, options, server_credentials_);
  std::unique_ptr<Process> next;
  Load load(MakeChannel(address_, {}, channel_credentials_), style(), wait_for_ready());
  load.AwaitMore(100);
  {
    OpenStream stream(address_, channel_credentials_);
    next = std::make_unique<Process>("next", address_, options, server_credentials_);
    old->Drain();
    load.AwaitMore(1000);
    EXPECT_GT(next->calls, 0);
  }
  old.reset();
  load.AwaitMore(100);
  load.ExpectNoFailures();
}

class AcceptorsTest : public LandingTest,
                      public ::testing::WithParamInterface<std::tuple<int, Style, bool>> {};

INSTANTIATE_TEST_SUITE_P(All, AcceptorsTest,
                         ::testing::Combine(::testing::Values(2, 4), kStyles, ::testing::Bool()),
                         [](const auto& info) {
                           return (std::get<0>(info.param) == 2 ? "Two" : "Four") +
                                  NameOfCase(std::get<1>(info.param), std::get<2>(info.param));
                         });

// Several processes accept from one socket: each channel works, whichever it reaches.
TEST_P(AcceptorsTest, EveryChannelWorksWhoeverAccepts) {
  const auto [count, style, wait_for_ready] = GetParam();
  const UniqueFd socket = ListeningSocket(path_);
  ListenOptions options;
  options.listen_fd = socket;
  std::vector<std::unique_ptr<Process>> processes;
  for (int i = 0; i < count; ++i) {
    processes.push_back(std::make_unique<Process>(absl::StrCat("number ", i), address_, options));
  }
  for (int i = 0; i < 40 && !HasFailure(); ++i) {
    const auto caller = MakeCaller(style, MakeChannel(address_));
    ExpectCalls(caller.get(), absl::StrCat("channel ", i), 25, wait_for_ready);
  }
  int used = 0;
  for (const auto& process : processes) used += process->calls > 0 ? 1 : 0;
  EXPECT_GT(used, 1) << "one server has all: nothing was tried";
}

class PathTest : public LandingTest, public ::testing::WithParamInterface<std::tuple<Style, bool>> {
 protected:
  Style style() const { return std::get<0>(GetParam()); }
  bool wait_for_ready() const { return std::get<1>(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(All, PathTest, ::testing::Combine(kStyles, ::testing::Bool()),
                         [](const auto& info) {
                           return NameOfCase(std::get<0>(info.param), std::get<1>(info.param));
                         });

// The path is renamed over while the old server lives. The channel is connected, and has sent no
// descriptors yet.
TEST_P(PathTest, AConnectedChannelReachesItsServerWhenThePathIsAnothers) {
  Process old("old", address_);
  const auto channel = MakeChannel(address_);
  ASSERT_EQ(PlainCall(test::TestService::NewStub(channel).get(), wait_for_ready()), "");
  const auto next = TakeThePath();
  const int before = old.calls;
  const auto caller = MakeCaller(style(), channel);
  for (int i = 0; i < 50; ++i) {
    ExpectCalls(caller.get(), absl::StrCat("file ", i), 20, wait_for_ready());
  }
  EXPECT_EQ(old.calls, before + 1000);
  EXPECT_EQ(next->calls, 0);
}

// A second channel with the same arguments, made after such a change.
TEST_P(PathTest, ASecondChannelWithEqualArgumentsWorks) {
  Process old("old", address_);
  const auto first = MakeCaller(style(), MakeChannel(address_));
  ExpectCalls(first.get(), "first", 1, wait_for_ready());
  const auto next = TakeThePath();
  const auto second = MakeCaller(style(), MakeChannel(address_));
  for (int i = 0; i < 50; ++i) {
    ExpectCalls(first.get(), absl::StrCat("old ", i), 20, wait_for_ready());
    ExpectCalls(second.get(), absl::StrCat("new ", i), 20, wait_for_ready());
  }
  EXPECT_EQ(old.calls, 1001);
  EXPECT_EQ(next->calls, 1000);
}

// A target of two addresses: plain calls go to both, and a call with descriptors says at once why
// it cannot, however long it may take.
class SeveralAddressesTest : public PathTest {};

INSTANTIATE_TEST_SUITE_P(All, SeveralAddressesTest, ::testing::Combine(kStyles, ::testing::Bool()),
                         [](const auto& info) {
                           return NameOfCase(std::get<0>(info.param), std::get<1>(info.param));
                         });

TEST_P(SeveralAddressesTest, DescriptorsAreRefusedWithTheReasonAndPlainCallsWork) {
  Process a("a", address_);
  Process b("b", address_ + ".b");
  for (const Wire wire : {Wire::kFdChannel, Wire::kInBand}) {
    a.calls = b.calls = 0;
    grpc::ChannelArguments arguments;
    arguments.SetLoadBalancingPolicyName("round_robin");
    ChannelOptions options;
    options.wire = wire;
    const auto channel =
        grpcfd::CreateCustomChannel(absl::StrCat(address_, ",", path_, ".b"),
                                    grpc::InsecureChannelCredentials(), arguments, {}, options);
    const auto caller = MakeCaller(style(), channel);
    const auto call = [&](const std::string& content) {
      std::promise<std::string> wrong;
      caller->Make(content, wait_for_ready(), [&](const std::string& w) { wrong.set_value(w); });
      return wrong.get_future().get();
    };
    // The first call of the channel.
    EXPECT_THAT(call("file"), AllOf(StartsWith("9 "), HasSubstr("names several addresses")));
    for (int i = 0; i < 100; ++i) ASSERT_EQ(call(""), "");
    EXPECT_THAT(call("file"), AllOf(StartsWith("9 "), HasSubstr("names several addresses")));
    EXPECT_GT(a.calls, 0);
    EXPECT_GT(b.calls, 0);
    EXPECT_EQ(a.calls + b.calls, 100);
  }
}

}  // namespace
}  // namespace grpcfd
