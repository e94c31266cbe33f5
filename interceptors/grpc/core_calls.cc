// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/grpc/core_calls.h"

#include <grpcpp/alarm.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

namespace grpcfd {
namespace internal {

void CancelWithStatus(grpc_call* call, const absl::Status& status) {
  grpc_call_cancel_with_status(call, static_cast<grpc_status_code>(status.code()),
                               std::string(status.message()).c_str(), nullptr);
}

void RunOnGrpcThread(std::function<void()> function) {
  struct Job {
    grpc::Alarm alarm;
    std::function<void()> function;
  };
  auto job = std::make_shared<Job>();
  job->function = std::move(function);
  grpc::Alarm* const alarm = &job->alarm;
  alarm->Set(std::chrono::system_clock::now(), [job = std::move(job)](bool) mutable {
    // The alarm keeps the function that called this, and that keeps the alarm.
    const std::shared_ptr<Job> last = std::move(job);
    last->function();
  });
}

}  // namespace internal
}  // namespace grpcfd
