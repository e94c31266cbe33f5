// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sending: who waits for the window or for room in the socket, and how it ends.
#include <errno.h>
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

// --- The window ---

TEST_F(SessionTest, ASenderWaitsForCredit) {
  config_.remote = {4, 4};
  MakeClient();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(5, file.get());
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Send({1, 0}, 0, fds, Within(kLong))));
  const absl::Span<const int> four = absl::MakeConstSpan(fds).subspan(0, 4);
  {
    Call call(client_, 1, 0, true);
    ASSERT_TRUE(client_->Send({1, 0}, 0, four, Within(kLong)).ok());
    call.End(/*sent=*/true);
  }
  absl::Status status;
  EXPECT_FALSE(client_->TrySend({2, 0}, 0, four.subspan(0, 1), &status));
  EXPECT_TRUE(absl::IsResourceExhausted(
      client_->Send({2, 0}, 0, four.subspan(0, 1), Within(absl::Milliseconds(10)))));
  EXPECT_EQ(ReadRaw()->type, FrameType::kData);
  const auto discard = ReadRaw();
  ASSERT_TRUE(discard.has_value());
  EXPECT_EQ(discard->type, FrameType::kDiscard);
  ASSERT_EQ(discard->discard_count, 1u);
  EXPECT_EQ(discard->discard[0], 1u);

  std::thread blocked([&] {
    EXPECT_TRUE(client_->Send({3, 0}, 0, four.subspan(0, 2), Within(kLong)).ok());
  });
  Outcome<absl::Status> outcome;
  client_->SendAsync({4, 0}, 0, {file.get()}, absl::Now() + kLong, outcome.Setter());
  SendRaw(Credit(3));
  blocked.join();
  EXPECT_TRUE(outcome.Get().ok());
}

// Found by tests/model/window.pml: the sender would wait until the server's time-out for early
// calls.
TEST_F(SessionTest, ACallThatEndsIsDiscardedForWhoWaitsAlready) {
  config_.remote = {4, 4};
  MakeClient();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(4, file.get());
  Call call(client_, 1, 0, /*open_ended=*/true);
  ASSERT_TRUE(client_->Send({1, 0}, 0, fds, Within(kLong)).ok());
  EXPECT_EQ(ReadRaw()->type, FrameType::kData);
  Outcome<absl::Status> outcome;
  client_->SendAsync({2, 0}, 0, {file.get()}, absl::Now() + kLong, outcome.Setter());
  EXPECT_TRUE(NothingToRead());
  call.End(/*sent=*/true);
  const auto discard = ReadRaw();
  ASSERT_TRUE(discard.has_value());
  EXPECT_EQ(discard->type, FrameType::kDiscard);
  EXPECT_EQ(discard->discard[0], 1u);
  SendRaw(Credit(4));
  EXPECT_EQ(outcome.Get(), absl::OkStatus());
}

TEST_F(SessionTest, ASenderThatGivesUpLetsTheNextOneTry) {
  config_.remote = {4, 4};
  const auto wire = MakeFake();
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(4, file.get());
  const auto some = absl::MakeConstSpan(fds);
  for (const bool async : {false, true}) {
    SCOPED_TRACE(async);
    const uint64_t before = wire->sent_fds();
    ASSERT_TRUE(server_->Send({1, 0}, 0, some.subspan(0, 2), Within(kLong)).ok());
    const absl::Time soon = absl::Now() + absl::Milliseconds(50);
    Outcome<absl::Status> large;
    std::thread blocked;
    if (async) {
      server_->SendAsync({2, 0}, 0, fds, soon, large.Setter());
    } else {
      blocked = std::thread([&] {
        WaitOptions options;
        options.deadline = soon;
        large.Setter()(server_->Send({2, 0}, 0, fds, options));
      });
      ASSERT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
    }
    // These two have room, but they stand behind the large one; and credit never comes.
    Outcome<absl::Status> last;
    server_->SendAsync({4, 0}, 0, {file.get()}, absl::Now() + kLong, last.Setter());
    EXPECT_TRUE(server_->Send({3, 0}, 0, some.subspan(0, 1), Within(kLong)).ok());
    EXPECT_TRUE(last.Get().ok());
    EXPECT_TRUE(absl::IsResourceExhausted(large.Get()));
    if (blocked.joinable()) blocked.join();
    wire->PushCredit(before + 4);
    server_->Sweep();
  }
}

