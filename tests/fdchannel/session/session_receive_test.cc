// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which descriptor a receive finds, and when it waits for one.
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "tests/fdchannel/session/session_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// --- Which descriptor ---

UniqueFd CountingEventfd(unsigned int value) {
  return UniqueFd(::eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
}
uint64_t ReadEventfd(BorrowedFd fd) {
  uint64_t value = 0;
  EXPECT_EQ(::read(fd.get(), &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
  return value;
}
int AccessMode(BorrowedFd fd) { return ::fcntl(fd.get(), F_GETFL) & O_ACCMODE; }

TEST_F(SessionTest, TwoEventfdsAreNeverConfused) {
  MakeBoth();
  for (uint64_t id = 1; id <= 4; ++id) {
    const UniqueFd first = CountingEventfd(11), second = CountingEventfd(22);
    ASSERT_EQ(*FdToDevIno(first), *FdToDevIno(second)) << "one inode for all";
    ASSERT_TRUE(client_->Send({id, 0}, 0, {first.get()}, Within(kLong)).ok());
    ASSERT_TRUE(client_->Send({id, 0}, 1, {second.get()}, Within(kLong)).ok());
    Call call(server_, id, 2);
    // By index in both orders; without one the lowest that is left, though the second is still in
    // the socket.
    const bool by_index = id <= 2;
    const uint32_t start = id % 2 == 0 && by_index ? 1 : 0;
    auto a = call.Take(by_index ? Url(first, start) : UrlWithoutIndex(first));
    auto b = call.Take(by_index ? Url(first, 1 - start) : UrlWithoutIndex(first));
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_EQ(ReadEventfd(*a), start == 0 ? 11u : 22u);
    EXPECT_EQ(ReadEventfd(*b), start == 0 ? 22u : 11u);
    EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(UrlWithoutIndex(first)).status()));
  }
}

TEST_F(SessionTest, BothEndsOfAPipeAreNeverConfused) {
  MakeBoth();
  for (const bool by_index : {true, false}) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]), writer(ends[1]);
    ASSERT_EQ(*FdToDevIno(reader), *FdToDevIno(writer));
    const uint64_t id = by_index ? 1 : 2;
    ASSERT_TRUE(client_->Send({id, 0}, 0, {writer.get(), reader.get()}, Within(kLong)).ok());
    Call call(server_, id, 2);
    auto w = call.Take(by_index ? Url(writer, 0) : UrlWithoutIndex(writer));
    auto r = call.Take(by_index ? Url(reader, 1) : UrlWithoutIndex(reader));
    ASSERT_TRUE(w.ok() && r.ok());
    EXPECT_EQ(AccessMode(*w), O_WRONLY);
    EXPECT_EQ(AccessMode(*r), O_RDONLY);
    ASSERT_EQ(::write(w->get(), "x", 1), 1);
    char c = 0;
    EXPECT_EQ(::read(r->get(), &c, 1), 1);
    EXPECT_EQ(c, 'x');
  }
}

TEST_F(SessionTest, ReadOnlyAndReadWriteOpensOfOneFileAreNeverConfused) {
  MakeBoth();
  const UniqueFd file = MakeFile("shared");
  const std::string path = absl::StrCat("/proc/self/fd/", file.get());
  const UniqueFd ro(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd rw(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  for (const bool by_index : {true, false}) {
    const uint64_t id = by_index ? 1 : 2;
    ASSERT_TRUE(client_->Send({id, 0}, 0, {ro.get(), rw.get()}, Within(kLong)).ok());
    Call call(server_, id, 2);
    auto first = call.Take(by_index ? Url(file, 0) : UrlWithoutIndex(file));
    auto second = call.Take(by_index ? Url(file, 1) : UrlWithoutIndex(file));
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(AccessMode(*first), O_RDONLY);
    EXPECT_EQ(AccessMode(*second), O_RDWR);
  }
}

TEST_F(SessionTest, KeepsWhatComesBeforeItsCall) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(2);
  SendFile(1, 1, files[1]);
  SendFile(1, 0, files[0]);
  server_->Sweep();
  EXPECT_EQ(server_->held(), 2u);
  EXPECT_EQ(quota_->held(), 2);
  Call call(server_, 1, 2);
  for (uint32_t i = 0; i < 2; ++i) {
    auto fd = call.Take(Url(files[i], i));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i));
    EXPECT_TRUE(IsCloseOnExec(*fd));
  }
  EXPECT_EQ(server_->held(), 0u);
  EXPECT_EQ(quota_->held(), 0);
}

