// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/descriptor_inbox.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace grpcfd {
namespace internal {
namespace {

// As many are forgotten at once as this part of those that move up then: each moves so often at
// most.
constexpr size_t kForgottenPart = 4;

}  // namespace

std::string CallName(const CallKey& key) {
  return key.attempt == 0 ? absl::StrCat("call ", key.id)
                          : absl::StrCat("call ", key.id, " attempt ", key.attempt);
}

void DescriptorInbox::Begin(uint32_t announced, uint32_t holes, bool open_ended) {
  attached_ = true;
  announced_ = announced;
  holes_ = holes;
  open_ended_ = open_ended;
}

void DescriptorInbox::Inherit(DescriptorInbox* early) {
  slots_ = std::move(early->slots_);
  late_ = std::move(early->late_);
  forgotten_below_ = early->forgotten_below_;
  gone_below_ = early->gone_below_;
  gone_ = early->gone_;
  may_repeat_ = early->may_repeat_;
  taken_ = early->taken_;
  early->Clear();
  came_ = std::min(forgotten_below_, announced_);
  ForEach([this](const Slot* slot) {
    if (slot->index < announced_) ++came_;
  });
  Fail(early->failure_);
}

bool DescriptorInbox::LookSettles(const InodeUrl& url) const {
  if (!open_ended_ || over_) return true;
  return url.index().has_value() && *url.index() < announced_;
}

DescriptorInbox::Slot* DescriptorInbox::FindOutOfPlace(uint32_t index) {
  const auto it = std::lower_bound(slots_.begin(), slots_.end(), index,
                                   [](const Slot& slot, uint32_t i) { return slot.index < i; });
  if (it != slots_.end() && it->index == index) return &*it;
  const auto late = late_.find(index);
  return late != late_.end() ? &late->second : nullptr;
}

// --- What a receive finds ---

DescriptorInbox::Match DescriptorInbox::MatchIndex(const InodeUrl& url) {
  Match match;
  const uint32_t index = *url.index();
  match.slot = Find(index);
  if (match.slot == nullptr) {
    match.taken = index < forgotten_below_;
    return match;
  }
  match.taken = match.slot->taken;
  match.refused = match.slot->refused;
  match.other_file = match.slot->dev_ino != url.dev_ino();
  return match;
}

DescriptorInbox::Match DescriptorInbox::MatchFile(const InodeUrl& url) {
  Match match;
  bool here = false;
  ForEach([&](Slot* slot) {
    if (here || slot->dev_ino != url.dev_ino()) return;
    if (!slot->gone()) {
      match = Match();
      match.slot = slot;
      here = true;
      return;
    }
    if (slot->taken) match.taken = true;
    if (slot->refused) {
      match.refused = true;
      match.slot = slot;
    }
  });
  return match;
}

DescriptorInbox::Finding DescriptorInbox::SeekOther(const InodeUrl& url, bool drained, bool alive) {
  if (!failure_.ok()) return {Answer::kFailed, nullptr};
  const Match match = url.index().has_value() ? MatchIndex(url) : MatchFile(url);
  return {Classify(match, url, drained, alive), match.slot};
}

DescriptorInbox::Answer DescriptorInbox::Classify(const Match& match, const InodeUrl& url,
                                                  bool drained, bool alive) const {
  if (match.other_file) return Answer::kOtherFile;
  if (match.refused) return Answer::kRefused;
  if (match.slot != nullptr && !match.taken) return Answer::kHere;
  // Without an index it may mean one that is still to come, or still in the socket. Once nothing
  // more can come it means the one that was taken.
  const bool complete = drained || (AnnouncedCame() && !over_);
  if (match.taken && (url.index().has_value() || (complete && !open_ended()))) {
    return Answer::kTaken;
  }
  if (!alive) return Answer::kDead;
  if (cancelled_) return Answer::kCancelled;
  return ClassifyMissing(url, drained);
}

DescriptorInbox::Answer DescriptorInbox::ClassifyMissing(const InodeUrl& url, bool drained) const {
  if (!url.index().has_value()) {
    if (!drained || open_ended()) return Answer::kWait;
    return over_ ? Answer::kCallOver : Answer::kNoSuchFile;
  }
  if (*url.index() >= announced_) {
    if (open_ended() || (over_ && !drained)) return Answer::kWait;
    return over_ ? Answer::kCallOver : Answer::kNotSent;
  }
  if (holes_ != 0 && AnnouncedCame()) return Answer::kLeftOut;
  return drained ? Answer::kLost : Answer::kWait;
}

absl::Status DescriptorInbox::Explain(const Finding& finding, const InodeUrl& url,
                                      const std::string& peer) const {
  const std::string name = url.ToString();
  switch (finding.answer) {
    case Answer::kFailed:
      return failure_;
    case Answer::kOtherFile:
      return absl::InvalidArgumentError(
          absl::StrFormat("%s names another file than the call's descriptor %d, which is %s", name,
                          finding.slot->index, InodeUrl(finding.slot->dev_ino).ToString()));
    case Answer::kRefused: {
      const absl::Status why = Judge(*policy_, finding.slot->facts, finding.slot->index);
      return absl::Status(why.code(), absl::StrCat(name, " of ", CallName(key_), " from ", peer,
                                                   " was closed: ", why.message()));
    }
    case Answer::kTaken:
      return absl::FailedPreconditionError(
          absl::StrCat(name, " was taken from this call before; DupFd copies and leaves"));
    case Answer::kCancelled:
      return absl::CancelledError("the call was cancelled");
    case Answer::kNotSent:
      return absl::NotFoundError(absl::StrCat(name, " was not sent: ", peer, " sent ", announced_,
                                              " descriptors with this call and can send no more"));
    case Answer::kCallOver:
      if (!url.index().has_value()) {
        return absl::NotFoundError(absl::StrCat("no descriptor of ", name, " was sent, and ", peer,
                                                " has ended the call"));
      }
      return absl::NotFoundError(
          absl::StrCat(name, " was not sent, and ", peer, " has ended the call"));
    case Answer::kLeftOut:
      return absl::NotFoundError(
          absl::StrCat(name, " was not sent: whoever forwarded the call left it out"));
    case Answer::kLost:
      return absl::UnavailableError(absl::StrCat(name, " was announced by ", peer,
                                                 " but never came: it was lost, or dropped",
                                                 " by the sender; a new call brings it anew"));
    case Answer::kNoSuchFile:
      return absl::NotFoundError(absl::StrCat("no descriptor of ", name,
                                              " was sent with this call (it brought ", announced_,
                                              " from ", peer, ")"));
    case Answer::kHere:
    case Answer::kWait:
    case Answer::kDead:
      break;
  }
  return absl::InternalError("unreachable: no error of the call");
}

bool DescriptorInbox::Knows(const DevIno& dev_ino) const {
  const auto same = [&dev_ino](const Slot& slot) { return slot.dev_ino == dev_ino; };
  return std::any_of(slots_.begin(), slots_.end(), same) ||
         std::any_of(late_.begin(), late_.end(),
                     [&same](const auto& entry) { return same(entry.second); });
}

std::vector<InodeUrl> DescriptorInbox::Untaken() {
  std::vector<InodeUrl> urls;
  ForEach([&urls](const Slot* slot) {
    if (!slot->gone()) urls.emplace_back(slot->dev_ino, slot->index);
  });
  return urls;
}

// --- What comes and goes ---

DescriptorInbox::Slot* DescriptorInbox::AddLate(Slot slot) {
  const uint32_t index = slot.index;
  return &late_.emplace(index, std::move(slot)).first->second;
}

// With several senders in one call a lower index may come after a higher one, so not past one that
// is missing.
void DescriptorInbox::SkipGone() {
  auto late = late_.lower_bound(gone_below_);
  while (true) {
    if (gone_ < slots_.size() && slots_[gone_].index == gone_below_) {
      if (!slots_[gone_].gone()) return;
      ++gone_;
    } else if (late != late_.end() && late->first == gone_below_) {
      if (!late->second.gone()) return;
      ++late;
    } else {
      return;
    }
    ++gone_below_;
  }
}

bool DescriptorInbox::ForgetGone() {
  SkipGone();
  const uint32_t gone = gone_below_ - forgotten_below_;
  const bool full = slots_.size() + late_.size() > kMostSlots;
  if (gone >= kForgottenAtOnce && (full || gone >= (slots_.size() - gone_) / kForgottenPart)) {
    late_.erase(late_.begin(), late_.lower_bound(gone_below_));
    slots_.erase(slots_.begin(), slots_.begin() + static_cast<ptrdiff_t>(gone_));
    forgotten_below_ = gone_below_;
    gone_ = 0;
    taken_ -= std::min(taken_, gone);  // The policy's are among them.
  }
  return slots_.size() + late_.size() <= kMostSlots;
}

void DescriptorInbox::Clear() {
  slots_.clear();
  if (!late_.empty()) late_.clear();
  gone_ = 0;
  taken_ = 0;
  gone_below_ = forgotten_below_;
}

}  // namespace internal
}  // namespace grpcfd