// Blocked and asynchronous senders of a call go with it, those of other calls stay. A server's
// asynchronous ones stay too: what it passed on belongs to replies that the client may still read.
TEST_F(SessionTest, ACallThatIsOverReleasesItsSenders) {
  config_.remote = {4, 4};
  const UniqueFd file = MakeFile("x");
  const std::vector<int> fds(4, file.get());
  for (const auto role : {Session::Role::kClient, Session::Role::kServer}) {
    for (const bool cancel : {false, true}) {
      SCOPED_TRACE(absl::StrCat(role == Session::Role::kClient, " ", cancel));
      const auto wire = MakeFake(role);
      const auto over =
          cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kFailedPrecondition;
      Outcome<absl::Status> async, other;
      Call mine(server_, 1, 0, true), others(server_, 2, 0, true);
      ASSERT_TRUE(server_->Send({2, 0}, 0, fds, Within(kLong)).ok());
      std::thread blocked([&] {
        EXPECT_EQ(server_->Send({1, 0}, 0, fds, WaitOptions()).code(), over);
      });
      EXPECT_TRUE(wire->AwaitWaiting(absl::Now() + kLong));
      server_->SendAsync({1, 0}, 4, {file.get()}, absl::InfiniteFuture(), async.Setter());
      server_->SendAsync({2, 0}, 4, {file.get()}, absl::InfiniteFuture(), other.Setter());
      if (cancel) {
        server_->Cancel(mine.inbox());
      } else {
        mine.End();
      }
      blocked.join();
      if (role == Session::Role::kClient) {
        EXPECT_EQ(async.Get().code(), over);
      }
      if (cancel) {
        // A later one does not wait either.
        EXPECT_TRUE(absl::IsCancelled(server_->Send({1, 0}, 5, {file.get()}, WaitOptions())));
      }
      EXPECT_FALSE(other.ready());
      wire->PushCredit(4);
      EXPECT_EQ(other.Get(), absl::OkStatus());
      if (role == Session::Role::kServer) {
        EXPECT_EQ(async.Get(), absl::OkStatus());
      }
    }
  }
}

TEST_F(SessionTest, SplitsWhatDoesNotFitOneMessage) {
  config_.local = config_.remote = {600, 600};
  MakeBoth();
  const std::vector<UniqueFd> files = MakeFiles(7);
  std::vector<int> fds;
  for (size_t i = 0; i < 300; ++i) fds.push_back(files[i % 7].get());
  ASSERT_TRUE(client_->Send({1, 0}, 0, fds, Within(kLong)).ok());
  Call call(server_, 1, 300);
  for (uint32_t i = 0; i < 300; ++i) {
    auto fd = call.Take(Url(files[i % 7], i));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("file ", i % 7));
  }
}

TEST_F(SessionTest, SendErrorsAreTyped) {
  MakeBoth();
  const UniqueFd file = MakeFile("x");
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Send({1, 0}, 0, {1000000}, Within(kLong))));
  EXPECT_TRUE(client_->Send({1, 0}, 0, {file.get()}, Within(kLong)).ok());
  server_->Kill(CloseCode::kShutdown, absl::UnavailableError("bye"));
  EXPECT_TRUE(absl::IsUnavailable(client_->Send({1, 0}, 1, {file.get()}, Within(kLong))));
  EXPECT_TRUE(Eventually([&] { return deaths_ == 2; }));
}

// --- A full socket ---

