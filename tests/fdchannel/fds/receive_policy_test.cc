// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/receive_policy.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fdchannel/fds/fd_facts.h"
#include "fdchannel/session/session.h"
#include "grpcfd/testing/inode_holders.h"
#include "tests/fdchannel/fds/file_samples.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ReceivePolicyTest, TheDefaultAcceptsEverything) {
  const TempDir dir;
  const ReceivePolicy policy;
  EXPECT_TRUE(policy.accepts_all());
  for (const Sample& sample : Samples(dir)) {
    EXPECT_EQ(policy.Check(sample.fd), absl::OkStatus()) << sample.name;
  }
}

TEST(ReceivePolicyTest, StrictRefusesWhatReachesBeyondADescriptor) {
  const TempDir dir;
  const ReceivePolicy policy = ReceivePolicy::Strict();
  EXPECT_FALSE(policy.accepts_all());
  for (const Sample& sample : Samples(dir)) {
    const bool fine = sample.access != FdAccess::kPath &&
                      (sample.type == FdType::kRegularFile || sample.type == FdType::kPipe ||
                       sample.type == FdType::kOtherSocket || sample.type == FdType::kAnonymous);
    const absl::Status status = policy.Check(sample.fd);
    EXPECT_EQ(status.code(), fine ? absl::StatusCode::kOk : absl::StatusCode::kPermissionDenied)
        << sample.name << ": " << status;
    if (!fine) {
      EXPECT_THAT(status.message(), HasSubstr(ToString(sample.type))) << sample.name;
    }
  }
}

TEST(ReceivePolicyTest, EachTypeAloneCanBeRefusedAndAccepted) {
  const TempDir dir;
  for (const Sample& sample : Samples(dir)) {
    EXPECT_TRUE(absl::IsPermissionDenied(ReceivePolicy().Refuse({sample.type}).Check(sample.fd)))
        << sample.name;
    EXPECT_EQ(ReceivePolicy().AcceptOnly({sample.type}).Check(sample.fd), absl::OkStatus())
        << sample.name;
    EXPECT_EQ(ReceivePolicy().AcceptOnly({}).Accept({sample.type}).Check(sample.fd),
              absl::OkStatus())
        << sample.name;
  }
}

TEST(ReceivePolicyTest, JudgesAccessModes) {
  const TempDir dir;
  for (const Sample& sample : Samples(dir)) {
    const absl::Status status = ReceivePolicy().RefuseAccess({sample.access}).Check(sample.fd);
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << sample.name;
    EXPECT_THAT(status.message(), HasSubstr(ToString(sample.access)));
    ReceivePolicy only;
    only.RefuseAccess(
        {FdAccess::kReadOnly, FdAccess::kWriteOnly, FdAccess::kReadWrite, FdAccess::kPath});
    EXPECT_TRUE(absl::IsPermissionDenied(only.Check(sample.fd))) << sample.name;
    EXPECT_EQ(only.AcceptAccess({sample.access}).Check(sample.fd), absl::OkStatus()) << sample.name;
  }
}

