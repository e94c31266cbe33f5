// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/testing/fake_fd_pair.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "grpcfd/testing/inode_holders.h"
#include "grpcfd/testing/same_file.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

constexpr absl::StatusCode kDeadlineExceeded = absl::StatusCode::kDeadlineExceeded;
constexpr absl::StatusCode kFailedPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr absl::StatusCode kInvalidArgument = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;

UniqueFd OpenMemory() { return UniqueFd(::memfd_create("fake_fd_pair_test", MFD_CLOEXEC)); }
UniqueFd OpenEvent() { return UniqueFd(::eventfd(0, EFD_CLOEXEC)); }

// Long enough never to pass on a busy machine; a test that waits this long is broken.
absl::Time Never() { return absl::Now() + absl::Minutes(5); }
absl::Time Past() { return absl::Now() - absl::Seconds(1); }

bool Same(BorrowedFd a, BorrowedFd b) {
  const absl::StatusOr<bool> same = SameOpenFile(a, b);
  EXPECT_TRUE(same.ok()) << same.status();
  return same.value_or(false);
}

// The result of one RecvFdAsync, from whatever thread. The callback may come after this object is
// gone.
class AsyncResult {
 public:
  FdReceiver::FdCallback Callback() {
    return [state = state_](absl::StatusOr<UniqueFd> fd) {
      const std::lock_guard<std::mutex> lock(state->mutex);
      ++state->calls;
      state->thread = std::this_thread::get_id();
      state->fd = std::move(fd);
      state->called.notify_all();
    };
  }
  absl::StatusOr<UniqueFd> Wait() {
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->called.wait(lock, [this] { return state_->calls > 0; });
    return *std::move(state_->fd);
  }
  int calls() const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->calls;
  }
  std::thread::id thread() const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->thread;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable called;
    int calls = 0;
    std::thread::id thread;
    std::optional<absl::StatusOr<UniqueFd>> fd;
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

class FakeFdPairTest : public ::testing::Test {
 protected:
  FakeFdPairTest() : client_(call_.client().get()), server_(call_.server().get()) {}

  FdLeakChecker leak_checker_;
  FakeFdPair call_;
  FdTransceiver* const client_;
  FdTransceiver* const server_;
};

// ----- Sending and taking -----

TEST_F(FakeFdPairTest, SendsADuplicateOfABorrowedDescriptor) {
  const UniqueFd memory = OpenMemory();
  const absl::StatusOr<InodeUrl> url = client_->SendFd(memory);
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(*url, InodeUrl(*FdToDevIno(memory), 0));
  const absl::StatusOr<UniqueFd> fd = server_->RecvFd(url->ToString());
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_NE(fd->get(), memory.get());
  EXPECT_TRUE(Same(*fd, memory));
}

TEST_F(FakeFdPairTest, AdoptsAMovedDescriptor) {
  UniqueFd event = OpenEvent();
  const absl::StatusOr<UniqueFd> witness = BorrowedFd(event).Dup();
  ASSERT_TRUE(witness.ok()) << witness.status();
  const int number = event.get();
  const absl::StatusOr<InodeUrl> url = server_->SendFd(std::move(event));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_FALSE(event.valid());  // NOLINT(bugprone-use-after-move): that is the point.
  const absl::StatusOr<UniqueFd> fd = client_->RecvFd(*url);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(Same(*fd, *witness));
  EXPECT_NE(fd->get(), number);
  EXPECT_LT(::fcntl(number, F_GETFD), 0) << "the sender's own number is still open";
}

TEST_F(FakeFdPairTest, ReceivedDescriptorIsCloseOnExecWhateverWasSent) {
  const UniqueFd borrowed(::memfd_create("inheritable", 0));
  ASSERT_EQ(::fcntl(borrowed.get(), F_GETFD), 0);
  const InodeUrl urls[] = {*client_->SendFd(borrowed),
                           *client_->SendFd(UniqueFd(::memfd_create("inheritable", 0)))};
  for (const InodeUrl& url : urls) {
    const absl::StatusOr<UniqueFd> fd = server_->RecvFd(url);
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(::fcntl(fd->get(), F_GETFD), FD_CLOEXEC);
  }
}

