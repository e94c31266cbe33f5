// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// FdStore<Key>: descriptors that outlive the call that brought them, under keys that the program
// chooses.
//
// A descriptor belongs to its call and is closed with it. A program may get a descriptor with the
// first of several requests (of one connection id, for example), and only its URL with the later
// ones. FdStore keeps it meanwhile, up to a limit and for a time. A descriptor that the current
// call carries comes before one that was kept under the same URL.
//     grpcfd::FdStore<std::string> store;
//     auto memory = store.RecvOrGet(fds.get(), request->connection_id(), request->memory_url());
//     ...
//     store.Erase(request->connection_id());  // When the connection is closed.
//
//  * Anybody who knows a key gets what is kept under it: make the peer a part of the key, or a
//    secret.
//  * What is kept counts against RLIMIT_NOFILE, and not in any limit of a server. A time to live
//    and RetainOnly() catch what was not dropped by Erase().
//  * A URL is not an identity beyond its call. All eventfds share one inode, so the first eventfds
//    of two calls have the same URL, and the later one replaces the earlier one. Use keys that tell
//    them apart.
//  * A kept descriptor is shared. To give it away, duplicate it with BorrowedFd(*fd).Dup(), which
//    returns one that the caller owns.
#ifndef GRPCFD_FD_STORE_H_
#define GRPCFD_FD_STORE_H_

#include <stddef.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/deadline.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// A kept descriptor: open as long as the store, or anything that got it from there, holds it.
using SharedFd = std::shared_ptr<const UniqueFd>;

struct FdStoreOptions {
  // What happens to a descriptor that does not fit.
  enum class WhenFull {
    kRefuse,                 // It is refused with RESOURCE_EXHAUSTED.
    kDropLeastRecentlyUsed,  // It replaces the least recently requested one.
  };

  size_t max_fds_per_key = 16;
  size_t max_fds = 256;  // Of all keys together.
  WhenFull when_full = WhenFull::kRefuse;
  // How long a descriptor is kept, from when it was put in, whether it is asked for or not.
  absl::Duration time_to_live = absl::InfiniteDuration();
  // What time it is, for tests. Called without the store's lock, from any thread.
  std::function<absl::Time()> clock = [] { return absl::Now(); };
};

namespace internal {

// A key whose type the store need not know.
class FdStoreKey {
 public:
  explicit FdStoreKey(size_t hash) : hash_(hash) {}
  virtual ~FdStoreKey() = default;
  size_t hash() const { return hash_; }
  virtual bool Equals(const FdStoreKey& other) const = 0;
  virtual std::shared_ptr<const FdStoreKey> Copy() const = 0;

 private:
  const size_t hash_;
};

// FdStore without its key's type. Its methods are FdStore's.
class FdStoreCore {
 public:
  explicit FdStoreCore(FdStoreOptions options);
  ~FdStoreCore();
  FdStoreCore(const FdStoreCore&) = delete;
  FdStoreCore& operator=(const FdStoreCore&) = delete;

  absl::StatusOr<SharedFd> Put(const FdStoreKey& key, const InodeUrl& url, UniqueFd fd);
  absl::StatusOr<SharedFd> Get(const FdStoreKey& key, const InodeUrl& url);
  absl::StatusOr<SharedFd> RecvOrGet(FdReceiver* receiver, const FdStoreKey& key,
                                     const InodeUrl& url, absl::Time deadline);
  size_t Erase(const FdStoreKey& key);
  bool Erase(const FdStoreKey& key, const InodeUrl& url);
  size_t RetainOnly(const std::function<bool(const FdStoreKey&)>& keep);
  size_t Expire(absl::Time now);
  size_t size() const;
  size_t size(const FdStoreKey& key) const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace internal

// `Key` is copyable, has operator==, and a hash: AbslHashValue or std::hash. None of them may call
// the store.
//
// Thread-safe, except its destructor. It has no thread: what is overdue is dropped when it is asked
// for, when its place is needed, and in Expire(). Nothing is closed under the store's lock. A
// dropped descriptor is closed by its last holder, which may be the caller of the method that drops
// it.
template <typename Key>
class FdStore {
 public:
  explicit FdStore(FdStoreOptions options = FdStoreOptions()) : core_(std::move(options)) {}

  // Keeps `fd` under `key` and `url`, and returns it. What was kept there before is replaced, and
  // closed with its last user. A URL with an index and the same one without are two.
  //   INVALID_ARGUMENT    `fd` is not open, or another file than `url` says
  //   RESOURCE_EXHAUSTED  max_fds_per_key or max_fds is reached (WhenFull::kRefuse, or a bound
  //                       of 0)
  // After an error `fd` is closed, and what was kept before is kept.
  absl::StatusOr<SharedFd> Put(const Key& key, const InodeUrl& url, UniqueFd fd) {
    return core_.Put(KeyView(key), url, std::move(fd));
  }

