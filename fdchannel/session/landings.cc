// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/landings.h"

#include <algorithm>

namespace grpcfd {
namespace internal {

Frame Landings::Next() const {
  Frame frame;
  if (!asking_.empty()) {
    frame.type = FrameType::kResend;
    frame.call = asking_.front();
  } else if (!answers_.empty()) {
    frame.type = FrameType::kResent;
    frame.call = answers_.front().first;
    frame.outcome = answers_.front().second;
  } else {
    frame.type = FrameType::kLanded;
    frame.landed_count = static_cast<uint32_t>(std::min(landed_.size(), kMaxLandedIds));
    std::copy_n(landed_.begin(), frame.landed_count, frame.landed.begin());
  }
  return frame;
}

void Landings::Sent() {
  if (!asking_.empty()) {
    asking_.erase(asking_.begin());
  } else if (!answers_.empty()) {
    answers_.erase(answers_.begin());
  } else {
    const size_t count = std::min(landed_.size(), kMaxLandedIds);
    landed_.erase(landed_.begin(), landed_.begin() + static_cast<ptrdiff_t>(count));
    landed_due_ = !landed_.empty();
  }
}

void Landings::Ask(const CallKey& call, Callback done) {
  const auto [it, inserted] = asked_.try_emplace(call, std::move(done));
  if (inserted) {
    asking_.push_back(call);
    return;
  }
  // try_emplace has not moved from it.
  outcome_.answered.emplace_back(
      std::move(done),
      absl::FailedPreconditionError("the call is already being served: a call id names one call"));
}

void Landings::Answered(const CallKey& call, ResendOutcome outcome) {
  const auto it = asked_.find(call);
  if (it == asked_.end()) return;  // It was not asked, or its time was up.
  absl::Status status;
  if (outcome == ResendOutcome::kGone) {
    status = absl::UnavailableError(
        "the call's descriptors went to another process, or were closed after early_timeout, and "
        "the client has not kept them: a new "
        "call brings them anew");
  }
  outcome_.answered.emplace_back(std::move(it->second), std::move(status));
  asked_.erase(it);
}

void Landings::FailAll(const absl::Status& status) {
  for (auto& [call, done] : asked_) outcome_.answered.emplace_back(std::move(done), status);
  asked_.clear();
  asking_.clear();
  answers_.clear();
  landed_.clear();
  landed_due_ = false;
}

bool Landings::HasLanded(uint64_t call) {
  landed_.push_back(call);
  return landed_.size() == 1;
}

}  // namespace internal
}  // namespace grpcfd
