// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/attempts.h"

#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/string_util.h>
#include <grpcpp/alarm.h>

#include <chrono>
#include <map>
#include <optional>

#include "fdchannel/calls/call_start.h"
#include "fdchannel/os/mutex.h"
#include "fdchannel/wire/call_metadata.h"
#include "grpcfd/status.h"

namespace grpcfd {
namespace internal {
namespace {

// One outcome on its way from whoever has it to whoever asked.
struct PendingResult {
  Mutex mutex;
  CondVar arrived;
  std::optional<absl::StatusOr<Attempts::Entries>> result ABSL_GUARDED_BY(mutex);
  // Who asked has left; the outcome has to be brought.
  bool left ABSL_GUARDED_BY(mutex) = false;
};

// --- The plugin of gRPC's core ---

size_t ToSlices(const Attempts::Entries& entries, grpc_metadata* metadata) {
  size_t count = 0;
  for (const auto& [key, value] : entries) {
    metadata[count].key = grpc_slice_from_static_string(key);
    metadata[count].value = grpc_slice_from_copied_buffer(value.data(), value.size());
    ++count;
  }
  return count;
}

void Bring(const absl::StatusOr<Attempts::Entries>& result,
           grpc_credentials_plugin_metadata_cb done, void* user_data) {
  if (!result.ok()) {
    const std::string text(result.status().message());
    done(user_data, nullptr, 0, static_cast<grpc_status_code>(result.status().code()),
         text.c_str());
    return;
  }
  grpc_metadata metadata[GRPC_METADATA_CREDENTIALS_PLUGIN_SYNC_MAX] = {};
  const size_t count = ToSlices(*result, metadata);
  done(user_data, metadata, count, GRPC_STATUS_OK, nullptr);
  for (size_t i = 0; i < count; ++i) grpc_slice_unref(metadata[i].value);
}

int GetMetadata(void* state, grpc_auth_metadata_context /*context*/,
                grpc_credentials_plugin_metadata_cb done, void* user_data,
                grpc_metadata metadata[GRPC_METADATA_CREDENTIALS_PLUGIN_SYNC_MAX], size_t* count,
                grpc_status_code* status, const char** error_details) {
  auto pending = std::make_shared<PendingResult>();
  (*static_cast<std::shared_ptr<Attempts>*>(state))
      ->Start([pending, done, user_data](absl::StatusOr<Attempts::Entries> result) {
        {
          MutexLock lock(&pending->mutex);
          if (!pending->left) {
            pending->result = std::move(result);
            return;
          }
        }
        // Not on this thread, which may even be the one that asked.
        RunOnGrpcThread(
            [result = std::move(result), done, user_data] { Bring(result, done, user_data); });
      });
  std::optional<absl::StatusOr<Attempts::Entries>> result;
  {
    MutexLock lock(&pending->mutex);
    if (!pending->result.has_value()) {
      pending->left = true;
      return 0;
    }
    result = std::move(pending->result);
  }
  if (result->ok()) {
    *count = ToSlices(**result, metadata);
    *status = GRPC_STATUS_OK;
    *error_details = nullptr;
  } else {
    *count = 0;
    *status = static_cast<grpc_status_code>(result->status().code());
    *error_details = gpr_strdup(std::string(result->status().message()).c_str());
  }
  return 1;
}

char* DebugString(void* /*state*/) { return gpr_strdup("grpcfd attempt credentials"); }

void Destroy(void* state) { delete static_cast<std::shared_ptr<Attempts>*>(state); }

// --- The plugin of gRPC's C++ ---

class AttemptPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit AttemptPlugin(std::shared_ptr<Attempts> attempts) : attempts_(std::move(attempts)) {}

  // It may have to wait for a session, which it must not do on a thread of gRPC's. The plugin's own
  // threads are there anyway.
  bool IsBlocking() const override { return attempts_->MayWait(); }
  const char* GetType() const override { return "grpcfd"; }
  grpc::string DebugString() override { return "grpcfd attempt credentials"; }

  grpc::Status GetMetadata(grpc::string_ref /*service_url*/, grpc::string_ref /*method_name*/,
                           const grpc::AuthContext& /*channel_auth_context*/,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    auto pending = std::make_shared<PendingResult>();
    attempts_->Start([pending](absl::StatusOr<Attempts::Entries> result) {
      MutexLock lock(&pending->mutex);
      pending->result = std::move(result);
      pending->arrived.NotifyAll();
    });
    MutexLock lock(&pending->mutex);
    while (!pending->result.has_value()) pending->arrived.Wait(&pending->mutex);
    if (!(*pending->result).ok()) return ToGrpcStatus(pending->result->status());
    for (auto& [key, value] : **pending->result) metadata->emplace(key, std::move(value));
    return grpc::Status::OK;
  }

