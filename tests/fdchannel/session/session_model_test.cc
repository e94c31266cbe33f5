// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Random schedules of everything a session does at once, over a fake socket: frames that come
// before their call, in any order, late or never; threads and callbacks that wait with all kinds of
// deadlines; cancellations, ends, hang-ups, kills; senders at a full window.
//
// What is checked is the invariant of session.h, from outside: a waiter whose descriptor comes gets
// it, and long before its (very long) deadline; it gets its own and no other; every callback runs
// once; afterwards nothing is left, neither descriptor nor charge nor session. A failure names its
// seed: --gtest_filter='*Model*' with GRPCFD_MODEL_SEED=<seed> runs that schedule alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/session/session.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/fdchannel/session/fake_frame_socket.h"

namespace grpcfd {
namespace internal {
namespace {

using Random = std::mt19937_64;

// A wait that takes this long in a schedule is a fault.
constexpr absl::Duration kForever = absl::Seconds(30);
constexpr size_t kCalls = 4;
constexpr size_t kFdsPerCall = 6;

// Descriptors that never come.
constexpr uint32_t kNever = 1000;
// A call that is sent in and never received in.
constexpr uint64_t kNobodys = 1000;

int Pick(Random* random, int below) {
  return std::uniform_int_distribution<int>(0, below - 1)(*random);
}

void Dawdle(Random* random) {
  for (int n = Pick(random, 4) == 0 ? Pick(random, 30) : 0; n > 0; --n) std::this_thread::yield();
}

// What all schedules share, for speed.
struct Stage {
  Stage() : files(MakeFiles(kCalls * kFdsPerCall)) {
    for (const UniqueFd& file : files) dev_inos.push_back(*FdToDevIno(file));
    poller = *Poller::Start("model");
  }
  std::vector<UniqueFd> files;
  std::vector<DevIno> dev_inos;
  std::shared_ptr<Poller> poller;
  std::shared_ptr<Reaper> reaper = std::make_shared<Reaper>();
};

class Schedule {
 public:
  Schedule(Stage* stage, uint64_t seed) : stage_(stage), random_(seed) {
    dies_ = Pick(&random_, 4) == 0;
    watched_ = Pick(&random_, 2) == 0;
    Session::Config config;
    config.role = Session::Role::kServer;
    config.id = 1;
    config.local = {16, 1024};
    config.remote = {4, 6};
    config.peer = "the model";
    if (watched_) config.poller = stage->poller;
    config.reaper = stage->reaper;
    config.quota = quota_;
    session_ = Session::Create(std::make_unique<FakeFrameSocket>(wire_), std::move(config),
                               [this] { ++deaths_; });
    for (size_t c = 0; c < kCalls; ++c) {
      calls_.push_back(std::make_unique<Call>());
      Call& call = *calls_.back();
      call.number = c;
      call.inbox = std::make_unique<DescriptorInbox>(CallKey{c + 1, static_cast<uint32_t>(c % 2)});
      call.count = static_cast<uint32_t>(Pick(&random_, kFdsPerCall + 1));
      call.announced = static_cast<uint32_t>(Pick(&random_, static_cast<int>(call.count) + 1));
      call.disturbed = Pick(&random_, 3) == 0;
    }
  }

  void Run() {
    const absl::Time start = absl::Now();
    // One job to take each descriptor, and some that only disturb.
    std::vector<std::function<void(Random*)>> jobs;
    for (auto& c : calls_) {
      Call* const call = c.get();
      for (uint32_t i = 0; i < call->count; ++i) {
        if (watched_ && Pick(&random_, 3) == 0) {
          jobs.push_back([=](Random*) { TakeAsync(call, i); });
        } else {
          jobs.push_back([=](Random* random) { Take(call, i, random); });
        }
      }
      for (int n = Pick(&random_, 4); n > 0; --n) {
        jobs.push_back([=](Random* random) { Disturb(call, random); });
      }
    }
    for (int n = Pick(&random_, 8); n > 0; --n) {
      const bool async = watched_ && Pick(&random_, 3) == 0;
      jobs.push_back([=](Random* random) { SendSome(random, async); });
    }
    std::shuffle(jobs.begin(), jobs.end(), random_);

    std::vector<std::thread> threads;
    std::atomic<size_t> next{0};
    for (int t = 2 + Pick(&random_, 3); t > 0; --t) {
      threads.emplace_back([&, seed = random_()] {
        Random random(seed);
        for (size_t job; (job = next++) < jobs.size();) jobs[job](&random);
      });
    }
    std::thread peer([this, seed = random_()] { PlayPeer(seed); });
    for (std::thread& thread : threads) thread.join();
    AwaitCallbacks();
    workers_done_ = true;
    peer.join();
    // The remaining waits were not promised anything; the end of the calls releases them.
    for (auto& call : calls_) session_->End(call->inbox.get(), false);
    EXPECT_LT(absl::Now() - start, kForever / 2);
    Finish();
  }

