// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of calls that gRPC makes more than once share: stubs with a retry policy, handlers
// whose first attempts fail, call credentials, and bare listeners.
#ifndef GRPCFD_TESTS_INTERCEPTORS_RETRY_TEST_UTIL_H_
#define GRPCFD_TESTS_INTERCEPTORS_RETRY_TEST_UTIL_H_

#include <grpc/grpc_security_constants.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "grpcfd/grpcfd.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace testing_internal {

inline grpc::Status Unavailable(const std::string& text) {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, text);
}

// Arguments with a pool of subchannels of their own and quick reconnects; with `attempts`, a policy
// that retries UNAVAILABLE.
inline grpc::ChannelArguments Arguments(int attempts) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 40);
  if (attempts > 1) {
    arguments.SetServiceConfigJSON(
        R"({"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": )" +
        std::to_string(attempts) +
        R"(, "initialBackoff": "0.005s", "maxBackoff": "0.005s", "backoffMultiplier": 1,)"
        R"( "retryableStatusCodes": ["UNAVAILABLE"]}}]})");
  }
  return arguments;
}

inline std::unique_ptr<test::TestService::Stub> StubOf(
    const std::string& target, int attempts,
    const std::shared_ptr<grpc::ChannelCredentials>& credentials =
        grpc::InsecureChannelCredentials(),
    const ChannelOptions& options = {}) {
  return test::TestService::NewStub(
      grpcfd::CreateCustomChannel(target, credentials, Arguments(attempts), {}, options));
}

// grpcfd's own factory for `target`: it sends a call's descriptors with each attempt, or once.
inline std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> AttemptFactory(
    const std::string& target, bool per_attempt = true) {
  ClientInterceptorOptions options;
  options.send_per_attempt = per_attempt;
  return OurFactory(target, options);
}

// What handlers saw, in their order. Thread-safe.
class Log {
 public:
  // Adds a line and returns how many there are.
  int Add(const std::string& line) {
    const std::lock_guard<std::mutex> lock(mutex_);
    lines_.push_back(line);
    return static_cast<int>(lines_.size());
  }
  std::vector<std::string> lines() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

using AnswerFunction = std::function<grpc::Status(
    grpc::ServerContext*, const test::ExchangeRequest&, test::ExchangeReply*)>;

// Answers all four kinds as AnswerAll does, with `answer` in the place of Answer. An answer that
// fails sends no reply, so that gRPC may retry.
inline void AnswerAllBy(TestServer* server, AnswerFunction answer) {
  server->service.exchange =
      [answer](grpc::ServerContext* context, const test::ExchangeRequest* request,
               test::ExchangeReply* reply) { return answer(context, *request, reply); };
  server->service.upload = [answer](grpc::ServerContext* context,
                                    grpc::ServerReader<test::ExchangeRequest>* reader,
                                    test::ExchangeReply* reply) {
    test::ExchangeRequest request;
    if (!reader->Read(&request)) return Unavailable("no request");
    return answer(context, request, reply);
  };
  server->service.download = [answer](grpc::ServerContext* context,
                                      const test::ExchangeRequest* request,
                                      grpc::ServerWriter<test::ExchangeReply>* writer) {
    test::ExchangeReply reply;
    grpc::Status status = answer(context, *request, &reply);
    if (status.ok()) writer->Write(reply);
    return status;
  };
  server->service.chat =
      [answer](grpc::ServerContext* context,
               grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
        test::ExchangeRequest request;
        if (!stream->Read(&request)) return Unavailable("no request");
        test::ExchangeReply reply;
        grpc::Status status = answer(context, request, &reply);
        if (status.ok()) stream->Write(reply);
        return status;
      };
}

// An answer whose first `failures` attempts fail, each after it has taken the descriptors and sent
// one back.
inline AnswerFunction FailingFirst(int failures, Log* log) {
  return [failures, log](grpc::ServerContext* context, const test::ExchangeRequest& request,
                         test::ExchangeReply* reply) {
    grpc::Status status = Answer(context, request, reply);
    const int attempt = log->Add(status.ok() ? std::string(reply->payload()) : Text(status));
    if (!status.ok() || attempt > failures) return status;
    return Unavailable("attempt " + std::to_string(attempt));
  };
}

// One entry of metadata, and how often it was asked for.
class EntryPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  EntryPlugin(std::string key, std::shared_ptr<std::atomic<int>> asked)
      : key_(std::move(key)), asked_(std::move(asked)) {}
  bool IsBlocking() const override { return false; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->emplace(key_, std::to_string(++*asked_));
    return grpc::Status::OK;
  }

 private:
  const std::string key_;
  const std::shared_ptr<std::atomic<int>> asked_;
};

inline std::shared_ptr<grpc::CallCredentials> Entry(
    const std::string& key,
    std::shared_ptr<std::atomic<int>> asked = std::make_shared<std::atomic<int>>(0)) {
  return grpc::experimental::MetadataCredentialsFromPlugin(
      std::make_unique<EntryPlugin>(key, std::move(asked)), GRPC_SECURITY_NONE);
}

inline sockaddr_un Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

// A listening stream socket at `path`, without a server behind it.
inline UniqueFd ListenAt(const std::string& path) {
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  EXPECT_EQ(0, bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)));
  EXPECT_EQ(0, listen(listener.get(), 16));
  return listener;
}

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_RETRY_TEST_UTIL_H_