TEST_F(SessionTest, TakeDupTake) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  Call call(server_, 1, 1);
  auto copy = call.Dup(Url(file, 0));
  ASSERT_TRUE(copy.ok()) << copy.status();
  auto taken = call.Take(Url(file, 0));
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(Content(*copy), "x");
  EXPECT_EQ(Content(*taken), "x");
  for (const InodeUrl& url : {Url(file, 0), UrlWithoutIndex(file)}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(url).status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(call.Dup(url).status()));
  }
}

TEST_F(SessionTest, SaysAtOnceWhatCanNeverBe) {
  MakeServer();
  const UniqueFd file = MakeFile("x"), other = MakeFile("y");
  SendFile(1, 0, file);
  Call call(server_, 1, 2);  // The second was lost.
  WaitOptions forever;
  EXPECT_TRUE(absl::IsInvalidArgument(call.Take(Url(other, 0), forever).status()));
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(file, 2), forever).status()));
  EXPECT_TRUE(absl::IsNotFound(call.Take(UrlWithoutIndex(other), forever).status()));
  EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 1), forever).status()));
  EXPECT_TRUE(call.Take(Url(file, 0), forever).ok());
}

TEST_F(SessionTest, HolesArePartOfTheCount) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(3);
  // 0, 2 and 5 of 6.
  const uint32_t indices[] = {0, 2, 5};
  for (size_t i = 0; i < 3; ++i) SendFile(1, indices[i], files[i]);
  Call call(server_, 1, 6, /*open_ended=*/false, /*holes=*/3);
  EXPECT_EQ(Content(*call.Take(Url(files[1], 2))), "file 1");
  // All that was announced is there: what is missing was never sent.
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(files[0], 1), Within(kLong)).status()));
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(files[0], 6), Within(kLong)).status()));
  EXPECT_EQ(Content(*call.Take(UrlWithoutIndex(files[2]))), "file 2");
  EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(UrlWithoutIndex(files[2])).status()));

  // One of the announced is lost: it cannot be told from the holes.
  SendFile(2, 5, files[0]);
  Call lossy(server_, 2, 6, /*open_ended=*/false, /*holes=*/4);
  EXPECT_TRUE(absl::IsUnavailable(lossy.Take(Url(files[0], 1), Within(kLong)).status()));
  EXPECT_EQ(Content(*lossy.Take(Url(files[0], 5))), "file 0");
}

TEST_F(SessionTest, ArrivedListsWhatCameAndWasNotTaken) {
  MakeServer();
  const std::vector<UniqueFd> files = MakeFiles(3);
  for (uint32_t i = 0; i < 3; ++i) SendFile(1, i, files[i]);
  Call call(server_, 1, 3, /*open_ended=*/true);
  auto urls = server_->Arrived(call.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  ASSERT_EQ(urls->size(), 3u);
  EXPECT_EQ((*urls)[1], Url(files[1], 1));
  EXPECT_TRUE(call.Take(Url(files[1], 1)).ok());
  SendFile(1, 7, files[1]);
  urls = server_->Arrived(call.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  ASSERT_EQ(urls->size(), 3u);
  EXPECT_EQ((*urls)[1], Url(files[2], 2));
  EXPECT_EQ((*urls)[2], Url(files[1], 7));

  Call lossy(server_, 2, 1);
  EXPECT_TRUE(absl::IsUnavailable(server_->Arrived(lossy.inbox()).status()));
  // What a peer sent before it died is there.
  SendFile(1, 8, files[0]);
  raw_.Reset();
  urls = server_->Arrived(call.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_EQ(urls->size(), 4u);
  call.End();
  EXPECT_TRUE(absl::IsFailedPrecondition(server_->Arrived(call.inbox()).status()));
}

// --- Waiting ---

// The socket is read again for a waiter that comes while another thread sleeps on it.
TEST_F(SessionTest, SaysAtOnceWhatIsLostWhileAnotherWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  std::thread waiting(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  {
    Call call(server_, 2, 1);
    EXPECT_TRUE(absl::IsUnavailable(call.Take(Url(file, 0)).status()));
    EXPECT_TRUE(absl::IsNotFound(call.Take(UrlWithoutIndex(file)).status()));
    Outcome<absl::StatusOr<UniqueFd>> outcome;
    server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::Now() + kLong,
                          outcome.Setter());
    EXPECT_TRUE(absl::IsUnavailable(outcome.Get().status()));
  }
  server_->Cancel(stream.inbox());
  waiting.join();
}

TEST_F(SessionTest, WaitsUntilItsDeadline) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  EXPECT_TRUE(absl::IsDeadlineExceeded(call.Take(Url(file, 0), Within(-kLong)).status()));
  const absl::Time start = absl::Now();
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(call.Take(Url(file, 0), Within(absl::Milliseconds(20))).status()));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(20));
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake,
                        absl::Now() + absl::Milliseconds(20), outcome.Setter());
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.Get().status()));
  // What is in the socket is found, however late it is.
  SendFile(1, 0, file);
  EXPECT_TRUE(call.Take(Url(file, 0), Within(-kLong)).ok());
}

