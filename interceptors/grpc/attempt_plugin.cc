// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "interceptors/grpc/attempt_plugin.h"

#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/string_util.h>

#include "interceptors/grpc/core_calls.h"

namespace grpcfd {
namespace internal {
namespace {

size_t ToSlices(const AttemptSource::Entries& entries, grpc_metadata* metadata) {
  size_t count = 0;
  for (const auto& [key, value] : entries) {
    metadata[count].key = grpc_slice_from_static_string(key);
    metadata[count].value = grpc_slice_from_copied_buffer(value.data(), value.size());
    ++count;
  }
  return count;
}

void Bring(const absl::StatusOr<AttemptSource::Entries>& result,
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
  auto hand_over = std::make_shared<AttemptHandOver>();
  (*static_cast<std::shared_ptr<AttemptSource>*>(state))
      ->StartAttempt([hand_over, done, user_data](absl::StatusOr<AttemptSource::Entries> result) {
        {
          MutexLock lock(&hand_over->mutex);
          if (!hand_over->left) {
            hand_over->result = std::move(result);
            return;
          }
        }
        // Not on this thread, which may even be the one that asked.
        RunOnGrpcThread(
            [result = std::move(result), done, user_data] { Bring(result, done, user_data); });
      });
  std::optional<absl::StatusOr<AttemptSource::Entries>> result;
  {
    MutexLock lock(&hand_over->mutex);
    if (!hand_over->result.has_value()) {
      hand_over->left = true;
      return 0;
    }
    result = std::move(hand_over->result);
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

void Destroy(void* state) { delete static_cast<std::shared_ptr<AttemptSource>*>(state); }

}  // namespace

grpc_call_credentials* MakeAttemptCredentials(std::shared_ptr<AttemptSource> source) {
  grpc_metadata_credentials_plugin plugin;
  plugin.get_metadata = &GetMetadata;
  plugin.debug_string = &DebugString;
  plugin.destroy = &Destroy;
  plugin.state = new std::shared_ptr<AttemptSource>(std::move(source));
  plugin.type = "grpcfd";
  // Calls that are sent once say the same in plain metadata: nothing here asks for more security
  // than the call itself.
  return grpc_metadata_credentials_create_from_plugin(plugin, GRPC_SECURITY_NONE, nullptr);
}

}  // namespace internal
}  // namespace grpcfd
