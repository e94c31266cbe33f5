// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The non-virtual half of the interfaces, and that every form a user writes reaches the method it
// should.
#include "grpcfd/fd_transceiver.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fdchannel/fds/refusing_transceiver.h"
#include "gmock/gmock.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

UniqueFd OpenMemory(unsigned int flags = MFD_CLOEXEC) {
  return UniqueFd(::memfd_create("fd_transceiver_test", flags));
}

std::string Text(absl::Time deadline) {
  return deadline == absl::InfiniteFuture() ? "never" : absl::StrCat(absl::ToUnixSeconds(deadline));
}

// Writes down which virtual method was reached, and with what.
class Recorder : public FdTransceiver {
 public:
  absl::StatusOr<InodeUrl> SendBorrowed(BorrowedFd fd) override {
    calls.push_back(absl::StrCat("borrow ", fd.get()));
    return InodeUrl(DevIno{1, 2}, 0);
  }
  absl::StatusOr<InodeUrl> SendOwned(UniqueFd fd) override {
    calls.push_back(absl::StrCat("adopt ", fd.get()));
    adopted = std::move(fd);
    return InodeUrl(DevIno{1, 2}, 1);
  }
  absl::StatusOr<InodeUrl> SendPath(const std::string& path, int flags) override {
    calls.push_back(absl::StrCat("open ", path, " ", flags));
    return InodeUrl(DevIno{1, 2}, 2);
  }
  absl::StatusOr<UniqueFd> ReceiveFd(const InodeUrl& url, absl::Time deadline) override {
    calls.push_back(absl::StrCat("take ", url.ToString(), " ", Text(deadline)));
    return std::move(answer);
  }
  void ReceiveFdAsync(const InodeUrl& url, absl::Time deadline, FdCallback done) override {
    calls.push_back(absl::StrCat("async ", url.ToString(), " ", Text(deadline)));
    done(std::move(answer));
  }
  absl::StatusOr<UniqueFd> DuplicateFd(const InodeUrl& url, absl::Time deadline) override {
    calls.push_back(absl::StrCat("dup ", url.ToString(), " ", Text(deadline)));
    return std::move(answer);
  }

  std::vector<std::string> calls;
  UniqueFd adopted;
  absl::StatusOr<UniqueFd> answer = UniqueFd();
};

// `Fds` is what the user holds: the interface, or an implementation. Both must offer every form.
template <typename Fds>
class FdTransceiverFormsTest : public ::testing::Test {
 protected:
  Recorder recorder_;
  Fds* const fds_ = &recorder_;
};
using Holders = ::testing::Types<FdTransceiver, Recorder>;

struct HolderNames {
  template <typename T>
  static std::string GetName(int) {
    return std::is_same_v<T, Recorder> ? "Implementation" : "Interface";
  }
};
TYPED_TEST_SUITE(FdTransceiverFormsTest, Holders, HolderNames);

TYPED_TEST(FdTransceiverFormsTest, SendFdOfAnOwnerDuplicatesAndOfAMovedOwnerAdopts) {
  UniqueFd fd = OpenMemory();
  const UniqueFd constant = OpenMemory();
  const int number = fd.get();
  EXPECT_TRUE(this->fds_->SendFd(fd).ok());
  EXPECT_EQ(fd.get(), number);
  EXPECT_TRUE(this->fds_->SendFd(constant).ok());
  EXPECT_TRUE(this->fds_->SendFd(BorrowedFd(7)).ok());
  EXPECT_TRUE(this->fds_->SendFd(std::move(fd)).ok());
  EXPECT_FALSE(fd.valid());  // NOLINT(bugprone-use-after-move): that is the point.
  EXPECT_EQ(this->recorder_.adopted.get(), number);
  EXPECT_THAT(this->recorder_.calls,
              ElementsAre(absl::StrCat("borrow ", number), absl::StrCat("borrow ", constant.get()),
                          "borrow 7", absl::StrCat("adopt ", number)));
}

TYPED_TEST(FdTransceiverFormsTest, SendFdOfATemporaryOwnerAdopts) {
  EXPECT_TRUE(this->fds_->SendFd(OpenMemory()).ok());
  EXPECT_THAT(this->recorder_.calls,
              ElementsAre(absl::StrCat("adopt ", this->recorder_.adopted.get())));
}

