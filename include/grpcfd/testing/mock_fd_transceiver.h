// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// MockFdSender, MockFdReceiver, MockFdTransceiver: GoogleMock mocks of the descriptors of one call.
//
// Why it exists: a unit test of a handler wants to say "the third descriptor cannot be sent" or
// "the peer never delivers" without a server, a socket and a clock. For a test that wants real
// descriptors to arrive, FakeFdPair is shorter.
//
// How people get it wrong:
//  * Expecting one of the convenient forms. Only the virtual methods are mocked; RecvFd of a
//    string, of an InodeUrl without a deadline or of a DevIno ends in RecvFd(const InodeUrl&,
//    absl::Time), RecvFile too, SendFile ends in SendFd(BorrowedFd), SendFilename(path) in
//    SendFilename(path, O_PATH).
//  * Leaving SendFd ambiguous. There are two, so a bare `_` does not compile; say which:
//        EXPECT_CALL(fds, SendFd(testing::An<BorrowedFd>()));   // a duplicate
//        EXPECT_CALL(fds, SendFd(testing::An<UniqueFd&&>()));   // given away
//  * Setting no action for a StatusOr. GoogleMock cannot make up a value for it: without one the
//    call throws, or aborts where there are no exceptions.
//  * Return(...) for RecvFd. A UniqueFd cannot be copied; use a lambda, or ByMove for a single
//    call.
#ifndef GRPCFD_TESTING_MOCK_FD_TRANSCEIVER_H_
#define GRPCFD_TESTING_MOCK_FD_TRANSCEIVER_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"

namespace grpcfd {

// Thread-safe as far as GoogleMock is: calls may come from any thread, expectations are set before.
class MockFdSender : public FdSender {
 public:
  using FdSender::SendFilename;

  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendFd, (BorrowedFd fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendFd, (UniqueFd && fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendFilename, (const std::string& path, int flags),
              (override));
};

// Thread-safe as MockFdSender is.
class MockFdReceiver : public FdReceiver {
 public:
  using FdReceiver::DupFd;
  using FdReceiver::RecvFd;
  using FdReceiver::RecvFdAsync;

  MOCK_METHOD(absl::StatusOr<UniqueFd>, RecvFd, (const InodeUrl& url, absl::Time deadline),
              (override));
  MOCK_METHOD(void, RecvFdAsync, (const InodeUrl& url, absl::Time deadline, FdCallback done),
              (override));
  MOCK_METHOD(absl::StatusOr<UniqueFd>, DupFd, (const InodeUrl& url, absl::Time deadline),
              (override));
};

// Thread-safe as MockFdSender is.
class MockFdTransceiver : public FdTransceiver {
 public:
  using FdReceiver::DupFd;
  using FdReceiver::RecvFd;
  using FdReceiver::RecvFdAsync;
  using FdSender::SendFilename;

  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendFd, (BorrowedFd fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendFd, (UniqueFd && fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendFilename, (const std::string& path, int flags),
              (override));
  MOCK_METHOD(absl::StatusOr<UniqueFd>, RecvFd, (const InodeUrl& url, absl::Time deadline),
              (override));
  MOCK_METHOD(void, RecvFdAsync, (const InodeUrl& url, absl::Time deadline, FdCallback done),
              (override));
  MOCK_METHOD(absl::StatusOr<UniqueFd>, DupFd, (const InodeUrl& url, absl::Time deadline),
              (override));
};

}  // namespace grpcfd

#endif  // GRPCFD_TESTING_MOCK_FD_TRANSCEIVER_H_
