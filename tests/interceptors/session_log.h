// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Records what on_session and on_session_end are told, for the tests of either end.
#ifndef GRPCFD_TESTS_INTERCEPTORS_SESSION_LOG_H_
#define GRPCFD_TESTS_INTERCEPTORS_SESSION_LOG_H_

#include <pthread.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fdchannel/os/mutex.h"
#include "grpcfd/fd_session.h"

namespace grpcfd {
namespace testing_internal {

// Thread-safe. The callbacks share the record, so they may outlive the log.
class SessionLog {
 public:
  SessionCallback OnSession() {
    return [record = record_](const std::shared_ptr<FdSession>& session) {
      char name[16] = "";
      pthread_getname_np(pthread_self(), name, sizeof(name));
      internal::MutexLock lock(&record->mutex);
      record->begun.push_back(session);
      record->threads.emplace_back(name);
      record->changed.NotifyAll();
    };
  }
  SessionCallback OnSessionEnd() {
    return [record = record_](const std::shared_ptr<FdSession>& session) {
      internal::MutexLock lock(&record->mutex);
      record->ended.push_back(session->id());
      record->changed.NotifyAll();
    };
  }

  std::vector<std::shared_ptr<FdSession>> begun() const {
    internal::MutexLock lock(&record_->mutex);
    return record_->begun;
  }
  std::vector<std::string> threads() const {
    internal::MutexLock lock(&record_->mutex);
    return record_->threads;
  }
  std::vector<uint64_t> ended() const {
    internal::MutexLock lock(&record_->mutex);
    return record_->ended;
  }
  // Whether `count` sessions have ended, soon.
  bool WaitForEnds(size_t count) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    internal::MutexLock lock(&record_->mutex);
    while (record_->ended.size() < count) {
      if (!record_->changed.WaitUntil(&record_->mutex, deadline)) return false;
    }
    return true;
  }

 private:
  struct Record {
    internal::Mutex mutex;
    internal::CondVar changed;
    std::vector<std::shared_ptr<FdSession>> begun ABSL_GUARDED_BY(mutex);
    std::vector<std::string> threads ABSL_GUARDED_BY(mutex);
    std::vector<uint64_t> ended ABSL_GUARDED_BY(mutex);
  };
  const std::shared_ptr<Record> record_ = std::make_shared<Record>();
};

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_SESSION_LOG_H_
