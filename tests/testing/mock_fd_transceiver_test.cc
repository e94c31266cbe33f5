// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the head of mock_fd_transceiver.h promises to its users.
#include "grpcfd/testing/mock_fd_transceiver.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

using ::testing::_;
using ::testing::ByMove;
using ::testing::Property;
using ::testing::Return;
using ::testing::StrictMock;

const DevIno kFile{1, 2};

struct MockNames {
  template <typename Mock>
  static std::string GetName(int) {
    return std::is_base_of_v<FdTransceiver, Mock> ? "Transceiver" : "OneWay";
  }
};

template <typename Mock>
class MockSendingTest : public ::testing::Test {
 protected:
  StrictMock<Mock> mock_;
};
using SendingMocks = ::testing::Types<MockFdSender, MockFdTransceiver>;
TYPED_TEST_SUITE(MockSendingTest, SendingMocks, MockNames);

TYPED_TEST(MockSendingTest, TellsTheTwoWaysOfSendingApart) {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  EXPECT_CALL(this->mock_, SendBorrowed(_)).WillOnce(Return(InodeUrl(kFile, 0)));
  EXPECT_CALL(this->mock_, SendOwned(_)).WillOnce(Return(InodeUrl(kFile, 1)));
  FdSender& sender = this->mock_;
  EXPECT_EQ(*sender.SendFd(event), InodeUrl(kFile, 0));
  EXPECT_TRUE(event.valid());
  EXPECT_EQ(*sender.SendFd(std::move(event)), InodeUrl(kFile, 1));
}

TYPED_TEST(MockSendingTest, ConvenientFormsEndInTheMockedOnes) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  EXPECT_CALL(this->mock_, SendBorrowed(Property(&BorrowedFd::get, event.get())))
      .WillOnce(Return(absl::ResourceExhaustedError("window")));
  EXPECT_CALL(this->mock_, SendPath("/a", O_PATH))
      .Times(2)
      .WillRepeatedly(Return(absl::NotFoundError("/a")));
  FdSender& sender = this->mock_;
  EXPECT_EQ(sender.SendFile(event).status(), absl::ResourceExhaustedError("window"));
  EXPECT_EQ(sender.SendFilename("/a").status(), absl::NotFoundError("/a"));
  EXPECT_EQ(this->mock_.SendFilename("/a").status(), absl::NotFoundError("/a"));
}

template <typename Mock>
class MockReceivingTest : public ::testing::Test {
 protected:
  StrictMock<Mock> mock_;
};
using ReceivingMocks = ::testing::Types<MockFdReceiver, MockFdTransceiver>;
TYPED_TEST_SUITE(MockReceivingTest, ReceivingMocks, MockNames);

TYPED_TEST(MockReceivingTest, ConvenientFormsEndInTheMockedOnes) {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const int number = event.get();
  EXPECT_CALL(this->mock_, ReceiveFd(InodeUrl(kFile, 3), absl::InfiniteFuture()))
      .WillOnce(Return(ByMove(absl::StatusOr<UniqueFd>(std::move(event)))));
  EXPECT_CALL(this->mock_, ReceiveFd(InodeUrl(kFile), _))
      .Times(3)
      .WillRepeatedly([](const InodeUrl&, absl::Time) { return absl::UnavailableError("gone"); });
  EXPECT_CALL(this->mock_, DuplicateFd(InodeUrl(kFile), absl::InfiniteFuture()))
      .WillOnce([](const InodeUrl&, absl::Time) { return absl::CancelledError("cancelled"); });
  // Called under the mock's own type, which hides no form.
  const absl::StatusOr<UniqueFd> fd = this->mock_.RecvFd("inode://1/2?fd=3");
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(fd->get(), number);
  EXPECT_EQ(this->mock_.RecvFd(kFile).status(), absl::UnavailableError("gone"));
  EXPECT_EQ(this->mock_.RecvFd(InodeUrl(kFile)).status(), absl::UnavailableError("gone"));
  EXPECT_EQ(this->mock_.RecvFile("inode://1/2", "r").status(), absl::UnavailableError("gone"));
  EXPECT_EQ(this->mock_.DupFd(std::string("inode://1/2")).status(),
            absl::CancelledError("cancelled"));
}

TYPED_TEST(MockReceivingTest, AsynchronousReceiveCanBeAnswered) {
  EXPECT_CALL(this->mock_, ReceiveFdAsync(InodeUrl(kFile, 3), absl::InfiniteFuture(), _))
      .WillOnce([](const InodeUrl&, absl::Time, FdReceiver::FdCallback done) {
        done(absl::DeadlineExceededError("late"));
      });
  absl::Status result;
  FdReceiver& receiver = this->mock_;
  receiver.RecvFdAsync("inode://1/2?fd=3",
                       [&](const absl::StatusOr<UniqueFd>& fd) { result = fd.status(); });
  EXPECT_EQ(result, absl::DeadlineExceededError("late"));
}

}  // namespace
}  // namespace grpcfd
