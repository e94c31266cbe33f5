// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A table of keys, each with a short list of descriptors. What is dropped is moved to a Dropped on
// the stack of the method, which is declared before the lock and so goes after it: closing a
// descriptor can block, and destroying a key runs the program's code.
#include "grpcfd/fd_store.h"

#include <stdint.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "fdchannel/os/mutex.h"

namespace grpcfd {
namespace internal {

class FdStoreCore::Impl {
 public:
  explicit Impl(FdStoreOptions options) : options_(std::move(options)) {}

  absl::StatusOr<SharedFd> Put(const FdStoreKey& key, const InodeUrl& url, UniqueFd fd);
  SharedFd Find(const FdStoreKey& key, const InodeUrl& url);
  size_t Erase(const FdStoreKey& key);
  bool Erase(const FdStoreKey& key, const InodeUrl& url);
  size_t RetainOnly(const std::function<bool(const FdStoreKey&)>& keep);
  size_t Expire(absl::Time now);
  size_t size() const;
  size_t size(const FdStoreKey& key) const;

 private:
  struct Entry {
    InodeUrl url;
    SharedFd fd;
    absl::Time put;
    uint64_t born = 0;  // Values of ticks_.
    uint64_t used = 0;
  };
  using KeyPtr = std::shared_ptr<const FdStoreKey>;
  struct Hash {
    using is_transparent = void;
    size_t operator()(const FdStoreKey& key) const { return key.hash(); }
    size_t operator()(const KeyPtr& key) const { return key->hash(); }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(const KeyPtr& a, const KeyPtr& b) const { return a == b || a->Equals(*b); }
    bool operator()(const KeyPtr& a, const FdStoreKey& b) const { return a->Equals(b); }
    bool operator()(const FdStoreKey& a, const KeyPtr& b) const { return a.Equals(*b); }
  };
  using Table = absl::flat_hash_map<KeyPtr, std::vector<Entry>, Hash, Equal>;
  struct Dropped {
    std::vector<SharedFd> fds;
    std::vector<KeyPtr> keys;
  };

  absl::Time Now() const { return options_.clock(); }
  bool Overdue(const Entry& entry, absl::Time now) const {
    return options_.time_to_live != absl::InfiniteDuration() &&
           now - entry.put >= options_.time_to_live;
  }
  // Drops those of a key for which `drop` is true, and the key with its last one.
  template <typename Predicate>
  void DropIf(Table::iterator position, const Predicate& drop, Dropped* dropped)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t ExpireLocked(absl::Time now, Dropped* dropped) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes room for one more under `key`. RESOURCE_EXHAUSTED if there is none.
  absl::Status MakeRoom(const FdStoreKey& key, absl::Time now, Dropped* dropped)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t CountLocked(const FdStoreKey& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto position = table_.find(key);
    return position == table_.end() ? 0 : position->second.size();
  }