 private:
  struct Call {
    size_t number = 0;
    std::unique_ptr<DescriptorInbox> inbox;
    uint32_t count = 0;      // descriptors that come
    uint32_t announced = 0;  // of those, before the call
    bool disturbed = false;  // cancelled, or ended early
    Mutex mutex;
    CondVar change;
    bool attached ABSL_GUARDED_BY(mutex) = false;
  };

  size_t FileOf(const Call& call, uint32_t index) const {
    return call.number * kFdsPerCall + index;
  }
  InodeUrl UrlOf(const Call& call, uint32_t index) const {
    if (index == kNever) return InodeUrl(DevIno{1, 1}, kNever);
    return InodeUrl(stage_->dev_inos[FileOf(call, index)], index);
  }
  static void AwaitAttached(Call* call) {
    MutexLock lock(&call->mutex);
    while (!call->attached) call->change.Wait(&call->mutex);
  }

  // The one who takes this descriptor: nothing but a disturbance may keep it from him.
  void CheckTaken(const Call& call, uint32_t index, const absl::StatusOr<UniqueFd>& fd) {
    if (fd.ok()) {
      EXPECT_EQ(*FdToDevIno(*fd), stage_->dev_inos[FileOf(call, index)]);
      EXPECT_TRUE(IsCloseOnExec(*fd));
      return;
    }
    const absl::StatusCode code = fd.status().code();
    const bool excused = (dies_ && code == absl::StatusCode::kUnavailable) ||
                         (call.disturbed && (code == absl::StatusCode::kCancelled ||
                                             code == absl::StatusCode::kFailedPrecondition));
    EXPECT_TRUE(excused) << "call " << call.number << " index " << index << " of " << call.announced
                         << "/" << call.count << (call.disturbed ? " disturbed" : "")
                         << (dies_ ? " dying" : "") << ": " << fd.status();
  }

  void Take(Call* call, uint32_t index, Random* random) {
    AwaitAttached(call);
    Dawdle(random);
    WaitOptions options;
    options.deadline = absl::Now() + kForever;
    const std::function<bool()> never = [] { return false; };
    if (Pick(random, 4) == 0) options.cancelled = &never;
    // Without the index the inode alone names it: each file is sent once.
    const InodeUrl url =
        Pick(random, 2) == 0 ? UrlOf(*call, index) : InodeUrl(UrlOf(*call, index).dev_ino());
    CheckTaken(*call, index,
               session_->Receive(call->inbox.get(), url, Session::Op::kTake, options));
  }

  void TakeAsync(Call* call, uint32_t index) {
    AwaitAttached(call);
    auto runs = NewCallback();
    session_->ReceiveAsync(call->inbox.get(), UrlOf(*call, index), Session::Op::kTake,
                           absl::Now() + kForever, [=](absl::StatusOr<UniqueFd> fd) {
                             CheckTaken(*call, index, fd);
                             runs();
                           });
  }