UniqueFd Memfd(uint32_t seals) {
  UniqueFd fd(::memfd_create("policy-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, static_cast<int>(seals)), 0);
  return fd;
}

TEST(ReceivePolicyTest, JudgesSealsOfRegularFiles) {
  const ReceivePolicy policy = ReceivePolicy().RequireSeals(F_SEAL_SHRINK | F_SEAL_GROW);
  EXPECT_EQ(policy.Check(Memfd(F_SEAL_SHRINK | F_SEAL_GROW)), absl::OkStatus());
  EXPECT_EQ(policy.Check(Memfd(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)), absl::OkStatus());
  const absl::Status half = policy.Check(Memfd(F_SEAL_SHRINK));
  EXPECT_TRUE(absl::IsPermissionDenied(half));
  EXPECT_THAT(half.message(), AllOf(HasSubstr("requires the seals F_SEAL_SHRINK|F_SEAL_GROW"),
                                    HasSubstr("has F_SEAL_SHRINK")));
  EXPECT_TRUE(absl::IsPermissionDenied(policy.Check(Memfd(0))));
  // Not a memfd at all.
  const UniqueFd file(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  const absl::Status other = policy.Check(file);
  EXPECT_TRUE(absl::IsPermissionDenied(other));
  EXPECT_THAT(other.message(), HasSubstr("cannot be sealed"));
  // Other types are not this rule's.
  EXPECT_EQ(policy.Check(UniqueFd(::eventfd(0, EFD_CLOEXEC))), absl::OkStatus());
}

TEST(ReceivePolicyTest, JudgesTheIndex) {
  const UniqueFd file = MakeFile("x");
  const ReceivePolicy policy = ReceivePolicy().MaxFds(2);
  EXPECT_EQ(policy.Check(file, 0), absl::OkStatus());
  EXPECT_EQ(policy.Check(file, 1), absl::OkStatus());
  const absl::Status third = policy.Check(file, 2);
  EXPECT_TRUE(absl::IsPermissionDenied(third));
  EXPECT_THAT(third.message(), HasSubstr("takes 2 descriptors"));
  EXPECT_TRUE(absl::IsPermissionDenied(ReceivePolicy().MaxFds(0).Check(file)));
}

TEST(ReceivePolicyTest, CheckWantsAnOpenDescriptor) {
  EXPECT_TRUE(absl::IsInvalidArgument(ReceivePolicy().Check(BorrowedFd(-1))));
  EXPECT_TRUE(absl::IsInvalidArgument(ReceivePolicy::Strict().Check(BorrowedFd(1000000))));
}

// --- In a session ---

class PolicySessionTest : public ::testing::Test {
 protected:
  PolicySessionTest() : reaper_(std::make_shared<Reaper>()) {
    auto sockets = MakeSessionSockets();
    EXPECT_TRUE(sockets.ok());
    raw_ = std::move(sockets->second);
    Session::Config config;
    config.id = 1;
    config.local = {16, 64};
    config.remote = {16, 64};
    config.peer = "pid 17, uid 4711";
    config.look = kLookType | kLookKind | kLookAccess | kLookSeals;
    config.reaper = reaper_;
    session_ = Session::Create(std::make_unique<SeqpacketSocket>(std::move(sockets->first)),
                               std::move(config), nullptr);
  }
  void TearDown() override {
    session_.reset();
    reaper_->Stop();
  }

  void SendFds(uint64_t call, uint32_t first, const std::vector<int>& fds) {
    Frame frame;
    frame.call.id = call;
    frame.first_index = first;
    frame.fd_count = static_cast<uint16_t>(fds.size());
    FrameBuffer buffer;
    EncodeFrame(frame, &buffer);
    ASSERT_TRUE(SendMessage(raw_, buffer, fds).ok());
  }
  absl::StatusOr<UniqueFd> Take(DescriptorInbox* inbox, const InodeUrl& url,
                                Session::Op op = Session::Op::kTake) {
    WaitOptions options;
    options.deadline = absl::Now() + kPatience;
    return session_->Receive(inbox, url, op, options);
  }

  const std::shared_ptr<Reaper> reaper_;
  UniqueFd raw_;
  std::shared_ptr<Session> session_;
};

InodeUrl Url(BorrowedFd fd, uint32_t index) { return InodeUrl(*FdToDevIno(fd), index); }

TEST_F(PolicySessionTest, ARefusedDescriptorIsClosedAndTheOthersAreThere) {
  const TempDir dir;
  const UniqueFd file = MakeFile("fine");
  const UniqueFd directory = OpenFile(dir.path(), O_DIRECTORY);
  // Before the call and after its beginning: the policy is known at different times.
  for (const bool early : {true, false}) {
    const uint64_t id = early ? 1 : 2;
    DescriptorInbox inbox({id, 0}, std::make_shared<ReceivePolicy>(ReceivePolicy::Strict()));
    if (early) {
      SendFds(id, 0, {directory.get(), file.get(), directory.get()});
      session_->Sweep();
      EXPECT_EQ(session_->held(), 3u);
    }
    session_->Attach(&inbox, 3, /*open_ended=*/false);
    if (!early) SendFds(id, 0, {directory.get(), file.get(), directory.get()});
    const auto refused = Take(&inbox, Url(directory, 0));
    EXPECT_TRUE(absl::IsPermissionDenied(refused.status())) << refused.status();
    EXPECT_THAT(refused.status().message(),
                AllOf(HasSubstr("directory"), HasSubstr("pid 17, uid 4711"),
                      HasSubstr(absl::StrCat("call ", id))));
    EXPECT_TRUE(
        absl::IsPermissionDenied(Take(&inbox, Url(directory, 2), Session::Op::kDup).status()));
    // Without an index too, and at once.
    EXPECT_TRUE(absl::IsPermissionDenied(Take(&inbox, *FdToUrl(directory)).status()));
    // Closed, not kept until the call ends. The sender's is left.
    EXPECT_TRUE(Eventually([this] { return session_->held() == 1; }));
    EXPECT_EQ(*CountHolders(*FdToDevIno(directory), {::getpid()}), 1u);
    const auto taken = Take(&inbox, Url(file, 1));
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(Content(*taken), "fine");
    session_->End(&inbox, false);
  }
}

TEST_F(PolicySessionTest, SkipsTheRefusedWhenAnotherOpenOfTheFileIsFine) {
  const UniqueFd file = MakeFile("shared");
  const std::string path = absl::StrCat("/proc/self/fd/", file.get());
  const UniqueFd handle = OpenFile(path, O_PATH);
  DescriptorInbox inbox(
      {1, 0}, std::make_shared<ReceivePolicy>(ReceivePolicy().RefuseAccess({FdAccess::kPath})));
  session_->Attach(&inbox, 2, /*open_ended=*/false);
  SendFds(1, 0, {handle.get(), file.get()});
  const auto taken = Take(&inbox, *FdToUrl(file));
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(Content(*taken), "shared");
  EXPECT_TRUE(absl::IsPermissionDenied(Take(&inbox, Url(file, 0)).status()));
  session_->End(&inbox, false);
}

TEST_F(PolicySessionTest, ACallWithoutAPolicyOfItsOwnTakesAll) {
  const TempDir dir;
  const UniqueFd directory = OpenFile(dir.path(), O_PATH);
  DescriptorInbox inbox({1, 0});
  session_->Attach(&inbox, 1, /*open_ended=*/false);
  SendFds(1, 0, {directory.get()});
  EXPECT_TRUE(Take(&inbox, Url(directory, 0)).ok());
  session_->End(&inbox, false);
}

TEST_F(PolicySessionTest, CreditIsGivenForWhatIsRefused) {
  const TempDir dir;
  const UniqueFd directory = OpenFile(dir.path(), O_PATH);
  DescriptorInbox inbox({1, 0}, std::make_shared<ReceivePolicy>(ReceivePolicy::Strict()));
  session_->Attach(&inbox, 0, /*open_ended=*/true);
  // A stream that sends nothing else: far more than the window, none of which anybody asks for.
  for (uint32_t i = 0; i < 1000; ++i) {
    SendFds(1, i, {directory.get()});
    session_->Sweep();
  }
  EXPECT_TRUE(session_->alive());
  EXPECT_TRUE(Eventually([this] { return session_->held() == 0; }));
  char frame[kFrameSize];
  EXPECT_TRUE(WaitReadable(raw_));
  EXPECT_EQ(::recv(raw_.get(), frame, sizeof(frame), 0), static_cast<ssize_t>(kFrameSize));
  session_->End(&inbox, false);
}

TEST_F(PolicySessionTest, AListThatCannotBeForgottenEndsTheCall) {
  const UniqueFd file = MakeFile("x");
  DescriptorInbox inbox({1, 0}, std::make_shared<ReceivePolicy>(ReceivePolicy().MaxFds(0)));
  session_->Attach(&inbox, 0, /*open_ended=*/true);
  const std::vector<int> sixteen(16, file.get());
  // Index 0 never comes, so nothing after it may be forgotten.
  for (uint32_t i = 1; i < 70000; i += 16) {
    SendFds(1, i, sixteen);
    session_->Sweep();
    char frame[kFrameSize];
    while (::recv(raw_.get(), frame, sizeof(frame), MSG_DONTWAIT) > 0) {
    }
    // The closes keep up, or the window would end the call instead.
    ASSERT_TRUE(Eventually([this] { return session_->held() == 0; }));
  }
  const auto status = Take(&inbox, Url(file, 1)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("left out index 0"));
  EXPECT_TRUE(session_->alive());
  session_->End(&inbox, false);
}

// --- In a server ---

TEST(ServerPolicyTest, AMethodsPolicyStandsInPlaceOfTheServers) {
  FdServerOptions options;
  options.receive_policy = ReceivePolicy::Strict();
  options.method_policies["/a.B/Open"] = ReceivePolicy();
  options.method_policies["/a.B/Memory"] = ReceivePolicy().RequireSeals(F_SEAL_SHRINK);
  auto core = ServerCore::Create(options);
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_EQ((*core)->PolicyFor("/a.B/Open"), nullptr);
  ASSERT_NE((*core)->PolicyFor("/a.B/Memory"), nullptr);
  EXPECT_TRUE(
      internal::PolicyRules::Accepts(*(*core)->PolicyFor("/a.B/Memory"), FdType::kDirectory));
  ASSERT_NE((*core)->PolicyFor("/a.B/Other"), nullptr);
  EXPECT_FALSE(
      internal::PolicyRules::Accepts(*(*core)->PolicyFor("/a.B/Other"), FdType::kDirectory));
  auto lax = ServerCore::Create(FdServerOptions());
  ASSERT_TRUE(lax.ok());
  EXPECT_EQ((*lax)->PolicyFor("/a.B/Other"), nullptr);
}

TEST(ServerPolicyTest, RefusesNamesThatCannotBeAMethods) {
  for (const char* name : {"", "Open", "/", "/a.B", "/a.B/", "a.B/Open", "//Open"}) {
    FdServerOptions options;
    options.method_policies[name] = ReceivePolicy();
    EXPECT_TRUE(absl::IsInvalidArgument(FdServer::Create(options).status())) << name;
  }
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
