// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/log.h"

#include <array>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fdchannel/os/mutex.h"
#include "interceptors/grpc/grpc_log.h"

namespace grpcfd {
namespace internal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kInterval{1};

// Of the process, as the program's log is. Never destroyed: servers may outlive main().
struct Logger {
  struct Reason {
    Clock::time_point next;  // Nothing is written before.
    size_t left_out = 0;
  };

  static Logger& Get() {
    static auto* const logger = new Logger();
    return *logger;
  }

  Mutex mutex;
  std::shared_ptr<const LogSink> sink ABSL_GUARDED_BY(mutex);  // Null: gRPC's log.
  std::array<Reason, static_cast<size_t>(LogReason::kCount)> reasons ABSL_GUARDED_BY(mutex);
};

}  // namespace

void Log(LogReason reason, LogLevel level, const std::string& text) {
  Logger& logger = Logger::Get();
  std::shared_ptr<const LogSink> sink;
  size_t left_out = 0;
  {
    const auto now = Clock::now();
    MutexLock lock(&logger.mutex);
    Logger::Reason& state = logger.reasons[static_cast<size_t>(reason)];
    if (now < state.next) {
      ++state.left_out;
      return;
    }
    state.next = now + kInterval;
    left_out = std::exchange(state.left_out, 0);
    sink = logger.sink;
  }
  const std::string line =
      left_out == 0 ? text : absl::StrCat(text, " (and ", left_out, " like it before)");
  if (sink != nullptr) {
    (*sink)(level, line);
  } else {
    WriteToGrpcLog(level == LogLevel::kError, line);
  }
}

}  // namespace internal

void SetLogSink(LogSink sink) {
  auto shared = sink == nullptr ? nullptr : std::make_shared<const LogSink>(std::move(sink));
  internal::Logger& logger = internal::Logger::Get();
  internal::MutexLock lock(&logger.mutex);
  shared.swap(logger.sink);  // The former one is destroyed without the lock.
  logger.reasons = {};
}

}  // namespace grpcfd
