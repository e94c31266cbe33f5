// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Every transport x where the credentials come from x what they demand x kind of call. The oracle
// is a stock channel to the same server, with the same credentials: where its call passes, ours
// passes with the same metadata and with its descriptors; where gRPC refuses it, ours is refused
// with gRPC's own status.
#include <gmock/gmock.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <tuple>
#include <utility>

#include "grpcfd/credentials.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"
#include "tests/interceptors/tls_certificates.h"

namespace grpcfd {
namespace {

using testing_internal::AnswerAll;
using testing_internal::Call;
using testing_internal::Content;
using testing_internal::Creators;
using testing_internal::CreatorsOf;
using testing_internal::Kind;
using testing_internal::kTlsServerName;
using testing_internal::MakeTlsCertificates;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;
using testing_internal::TestServer;
using testing_internal::TlsCertificates;

using Slot = std::shared_ptr<grpc::CallCredentials>;

enum class Transport { kInsecure, kLocal, kTls };
// What of the credentials is the channel's: nothing, by the chain factories, or by gRPC's
// CompositeChannelCredentials; and whether the call has its own.
enum class FromChannel { kNothing, kChained, kComposite };

std::ostream& operator<<(std::ostream& out, Transport transport) {
  static const char* const kNames[] = {"Insecure", "Local", "Tls"};
  return out << kNames[static_cast<int>(transport)];
}

class EntryPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  EntryPlugin(std::string key, std::string value)
      : key_(std::move(key)), value_(std::move(value)) {}
  bool IsBlocking() const override { return false; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->emplace(key_, value_);
    return grpc::Status::OK;
  }

 private:
  const std::string key_;
  const std::string value_;
};

Slot Entry(const std::string& key, const std::string& value, grpc_security_level level) {
  return grpc::experimental::MetadataCredentialsFromPlugin(
      std::make_unique<EntryPlugin>(key, value), level);
}

class CredentialsMatrixTest : public ::testing::TestWithParam<std::tuple<Transport, Kind>> {
 protected:
  CredentialsMatrixTest() : server_({}, ServerCredentials()) { AnswerAll(&server_.service); }

  static Transport transport() { return std::get<0>(GetParam()); }
  static Kind kind() { return std::get<1>(GetParam()); }

  static const TlsCertificates& Certificates() {
    static const auto* const kCertificates = new TlsCertificates(MakeTlsCertificates());
    return *kCertificates;
  }

  static std::shared_ptr<grpc::ServerCredentials> ServerCredentials() {
    if (transport() == Transport::kInsecure) return grpc::InsecureServerCredentials();
    if (transport() == Transport::kLocal) return grpc::experimental::LocalServerCredentials(UDS);
    grpc::SslServerCredentialsOptions options;
    options.pem_key_cert_pairs.push_back({Certificates().private_key, Certificates().certificate});
    return grpc::SslServerCredentials(options);
  }

  static std::shared_ptr<grpc::ChannelCredentials> ChannelCredentials() {
    if (transport() == Transport::kInsecure) return grpc::InsecureChannelCredentials();
    if (transport() == Transport::kLocal) return grpc::experimental::LocalCredentials(UDS);
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = Certificates().authority;
    return grpc::SslCredentials(options);
  }

  static grpc::ChannelArguments Arguments() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (transport() == Transport::kTls) {
      arguments.SetString(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, kTlsServerName);
    }
    return arguments;
  }

  struct Outcome {
    grpc::Status status;
    test::ExchangeReply reply;
  };

  // The same call on a stock channel, without descriptors. What our chain factories add is there
  // part of the call's own credentials.
  Outcome Stock(FromChannel from_channel, const Slot& default_entry, const Slot& own) {
    std::shared_ptr<grpc::ChannelCredentials> credentials = ChannelCredentials();
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    Slot slot = own;
    if (from_channel == FromChannel::kComposite) {
      credentials = grpc::CompositeChannelCredentials(credentials, default_entry);
    } else if (from_channel == FromChannel::kChained) {
      slot = own == nullptr ? default_entry : grpc::CompositeCallCredentials(default_entry, own);
    }
    if (slot != nullptr) context.set_credentials(slot);
    const auto stub = test::TestService::NewStub(
        grpc::CreateCustomChannel(server_.address(), credentials, Arguments()));
    Outcome outcome;
    outcome.status = Call(kind(), stub.get(), &context, {}, &outcome.reply);
    return outcome;
  }