  const FdStoreOptions options_;
  mutable Mutex mutex_;
  Table table_ ABSL_GUARDED_BY(mutex_);
  size_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t ticks_ ABSL_GUARDED_BY(mutex_) = 0;
};

template <typename Predicate>
void FdStoreCore::Impl::DropIf(Table::iterator position, const Predicate& drop, Dropped* dropped) {
  std::vector<Entry>& entries = position->second;
  const auto last = std::stable_partition(entries.begin(), entries.end(),
                                          [&drop](const Entry& entry) { return !drop(entry); });
  for (auto entry = last; entry != entries.end(); ++entry) {
    dropped->fds.push_back(std::move(entry->fd));
    --count_;
  }
  entries.erase(last, entries.end());
  if (entries.empty()) {
    dropped->keys.push_back(position->first);
    table_.erase(position);
  }
}

size_t FdStoreCore::Impl::ExpireLocked(absl::Time now, Dropped* dropped) {
  const size_t before = count_;
  for (auto position = table_.begin(); position != table_.end();) {
    const auto current = position++;
    DropIf(
        current, [&](const Entry& entry) { return Overdue(entry, now); }, dropped);
  }
  return before - count_;
}

absl::Status FdStoreCore::Impl::MakeRoom(const FdStoreKey& key, absl::Time now, Dropped* dropped) {
  const auto full = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return CountLocked(key) >= options_.max_fds_per_key || count_ >= options_.max_fds;
  };
  if (full()) ExpireLocked(now, dropped);
  while (full()) {
    const size_t under_key = CountLocked(key);
    const bool key_is_full = under_key >= options_.max_fds_per_key;
    if (options_.when_full == FdStoreOptions::WhenFull::kRefuse ||
        (key_is_full ? under_key : count_) == 0) {
      return absl::ResourceExhaustedError(
          key_is_full
              ? absl::StrCat("the store keeps ", under_key,
                             " descriptors under this key, as many as max_fds_per_key allows: "
                             "erase those that are not needed, or raise the limit")
              : absl::StrCat("the store keeps ", count_,
                             " descriptors, as many as max_fds allows: erase keys that are not "
                             "needed, or raise the limit"));
    }
    Table::iterator oldest_key = table_.end();
    uint64_t oldest = UINT64_MAX;
    for (auto position = table_.begin(); position != table_.end(); ++position) {
      if (key_is_full && !position->first->Equals(key)) continue;
      for (const Entry& entry : position->second) {
        if (entry.used >= oldest) continue;
        oldest = entry.used;
        oldest_key = position;
      }
    }
    DropIf(
        oldest_key, [oldest](const Entry& entry) { return entry.used == oldest; }, dropped);
  }
  return absl::OkStatus();
}

absl::StatusOr<SharedFd> FdStoreCore::Impl::Put(const FdStoreKey& key, const InodeUrl& url,
                                                UniqueFd fd) {
  // Copied, and the clock asked, without the lock: both are the program's code.
  KeyPtr owned_key = key.Copy();
  const absl::Time now = Now();
  SharedFd shared = std::make_shared<const UniqueFd>(std::move(fd));
  Dropped dropped;
  MutexLock lock(&mutex_);
  auto position = table_.find(key);
  if (position != table_.end()) {
    for (Entry& entry : position->second) {
      if (entry.url != url) continue;
      dropped.fds.push_back(std::exchange(entry.fd, shared));
      entry.put = now;
      entry.born = entry.used = ++ticks_;
      return shared;
    }
  }
  const absl::Status room = MakeRoom(key, now, &dropped);
  if (!room.ok()) return room;
  Entry entry;
  entry.url = url;
  entry.fd = shared;
  entry.put = now;
  entry.born = entry.used = ++ticks_;
  table_[std::move(owned_key)].push_back(std::move(entry));
  ++count_;
  return shared;
}

namespace {

// Whether `a` comes before `b`, two URLs with an index, for a URL without one: the descriptors of
// calls first, each kind by its index.
bool ComesBefore(const InodeUrl& a, const InodeUrl& b) {
  if (a.index().has_value() != b.index().has_value()) return a.index().has_value();
  return a.index().has_value() ? *a.index() < *b.index() : *a.session_index() < *b.session_index();
}

}  // namespace

SharedFd FdStoreCore::Impl::Find(const FdStoreKey& key, const InodeUrl& url) {
  const absl::Time now = Now();
  Dropped dropped;
  MutexLock lock(&mutex_);
  auto position = table_.find(key);
  if (position == table_.end()) return nullptr;
  const size_t before = position->second.size();
  const bool all = std::all_of(position->second.begin(), position->second.end(),
                               [&](const Entry& entry) { return Overdue(entry, now); });
  DropIf(
      position, [&](const Entry& entry) { return Overdue(entry, now); }, &dropped);
  if (all && before > 0) return nullptr;  // And the key is gone.
  Entry* found = nullptr;
  for (Entry& entry : position->second) {
    if (entry.url == url) {
      found = &entry;
      break;
    }
    if (url.has_index() || entry.url.dev_ino() != url.dev_ino()) continue;
    if (found == nullptr || ComesBefore(entry.url, found->url)) found = &entry;
  }
  if (found == nullptr) return nullptr;
  found->used = ++ticks_;
  return found->fd;
}

size_t FdStoreCore::Impl::Erase(const FdStoreKey& key) {
  Dropped dropped;
  MutexLock lock(&mutex_);
  const auto position = table_.find(key);
  if (position != table_.end()) {
    DropIf(
        position, [](const Entry&) { return true; }, &dropped);
  }
  return dropped.fds.size();
}

bool FdStoreCore::Impl::Erase(const FdStoreKey& key, const InodeUrl& url) {
  Dropped dropped;
  MutexLock lock(&mutex_);
  const auto position = table_.find(key);
  if (position == table_.end()) return false;
  DropIf(
      position, [&url](const Entry& entry) { return entry.url == url; }, &dropped);
  return !dropped.fds.empty();
}

size_t FdStoreCore::Impl::RetainOnly(const std::function<bool(const FdStoreKey&)>& keep) {
  std::vector<KeyPtr> keys;
  uint64_t began;
  {
    MutexLock lock(&mutex_);
    began = ticks_;
    keys.reserve(table_.size());
    for (const auto& [key, entries] : table_) keys.push_back(key);
  }
  keys.erase(
      std::remove_if(keys.begin(), keys.end(), [&keep](const KeyPtr& key) { return keep(*key); }),
      keys.end());
  Dropped dropped;
  MutexLock lock(&mutex_);
  for (const KeyPtr& key : keys) {
    const auto position = table_.find(*key);
    if (position == table_.end()) continue;
    DropIf(
        position, [began](const Entry& entry) { return entry.born <= began; }, &dropped);
  }
  return dropped.fds.size();
}

size_t FdStoreCore::Impl::Expire(absl::Time now) {
  Dropped dropped;
  MutexLock lock(&mutex_);
  return ExpireLocked(now, &dropped);
}

size_t FdStoreCore::Impl::size() const {
  MutexLock lock(&mutex_);
  return count_;
}

size_t FdStoreCore::Impl::size(const FdStoreKey& key) const {
  MutexLock lock(&mutex_);
  return CountLocked(key);
}

namespace {

absl::Status NotKept(const InodeUrl& url) {
  return absl::NotFoundError(
      absl::StrCat("nothing is kept for ", url.ToString(), " under this key, or not any more"));
}

// Whether a RecvFd that was not to wait has said that the call has none to give.
bool CarriesNone(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      return true;
    default:
      return false;
  }
}

}  // namespace