TYPED_TEST(FdTransceiverFormsTest, SendFileDuplicatesWhatHasADescriptor) {
  struct Device {
    int fd() { return 41; }
  };
  struct Socket {
    int native_handle() const { return 42; }
  };
  Device device;
  const Socket socket;
  UniqueFd owner = OpenMemory();
  FILE* const file = ::tmpfile();
  ASSERT_NE(file, nullptr);
  EXPECT_TRUE(this->fds_->SendFile(file).ok());
  EXPECT_TRUE(this->fds_->SendFile(device).ok());
  EXPECT_TRUE(this->fds_->SendFile(Device()).ok());
  EXPECT_TRUE(this->fds_->SendFile(socket).ok());
  EXPECT_TRUE(this->fds_->SendFile(owner).ok());
  EXPECT_TRUE(this->fds_->SendFile(BorrowedFd(43)).ok());
  EXPECT_THAT(this->recorder_.calls,
              ElementsAre(absl::StrCat("borrow ", ::fileno(file)), "borrow 41", "borrow 41",
                          "borrow 42", absl::StrCat("borrow ", owner.get()), "borrow 43"));
  EXPECT_TRUE(owner.valid());
  ::fclose(file);
}

TYPED_TEST(FdTransceiverFormsTest, SendFilenameOpensByPathUnlessToldOtherwise) {
  EXPECT_TRUE(this->fds_->SendFilename("/a").ok());
  EXPECT_TRUE(this->fds_->SendFilename(std::string("/b"), O_RDWR).ok());
  EXPECT_THAT(this->recorder_.calls,
              ElementsAre(absl::StrCat("open /a ", O_PATH), absl::StrCat("open /b ", O_RDWR)));
}

// Leaves SendPath to the interface.
class OpeningSender : public FdSender {
 public:
  UniqueFd sent;

 private:
  absl::StatusOr<InodeUrl> SendBorrowed(BorrowedFd) override {
    return absl::InternalError("a duplicate is not needed");
  }
  absl::StatusOr<InodeUrl> SendOwned(UniqueFd fd) override {
    sent = std::move(fd);
    return FdToUrl(sent);
  }
};

