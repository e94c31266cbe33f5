// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/fd_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/testing/fake_fd_pair.h"
#include "grpcfd/testing/inode_holders.h"
#include "grpcfd/testing/mock_fd_transceiver.h"
#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace {

using internal::Content;
using internal::MakeFile;
using ::testing::_;
using ::testing::HasSubstr;

using Store = FdStore<std::string>;

InodeUrl Url(BorrowedFd fd, uint32_t index) { return InodeUrl(*FdToDevIno(fd), index); }
InodeUrl UrlWithoutIndex(BorrowedFd fd) { return InodeUrl(*FdToDevIno(fd)); }

UniqueFd Dup(BorrowedFd fd) { return *fd.Dup(); }

// How often this process has the file open.
size_t Holders(BorrowedFd file) { return *CountHolders(*FdToDevIno(file), {::getpid()}); }

FdStoreOptions Bounds(size_t per_key, size_t total,
                      FdStoreOptions::WhenFull when_full = FdStoreOptions::WhenFull::kRefuse) {
  FdStoreOptions options;
  options.max_fds_per_key = per_key;
  options.max_fds = total;
  options.when_full = when_full;
  return options;
}

// --- Putting in and asking ---

TEST(FdStoreTest, KeepsUnderKeyAndUrl) {
  Store store;
  const UniqueFd a = MakeFile("a");
  const UniqueFd b = MakeFile("b");
  ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
  ASSERT_TRUE(store.Put("l", Url(b, 0), Dup(b)).ok());
  EXPECT_EQ(Content(**store.Get("k", Url(a, 0))), "a");
  EXPECT_EQ(Content(**store.Get("l", Url(b, 0))), "b");
  EXPECT_TRUE(absl::IsNotFound(store.Get("l", Url(a, 0)).status()));
  EXPECT_TRUE(absl::IsNotFound(store.Get("k", Url(a, 1)).status()));
  EXPECT_TRUE(absl::IsNotFound(store.Get("m", Url(a, 0)).status()));
  EXPECT_EQ(store.size(), 2u);
  EXPECT_EQ(store.size("k"), 1u);
  EXPECT_EQ(store.size("m"), 0u);
}

TEST(FdStoreTest, KeysOfOtherTypes) {
  FdStore<uint64_t> by_number;
  FdStore<std::pair<std::string, int>> by_pair;
  const UniqueFd a = MakeFile("a");
  ASSERT_TRUE(by_number.Put(7, Url(a, 0), Dup(a)).ok());
  ASSERT_TRUE(by_pair.Put({"x", 1}, Url(a, 0), Dup(a)).ok());
  EXPECT_TRUE(by_number.Get(7, Url(a, 0)).ok());
  EXPECT_TRUE(absl::IsNotFound(by_number.Get(8, Url(a, 0)).status()));
  EXPECT_TRUE(by_pair.Get({"x", 1}, Url(a, 0)).ok());
  EXPECT_TRUE(absl::IsNotFound(by_pair.Get({"x", 2}, Url(a, 0)).status()));
}