TEST_F(FakeFdPairTest, CountsIndicesPerDirectionFromZero) {
  const UniqueFd memory = OpenMemory();
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(client_->SendFd(memory)->index(), i);
    EXPECT_EQ(server_->SendFd(memory)->index(), i);
  }
  EXPECT_EQ(call_.unclaimed(), 6u);
}

TEST_F(FakeFdPairTest, FailedSendUsesNoIndex) {
  const UniqueFd memory = OpenMemory();
  EXPECT_FALSE(client_->SendFd(BorrowedFd(-1)).ok());
  EXPECT_EQ(client_->SendFd(memory)->index(), 0u);
}

TEST_F(FakeFdPairTest, NegativeOrClosedNumberIsInvalidAndNothingIsSent) {
  UniqueFd gone = OpenMemory();
  const int closed = gone.get();
  gone.Reset();
  EXPECT_EQ(client_->SendFd(BorrowedFd(-1)).status().code(), kInvalidArgument);
  EXPECT_EQ(client_->SendFd(BorrowedFd(closed)).status().code(), kInvalidArgument);
  EXPECT_EQ(client_->SendFd(UniqueFd()).status().code(), kInvalidArgument);
  EXPECT_EQ(call_.unclaimed(), 0u);
}

TEST_F(FakeFdPairTest, SendFilenameOpensByPath) {
  const absl::StatusOr<InodeUrl> url = client_->SendFilename("/dev/null");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->dev_ino(), FilenameToUrl("/dev/null")->dev_ino());
  const absl::StatusOr<UniqueFd> handle = server_->RecvFd(*url);
  ASSERT_TRUE(handle.ok()) << handle.status();
  EXPECT_EQ(::fcntl(handle->get(), F_GETFL) & O_PATH, O_PATH);

  const absl::StatusOr<UniqueFd> writable =
      server_->RecvFd(*client_->SendFilename("/dev/null", O_WRONLY));
  ASSERT_TRUE(writable.ok()) << writable.status();
  EXPECT_EQ(::write(writable->get(), "x", 1), 1);
}

TEST_F(FakeFdPairTest, SendFilenameOfAMissingFileIsNotFoundAndNothingIsSent) {
  EXPECT_EQ(client_->SendFilename("/nonexistent/file").status().code(), kNotFound);
  EXPECT_EQ(call_.unclaimed(), 0u);
}

TEST_F(FakeFdPairTest, LimitOfDescriptorsIsSixteenADirection) {
  const UniqueFd memory = OpenMemory();
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(client_->SendFd(memory).ok()) << i;
  EXPECT_EQ(client_->SendFd(memory).status().code(), kInvalidArgument);
  UniqueFd adopted = OpenMemory();
  const int number = adopted.get();
  EXPECT_EQ(client_->SendFd(std::move(adopted)).status().code(), kInvalidArgument);
  EXPECT_LT(::fcntl(number, F_GETFD), 0) << "adopted, so closed also after an error";
  // Taking makes no room: the limit is what a call carries in all.
  ASSERT_TRUE(server_->RecvFd(*FdToUrl(memory)).ok());
  EXPECT_EQ(client_->SendFd(memory).status().code(), kInvalidArgument);
  EXPECT_TRUE(server_->SendFd(memory).ok()) << "the other direction has its own";
}

TEST(FakeFdPairOptionsTest, LimitOfDescriptorsCanBeSet) {
  FakeFdPair::Options options;
  options.max_fds_per_call = 1;
  FakeFdPair call(options);
  const UniqueFd memory = OpenMemory();
  EXPECT_TRUE(call.client()->SendFd(memory).ok());
  EXPECT_EQ(call.client()->SendFd(memory).status().code(), kInvalidArgument);
}