TEST(FdSenderTest, SendsWhatItOpensItself) {
  OpeningSender sender;
  const auto url = sender.SendFilename("/dev/null", O_RDONLY);
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(*url, *FilenameToUrl("/dev/null"));
  EXPECT_EQ(::fcntl(sender.sent.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(sender.SendFilename("/does/not/exist").status().code(), absl::StatusCode::kNotFound);
}

TYPED_TEST(FdTransceiverFormsTest, RecvFdTakesEveryFormOfTheUrl) {
  const absl::Time soon = absl::FromUnixSeconds(17);
  const std::string text = "inode://1/2?fd=3";
  EXPECT_TRUE(this->fds_->RecvFd(text).ok());
  EXPECT_TRUE(this->fds_->RecvFd("inode://1/2").ok());
  EXPECT_TRUE(this->fds_->RecvFd("inode://1/2?fd=4", soon).ok());
  EXPECT_TRUE(this->fds_->RecvFd(InodeUrl(DevIno{1, 2}, 5)).ok());
  EXPECT_TRUE(this->fds_->RecvFd(InodeUrl(DevIno{1, 2}, 6), soon).ok());
  EXPECT_TRUE(this->fds_->RecvFd(DevIno{1, 2}).ok());
  EXPECT_TRUE(this->fds_->RecvFd(DevIno{1, 2}, soon).ok());
  EXPECT_THAT(
      this->recorder_.calls,
      ElementsAre("take inode://1/2?fd=3 never", "take inode://1/2 never",
                  "take inode://1/2?fd=4 17", "take inode://1/2?fd=5 never",
                  "take inode://1/2?fd=6 17", "take inode://1/2 never", "take inode://1/2 17"));
}

TYPED_TEST(FdTransceiverFormsTest, DupFdTakesEveryFormOfTheUrl) {
  const absl::Time soon = absl::FromUnixSeconds(17);
  EXPECT_TRUE(this->fds_->DupFd(std::string("inode://1/2?fd=3")).ok());
  EXPECT_TRUE(this->fds_->DupFd("inode://1/2", soon).ok());
  EXPECT_TRUE(this->fds_->DupFd(InodeUrl(DevIno{1, 2}, 5)).ok());
  EXPECT_TRUE(this->fds_->DupFd(InodeUrl(DevIno{1, 2}, 6), soon).ok());
  EXPECT_TRUE(this->fds_->DupFd(DevIno{1, 2}).ok());
  EXPECT_TRUE(this->fds_->DupFd(DevIno{1, 2}, soon).ok());
  EXPECT_THAT(
      this->recorder_.calls,
      ElementsAre("dup inode://1/2?fd=3 never", "dup inode://1/2 17", "dup inode://1/2?fd=5 never",
                  "dup inode://1/2?fd=6 17", "dup inode://1/2 never", "dup inode://1/2 17"));
}

TYPED_TEST(FdTransceiverFormsTest, TakesEveryFormOfADeadline) {
  const auto soon = std::chrono::system_clock::from_time_t(17);
  const InodeUrl url(DevIno{1, 2}, 3);
  EXPECT_TRUE(this->fds_->RecvFd(url, soon).ok());
  EXPECT_TRUE(this->fds_->RecvFd("inode://1/2", soon).ok());
  EXPECT_TRUE(this->fds_->DupFd(DevIno{1, 2}, std::chrono::system_clock::time_point::max()).ok());
  this->fds_->RecvFdAsync(url, soon, [](absl::StatusOr<UniqueFd>) {});
  EXPECT_THAT(this->recorder_.calls,
              ElementsAre("take inode://1/2?fd=3 17", "take inode://1/2 17",
                          "dup inode://1/2 never", "async inode://1/2?fd=3 17"));
  // From now on. Only that they compile and mean the future is shown here; deadline_test.cc has the
  // values.
  EXPECT_TRUE(this->fds_->RecvFd(url, absl::Seconds(1)).ok());
  EXPECT_TRUE(this->fds_->RecvFd(url, std::chrono::milliseconds(1)).ok());
  EXPECT_EQ(this->recorder_.calls.size(), 6);
}

TYPED_TEST(FdTransceiverFormsTest, RecvFdAsyncTakesCallbacksThatOwnWhatTheyCapture) {
  int seen = 0;
  this->fds_->RecvFdAsync(
      "inode://1/2", [&seen, owned = std::make_unique<int>(7)](const absl::StatusOr<UniqueFd>& fd) {
        if (fd.ok()) seen = *owned;
      });
  EXPECT_EQ(seen, 7);
}

TYPED_TEST(FdTransceiverFormsTest, RecvFdAsyncTakesEveryFormOfTheUrl) {
  const absl::Time soon = absl::FromUnixSeconds(17);
  int done = 0;
  const auto count = [&done](absl::StatusOr<UniqueFd> fd) { done += fd.ok() ? 1 : 0; };
  this->fds_->RecvFdAsync("inode://1/2?fd=3", count);
  this->fds_->RecvFdAsync(std::string("inode://1/2?fd=4"), soon, count);
  this->fds_->RecvFdAsync(InodeUrl(DevIno{1, 2}, 5), count);
  this->fds_->RecvFdAsync(InodeUrl(DevIno{1, 2}, 6), soon, count);
  EXPECT_EQ(done, 4);
  EXPECT_THAT(this->recorder_.calls,
              ElementsAre("async inode://1/2?fd=3 never", "async inode://1/2?fd=4 17",
                          "async inode://1/2?fd=5 never", "async inode://1/2?fd=6 17"));
}

// A number that means something else must not turn into a descriptor.
template <typename T, typename = void>
struct CanSend : std::false_type {};
template <typename T>
struct CanSend<T, std::void_t<decltype(std::declval<FdSender&>().SendFd(std::declval<T>()))>>
    : std::true_type {};
static_assert(!CanSend<FILE*>::value);
static_assert(CanSend<UniqueFd&>::value);
static_assert(CanSend<UniqueFd>::value);
static_assert(CanSend<BorrowedFd>::value);

TEST(FdReceiverTest, MalformedUrlIsInvalidAndAsksNobody) {
  Recorder recorder;
  const auto expect_invalid = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"inode://1\""));
  };
  expect_invalid(recorder.RecvFd("inode://1").status());
  expect_invalid(recorder.DupFd("inode://1").status());
  expect_invalid(recorder.RecvFile("inode://1", "r").status());
  int done = 0;
  recorder.RecvFdAsync("inode://1", [&](const absl::StatusOr<UniqueFd>& fd) {
    expect_invalid(fd.status());
    ++done;
  });
  EXPECT_EQ(done, 1);
  EXPECT_THAT(recorder.calls, IsEmpty());
}