TEST(FdStoreTest, AUrlWithoutIndexMeansTheLowestOne) {
  Store store;
  const UniqueFd a = MakeFile("a");
  // Two opens of one file, which differ in their offset.
  const UniqueFd other(
      ::open(absl::StrCat("/proc/self/fd/", a.get()).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(other.valid());
  ASSERT_EQ(::lseek(other.get(), 1, SEEK_SET), 1);
  ASSERT_TRUE(store.Put("k", Url(a, 5), Dup(a)).ok());
  ASSERT_TRUE(store.Put("k", Url(a, 3), Dup(other)).ok());
  EXPECT_EQ(::lseek((*store.Get("k", UrlWithoutIndex(a)))->get(), 0, SEEK_CUR), 1);
  // What was put in without an index comes first.
  ASSERT_TRUE(store.Put("k", UrlWithoutIndex(a), Dup(a)).ok());
  EXPECT_EQ(::lseek((*store.Get("k", UrlWithoutIndex(a)))->get(), 0, SEEK_CUR), 0);
  EXPECT_EQ(store.size("k"), 3u);
}

// Session-scoped descriptors have an index of another kind, which such a URL does not name either:
// the lowest, after those of calls.
TEST(FdStoreTest, AUrlWithoutIndexFindsSessionScopedOnes) {
  Store store;
  const UniqueFd a = MakeFile("a");
  const auto put = [&](const InodeUrl& url) { return (*store.Put("k", url, Dup(a)))->get(); };
  const auto found = [&] { return (*store.Get("k", UrlWithoutIndex(a)))->get(); };
  const DevIno inode = *FdToDevIno(a);
  const int fifth = put(InodeUrl::ForSession(inode, 5));
  EXPECT_EQ(found(), fifth);
  const int third = put(InodeUrl::ForSession(inode, 3));
  EXPECT_EQ(found(), third);
  put(InodeUrl::ForSession(inode, 4));
  EXPECT_EQ(found(), third);
  const int of_call = put(Url(a, 7));
  EXPECT_EQ(found(), of_call);
  put(InodeUrl::ForSession(inode, 0));
  EXPECT_EQ(found(), of_call);
}

TEST(FdStoreTest, RefusesADescriptorThatIsNotTheUrls) {
  Store store;
  const UniqueFd a = MakeFile("a");
  const UniqueFd b = MakeFile("b");
  EXPECT_TRUE(absl::IsInvalidArgument(store.Put("k", Url(a, 0), Dup(b)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store.Put("k", Url(a, 0), UniqueFd()).status()));
  EXPECT_EQ(Holders(b), 1u);
  EXPECT_EQ(store.size(), 0u);
}

TEST(FdStoreTest, TheLastUserCloses) {
  const UniqueFd a = MakeFile("a");
  SharedFd held;
  {
    Store store;
    held = *store.Put("k", Url(a, 0), Dup(a));
    const SharedFd same = *store.Get("k", Url(a, 0));
    EXPECT_EQ(same->get(), held->get());
    EXPECT_EQ(store.Erase("k"), 1u);
    EXPECT_EQ(store.Erase("k"), 0u);
    EXPECT_EQ(Holders(a), 2u);
    ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
    EXPECT_EQ(Holders(a), 3u);
  }
  EXPECT_EQ(Holders(a), 2u);
  EXPECT_EQ(Content(*held), "a");
  held.reset();
  EXPECT_EQ(Holders(a), 1u);
}

TEST(FdStoreTest, PuttingAgainReplaces) {
  Store store(Bounds(1, 1));
  const UniqueFd a = MakeFile("a");
  const SharedFd first = *store.Put("k", Url(a, 0), Dup(a));
  const SharedFd second = *store.Put("k", Url(a, 0), Dup(a));
  EXPECT_NE(first->get(), second->get());
  EXPECT_EQ((*store.Get("k", Url(a, 0)))->get(), second->get());
  EXPECT_EQ(store.size(), 1u);
}

TEST(FdStoreTest, ErasesOneUrl) {
  Store store;
  const UniqueFd a = MakeFile("a");
  ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
  ASSERT_TRUE(store.Put("k", Url(a, 1), Dup(a)).ok());
  EXPECT_TRUE(store.Erase("k", Url(a, 0)));
  EXPECT_FALSE(store.Erase("k", Url(a, 0)));
  EXPECT_FALSE(store.Erase("l", Url(a, 1)));
  EXPECT_TRUE(store.Get("k", Url(a, 1)).ok());
  EXPECT_EQ(Holders(a), 2u);
}

TEST(FdStoreTest, RetainOnlyDropsTheOthers) {
  Store store;
  const UniqueFd a = MakeFile("a");
  for (const char* key : {"k", "l", "m"}) {
    ASSERT_TRUE(store.Put(key, Url(a, 0), Dup(a)).ok());
    ASSERT_TRUE(store.Put(key, Url(a, 1), Dup(a)).ok());
  }
  const std::set<std::string> alive = {"l", "n"};
  EXPECT_EQ(store.RetainOnly([&](const std::string& key) { return alive.count(key) != 0; }), 4u);
  EXPECT_EQ(store.size(), 2u);
  EXPECT_EQ(store.size("l"), 2u);
}

TEST(FdStoreTest, WhatIsPutInDuringRetainOnlyStays) {
  Store store;
  const UniqueFd a = MakeFile("a");
  ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
  ASSERT_TRUE(store.Put("k", Url(a, 1), Dup(a)).ok());
  EXPECT_EQ(store.RetainOnly([&](const std::string&) {
    EXPECT_TRUE(store.Put("k", Url(a, 1), Dup(a)).ok());  // Replaced: a new one.
    EXPECT_TRUE(store.Put("k", Url(a, 2), Dup(a)).ok());
    return false;
  }),
            1u);
  EXPECT_TRUE(absl::IsNotFound(store.Get("k", Url(a, 0)).status()));
  EXPECT_TRUE(store.Get("k", Url(a, 1)).ok());
  EXPECT_TRUE(store.Get("k", Url(a, 2)).ok());
}

// --- Bounds ---

TEST(FdStoreTest, RefusesBeyondTheBounds) {
  Store store(Bounds(2, 3));
  const UniqueFd a = MakeFile("a");
  ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
  ASSERT_TRUE(store.Put("k", Url(a, 1), Dup(a)).ok());
  const absl::Status under_key = store.Put("k", Url(a, 2), Dup(a)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(under_key));
  EXPECT_THAT(std::string(under_key.message()), HasSubstr("max_fds_per_key"));
  ASSERT_TRUE(store.Put("l", Url(a, 0), Dup(a)).ok());
  const absl::Status in_all = store.Put("m", Url(a, 0), Dup(a)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(in_all));
  EXPECT_THAT(std::string(in_all.message()), HasSubstr("max_fds "));
  EXPECT_EQ(Holders(a), 4u);  // Nothing evicted, and the refused ones closed.
  for (uint32_t i : {0u, 1u}) EXPECT_TRUE(store.Get("k", Url(a, i)).ok());
  // Replacing needs no room.
  EXPECT_TRUE(store.Put("l", Url(a, 0), Dup(a)).ok());
  EXPECT_EQ(store.Erase("k"), 2u);
  EXPECT_TRUE(store.Put("m", Url(a, 0), Dup(a)).ok());
}

TEST(FdStoreTest, DropsTheLeastRecentlyUsedIfTold) {
  Store store(Bounds(2, 3, FdStoreOptions::WhenFull::kDropLeastRecentlyUsed));
  const UniqueFd a = MakeFile("a");
  ASSERT_TRUE(store.Put("l", Url(a, 0), Dup(a)).ok());
  ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
  ASSERT_TRUE(store.Put("k", Url(a, 1), Dup(a)).ok());
  ASSERT_TRUE(store.Get("k", Url(a, 0)).ok());
  // The key is full: one of its own goes, though l's is older.
  ASSERT_TRUE(store.Put("k", Url(a, 2), Dup(a)).ok());
  EXPECT_TRUE(store.Get("k", Url(a, 0)).ok());
  EXPECT_TRUE(absl::IsNotFound(store.Get("k", Url(a, 1)).status()));
  // The store is full: the oldest of all goes.
  ASSERT_TRUE(store.Put("m", Url(a, 0), Dup(a)).ok());
  EXPECT_TRUE(absl::IsNotFound(store.Get("l", Url(a, 0)).status()));
  EXPECT_EQ(store.size(), 3u);
  EXPECT_EQ(Holders(a), 4u);
}

TEST(FdStoreTest, ABoundOfZeroKeepsNothing) {
  const UniqueFd a = MakeFile("a");
  for (const auto when_full :
       {FdStoreOptions::WhenFull::kRefuse, FdStoreOptions::WhenFull::kDropLeastRecentlyUsed}) {
    Store no_key(Bounds(0, 3, when_full));
    EXPECT_TRUE(absl::IsResourceExhausted(no_key.Put("k", Url(a, 0), Dup(a)).status()));
    Store none(Bounds(3, 0, when_full));
    EXPECT_TRUE(absl::IsResourceExhausted(none.Put("k", Url(a, 0), Dup(a)).status()));
  }
  EXPECT_EQ(Holders(a), 1u);
}

// --- Time to live ---

TEST(FdStoreTest, ForgetsWhatIsOverdue) {
  absl::Time now = absl::UnixEpoch();
  FdStoreOptions options = Bounds(4, 2);
  options.time_to_live = absl::Seconds(10);
  options.clock = [&now] { return now; };
  Store store(options);
  const UniqueFd a = MakeFile("a");
  ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
  now += absl::Seconds(5);
  ASSERT_TRUE(store.Put("l", Url(a, 0), Dup(a)).ok());
  now += absl::Seconds(4);
  EXPECT_TRUE(store.Get("k", Url(a, 0)).ok());  // Asking does not prolong.
  now += absl::Seconds(1);
  EXPECT_TRUE(absl::IsNotFound(store.Get("k", Url(a, 0)).status()));
  EXPECT_EQ(store.size(), 1u);
  EXPECT_EQ(Holders(a), 2u);

  // The place of an overdue one is free.
  ASSERT_TRUE(store.Put("m", Url(a, 0), Dup(a)).ok());
  now += absl::Seconds(5);
  ASSERT_TRUE(store.Put("n", Url(a, 0), Dup(a)).ok());
  EXPECT_EQ(store.size("l"), 0u);

  EXPECT_EQ(store.Expire(now), 0u);
  EXPECT_EQ(store.Expire(now + absl::Seconds(5)), 1u);
  EXPECT_EQ(store.Expire(absl::InfiniteFuture()), 1u);
  EXPECT_EQ(Holders(a), 1u);
}

TEST(FdStoreTest, NothingIsOverdueWithoutATimeToLive) {
  Store store;
  const UniqueFd a = MakeFile("a");
  ASSERT_TRUE(store.Put("k", Url(a, 0), Dup(a)).ok());
  EXPECT_EQ(store.Expire(absl::InfiniteFuture()), 0u);
  EXPECT_TRUE(store.Get("k", Url(a, 0)).ok());
}

// --- What the call carries counts ---

TEST(FdStoreTest, LaterCallsNameWhatTheFirstOneBrought) {
  Store store;
  std::string url;
  {
    FakeFdPair call;
    url = call.client()->SendFd(MakeFile("first"))->ToString();
    EXPECT_EQ(Content(**store.RecvOrGet(call.server().get(), "k", url)), "first");
    // Again in the same call: it was taken, and kept.
    EXPECT_EQ(Content(**store.RecvOrGet(call.server().get(), "k", url)), "first");
  }
  FakeFdPair later;
  EXPECT_EQ(Content(**store.RecvOrGet(later.server().get(), "k", url)), "first");
  EXPECT_EQ(Content(**store.RecvOrGet(nullptr, "k", url)), "first");
  // Not under another key.
  EXPECT_TRUE(absl::IsNotFound(store.RecvOrGet(nullptr, "l", url).status()));
}

TEST(FdStoreTest, WhatTheCallCarriesReplacesWhatIsKept) {
  const UniqueFd file = MakeFile("a");
  for (const bool with_index : {true, false}) {
    Store store;
    const UniqueFd other_open(
        ::open(absl::StrCat("/proc/self/fd/", file.get()).c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(::lseek(other_open.get(), 1, SEEK_SET), 1);
    const InodeUrl url = with_index ? Url(file, 0) : UrlWithoutIndex(file);
    const SharedFd kept = *store.Put("k", url, Dup(file));
    FakeFdPair call;
    ASSERT_EQ(*call.client()->SendFd(other_open), Url(file, 0));
    const SharedFd carried = *store.RecvOrGet(call.server().get(), "k", url);
    EXPECT_EQ(::lseek(carried->get(), 0, SEEK_CUR), 1);
    EXPECT_EQ((*store.Get("k", url))->get(), carried->get());
    EXPECT_EQ(store.size(), 1u);
    EXPECT_EQ(::lseek(kept->get(), 0, SEEK_CUR), 0);  // Its user still has it.
  }
}

TEST(FdStoreTest, AnIndexOfAnEarlierCallStillFindsTheKeptOne) {
  Store store;
  const UniqueFd file = MakeFile("kept");
  ASSERT_TRUE(store.Put("k", Url(file, 0), Dup(file)).ok());
  FakeFdPair call;
  ASSERT_TRUE(call.client()->SendFd(MakeFile("another, as this call's index 0")).ok());
  EXPECT_EQ(Content(**store.RecvOrGet(call.server().get(), "k", Url(file, 0))), "kept");
  EXPECT_EQ(call.unclaimed(), 1u);
}

TEST(FdStoreTest, WaitsOnlyIfNothingIsKept) {
  Store store;
  const UniqueFd file = MakeFile("a");
  FakeFdPair call;
  const absl::Time start = absl::Now();
  std::thread late([&] { EXPECT_TRUE(call.client()->SendFd(file).ok()); });
  EXPECT_TRUE(store.RecvOrGet(call.server().get(), "k", Url(file, 0)).ok());
  late.join();
  EXPECT_TRUE(store.RecvOrGet(call.server().get(), "k", Url(file, 0)).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(9));  // recv_timeout is 10 s.
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      store.RecvOrGet(call.server().get(), "k", Url(file, 1), absl::Now()).status()));
}

TEST(FdStoreTest, WhichErrorsLeadToTheKeptOne) {
  const UniqueFd file = MakeFile("kept");
  const std::set<absl::StatusCode> lead = {
      absl::StatusCode::kNotFound, absl::StatusCode::kDeadlineExceeded,
      absl::StatusCode::kFailedPrecondition, absl::StatusCode::kInvalidArgument};
  for (int i = 1; i <= 16; ++i) {
    const auto code = static_cast<absl::StatusCode>(i);
    Store store;
    MockFdReceiver receiver;
    EXPECT_CALL(receiver, ReceiveFd(_, absl::InfinitePast()))
        .WillOnce([&](const InodeUrl&, absl::Time) { return absl::Status(code, "mock"); });
    ASSERT_TRUE(store.Put("k", Url(file, 0), Dup(file)).ok());
    FdReceiver* const call = &receiver;
    const auto fd = store.RecvOrGet(call, "k", Url(file, 0));
    if (lead.count(code) != 0) {
      ASSERT_TRUE(fd.ok()) << fd.status();
      EXPECT_EQ(Content(**fd), "kept");
    } else {
      EXPECT_EQ(fd.status().code(), code);
    }
  }
}

TEST(FdStoreTest, ErrorsOfTheCallWithNothingKept) {
  Store store;
  const UniqueFd file = MakeFile("a");
  for (int i = 1; i <= 16; ++i) {
    const auto code = static_cast<absl::StatusCode>(i);
    MockFdReceiver receiver;
    EXPECT_CALL(receiver, ReceiveFd(_, absl::InfiniteFuture()))
        .WillOnce([&](const InodeUrl&, absl::Time) { return absl::Status(code, "mock"); });
    EXPECT_EQ(store.RecvOrGet(&receiver, "k", Url(file, 0)).status().code(), code);
  }
  EXPECT_TRUE(absl::IsNotFound(store.RecvOrGet(nullptr, "k", Url(file, 0)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store.RecvOrGet(nullptr, "k", std::string("x")).status()));
}

TEST(FdStoreTest, AFullStoreClosesWhatItCannotKeep) {
  Store store(Bounds(1, 1));
  const UniqueFd file = MakeFile("a");
  FakeFdPair call;
  ASSERT_TRUE(call.client()->SendFd(file).ok());
  ASSERT_TRUE(call.client()->SendFd(file).ok());
  ASSERT_TRUE(store.RecvOrGet(call.server().get(), "k", Url(file, 0)).ok());
  EXPECT_TRUE(
      absl::IsResourceExhausted(store.RecvOrGet(call.server().get(), "k", Url(file, 1)).status()));
  EXPECT_EQ(call.unclaimed(), 0u);
  EXPECT_EQ(Holders(file), 2u);
}

// --- Threads ---

TEST(FdStoreTest, ManyThreads) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 300;
  FdStoreOptions options = Bounds(4, 12, FdStoreOptions::WhenFull::kDropLeastRecentlyUsed);
  std::atomic<int64_t> seconds{0};
  options.clock = [&seconds] { return absl::FromUnixSeconds(seconds.load()); };
  options.time_to_live = absl::Seconds(50);
  FdStore<int> store(options);
  const std::vector<UniqueFd> files = internal::MakeFiles(4);
  std::atomic<int> got{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const int key = (t + i) % 5;
        const size_t which = static_cast<size_t>(t * 7 + i) % files.size();
        const UniqueFd& file = files[which];
        const InodeUrl url = Url(file, 0);
        const std::string content = absl::StrCat("file ", which);
        if (i % 3 == 0) {
          FakeFdPair call;
          EXPECT_TRUE(call.client()->SendFd(file).ok());
          const auto fd = store.RecvOrGet(call.server().get(), key, url);
          EXPECT_TRUE(fd.ok()) << fd.status();
          if (fd.ok()) {
            EXPECT_EQ(Content(**fd), content);
          }
        } else if (const auto fd = store.Get(key, url); fd.ok()) {
          EXPECT_EQ(Content(**fd), content);
          ++got;
        }
        if (i % 11 == 0) store.Erase(key);
        if (i % 17 == 0) store.RetainOnly([](int k) { return k != 1; });
        if (i % 13 == 0) store.Expire(absl::FromUnixSeconds(++seconds));
        EXPECT_LE(store.size(), 12u);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(got, 0);
  size_t open = 0;
  for (const UniqueFd& file : files) open += Holders(file) - 1;
  EXPECT_EQ(open, store.size());
}

// A key whose destruction runs the program's code: it may use the store, which no lock guards then.
struct Reentrant {
  int id = 0;
  std::shared_ptr<std::function<void()>> gone;
  ~Reentrant() {
    if (gone != nullptr && *gone) (*gone)();
  }
  Reentrant(int i, std::shared_ptr<std::function<void()>> g) : id(i), gone(std::move(g)) {}
  Reentrant(const Reentrant&) = default;
  Reentrant& operator=(const Reentrant&) = default;
  friend bool operator==(const Reentrant& a, const Reentrant& b) { return a.id == b.id; }
  template <typename H>
  friend H AbslHashValue(H h, const Reentrant& key) {
    return H::combine(std::move(h), key.id);
  }
};

TEST(FdStoreTest, DropsKeysWithoutTheLock) {
  FdStore<Reentrant> store;
  const UniqueFd file = MakeFile("a");
  const Reentrant key(1, std::make_shared<std::function<void()>>());
  ASSERT_TRUE(store.Put(key, Url(file, 0), Dup(file)).ok());
  int calls = 0;
  *key.gone = [&] {
    ++calls;
    store.size();
  };
  EXPECT_EQ(store.Erase(key), 1u);
  *key.gone = nullptr;
  EXPECT_GT(calls, 0);
}

}  // namespace
}  // namespace grpcfd