// Guards FdStore::RecvOrGet, which asks without waiting: a descriptor that is in the socket is
// found though another thread has the lead and has not seen it yet.
TEST_F(SessionTest, FindsWhatIsThereWithoutWaitingWhileAnotherWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call other(server_, 1, 0, /*open_ended=*/true);
  std::thread waiting(
      [&] { EXPECT_TRUE(absl::IsCancelled(other.Take(Url(file, 0), WaitOptions()).status())); });
  for (uint64_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
    Call call(server_, 2 + i, 0, /*open_ended=*/true);
    EXPECT_TRUE(absl::IsDeadlineExceeded(call.Take(Url(file, 0), Within(-kLong)).status()));
    wire->PushData(CallKey{2 + i, 0}, 0, {file.get()});
    const auto fd = call.Take(Url(file, 0), Within(-kLong));
    EXPECT_TRUE(fd.ok()) << i << ": " << fd.status();
  }
  server_->Cancel(other.inbox());
  waiting.join();
}

// Also without waiting: its deadline has passed when it comes, and another thread leads.
TEST_F(SessionTest, AnAsynchronousReceiveIsAnsweredByALookHoweverLate) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call leaders(server_, 1, 0, /*open_ended=*/true), late(server_, 2, 0, /*open_ended=*/true);
  Outcome<absl::StatusOr<UniqueFd>> there, missing;
  wire->AfterNextReceive([&] {
    wire->PushData({2, 0}, 0, {file.get()});
    server_->ReceiveAsync(late.inbox(), Url(file, 0), Session::Op::kTake, absl::InfinitePast(),
                          there.Setter());
    server_->ReceiveAsync(late.inbox(), Url(file, 7), Session::Op::kTake, absl::InfinitePast(),
                          missing.Setter());
    // The deadlines' timers have run.
    Flush(poller_.get());
    Flush(poller_.get());
    wire->PushData({1, 0}, 0, {file.get()});
  });
  EXPECT_TRUE(leaders.Take(Url(file, 0)).ok());
  const auto fd = there.Get();
  EXPECT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(missing.Get().status()));
}

// Guards handlers that react: what the callback does with the session must not find it locked, also
// if the outcome was at hand and the callback runs before ReceiveAsync returns.
TEST_F(SessionTest, ACallbackMayUseTheSession) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  SendFile(1, 0, file);
  SendFile(1, 1, file);
  // The first look brings both.
  ASSERT_TRUE(call.Take(Url(file, 0)).ok());
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 1), Session::Op::kTake, absl::InfiniteFuture(),
                        [&](absl::StatusOr<UniqueFd> fd) {
                          EXPECT_TRUE(fd.ok()) << fd.status();
                          server_->ReceiveAsync(call.inbox(), Url(file, 1), Session::Op::kTake,
                                                absl::InfiniteFuture(), outcome.Setter());
                        });
  EXPECT_TRUE(absl::IsFailedPrecondition(outcome.Get().status()));
}