  // Comes and goes: short deadlines, cancellations, descriptors that never come, duplicates.
  void Disturb(Call* call, Random* random) {
    AwaitAttached(call);
    Dawdle(random);
    const uint32_t index = call->count == 0 || Pick(random, 2) == 0
                               ? kNever
                               : static_cast<uint32_t>(Pick(random, static_cast<int>(call->count)));
    const absl::Time deadline = absl::Now() + absl::Microseconds(Pick(random, 2000));
    const auto check = [this, call, index](const absl::StatusOr<UniqueFd>& fd) {
      if (fd.ok()) {
        ASSERT_NE(index, kNever);
        EXPECT_EQ(*FdToDevIno(*fd), stage_->dev_inos[FileOf(*call, index)]);
        return;
      }
      switch (fd.status().code()) {
        case absl::StatusCode::kDeadlineExceeded:
        case absl::StatusCode::kCancelled:
        case absl::StatusCode::kFailedPrecondition:  // taken already, or the call has ended
          break;
        default:
          EXPECT_TRUE(dies_ && absl::IsUnavailable(fd.status())) << fd.status();
      }
    };
    switch (Pick(random, 4)) {
      case 0: {
        if (!watched_) return;
        auto runs = NewCallback();
        session_->ReceiveAsync(call->inbox.get(), UrlOf(*call, index), Session::Op::kDup, deadline,
                               [=](absl::StatusOr<UniqueFd> fd) {
                                 check(fd);
                                 runs();
                               });
        return;
      }
      case 1: {
        if (Pick(random, 4) != 0) return;  // It takes its time: the session asks every 10 ms.
        std::atomic<int> asked{0};
        const std::function<bool()> cancelled = [&] { return ++asked > 0; };
        WaitOptions options;
        options.deadline = absl::Now() + kForever;
        options.cancelled = &cancelled;
        check(session_->Receive(call->inbox.get(), UrlOf(*call, kNever), Session::Op::kTake,
                                options));
        return;
      }
      case 2:
        if (call->disturbed) {
          if (Pick(random, 2) == 0) {
            session_->Cancel(call->inbox.get());
          } else {
            session_->End(call->inbox.get(), false);
          }
          return;
        }
        [[fallthrough]];
      default: {
        WaitOptions options;
        options.deadline = deadline;
        check(
            session_->Receive(call->inbox.get(), UrlOf(*call, index), Session::Op::kDup, options));
      }
    }
  }

  void CheckSent(const absl::Status& status, bool may_expire, bool may_end) {
    EXPECT_TRUE(status.ok() || (dies_ && absl::IsUnavailable(status)) ||
                (may_expire && absl::IsResourceExhausted(status)) ||
                (may_end && (absl::IsCancelled(status) || absl::IsFailedPrecondition(status))))
        << status;
  }

  void SendSome(Random* random, bool async) {
    std::vector<int> fds(1 + Pick(random, 4), stage_->files[0].get());
    // A call that may be disturbed, or an unknown one.
    const bool may_end = Pick(random, 2) == 0;
    const CallKey call{may_end ? 1 : kNobodys, 0};
    // Some give up soon, and must not take those behind them along.
    const bool impatient = Pick(random, 3) == 0;
    const absl::Time deadline =
        absl::Now() + (impatient ? absl::Microseconds(Pick(random, 300)) : kForever);
    if (Pick(random, 5) == 0) wire_->RefuseSends(1 + Pick(random, 2));
    if (async) {
      auto runs = NewCallback();
      session_->SendAsync(call, 0, std::move(fds), deadline, [=](absl::Status status) {
        CheckSent(status, impatient, may_end);
        runs();
      });
      return;
    }
    WaitOptions options;
    options.deadline = deadline;
    CheckSent(session_->Send(call, 0, fds, options), impatient, may_end);
  }

  // Sends the frames of all calls, starts the calls in between, gives credit, and sometimes dies.
  void PlayPeer(uint64_t seed) {
    Random random(seed);
    std::vector<std::function<void()>> late;
    std::vector<std::function<void()>> early;
    for (auto& c : calls_) {
      Call* const call = c.get();
      early.push_back([this, call, &random] {
        PushRange(*call, 0, call->announced, &random);
        session_->Attach(call->inbox.get(), call->announced, /*open_ended=*/true);
        MutexLock lock(&call->mutex);
        call->attached = true;
        call->change.NotifyAll();
      });
      late.push_back(
          [this, call, &random] { PushRange(*call, call->announced, call->count, &random); });
    }
    // A call's later descriptors may overtake its start as well.
    std::vector<std::function<void()>> steps = early;
    steps.insert(steps.end(), late.begin(), late.end());
    std::shuffle(steps.begin(), steps.end(), random);
    const size_t death =
        dies_ ? static_cast<size_t>(Pick(&random, static_cast<int>(steps.size()))) : steps.size();
    for (size_t s = 0; s < steps.size(); ++s) {
      if (s == death) {
        if (Pick(&random, 2) == 0) {
          wire_->HangUp();
        } else {
          session_->Kill(CloseCode::kShutdown, absl::UnavailableError("killed by the model"));
        }
      }
      steps[s]();
      Dawdle(&random);
      GiveCredit();
    }
    while (!workers_done_) {
      wire_->AwaitSentFds(credited_, absl::Now() + absl::Milliseconds(1));
      GiveCredit();
    }
  }