TEST_F(FakeFdPairTest, SecondTakeFails) {
  const UniqueFd memory = OpenMemory();
  const InodeUrl url = *client_->SendFd(memory);
  ASSERT_TRUE(server_->RecvFd(url).ok());
  EXPECT_EQ(server_->RecvFd(url, Never()).status().code(), kFailedPrecondition);
  EXPECT_EQ(server_->DupFd(url, Never()).status().code(), kFailedPrecondition);
  EXPECT_EQ(call_.unclaimed(), 0u);
}

TEST_F(FakeFdPairTest, DupLeavesTheDescriptor) {
  const UniqueFd memory = OpenMemory();
  const InodeUrl url = *client_->SendFd(memory);
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<UniqueFd> copy = server_->DupFd(url);
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_TRUE(Same(*copy, memory));
  }
  EXPECT_EQ(call_.unclaimed(), 1u);
  EXPECT_TRUE(server_->RecvFd(url).ok());
}

TEST_F(FakeFdPairTest, SenderCannotTakeItsOwn) {
  const UniqueFd memory = OpenMemory();
  const InodeUrl url = *client_->SendFd(memory);
  EXPECT_EQ(client_->RecvFd(url, Past()).status().code(), kDeadlineExceeded);
}

// ----- Names are not identities -----

TEST_F(FakeFdPairTest, EqualInodesAreToldApartByIndex) {
  const UniqueFd first = OpenEvent();
  const UniqueFd second = OpenEvent();
  const InodeUrl first_url = *client_->SendFd(first);
  const InodeUrl second_url = *client_->SendFd(second);
  ASSERT_EQ(first_url.dev_ino(), second_url.dev_ino());
  const absl::StatusOr<UniqueFd> got_second = server_->RecvFd(second_url);
  const absl::StatusOr<UniqueFd> got_first = server_->RecvFd(first_url);
  ASSERT_TRUE(got_first.ok() && got_second.ok());
  EXPECT_TRUE(Same(*got_first, first));
  EXPECT_TRUE(Same(*got_second, second));
}

TEST_F(FakeFdPairTest, UrlWithoutIndexIsTheLowestNotYetTaken) {
  const UniqueFd memory = OpenMemory();
  UniqueFd events[3] = {OpenEvent(), OpenEvent(), OpenEvent()};
  ASSERT_TRUE(client_->SendFd(events[0]).ok());
  ASSERT_TRUE(client_->SendFd(memory).ok());
  const InodeUrl middle = *client_->SendFd(events[1]);
  ASSERT_TRUE(client_->SendFd(events[2]).ok());
  ASSERT_TRUE(server_->RecvFd(middle).ok());
  const DevIno event_inode = middle.dev_ino();
  EXPECT_TRUE(Same(*server_->DupFd(event_inode), events[0]));
  EXPECT_TRUE(Same(*server_->RecvFd(event_inode), events[0]));
  EXPECT_TRUE(Same(*server_->RecvFd(InodeUrl(event_inode)), events[2]));
  EXPECT_TRUE(Same(*server_->RecvFd(*FdToUrl(memory)), memory));
}

// Another one of that inode might still come, so this is not said before the deadline.
TEST_F(FakeFdPairTest, UrlWithoutIndexOfTakenDescriptorsFailsAtTheDeadline) {
  const UniqueFd event = OpenEvent();
  const InodeUrl url = *client_->SendFd(event);
  ASSERT_TRUE(server_->RecvFd(url).ok());
  const absl::Time deadline = absl::Now() + absl::Milliseconds(20);
  EXPECT_EQ(server_->RecvFd(url.dev_ino(), deadline).status().code(), kFailedPrecondition);
  EXPECT_GE(absl::Now(), deadline);
}