// An asynchronous waiter comes during a look, for what is lost. The next look, which began after
// that and would tell, finds something, and its leader has what it came for.
TEST_F(SessionTest, ALookThatFindsSomethingOwesAnotherOne) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call mine(server_, 1, 1), others(server_, 2, 1);
  Outcome<absl::StatusOr<UniqueFd>> lost;
  wire->PushCredit(0);  // One frame for each look, as long as no other thread waits.
  wire->AfterNextReceive([&] {
    server_->ReceiveAsync(others.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                          lost.Setter());
    wire->PushData({1, 0}, 0, {file.get()});
  });
  EXPECT_TRUE(mine.Take(Url(file, 0)).ok());
  EXPECT_TRUE(absl::IsUnavailable(lost.Get().status()));
}

TEST_F(SessionTest, ArrivedHasTheLeaderLook) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  Call other(server_, 2, 1);
  std::thread leader(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  wire->PushData({2, 0}, 0, {file.get()});
  const auto urls = server_->Arrived(other.inbox());
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_EQ(urls->size(), 1u);
  server_->Cancel(stream.inbox());
  leader.join();
}

// --- The end of a call ---

TEST_F(SessionTest, CancellationReleasesWhoeverWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  // The first leads, the second waits for it.
  std::atomic<bool> cancel{false};
  const std::function<bool()> cancelled = [&] { return cancel.load(); };
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      WaitOptions options;
      options.cancelled = &cancelled;
      EXPECT_TRUE(absl::IsCancelled(call.Take(Url(file, 0), options).status()));
    });
  }
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  cancel = true;
  for (std::thread& thread : threads) thread.join();

  threads.clear();
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back(
        [&] { EXPECT_TRUE(absl::IsCancelled(call.Take(Url(file, 0), WaitOptions()).status())); });
  }
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  server_->Cancel(call.inbox());
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsCancelled(outcome.Get().status()));
}

TEST_F(SessionTest, EndReleasesWhoeverWaits) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      EXPECT_TRUE(absl::IsFailedPrecondition(call.Take(Url(file, 0), WaitOptions()).status()));
    });
  }
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(call.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  call.End();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsFailedPrecondition(outcome.Get().status()));
}

TEST_F(SessionTest, EndClosesWhatCameAndWhatStillComes) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendRaw(Data(1, 0, 2), {file.get(), file.get()});
  SendFile(1, 2, file);
  {
    Call call(server_, 1, 3);
    ASSERT_TRUE(call.Take(Url(file, 1)).ok());
  }
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(server_->held(), 0u);
  // The third was announced, so the end read it: nothing is in the socket.
  SendFile(1, 3, file);
  server_->Sweep();
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(server_->held(), 0u);
  EXPECT_TRUE(server_->alive());
}

TEST_F(SessionTest, EndReadsWhatWasAnnounced) {
  MakeServer();
  const UniqueFd file = MakeFile("x");
  SendFile(1, 0, file);
  { Call call(server_, 1, 1); }
  Flush(reaper_.get());
  // In flight, a descriptor still keeps the file; the peer's end would see it unread.
  int unread = -1;
  SendFile(2, 0, file);
  ASSERT_EQ(::ioctl(raw_.get(), TIOCOUTQ, &unread), 0);
  const int one = unread;
  { Call call(server_, 2, 1); }
  ASSERT_EQ(::ioctl(raw_.get(), TIOCOUTQ, &unread), 0);
  EXPECT_GT(one, 0);
  EXPECT_EQ(unread, 0);
  Flush(reaper_.get());
  EXPECT_EQ(Holders(file), 1u);
}

// The descriptor and the end of the call come after a look found nothing, and before who looked
// can wait.
TEST_F(SessionTest, WhatComesWithTheEndOfTheCallIsNotMissed) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call call(server_, 1, 0, /*open_ended=*/true);
  wire->AfterNextReceive([&] {
    wire->PushData({1, 0}, 0, {file.get()});
    server_->Complete(call.inbox());
  });
  const auto fd = call.Take(Url(file, 0));
  EXPECT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(absl::IsNotFound(call.Take(Url(file, 1)).status()));
}

// --- What is not done under the lock ---