  // What is kept under `key` and `url`. A URL without an index means what was put in without one,
  // else the lowest index of that inode. NOT_FOUND if there is none, or if its time is over.
  absl::StatusOr<SharedFd> Get(const Key& key, const InodeUrl& url) {
    return core_.Get(KeyView(key), url);
  }

  // The descriptor of `url`: the one that the call carries, which is then kept in place of what was
  // kept before; or, if the call carries none, the kept one. `receiver` is what FromContext
  // returned; null stands for a call that carries none.
  //
  // If one is kept, the call is only asked for what it has brought already, and these answers of
  // its RecvFd lead to the kept one:
  //   NOT_FOUND, DEADLINE_EXCEEDED  it carries none of this URL, or not yet
  //   FAILED_PRECONDITION           it was taken before (by this method, say), or the call is over
  //   INVALID_ARGUMENT              the index is another file's in this call: the URL is of an
  //                                 earlier one
  // All others are returned: UNAVAILABLE (the one that it carries is lost, or the session),
  // RESOURCE_EXHAUSTED (it came and could not be taken in), CANCELLED. The kept one would be the
  // wrong one then.
  //
  // If none is kept this is RecvFd(url, deadline), errors included (NOT_FOUND without a receiver),
  // and what comes is kept. If it cannot be (RESOURCE_EXHAUSTED, as Put) it is closed: a handler
  // that would rather use it once calls RecvFd itself.
  absl::StatusOr<SharedFd> RecvOrGet(FdReceiver* receiver, const Key& key, const InodeUrl& url,
                                     Deadline deadline = Deadline::Infinite()) {
    return core_.RecvOrGet(receiver, KeyView(key), url, deadline.time());
  }
  // The same, with the URL as the message has it. INVALID_ARGUMENT if it cannot be parsed.
  absl::StatusOr<SharedFd> RecvOrGet(FdReceiver* receiver, const Key& key, const std::string& url,
                                     Deadline deadline = Deadline::Infinite()) {
    const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(url);
    if (!parsed.ok()) return parsed.status();
    return RecvOrGet(receiver, key, *parsed, deadline);
  }

  // Drops all that is kept under `key`; returns how many descriptors that were.
  size_t Erase(const Key& key) { return core_.Erase(KeyView(key)); }
  // Drops the descriptor that was put in under exactly this URL; returns whether there was one.
  bool Erase(const Key& key, const InodeUrl& url) { return core_.Erase(KeyView(key), url); }

  // Drops what is kept under keys for which `keep` is false; returns how many descriptors that
  // were. For a set: RetainOnly([&](const Key& key) { return alive.count(key) != 0; }). `keep` runs
  // without the lock and may use the store; what is put in meanwhile stays.
  size_t RetainOnly(const std::function<bool(const Key&)>& keep) {
    return core_.RetainOnly([&keep](const internal::FdStoreKey& key) {
      return keep(static_cast<const KeyBase&>(key).get());
    });
  }

  // Drops what is overdue at `now`; returns how many descriptors that were. A program with a time
  // to live calls this now and then: keys that nobody asks for would keep theirs open.
  size_t Expire(absl::Time now) { return core_.Expire(now); }

  // How many descriptors are kept, overdue ones included: in all, and under `key`.
  size_t size() const { return core_.size(); }
  size_t size(const Key& key) const { return core_.size(KeyView(key)); }

 private:
  class KeyBase : public internal::FdStoreKey {
   public:
    using FdStoreKey::FdStoreKey;
    virtual const Key& get() const = 0;
    bool Equals(const FdStoreKey& other) const final {
      return get() == static_cast<const KeyBase&>(other).get();
    }
  };
  class OwnedKey final : public KeyBase {
   public:
    OwnedKey(size_t hash, const Key& key) : KeyBase(hash), key_(key) {}
    const Key& get() const override { return key_; }
    std::shared_ptr<const internal::FdStoreKey> Copy() const override {
      return std::make_shared<OwnedKey>(this->hash(), key_);
    }

   private:
    const Key key_;
  };
  // Looking a key up copies nothing.
  class KeyView final : public KeyBase {
   public:
    explicit KeyView(const Key& key) : KeyBase(absl::Hash<Key>()(key)), key_(key) {}
    const Key& get() const override { return key_; }
    std::shared_ptr<const internal::FdStoreKey> Copy() const override {
      return std::make_shared<OwnedKey>(this->hash(), key_);
    }

   private:
    const Key& key_;
  };

  internal::FdStoreCore core_;
};

}  // namespace grpcfd

#endif  // GRPCFD_FD_STORE_H_