class FullSocketTest : public SessionTest {
 protected:
  // Sends until the socket takes no more; returns how many went.
  uint64_t Fill(BorrowedFd file, uint32_t max_fds_per_call = 16) {
    config_.remote = {max_fds_per_call, 100000};
    auto sockets = MakeSessionSockets();
    EXPECT_TRUE(sockets.ok());
    raw_ = std::move(sockets->second);
    const int small = 4096;
    EXPECT_EQ(::setsockopt(sockets->first.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    client_ = Make(std::move(sockets->first), Session::Role::kClient);
    absl::Status status;
    uint64_t sent = 0;
    while (client_->TrySend({1, 0}, static_cast<uint32_t>(sent), {file.get()}, &status)) {
      EXPECT_TRUE(status.ok()) << status;
      ++sent;
    }
    EXPECT_GT(sent, 0u);
    return sent;
  }
  // Reads `frames` DATA frames and never gives credit.
  void Read(uint64_t frames) {
    for (uint64_t i = 0; i < frames; ++i) {
      const auto frame = ReadRaw();
      ASSERT_TRUE(frame.has_value());
      EXPECT_EQ(frame->type, FrameType::kData);
      EXPECT_EQ(frame->first_index, i);
    }
  }
};

TEST_F(FullSocketTest, ABlockedSenderWaitsForRoom) {
  const UniqueFd file = MakeFile("x");
  const uint64_t sent = Fill(file);
  EXPECT_TRUE(absl::IsResourceExhausted(client_->Send(
      {1, 0}, static_cast<uint32_t>(sent), {file.get()}, Within(absl::Milliseconds(5)))));
  std::thread blocked([&] {
    EXPECT_TRUE(
        client_->Send({1, 0}, static_cast<uint32_t>(sent), {file.get()}, Within(kLong)).ok());
  });
  Read(sent + 1);
  blocked.join();
}

TEST_F(FullSocketTest, AnAsynchronousSenderWaitsForRoom) {
  const UniqueFd file = MakeFile("x");
  const uint64_t sent = Fill(file);
  Outcome<absl::Status> first, second;
  client_->SendAsync({1, 0}, static_cast<uint32_t>(sent), {file.get()}, absl::Now() + kLong,
                     first.Setter());
  EXPECT_FALSE(first.ready());
  Read(sent);
  EXPECT_TRUE(first.Get().ok());
  client_->SendAsync({1, 0}, static_cast<uint32_t>(sent) + 1, {file.get()}, absl::Now() + kLong,
                     second.Setter());
  EXPECT_TRUE(second.Get().ok());
}

// Several frames, and room for a part of them. The rest waits, and no other sender gets in between.
TEST_F(FullSocketTest, ALargeSetWaitsForRoomMidway) {
  const UniqueFd file = MakeFile("x");
  const uint64_t filled = Fill(file, /*max_fds_per_call=*/600);
  Read(1);  // Makes room for a frame or two of the following.
  const std::vector<int> fds(600, file.get());
  absl::Status status;
  EXPECT_FALSE(client_->TrySend({2, 0}, 0, fds, &status));
  std::thread blocked([&] {
    EXPECT_EQ(client_->Send({2, 0}, 0, fds, Within(kLong)), absl::OkStatus());
    std::vector<uint32_t> indices;
    for (uint32_t i = 0; i < 30; ++i) indices.push_back(100 + 2 * i);
    const auto some = absl::MakeConstSpan(fds).subspan(0, indices.size());
    EXPECT_EQ(client_->Send({3, 0}, Indices(indices), some, Within(kLong)), absl::OkStatus());
  });
  for (uint64_t i = 1; i < filled; ++i) ASSERT_EQ(ReadRaw()->first_index, i);
  for (uint32_t next = 0; next < 600;) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(frame->call.id, 2u);
    EXPECT_EQ(frame->first_index, next);
    next += frame->fd_count;
  }
  for (uint32_t i = 0; i < 30; ++i) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(frame->call.id, 3u);
    EXPECT_EQ(frame->first_index, 100 + 2 * i);
    EXPECT_EQ(frame->fd_count, 1);
  }
  blocked.join();
}

TEST_F(FullSocketTest, ALargeSetGivesUpMidway) {
  const UniqueFd file = MakeFile("x");
  const uint64_t filled = Fill(file, /*max_fds_per_call=*/600);
  Read(1);
  const std::vector<int> fds(600, file.get());
  EXPECT_TRUE(
      absl::IsResourceExhausted(client_->Send({2, 0}, 0, fds, Within(absl::Milliseconds(5)))));
  // The line is free again, and a small one goes.
  std::thread next([&] {
    EXPECT_EQ(client_->Send({3, 0}, 0, {file.get()}, Within(kLong)), absl::OkStatus());
  });
  for (uint64_t i = 1; i < filled; ++i) ASSERT_EQ(ReadRaw()->first_index, i);
  uint64_t call = 0;
  uint32_t of_the_large = 0;
  while (call != 3) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    call = frame->call.id;
    if (call == 2) of_the_large += frame->fd_count;
  }
  EXPECT_LT(of_the_large, 600u);
  next.join();
}

TEST_F(FullSocketTest, ACancelledSetStopsMidway) {
  const UniqueFd file = MakeFile("x");
  const uint64_t filled = Fill(file, /*max_fds_per_call=*/600);
  Read(1);
  Call call(client_, 2, 0, true);
  Outcome<absl::Status> large;
  client_->SendAsync({2, 0}, 0, std::vector<int>(600, file.get()), absl::InfiniteFuture(),
                     large.Setter());
  client_->Cancel(call.inbox());
  EXPECT_TRUE(absl::IsCancelled(large.Get()));
  // The line is free again, and a small one goes.
  std::thread next([&] {
    EXPECT_EQ(client_->Send({3, 0}, 0, {file.get()}, Within(kLong)), absl::OkStatus());
  });
  for (uint64_t i = 1; i < filled; ++i) ASSERT_EQ(ReadRaw()->first_index, i);
  uint64_t of_call = 0;
  uint32_t of_the_large = 0;
  while (of_call != 3) {
    const auto frame = ReadRaw();
    ASSERT_TRUE(frame.has_value());
    of_call = frame->call.id;
    if (of_call == 2) of_the_large += frame->fd_count;
  }
  EXPECT_LT(of_the_large, 600u);
  next.join();
}

}  // namespace

}  // namespace internal
}  // namespace grpcfd