TEST_F(FakeFdPairTest, WrongInodeForTheIndexIsInvalid) {
  const UniqueFd memory = OpenMemory();
  const UniqueFd event = OpenEvent();
  const InodeUrl url = *client_->SendFd(memory);
  EXPECT_EQ(server_->RecvFd(InodeUrl(*FdToDevIno(event), *url.index()), Never()).status().code(),
            kInvalidArgument);
  EXPECT_EQ(server_->RecvFd("inode://1/2?fd=0", Never()).status().code(), kInvalidArgument);
  EXPECT_TRUE(server_->RecvFd(url).ok()) << "still there";
}

TEST_F(FakeFdPairTest, RecvFileReadsWhatWasSent) {
  const UniqueFd memory = OpenMemory();
  ASSERT_EQ(::pwrite(memory.get(), "hello", 5, 0), 5);
  const absl::StatusOr<UniqueFile> file =
      server_->RecvFile(client_->SendFd(memory)->ToString(), "r");
  ASSERT_TRUE(file.ok()) << file.status();
  char buffer[16] = "";
  EXPECT_STREQ(::fgets(buffer, sizeof(buffer), file->get()), "hello");
}

// ----- Waiting -----

TEST_F(FakeFdPairTest, WaitsForADescriptorThatComesLater) {
  const UniqueFd memory = OpenMemory();
  std::thread sender([&] { EXPECT_TRUE(client_->SendFd(memory).ok()); });
  const absl::StatusOr<UniqueFd> fd = server_->RecvFd(*FdToUrl(memory), Never());
  sender.join();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_TRUE(Same(*fd, memory));
}

TEST_F(FakeFdPairTest, GivesUpAtTheDeadline) {
  for (const char* url : {"inode://1/2", "inode://1/2?fd=0"}) {
    const absl::Time deadline = absl::Now() + absl::Milliseconds(20);
    EXPECT_EQ(server_->RecvFd(url, deadline).status().code(), kDeadlineExceeded);
    EXPECT_EQ(server_->DupFd(url, deadline).status().code(), kDeadlineExceeded);
    EXPECT_GE(absl::Now(), deadline);
  }
}

TEST_F(FakeFdPairTest, DeadlineInThePastStillTakesWhatIsThere) {
  const UniqueFd memory = OpenMemory();
  EXPECT_TRUE(server_->RecvFd(*client_->SendFd(memory), Past()).ok());
  EXPECT_TRUE(server_->RecvFd(*client_->SendFd(memory), absl::InfinitePast()).ok());
}

TEST(FakeFdPairOptionsTest, WaitWithoutDeadlineIsBounded) {
  FakeFdPair::Options options;
  options.recv_timeout = absl::Milliseconds(20);
  FakeFdPair call(options);
  EXPECT_EQ(call.server()->RecvFd("inode://1/2").status().code(), kDeadlineExceeded);
  AsyncResult result;
  call.server()->RecvFdAsync("inode://1/2", result.Callback());
  EXPECT_EQ(result.Wait().status().code(), kDeadlineExceeded);
}

// ----- Without blocking -----

TEST_F(FakeFdPairTest, AsyncReceiveOfWhatIsThereAnswersAtOnce) {
  const UniqueFd memory = OpenMemory();
  const InodeUrl url = *client_->SendFd(memory);
  AsyncResult result;
  server_->RecvFdAsync(url, result.Callback());
  ASSERT_EQ(result.calls(), 1);
  EXPECT_EQ(result.thread(), std::this_thread::get_id());
  EXPECT_TRUE(Same(*result.Wait(), memory));
  AsyncResult again;
  server_->RecvFdAsync(url, again.Callback());
  ASSERT_EQ(again.calls(), 1);
  EXPECT_EQ(again.Wait().status().code(), kFailedPrecondition);
}