  // On a channel of ours, with a descriptor there and one back.
  Outcome Ours(FromChannel from_channel, const Slot& default_entry, const Slot& own) {
    std::shared_ptr<grpc::ChannelCredentials> credentials = ChannelCredentials();
    Creators creators;
    if (from_channel == FromChannel::kComposite) {
      credentials = grpc::CompositeChannelCredentials(credentials, default_entry);
    } else if (from_channel == FromChannel::kChained) {
      creators = CreatorsOf(ChainUnaryInterceptorFactory(default_entry),
                            ChainStreamInterceptorFactory(default_entry));
    }
    const auto stub = test::TestService::NewStub(grpcfd::CreateCustomChannel(
        server_.address(), credentials, Arguments(), std::move(creators)));
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    if (own != nullptr) context.set_credentials(own);
    const auto fds = FromContext(&context);
    test::ExchangeRequest request;
    request.set_command("reply");
    request.add_urls(fds->SendFd(MemoryFile("there"))->ToString());
    Outcome outcome;
    outcome.status = Call(kind(), stub.get(), &context, request, &outcome.reply);
    if (outcome.status.ok()) {
      EXPECT_EQ(outcome.reply.payload(), "there|");
      EXPECT_EQ(outcome.reply.urls_size(), 1);
      const auto back = fds->RecvFd(outcome.reply.urls(0));
      EXPECT_TRUE(back.ok()) << back.status();
      if (back.ok()) {
        EXPECT_EQ(Content(*back), "reply to ");
      }
    }
    return outcome;
  }

  TestServer server_;
};

TEST_P(CredentialsMatrixTest, AsOnAStockChannelAndWithDescriptors) {
  int passed = 0, refused = 0;
  for (const FromChannel from_channel :
       {FromChannel::kNothing, FromChannel::kChained, FromChannel::kComposite}) {
    if (from_channel == FromChannel::kComposite && transport() == Transport::kInsecure) {
      // gRPC has no composite of insecure channel credentials.
      EXPECT_EQ(grpc::CompositeChannelCredentials(ChannelCredentials(),
                                                  Entry("x-a", "b", GRPC_SECURITY_NONE)),
                nullptr);
      continue;
    }
    for (const bool from_call : {false, true}) {
      for (const grpc_security_level level :
           {GRPC_SECURITY_NONE, GRPC_INTEGRITY_ONLY, GRPC_PRIVACY_AND_INTEGRITY}) {
        SCOPED_TRACE(::testing::Message()
                     << "from the channel " << static_cast<int>(from_channel) << ", from the call "
                     << from_call << ", level " << level);
        const Slot default_entry = Entry("x-default", "d", level);
        const Slot own = from_call ? Entry("x-own", "o", level) : nullptr;
        const Outcome stock = Stock(from_channel, default_entry, own);
        const Outcome ours = Ours(from_channel, default_entry, own);
        EXPECT_EQ(ours.status.error_code(), stock.status.error_code())
            << ours.status.error_message();
        EXPECT_EQ(ours.status.error_message(), stock.status.error_message());
        EXPECT_EQ(ours.reply.status_text(), stock.reply.status_text());
        if (stock.status.ok()) {
          // The oracle proves nothing if it lost them as well.
          std::string expected;
          if (from_channel != FromChannel::kNothing) expected += "x-default=d;";
          if (from_call) expected += "x-own=o;";
          EXPECT_EQ(stock.reply.status_text(), expected);
        }
        ++(stock.status.ok() ? passed : refused);
      }
    }
  }
  // gRPC's rule: a channel's level is as high as the credentials demand, or the call is refused. An
  // insecure one has none; local and TLS ones have the highest.
  if (transport() == Transport::kInsecure) {
    EXPECT_EQ(passed, 3 + 3);
    EXPECT_EQ(refused, 6);
  } else {
    EXPECT_EQ(passed, 18);
    EXPECT_EQ(refused, 0);
  }
}

class UntrustedServerTest : public CredentialsMatrixTest {};

// A server that the client does not trust is not called, and keeps nothing.
TEST_P(UntrustedServerTest, IsNotCalled) {
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = MakeTlsCertificates().authority;  // Another one of the same name.
  const auto stub = test::TestService::NewStub(
      grpcfd::CreateCustomChannel(server_.address(), grpc::SslCredentials(options), Arguments()));
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  test::ExchangeRequest request;
  request.add_urls(FromContext(&context)->SendFd(MemoryFile("x"))->ToString());
  test::ExchangeReply reply;
  const grpc::Status status = Call(kind(), stub.get(), &context, request, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(reply.payload(), "");
}

std::string NameOf(const ::testing::TestParamInfo<std::tuple<Transport, Kind>>& info) {
  return ::testing::PrintToString(std::get<0>(info.param)) +
         ::testing::PrintToString(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Matrix, CredentialsMatrixTest,
                         ::testing::Combine(::testing::Values(Transport::kInsecure,
                                                              Transport::kLocal, Transport::kTls),
                                            ::testing::Values(Kind::kUnary, Kind::kUpload,
                                                              Kind::kDownload, Kind::kChat)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Matrix, UntrustedServerTest,
                         ::testing::Values(std::make_tuple(Transport::kTls, Kind::kUnary)), NameOf);

}  // namespace
}  // namespace grpcfd