 private:
  const std::shared_ptr<Attempts> attempts_;
};

}  // namespace

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

void CancelWithStatus(grpc_call* call, const absl::Status& status) {
  grpc_call_cancel_with_status(call, static_cast<grpc_status_code>(status.code()),
                               std::string(status.message()).c_str(), nullptr);
}

void Attempts::ApplyTo(grpc_call* core_call) {
  Attach(core_call);
  grpc_metadata_credentials_plugin plugin;
  plugin.get_metadata = &GetMetadata;
  plugin.debug_string = &DebugString;
  plugin.destroy = &Destroy;
  plugin.state = new std::shared_ptr<Attempts>(shared_from_this());
  plugin.type = "grpcfd";
  // Calls that are sent once say the same in plain metadata: nothing here asks for more security
  // than the call itself.
  grpc_call_credentials* const credentials =
      grpc_metadata_credentials_create_from_plugin(plugin, GRPC_SECURITY_NONE, nullptr);
  grpc_call_set_credentials(core_call, credentials);
  grpc_call_credentials_release(credentials);
}

std::shared_ptr<grpc::CallCredentials> Attempts::AsCredentials(grpc_call* core_call) {
  Attach(core_call);
  return grpc::experimental::MetadataCredentialsFromPlugin(
      std::make_unique<AttemptPlugin>(shared_from_this()), GRPC_SECURITY_NONE);
}

// --- By a session ---

void SessionAttempts::Attach(grpc_call* core_call) {
  MutexLock lock(&mutex_);
  if (core_call_ == core_call) return;
  if (core_call_ != nullptr) grpc_call_unref(core_call_);
  grpc_call_ref(core_call);
  core_call_ = core_call;
}

void SessionAttempts::Detach() {
  grpc_call* core_call;
  {
    MutexLock lock(&mutex_);
    core_call = std::exchange(core_call_, nullptr);
  }
  if (core_call == nullptr) return;
  GiveUp(*core_, call_);
  grpc_call_unref(core_call);
}

void SessionAttempts::Cancel(const absl::Status& status) {
  grpc_call* core_call;
  {
    MutexLock lock(&mutex_);
    core_call = core_call_;
    if (core_call == nullptr) return;
    grpc_call_ref(core_call);
  }
  CancelWithStatus(core_call, status);
  grpc_call_unref(core_call);
}

void SessionAttempts::Start(Callback done) {
  const std::shared_ptr<ClientCall> call = call_.lock();
  if (call == nullptr) return done(absl::CancelledError("the call was given up"));
  // The usual case: the session is there, and has room.
  absl::StatusOr<CallMetadata> sent;
  if (TryStart(*core_, call.get(), &sent)) return OnSent(std::move(sent), done);
  StartAsync(core_, call, config_.wait_for_ready,
             [self = std::static_pointer_cast<SessionAttempts>(shared_from_this()),
              done = std::move(done)](absl::StatusOr<CallMetadata> late) {
               self->OnSent(std::move(late), done);
             });
}

void SessionAttempts::OnSent(absl::StatusOr<CallMetadata> sent, const Callback& done) {
  const std::shared_ptr<ClientCall> call = call_.lock();
  if (call == nullptr) return done(absl::CancelledError("the call was given up"));
  if (!sent.ok()) {
    if (call->has_descriptors()) {
      if (!absl::IsUnavailable(sent.status())) {
        call->FailStart(sent.status());
        Cancel(sent.status());
      }
      return done(sent.status());
    }
    // A call that brings nothing can be made; what it cannot do is get something back.
    call->FailStart(sent.status());
    sent = CallMetadata();
  }
  Entries entries;
  const auto bytes = EncodeCallMetadata(*sent);
  entries.emplace_back(kCallMetadataKey, std::string(bytes.data(), bytes.size()));
  std::string urls;
  if (config_.urls_in_metadata) urls = EncodeMetadataUrls(call->queued_urls());
  if (!urls.empty()) entries.emplace_back(kUrlsMetadataKey, std::move(urls));
  done(std::move(entries));
}

void InBandAttempts::Start(Callback done) {
  absl::Status status = start_->StartAttempt();
  done(status.ok() ? absl::StatusOr<Entries>(Entries()) : std::move(status));
}

}  // namespace internal
}  // namespace grpcfd
