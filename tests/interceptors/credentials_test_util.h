// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests of credentials share: credentials that add an entry to a call's metadata, and a
// server behind channels with given factories.
#ifndef GRPCFD_TESTS_INTERCEPTORS_CREDENTIALS_TEST_UTIL_H_
#define GRPCFD_TESTS_INTERCEPTORS_CREDENTIALS_TEST_UTIL_H_

#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "grpcfd/credentials.h"
#include "tests/interceptors/call_kinds.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace testing_internal {

// What a context's slot for credentials holds.
using Slot = std::shared_ptr<grpc::CallCredentials>;

// Adds one entry with a given value to a call's metadata, or fails, and counts how often it is
// asked.
class FixedEntryPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  FixedEntryPlugin(std::string key, std::string value, std::shared_ptr<std::atomic<int>> asked,
                   grpc::Status status)
      : key_(std::move(key)),
        value_(std::move(value)),
        asked_(std::move(asked)),
        status_(std::move(status)) {}
  bool IsBlocking() const override { return false; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    ++*asked_;
    if (status_.ok()) metadata->emplace(key_, value_);
    return status_;
  }

 private:
  const std::string key_;
  const std::string value_;
  const std::shared_ptr<std::atomic<int>> asked_;
  const grpc::Status status_;
};

inline Slot FixedEntry(
    const std::string& key, const std::string& value,
    std::shared_ptr<std::atomic<int>> asked = std::make_shared<std::atomic<int>>(0),
    const grpc::Status& status = grpc::Status::OK) {
  return grpc::experimental::MetadataCredentialsFromPlugin(
      std::make_unique<FixedEntryPlugin>(key, value, std::move(asked), status), GRPC_SECURITY_NONE);
}

// A channel without a factory of grpcfd's has nobody but the credentials to refuse a call. Where
// those are a plugin of gRPC's core, it makes UNAVAILABLE of every status.
#if GRPCFD_GRPC_SLOT_BY_PLUGIN
inline constexpr grpc::StatusCode kRefusedByCredentials = grpc::StatusCode::UNAVAILABLE;
#else
inline constexpr grpc::StatusCode kRefusedByCredentials = grpc::StatusCode::FAILED_PRECONDITION;
#endif

#if !GRPCFD_GRPC_SLOT_BY_PLUGIN
// A class of the program's own, which gRPC's composite does not take.
class UserCredentials final : public grpc::CallCredentials {
 public:
  explicit UserCredentials(Slot what) : what_(std::move(what)) {}
  bool ApplyToCall(grpc_call* call) override {
    ++applied;
    return what_->ApplyToCall(call);
  }
  std::atomic<int> applied{0};

 private:
  grpc::SecureCallCredentials* AsSecureCredentials() override { return nullptr; }
  const Slot what_;
};
#endif

inline Creators ChainFactories(const Slot& defaults) {
  return CreatorsOf(ChainUnaryInterceptorFactory(defaults),
                    ChainStreamInterceptorFactory(defaults));
}

inline void Append(Creators from, Creators* to) {
  for (auto& creator : from) to->push_back(std::move(creator));
}

class ChainTest : public ::testing::Test {
 protected:
  ChainTest() { AnswerAll(&server_.service); }

  std::unique_ptr<test::TestService::Stub> StubOf(Creators creators) {
    return test::TestService::NewStub(LongFormChannel(server_.address(), std::move(creators)));
  }

  TestServer server_;
};

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_CREDENTIALS_TEST_UTIL_H_