// Tells, when it goes, whether another thread can use the session: not if the session's lock is
// held meanwhile.
class Probe {
 public:
  Probe(std::weak_ptr<Session> session, std::vector<std::thread>* threads, bool* usable)
      : session_(std::move(session)), threads_(threads), usable_(usable) {}
  ~Probe() {
    auto answered = std::make_shared<Notice>();
    threads_->emplace_back([session = session_.lock(), answered] {
      if (session != nullptr) (void)session->held();
      MutexLock lock(&answered->mutex);
      answered->done = true;
      answered->changed.NotifyAll();
    });
    const absl::Time limit = absl::Now() + absl::Seconds(10);
    MutexLock lock(&answered->mutex);
    while (!answered->done && answered->changed.WaitUntil(&answered->mutex, limit)) {
    }
    *usable_ = answered->done;
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

 private:
  struct Notice {
    Mutex mutex;
    CondVar changed;
    bool done ABSL_GUARDED_BY(mutex) = false;
  };
  const std::weak_ptr<Session> session_;
  std::vector<std::thread>* const threads_;
  bool* const usable_;
};

// What a callback has captured may use the session when it goes. Without a poller, so that this
// thread is the last one to hold it.
TEST_F(SessionTest, CallbacksAreNotDestroyedUnderTheLock) {
  config_.poller = nullptr;
  const UniqueFd file = MakeFile("x");
  std::vector<std::thread> threads;
  bool received = false, killed = false, dead = false;
  {
    auto wire = std::make_shared<FakeWire>();
    std::weak_ptr<Session>* weak = new std::weak_ptr<Session>();
    Session::Config config = config_;
    config.role = Session::Role::kServer;
    server_ = Session::Create(std::make_unique<FakeFrameSocket>(wire), std::move(config),
                              [weak = std::shared_ptr<std::weak_ptr<Session>>(weak), &threads,
                               &dead, probe = std::shared_ptr<Probe>()]() mutable {
                                probe = std::make_shared<Probe>(*weak, &threads, &dead);
                              });
    *weak = server_;
    Call call(server_, 1, 0, /*open_ended=*/true);
    const auto receive = [&](uint32_t index, bool* usable) {
      auto probe = std::make_shared<Probe>(server_, &threads, usable);
      server_->ReceiveAsync(call.inbox(), Url(file, index), Session::Op::kTake,
                            absl::InfiniteFuture(),
                            [probe = std::move(probe)](const absl::StatusOr<UniqueFd>&) {});
    };
    // It comes after the first look, and with the second.
    wire->AfterNextReceive([&] { wire->PushData({1, 0}, 0, {file.get()}); });
    receive(0, &received);
    receive(1, &killed);
    server_->Kill(CloseCode::kShutdown, absl::UnavailableError("over"));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(received);
  EXPECT_TRUE(killed);
  EXPECT_TRUE(dead);
}

TEST_F(SessionTest, CallbacksDoNotWaitForABlockedLeader) {
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  Call other(server_, 2, 0, /*open_ended=*/true);
  std::thread leader(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  Outcome<absl::StatusOr<UniqueFd>> outcome;
  server_->ReceiveAsync(other.inbox(), Url(file, 0), Session::Op::kTake, absl::InfiniteFuture(),
                        outcome.Setter());
  wire->PushData({2, 0}, 0, {file.get()});
  EXPECT_TRUE(outcome.Get().ok());
  server_->Cancel(stream.inbox());
  leader.join();
}

TEST_F(SessionTest, ABlockedLeaderHoldsNoDescriptorsOfOthers) {
  config_.local = {4, 8};
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  Call stream(server_, 1, 0, /*open_ended=*/true);
  { Call ended(server_, 2, 0); }
  std::thread leader(
      [&] { EXPECT_TRUE(absl::IsCancelled(stream.Take(Url(file, 0), WaitOptions()).status())); });
  ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
  wire->PushData({2, 0}, 0, {file.get(), file.get()});
  EXPECT_TRUE(Eventually([&] {
    const std::vector<Frame> sent = wire->sent();
    return !sent.empty() && sent.back().type == FrameType::kCredit && sent.back().credit_total == 2;
  }));
  EXPECT_EQ(Holders(file), 1u);
  server_->Cancel(stream.inbox());
  leader.join();
}

}  // namespace

}  // namespace internal
}  // namespace grpcfd
