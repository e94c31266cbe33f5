// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/calls/forwarding.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "fdchannel/os/reaper.h"

namespace grpcfd {
namespace internal {

namespace {

// Closes what the next call has by now, on a thread that may wait: this one may be a poller's.
void CloseArrived(Call* from, const InodeUrl& url) {
  auto fd = from->RecvFd(url, absl::InfinitePast());
  if (fd.ok()) ReapedFd(*std::move(fd), from->reaper()).Close();
}

}  // namespace

absl::Status Forward(const std::shared_ptr<Call>& from, Call* to, const ForwardFilter& filter,
                     bool keep) {
  auto urls = from->Arrived();
  if (!urls.ok()) return urls.status();
  // Also if nothing has come: it says what went wrong with what came before.
  absl::Status status = to->ClaimIndices(&*urls);
  if (!status.ok() || urls->empty()) return status;
  // What has to wait for room also stays with `from` until it is sent, so that its sender is not
  // told that there is room for more.
  const bool later = to->MustNotWait();
  const bool duplicate = keep || later;
  size_t room = to->Room(from->MaxAtOnce());
  const std::shared_ptr<Reaper> reaper = from->reaper();
  IndexedFds fds;
  for (const InodeUrl& url : *urls) {
    if (room == 0) {  // The next time, when the call is made.
      to->UnclaimIndex(*url.index());
      continue;
    }
    // It is there, so this does not wait. FAILED_PRECONDITION: another thread has taken it
    // meanwhile, and it is that thread's.
    auto fd = duplicate ? from->DupFd(url, absl::InfinitePast())
                        : from->RecvFd(url, absl::InfinitePast());
    if (!fd.ok()) {
      to->UnclaimIndex(*url.index());
      if (!absl::IsFailedPrecondition(fd.status())) status.Update(fd.status());
      continue;
    }
    const bool passes = status.ok() && (!filter || filter(url, *fd));
    ReapedFd reaped(*std::move(fd), reaper);
    if (!passes) {
      to->UnclaimIndex(*url.index());
      if (later && !keep) CloseArrived(from.get(), url);
    } else if (later) {
      to->SendClaimedLater(IndexedFd{url, std::move(reaped)}, [from, url, keep] {
        if (!keep) CloseArrived(from.get(), url);
      });
    } else {
      --room;
      fds.push_back(IndexedFd{url, std::move(reaped)});
    }
  }
  if (fds.empty() || !status.ok()) return status;
  return to->SendClaimed(std::move(fds));
}

namespace {

// More descriptors than a call can have; the index comes from a message, and so from the peer.
constexpr uint32_t kMaxNamedIndex = 0xffff;

// Those with an index first, in its order, each once.
absl::Status SortNamed(std::vector<InodeUrl>* urls) {
  const auto key = [](const InodeUrl& url) {
    return std::make_tuple(!url.index().has_value(), url.index().value_or(0), url.dev_ino().dev,
                           url.dev_ino().ino);
  };
  std::sort(urls->begin(), urls->end(),
            [&](const InodeUrl& a, const InodeUrl& b) { return key(a) < key(b); });
  urls->erase(std::unique(urls->begin(), urls->end(),
                          [&](const InodeUrl& a, const InodeUrl& b) { return key(a) == key(b); }),
              urls->end());
  for (size_t i = 0; i < urls->size() && (*urls)[i].index().has_value(); ++i) {
    const uint32_t index = *(*urls)[i].index();
    if (index > kMaxNamedIndex || (i > 0 && index == *(*urls)[i - 1].index())) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s cannot be forwarded: no index is above %d, and none is used twice",
                          (*urls)[i].ToString(), kMaxNamedIndex));
    }
  }
  return absl::OkStatus();
}

// Sets `*passes` if it came and the filter lets it go on.
absl::StatusOr<UniqueFd> TakeNamed(FdReceiver* from, const InodeUrl& url,
                                   const ForwardFilter& filter, bool* passes) {
  auto fd = from->DupFd(url, absl::InfiniteFuture());
  *passes = fd.ok() && (!filter || filter(url, *fd));
  return fd;
}

}  // namespace

absl::Status ForwardNamed(FdReceiver* from, std::vector<InodeUrl> urls, Call* to,
                          const ForwardFilter& filter) {
  absl::Status status = SortNamed(&urls);
  if (!status.ok()) return status;
  const auto others = std::find_if(urls.begin(), urls.end(),
                                   [](const InodeUrl& url) { return !url.index().has_value(); });
  std::vector<InodeUrl> indexed(urls.begin(), others);
  status = to->ClaimIndices(&indexed);
  if (!status.ok()) return status;
  const bool later = to->MustNotWait();
  // The next call's, for want of their own. A call that was not made yet knows it when it is.
  const std::shared_ptr<Reaper> reaper = to->reaper();
  IndexedFds fds;
  for (const InodeUrl& url : indexed) {
    bool passes = false;
    absl::StatusOr<UniqueFd> fd;
    if (status.ok()) {
      fd = TakeNamed(from, url, filter, &passes);
      status = fd.status();
    }
    if (!passes) {
      to->UnclaimIndex(*url.index());
    } else if (later) {
      to->SendClaimedLater(IndexedFd{url, ReapedFd(*std::move(fd), reaper)}, [] {});
    } else {
      fds.push_back(IndexedFd{url, ReapedFd(*std::move(fd), reaper)});
    }
  }
  if (!status.ok()) {
    for (const IndexedFd& fd : fds) to->UnclaimIndex(*fd.url.index());
    return status;
  }
  if (!fds.empty()) status = to->SendClaimed(std::move(fds));
  if (!status.ok()) return status;
  return ForwardNamed(from, {others, urls.end()}, static_cast<FdSender*>(to), filter);
}

absl::Status ForwardNamed(FdReceiver* from, std::vector<InodeUrl> urls, FdSender* to,
                          const ForwardFilter& filter) {
  absl::Status status = SortNamed(&urls);
  for (const InodeUrl& url : urls) {
    if (!status.ok()) break;
    bool passes = false;
    auto fd = TakeNamed(from, url, filter, &passes);
    status = fd.status();
    if (passes) status = to->SendFd(*std::move(fd)).status();
  }
  return status;
}

absl::Status ForwardWithoutIndices(Call* from, FdSender* to, const ForwardFilter& filter,
                                   bool keep) {
  const auto urls = from->Arrived();
  absl::Status status = urls.status();
  if (!status.ok()) return status;
  for (const InodeUrl& url : *urls) {
    auto fd =
        keep ? from->DupFd(url, absl::InfinitePast()) : from->RecvFd(url, absl::InfinitePast());
    if (absl::IsFailedPrecondition(fd.status())) continue;  // Another thread has taken it.
    status = fd.status();
    if (status.ok() && (!filter || filter(url, *fd))) {
      status = to->SendFd(*std::move(fd)).status();
    }
    if (!status.ok()) break;
  }
  return status;
}

}  // namespace internal
}  // namespace grpcfd