TEST_F(FakeFdPairTest, AsyncReceiveIsAnsweredWhenTheDescriptorComes) {
  const UniqueFd memory = OpenMemory();
  const DevIno dev_ino = *FdToDevIno(memory);
  AsyncResult second;
  AsyncResult first;
  server_->RecvFdAsync(InodeUrl(dev_ino, 1), Never(), second.Callback());
  server_->RecvFdAsync(InodeUrl(dev_ino, 0), Never(), first.Callback());
  EXPECT_EQ(second.calls(), 0);
  EXPECT_EQ(first.calls(), 0);
  ASSERT_TRUE(client_->SendFd(memory).ok());
  EXPECT_TRUE(Same(*first.Wait(), memory));
  EXPECT_EQ(second.calls(), 0);
  ASSERT_TRUE(client_->SendFd(memory).ok());
  EXPECT_TRUE(Same(*second.Wait(), memory));
  EXPECT_NE(second.thread(), std::this_thread::get_id()) << "called on the sender's thread";
  EXPECT_EQ(first.calls(), 1);
}

TEST_F(FakeFdPairTest, AsyncReceiveGivesUpAtItsOwnDeadline) {
  AsyncResult late;
  AsyncResult soon;
  server_->RecvFdAsync("inode://1/2", Never(), late.Callback());
  const absl::Time deadline = absl::Now() + absl::Milliseconds(20);
  server_->RecvFdAsync("inode://1/2", deadline, soon.Callback());
  EXPECT_EQ(soon.Wait().status().code(), kDeadlineExceeded);
  EXPECT_GE(absl::Now(), deadline);
  EXPECT_EQ(late.calls(), 0);
  call_.EndCall();
  EXPECT_EQ(late.Wait().status().code(), kFailedPrecondition);
}

TEST_F(FakeFdPairTest, AsyncCallbackMayUseTheCallAgain) {
  const UniqueFd memory = OpenMemory();
  const DevIno dev_ino = *FdToDevIno(memory);
  AsyncResult inner;
  server_->RecvFdAsync(InodeUrl(dev_ino, 0), Never(), [&](absl::StatusOr<UniqueFd> fd) {
    EXPECT_TRUE(fd.ok()) << fd.status();
    EXPECT_TRUE(server_->SendFd(*std::move(fd)).ok());
    server_->RecvFdAsync(InodeUrl(dev_ino, 1), Never(), inner.Callback());
    call_.EndCall();
  });
  ASSERT_TRUE(client_->SendFd(memory).ok());
  EXPECT_EQ(inner.Wait().status().code(), kFailedPrecondition);
}

// ----- The end of the call -----

TEST_F(FakeFdPairTest, EndCallClosesWhatWasNotTakenInBothDirections) {
  UniqueFd memory = OpenMemory();
  const DevIno dev_ino = *FdToDevIno(memory);
  const InodeUrl taken_url = *client_->SendFd(memory);
  ASSERT_TRUE(client_->SendFd(memory).ok());
  ASSERT_TRUE(server_->SendFd(std::move(memory)).ok());
  absl::StatusOr<UniqueFd> taken = server_->RecvFd(taken_url);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(call_.unclaimed(), 2u);
  call_.EndCall();
  EXPECT_EQ(call_.unclaimed(), 0u);
  EXPECT_EQ(*CountHolders(dev_ino, {::getpid()}), 1u) << "what was taken stays its taker's";
  call_.EndCall();
}

TEST_F(FakeFdPairTest, EverythingFailsAfterEndCall) {
  const UniqueFd memory = OpenMemory();
  const InodeUrl url = *client_->SendFd(memory);
  call_.EndCall();
  for (FdTransceiver* end : {client_, server_}) {
    EXPECT_EQ(end->SendFd(memory).status().code(), kFailedPrecondition);
    UniqueFd adopted = OpenMemory();
    const int number = adopted.get();
    EXPECT_EQ(end->SendFd(std::move(adopted)).status().code(), kFailedPrecondition);
    EXPECT_LT(::fcntl(number, F_GETFD), 0);
    EXPECT_EQ(end->SendFilename("/dev/null").status().code(), kFailedPrecondition);
    EXPECT_EQ(end->RecvFd(url, Never()).status().code(), kFailedPrecondition);
    EXPECT_EQ(end->DupFd(url, Never()).status().code(), kFailedPrecondition);
    AsyncResult result;
    end->RecvFdAsync(url, Never(), result.Callback());
    EXPECT_EQ(result.Wait().status().code(), kFailedPrecondition);
  }
}