TEST(RefusingTransceiverTest, EveryMethodReportsWhy) {
  const absl::Status why = absl::FailedPreconditionError("over TCP");
  internal::RefusingTransceiver fds(why);
  EXPECT_EQ(fds.status(), why);
  EXPECT_EQ(fds.SendFd(BorrowedFd(0)).status(), why);
  UniqueFd given = OpenMemory();
  const int number = given.get();
  EXPECT_EQ(fds.SendFd(std::move(given)).status(), why);
  EXPECT_LT(::fcntl(number, F_GETFD), 0) << "not closed";
  EXPECT_EQ(fds.SendFilename("/does/not/exist").status(), why);
  EXPECT_EQ(fds.RecvFd(DevIno{1, 2}).status(), why);
  EXPECT_EQ(fds.DupFd(DevIno{1, 2}).status(), why);
  EXPECT_EQ(fds.RecvFile("inode://1/2", "r").status(), why);
  absl::Status result;
  fds.RecvFdAsync("inode://1/2", [&](const absl::StatusOr<UniqueFd>& fd) { result = fd.status(); });
  EXPECT_EQ(result, why);
}

TEST(FdTransceiverTest, StatusIsOkUnlessAnImplementationKnowsBetter) {
  EXPECT_EQ(Recorder().status(), absl::OkStatus());
}

class RecvFileTest : public ::testing::Test {
 protected:
  Recorder recorder_;
};

TEST_F(RecvFileTest, OpensAStreamThatOwnsTheDescriptor) {
  UniqueFd memory = OpenMemory();
  const int number = memory.get();
  ASSERT_EQ(::pwrite(number, "hello", 5, 0), 5);
  recorder_.answer = std::move(memory);
  {
    const absl::StatusOr<UniqueFile> file = recorder_.RecvFile("inode://1/2", "r+");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(::fileno(file->get()), number);
    char buffer[16] = "";
    EXPECT_STREQ(::fgets(buffer, sizeof(buffer), file->get()), "hello");
  }
  EXPECT_LT(::fcntl(number, F_GETFD), 0) << "not closed with the stream";
  EXPECT_THAT(recorder_.calls, ElementsAre("take inode://1/2 never"));
}

TEST_F(RecvFileTest, TakesAnInodeUrl) {
  recorder_.answer = OpenMemory();
  EXPECT_TRUE(recorder_.RecvFile(InodeUrl(DevIno{1, 2}, 3), "w").ok());
  EXPECT_THAT(recorder_.calls, ElementsAre("take inode://1/2?fd=3 never"));
}

TEST_F(RecvFileTest, MistypedModeCostsNoDescriptor) {
  for (const char* mode : {"", "x", "+r", " r", "R"}) {
    SCOPED_TRACE(mode);
    EXPECT_EQ(recorder_.RecvFile("inode://1/2", mode).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(recorder_.calls, IsEmpty());
}

TEST_F(RecvFileTest, ModeBeyondTheAccessModeIsInvalid) {
  UniqueFd read_only(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int number = read_only.get();
  recorder_.answer = std::move(read_only);
  EXPECT_EQ(recorder_.RecvFile("inode://1/2", "w").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_LT(::fcntl(number, F_GETFD), 0) << "not closed";
}

TEST_F(RecvFileTest, HandleByPathAllowsNoStream) {
  recorder_.answer = UniqueFd(::open("/dev/null", O_PATH | O_CLOEXEC));
  const absl::Status status = recorder_.RecvFile("inode://1/2", "r").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("O_PATH"));
}

TEST_F(RecvFileTest, PassesOnWhatRecvFdSays) {
  recorder_.answer = absl::UnavailableError("gone");
  EXPECT_EQ(recorder_.RecvFile("inode://1/2", "r").status(), absl::UnavailableError("gone"));
}

// Kernel and C library facts behind RecvFile's documentation.
TEST(KernelFactTest, FdopenForAppendingSetsAppendOnTheSharedOpenFile) {
  const UniqueFd memory = OpenMemory();
  absl::StatusOr<UniqueFd> shared = BorrowedFd(memory).Dup();
  ASSERT_TRUE(shared.ok()) << shared.status();
  ASSERT_EQ(::fcntl(memory.get(), F_GETFL) & O_APPEND, 0);
  const UniqueFile file(::fdopen(shared->Release(), "a"));
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(::fcntl(memory.get(), F_GETFL) & O_APPEND, O_APPEND);
}

TEST(KernelFactTest, FdopenForWritingDoesNotTruncate) {
  UniqueFd memory = OpenMemory();
  ASSERT_EQ(::pwrite(memory.get(), "hello", 5, 0), 5);
  const UniqueFile file(::fdopen(memory.Release(), "w"));
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(::lseek(::fileno(file.get()), 0, SEEK_END), 5);
}

}  // namespace
}  // namespace grpcfd