FdStoreCore::FdStoreCore(FdStoreOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}

FdStoreCore::~FdStoreCore() = default;

absl::StatusOr<SharedFd> FdStoreCore::Put(const FdStoreKey& key, const InodeUrl& url, UniqueFd fd) {
  const absl::StatusOr<DevIno> dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  if (*dev_ino != url.dev_ino()) {
    return absl::InvalidArgumentError(absl::StrCat("expected a descriptor of ", url.ToString(),
                                                   ", got one of ", InodeUrl(*dev_ino).ToString()));
  }
  return impl_->Put(key, url, std::move(fd));
}

absl::StatusOr<SharedFd> FdStoreCore::Get(const FdStoreKey& key, const InodeUrl& url) {
  SharedFd kept = impl_->Find(key, url);
  if (kept == nullptr) return NotKept(url);
  return kept;
}

absl::StatusOr<SharedFd> FdStoreCore::RecvOrGet(FdReceiver* receiver, const FdStoreKey& key,
                                                const InodeUrl& url, absl::Time deadline) {
  SharedFd kept = impl_->Find(key, url);
  if (receiver == nullptr) {
    if (kept == nullptr) return NotKept(url);
    return kept;
  }
  // A deadline in the past: one look at what has come, and no waiting.
  absl::StatusOr<UniqueFd> received =
      receiver->RecvFd(url, kept == nullptr ? deadline : absl::InfinitePast());
  if (received.ok()) return impl_->Put(key, url, *std::move(received));
  if (!CarriesNone(received.status())) return received.status();
  // If none was kept, another thread of this call may have taken and kept it meanwhile.
  if (kept == nullptr) kept = impl_->Find(key, url);
  if (kept == nullptr) return received.status();
  return kept;
}

size_t FdStoreCore::Erase(const FdStoreKey& key) { return impl_->Erase(key); }

bool FdStoreCore::Erase(const FdStoreKey& key, const InodeUrl& url) {
  return impl_->Erase(key, url);
}

size_t FdStoreCore::RetainOnly(const std::function<bool(const FdStoreKey&)>& keep) {
  return impl_->RetainOnly(keep);
}

size_t FdStoreCore::Expire(absl::Time now) { return impl_->Expire(now); }

size_t FdStoreCore::size() const { return impl_->size(); }

size_t FdStoreCore::size(const FdStoreKey& key) const { return impl_->size(key); }

}  // namespace internal
}  // namespace grpcfd