  void GiveCredit() {
    const uint64_t total = wire_->sent_fds();
    if (total == credited_) return;
    credited_ = total;
    wire_->PushCredit(total);
  }

  // Indices [begin, end) in frames of any size and order.
  void PushRange(const Call& call, uint32_t begin, uint32_t end, Random* random) {
    std::vector<std::pair<uint32_t, uint32_t>> frames;
    while (begin < end) {
      const uint32_t size = 1 + static_cast<uint32_t>(Pick(random, static_cast<int>(end - begin)));
      frames.emplace_back(begin, size);
      begin += size;
    }
    std::shuffle(frames.begin(), frames.end(), *random);
    for (const auto& [first, size] : frames) {
      std::vector<int> fds;
      for (uint32_t i = first; i < first + size; ++i) {
        fds.push_back(stage_->files[FileOf(call, i)].get());
      }
      wire_->PushData(call.inbox->key(), first, fds);
      Dawdle(random);
    }
  }

  // A function to be called exactly once.
  std::function<void()> NewCallback() {
    MutexLock lock(&mutex_);
    ++callbacks_pending_;
    auto ran = std::make_shared<std::atomic<bool>>(false);
    return [this, ran] {
      EXPECT_FALSE(ran->exchange(true)) << "a callback ran twice";
      MutexLock inner(&mutex_);
      --callbacks_pending_;
      change_.NotifyAll();
    };
  }

  void AwaitCallbacks() {
    const absl::Time limit = absl::Now() + kForever;
    MutexLock lock(&mutex_);
    while (callbacks_pending_ > 0) {
      if (!change_.WaitUntil(&mutex_, limit)) break;
    }
    EXPECT_EQ(callbacks_pending_, 0) << "callbacks that never ran";
  }

  void Finish() {
    if (!watched_) session_->Sweep();  // Nobody else may have seen the end.
    std::weak_ptr<Session> weak = session_;
    session_.reset();
    // A handler of the poller, and then the reaper, may have been the last to hold it.
    Flush(stage_->poller.get());
    Flush(stage_->reaper.get());
    Flush(stage_->poller.get());
    EXPECT_TRUE(weak.expired()) << "somebody keeps the session";
    Flush(stage_->reaper.get());
    EXPECT_EQ(quota_->held(), 0);
    EXPECT_EQ(deaths_, 1) << "told once, whether it died or was let go";
    wire_.reset();
  }

  Stage* const stage_;
  Random random_;
  bool dies_ = false;
  // Without a poller nobody watches or sweeps: blocked threads have only each other, and one who is
  // forgotten stays so.
  bool watched_ = false;
  std::shared_ptr<FakeWire> wire_ = std::make_shared<FakeWire>();
  const std::shared_ptr<CountingQuota> quota_ = std::make_shared<CountingQuota>();
  std::shared_ptr<Session> session_;
  std::vector<std::unique_ptr<Call>> calls_;
  std::atomic<bool> workers_done_{false};
  std::atomic<int> deaths_{0};
  uint64_t credited_ = 0;
  Mutex mutex_;
  CondVar change_;
  int callbacks_pending_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A hundred schedules each, so that a slow machine or sanitizer can run them as tests of their own.
class SessionModelTest : public ::testing::TestWithParam<int> {};

TEST_P(SessionModelTest, NobodyIsForgottenOrConfused) {
  uint64_t first = static_cast<uint64_t>(GetParam()) * 100;
  uint64_t last = first + 100;
  const char* const only = ::getenv("GRPCFD_MODEL_SEED");
  if (only != nullptr && absl::SimpleAtoi(only, &first)) last = first + 1;
  Stage stage;
  for (uint64_t seed = first; seed < last && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("GRPCFD_MODEL_SEED=", seed));
    const size_t before = CountOpenFds();
    Schedule(&stage, seed).Run();
    EXPECT_EQ(CountOpenFds(), before);
    if (HasFailure()) ADD_FAILURE() << "seed " << seed;
  }
  stage.poller->Stop();
  stage.reaper->Stop();
}

INSTANTIATE_TEST_SUITE_P(Seeds, SessionModelTest, ::testing::Range(0, 20));

}  // namespace
}  // namespace internal
}  // namespace grpcfd
