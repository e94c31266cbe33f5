// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/linger.h"

#include <algorithm>
#include <utility>

namespace grpcfd {
namespace internal {
namespace {

constexpr absl::Duration kFirstLook = absl::Milliseconds(10);
constexpr absl::Duration kLookEvery = absl::Seconds(1);

// Closes what it holds on the reaper's thread, wherever it is dropped, unless the socket was read
// to its end, as those of honest peers are: what the peer sent and nobody read goes with it, and
// closing that may block.
class Holder {
 public:
  explicit Holder(Lingering what) : what_(std::move(what)) {}
  ~Holder() {
    // Not on the reaper: it may wake sessions through their poller, which a reaper must not keep.
    what_.in_flight.reset();
    if (what_.socket->NothingUnread()) return;
    const std::shared_ptr<Reaper> reaper = std::move(what_.reaper);
    reaper->Close(FdVector(), [what = std::move(what_)] {});
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  bool read() const { return what_.in_flight->Look() == 0; }

 private:
  Lingering what_;
};

void LookLater(const std::weak_ptr<Poller>& weak, const std::shared_ptr<Holder>& holder,
               absl::Duration after) {
  const auto poller = weak.lock();
  if (poller == nullptr) return;
  poller->RunAfter(after, [weak, holder, after] {
    if (!holder->read()) LookLater(weak, holder, std::min(2 * after, kLookEvery));
  });
}

}  // namespace

void Linger(const std::shared_ptr<Poller>& poller, Lingering what) {
  const auto holder = std::make_shared<Holder>(std::move(what));
  if (poller != nullptr && !holder->read()) LookLater(poller, holder, kFirstLook);
}

}  // namespace internal
}  // namespace grpcfd
