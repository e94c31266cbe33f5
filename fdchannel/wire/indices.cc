// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/wire/indices.h"

#include <algorithm>
#include <iterator>

namespace grpcfd {
namespace internal {
namespace {

// Holes that are remembered. A sender can make one with each descriptor of a stream, and must not
// make this process grow by it. The lowest are forgotten first, and cannot be filled any more.
constexpr size_t kMaxHoles = 1024;

}  // namespace

std::vector<IndexAllocator::Run>::iterator IndexAllocator::FirstAbove(uint32_t index) {
  return std::upper_bound(holes_.begin(), holes_.end(), index,
                          [](uint32_t i, const Run& run) { return i < run.end; });
}

bool IndexAllocator::IsFree(uint32_t index) {
  if (index >= next_) return true;
  const auto run = FirstAbove(index);
  return run != holes_.end() && run->begin <= index;
}

void IndexAllocator::TakeOne(uint32_t index) {
  ++used_;
  if (index >= next_) {
    if (index > next_) holes_.push_back(Run{next_, index});
    next_ = index + 1;
    if (holes_.size() > kMaxHoles) holes_.erase(holes_.begin());
    return;
  }
  const auto run = FirstAbove(index);
  const Run below = {run->begin, index};
  run->begin = index + 1;
  if (run->begin == run->end) {
    if (below.begin == below.end) {
      holes_.erase(run);
    } else {
      *run = below;
    }
  } else if (below.begin != below.end) {
    holes_.insert(run, below);
  }
}

bool IndexAllocator::Take(absl::Span<const uint32_t> given) {
  for (const uint32_t index : given) {
    if (!IsFree(index)) return false;
  }
  for (const uint32_t index : given) TakeOne(index);
  return true;
}

void IndexAllocator::GiveBack(uint32_t index) {
  --used_;
  if (index + 1 == next_) {
    --next_;
    if (!holes_.empty() && holes_.back().end == next_) {
      next_ = holes_.back().begin;
      holes_.pop_back();
    }
    return;
  }
  auto above = FirstAbove(index);
  if (above != holes_.begin() && std::prev(above)->end == index) {
    const auto below = std::prev(above);
    ++below->end;
    if (above != holes_.end() && above->begin == below->end) {
      below->end = above->end;
      holes_.erase(above);
    }
  } else if (above != holes_.end() && above->begin == index + 1) {
    above->begin = index;
  } else {
    holes_.insert(above, Run{index, index + 1});
  }
}

}  // namespace internal
}  // namespace grpcfd