TEST_F(FakeFdPairTest, EndCallReleasesThoseWhoWait) {
  AsyncResult async;
  server_->RecvFdAsync("inode://1/2", Never(), async.Callback());
  std::thread taker([&] {
    EXPECT_EQ(server_->RecvFd("inode://1/2", Never()).status().code(), kFailedPrecondition);
  });
  std::thread copier([&] {
    EXPECT_EQ(client_->DupFd("inode://1/2?fd=0", Never()).status().code(), kFailedPrecondition);
  });
  call_.EndCall();
  taker.join();
  copier.join();
  EXPECT_EQ(async.Wait().status().code(), kFailedPrecondition);
  EXPECT_EQ(async.calls(), 1);
}

TEST(FakeFdPairEndTest, DestructorEndsTheCallAndAnswersEverybody) {
  FdLeakChecker leak_checker;
  AsyncResult result;
  std::shared_ptr<FdTransceiver> kept;
  const UniqueFd memory = OpenMemory();
  {
    FakeFdPair call;
    kept = call.server();
    ASSERT_TRUE(call.client()->SendFd(memory).ok());
    call.server()->RecvFdAsync("inode://1/2", Never(), result.Callback());
  }
  ASSERT_EQ(result.calls(), 1) << "not answered when the destructor returned";
  EXPECT_EQ(result.Wait().status().code(), kFailedPrecondition);
  // A handle that outlives the pair is safe, and says that the call is over.
  EXPECT_EQ(*CountHolders(*FdToDevIno(memory), {::getpid()}), 1u);
  EXPECT_EQ(kept->RecvFd(*FdToUrl(memory), Never()).status().code(), kFailedPrecondition);
  EXPECT_EQ(kept->SendFd(memory).status().code(), kFailedPrecondition);
}

// ----- Threads -----

TEST(FakeFdPairThreadsTest, ManyThreadsEachTakeADescriptorOfTheirOwn) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 200;
  FdLeakChecker leak_checker;
  for (int round = 0; round < kRounds; ++round) {
    FakeFdPair call;
    UniqueFd events[kThreads];
    for (UniqueFd& event : events) event = OpenEvent();
    const DevIno dev_ino = *FdToDevIno(events[0]);
    std::vector<std::thread> threads;
    threads.reserve(2 * kThreads);
    for (const UniqueFd& event : events) {
      // All eventfds share one inode, so every receiver asks for the same name and must get one
      // that nobody else got: each adds 1 to what it took, and each must be found with 1 in the
      // end.
      threads.emplace_back([&] {
        const absl::StatusOr<UniqueFd> fd = call.server()->RecvFd(dev_ino, Never());
        ASSERT_TRUE(fd.ok()) << fd.status();
        EXPECT_EQ(::eventfd_write(fd->get(), 1), 0);
      });
      threads.emplace_back([&call, &event] { EXPECT_TRUE(call.client()->SendFd(event).ok()); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const UniqueFd& event : events) {
      ASSERT_EQ(::fcntl(event.get(), F_SETFL, O_NONBLOCK), 0);
      eventfd_t count = 0;
      EXPECT_EQ(::eventfd_read(event.get(), &count), 0);
      EXPECT_EQ(count, 1u);
    }
    EXPECT_EQ(call.unclaimed(), 0u);
  }
}

}  // namespace
}  // namespace grpcfd
