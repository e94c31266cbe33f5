// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// MockFdSender, MockFdReceiver, MockFdTransceiver: GoogleMock mocks of the descriptors of one call.
//
// For unit tests that want to say "the third descriptor cannot be sent" or "the peer never
// delivers" without a server, a socket or a clock. FakeFdPair is shorter for a test that wants real
// descriptors to arrive.
//
// The virtual methods are mocked; the public forms end in them:
//   SendFd(BorrowedFd), SendFile   SendBorrowed(fd)
//   SendFd(UniqueFd&&)             SendOwned(fd)
//   SendFilename                   SendPath(path, flags)
//   RecvFd, RecvFile               ReceiveFd(url, deadline)
//   RecvFdAsync                    ReceiveFdAsync(url, deadline, done)
//   DupFd                          DuplicateFd(url, deadline)
//
//     EXPECT_CALL(fds, ReceiveFd(_, _)).WillOnce([](const grpcfd::InodeUrl&, absl::Time) {
//       return absl::DeadlineExceededError("not sent");
//     });
//
// Each expectation needs an action: GoogleMock has no default for a StatusOr, and the call throws
// without one. A UniqueFd cannot be copied, so answer with a lambda, or with ByMove for one call.
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
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendBorrowed, (BorrowedFd fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendOwned, (UniqueFd fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendPath, (const std::string& path, int flags), (override));
};

// Thread-safe as MockFdSender is.
class MockFdReceiver : public FdReceiver {
 public:
  MOCK_METHOD(absl::StatusOr<UniqueFd>, ReceiveFd, (const InodeUrl& url, absl::Time deadline),
              (override));
  MOCK_METHOD(void, ReceiveFdAsync, (const InodeUrl& url, absl::Time deadline, FdCallback done),
              (override));
  MOCK_METHOD(absl::StatusOr<UniqueFd>, DuplicateFd, (const InodeUrl& url, absl::Time deadline),
              (override));
};

// Thread-safe as MockFdSender is.
class MockFdTransceiver : public FdTransceiver {
 public:
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendBorrowed, (BorrowedFd fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendOwned, (UniqueFd fd), (override));
  MOCK_METHOD(absl::StatusOr<InodeUrl>, SendPath, (const std::string& path, int flags), (override));
  MOCK_METHOD(absl::StatusOr<UniqueFd>, ReceiveFd, (const InodeUrl& url, absl::Time deadline),
              (override));
  MOCK_METHOD(void, ReceiveFdAsync, (const InodeUrl& url, absl::Time deadline, FdCallback done),
              (override));
  MOCK_METHOD(absl::StatusOr<UniqueFd>, DuplicateFd, (const InodeUrl& url, absl::Time deadline),
              (override));
};

}  // namespace grpcfd

#endif  // GRPCFD_TESTING_MOCK_FD_TRANSCEIVER_H_
