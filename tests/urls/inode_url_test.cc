// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/inode_url.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <limits>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/hash/hash_testing.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/unique_fd.h"
#include "gtest/gtest.h"

namespace grpcfd {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();

// ----- Parsing. Both tables come from running the parser of Go's grpcfd on the same inputs. -----

struct Accepted {
  std::string url;
  DevIno dev_ino;
  std::optional<uint32_t> index;
};

TEST(InodeUrlParseTest, AcceptsWhatGoAccepts) {
  const std::vector<Accepted> table = {
      {"inode://64769/131", {64769, 131}, std::nullopt},
      {"inode://64769/131?fd=0", {64769, 131}, 0},
      {"inode://64769/131?fd=3&x=y", {64769, 131}, 3},
      {"inode://64769/131?x=y&fd=3", {64769, 131}, 3},
      {"inode://64769/131?x=y", {64769, 131}, std::nullopt},
      {"inode://64769/131?", {64769, 131}, std::nullopt},
      {"inode://64769/131?fd=3&", {64769, 131}, 3},
      {"inode://64769/131?&fd=3", {64769, 131}, 3},
      {"inode://64769/131#frag", {64769, 131}, std::nullopt},
      {"inode://64769/131#", {64769, 131}, std::nullopt},
      {"inode://64769/131?fd=3#frag", {64769, 131}, 3},
      {"inode://0/0", {0, 0}, std::nullopt},
      {"inode://18446744073709551615/1", {kMax64, 1}, std::nullopt},
      {"inode://1/18446744073709551615", {1, kMax64}, std::nullopt},
      {"inode://007/08", {7, 8}, std::nullopt},
      {"inode://000000000000000000000000000001/02?fd=03", {1, 2}, 3},
      {"INODE://1/2", {1, 2}, std::nullopt},
      {"iNoDe://1/2?fd=4294967295", {1, 2}, 4294967295u},
      // Session-scoped: another kind of index, which Go ignores as well.
      {"inode://1/2?session=3", {1, 2}, std::nullopt},
      // A query in the fragment is none; a parameter is known by its whole name.
      {"inode://1/2#?fd=3", {1, 2}, std::nullopt},
      {"inode://1/2?xfd=3", {1, 2}, std::nullopt},
      {"inode://1/2?fdx=3", {1, 2}, std::nullopt},
      {"inode://1/2?FD=3", {1, 2}, std::nullopt},
      {"inode://1/2#%41", {1, 2}, std::nullopt},
  };
  for (const Accepted& row : table) {
    SCOPED_TRACE(row.url);
    const absl::StatusOr<InodeUrl> url = InodeUrl::Parse(row.url);
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(url->dev(), row.dev_ino.dev);
    EXPECT_EQ(url->ino(), row.dev_ino.ino);
    EXPECT_EQ(url->index(), row.index);

    const absl::StatusOr<DevIno> dev_ino = UrlStringToDevIno(row.url);
    ASSERT_TRUE(dev_ino.ok()) << dev_ino.status();
    EXPECT_EQ(*dev_ino, row.dev_ino);
  }
}

struct Refused {
  std::string url;
  // What the message says it wanted.
  std::string expected;
};

constexpr char kWantScheme[] = "expected it to begin with inode://";
constexpr char kWantDev[] =
    "expected the device in decimal digits after inode://, at most 18446744073709551615";
constexpr char kWantIno[] =
    "expected the inode in decimal digits after the device and one /, at most "
    "18446744073709551615";
constexpr char kWantSlash[] = "expected a / and the inode number after the device";
constexpr char kWantIndex[] = "expected the index in decimal digits after fd=, at most 4294967295";
constexpr char kWantSessionIndex[] =
    "expected the index in decimal digits after session=, at most 4294967295";
constexpr char kWantNoBlank[] = "expected no blank and no control character";

void ExpectRefused(const std::vector<Refused>& table) {
  for (const Refused& row : table) {
    SCOPED_TRACE(absl::CEscape(row.url));
    const absl::StatusOr<InodeUrl> url = InodeUrl::Parse(row.url);
    ASSERT_EQ(url.status().code(), absl::StatusCode::kInvalidArgument) << url.status();
    const std::string message(url.status().message());
    EXPECT_THAT(message, HasSubstr(absl::StrCat("\"", absl::CEscape(row.url), "\"")));
    EXPECT_THAT(message, HasSubstr(row.expected));
    EXPECT_EQ(UrlStringToDevIno(row.url).status(), url.status());
  }
}

TEST(InodeUrlParseTest, RefusesWhatGoRefuses) {
  ExpectRefused({
      {"inode://18446744073709551616/1", kWantDev},
      {"inode://1/18446744073709551616", kWantIno},
      {"inode://99999999999999999999999/1", kWantDev},
      {"inode://1//2", kWantIno},
      {"inode:///1/2", kWantDev},
      {"inode://1/2/", kWantIno},
      {"inode://1/2/3", kWantIno},
      {"inode://1", kWantSlash},
      {"inode://1?fd=3", kWantSlash},
      {"inode://1/", kWantIno},
      {"inode:///2", kWantDev},
      {"inode://", kWantDev},
      {"inode:///", kWantDev},
      {"inode:1/2", kWantScheme},
      {"inode:/1/2", kWantScheme},
      {"1/2", kWantScheme},
      {"//1/2", kWantScheme},
      {"file:///etc/passwd", kWantScheme},
      {"http://1/2", kWantScheme},
      {"", kWantScheme},
      {"inode://-1/2", kWantDev},
      {"inode://1/-1", kWantIno},
      {"inode://+1/2", kWantDev},
      {"inode://1/+1", kWantIno},
      {"inode://0x10/2", kWantDev},
      {"inode://1/0x10", kWantIno},
      {"inode://1e3/2", kWantDev},
      {"inode://1/1e3", kWantIno},
      {"inode://1_0/2", kWantDev},
      {"inode://1/1_0", kWantIno},
      {"inode://\xD9\xA1/2", kWantDev},  // ARABIC-INDIC DIGIT ONE
      {"inode://1/\xD9\xA1", kWantIno},
      {" inode://1/2", kWantNoBlank},
      {"inode ://1/2", kWantNoBlank},
      {"inode:// 1/2", kWantNoBlank},
      {"inode://1 /2", kWantNoBlank},
      {"inode://1/ 2", kWantNoBlank},
      {"inode://1/2 ", kWantNoBlank},
      {"inode://1/2\n", kWantNoBlank},
      {"\ninode://1/2", kWantNoBlank},
      {"inode://1\n/2", kWantNoBlank},
      {"inode://1/2?x=\n", kWantNoBlank},
      {"inode://1/2#a\nb", kWantNoBlank},
      {"inode://1/2\t", kWantNoBlank},
      {"inode://1/2\x7F", kWantNoBlank},
      {std::string("inode://1/2\0", 12), kWantNoBlank},
      {std::string("inode://1/2\0/3", 14), kWantNoBlank},
      {"inode://1:80/2", kWantDev},
      {"inode://[::1]/2", kWantDev},
      {"inode://%31/2", kWantDev},
      {"inode://1/2#%4", "expected two hexadecimal digits after each %"},
      {"inode://1/2#%zz", "expected two hexadecimal digits after each %"},
  });
}

TEST(InodeUrlParseTest, IsStricterThanGoOnPurpose) {
  ExpectRefused({
      {"inode://user@1/2", kWantDev},
      {"inode://user:password@1/2", kWantDev},
      {"inode://1/%32", kWantIno},
      {"inode://1/2?fd=-1", kWantIndex},
      {"inode://1/2?fd=", kWantIndex},
      {"inode://1/2?fd", kWantIndex},
      {"inode://1/2?fd=4294967296", kWantIndex},
      {"inode://1/2?fd=18446744073709551617", kWantIndex},
      {"inode://1/2?fd=+1", kWantIndex},
      {"inode://1/2?fd=0x1", kWantIndex},
      {"inode://1/2?fd=%31", kWantIndex},
      {"inode://1/2?fd=1;x=y", kWantIndex},
      {"inode://1/2?fd=1&fd=1", "expected at most one fd or session parameter"},
      {"inode://1/2?session=1&session=1", "expected at most one fd or session parameter"},
      {"inode://1/2?session=1&fd=1", "expected at most one fd or session parameter"},
      {"inode://1/2?fd=1&session=1", "expected at most one fd or session parameter"},
      {"inode://1/2?session", kWantSessionIndex},
      {"inode://1/2?session=", kWantSessionIndex},
      {"inode://1/2?session=-1", kWantSessionIndex},
      {"inode://1/2?session=4294967296", kWantSessionIndex},
      {"inode://1/2?session=1=1", kWantSessionIndex},
      {"inode://1/2?fd=1&x=y&fd=2", "expected at most one fd or session parameter"},
  });
}

TEST(InodeUrlParseTest, SaysWhatTheFormIs) {
  EXPECT_THAT(std::string(InodeUrl::Parse("nonsense").status().message()),
              HasSubstr("the form is inode://{dev}/{ino}[?fd={index}|?session={index}]"));
}

// The message goes into gRPC trailers, which have 8 KiB for everything.
TEST(InodeUrlParseTest, QuotesOnlyTheBeginningOfALongInput) {
  const std::string url = "inode://1/" + std::string(1000000, '\x01');
  const absl::Status status = InodeUrl::Parse(url).status();
  ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_LT(message.size(), 2000u);
  EXPECT_THAT(message, HasSubstr("\"inode://1/\\001\\001"));
  EXPECT_THAT(message, HasSubstr("(1000010 bytes)"));

  const absl::Status digits = InodeUrl::Parse("inode://" + std::string(1000000, '9')).status();
  ASSERT_EQ(digits.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LT(digits.message().size(), 2000u);
}

// Cuts every accepted form at every place and damages every byte of it: whatever is still accepted
// must print to something that parses to the same value.
TEST(InodeUrlParseTest, DamagedUrlsAreRefusedOrStable) {
  const std::string whole = "inode://64769/131?fd=3&x=y#frag";
  std::vector<std::string> damaged;
  for (size_t i = 0; i < whole.size(); ++i) {
    damaged.push_back(whole.substr(0, i));
    damaged.push_back(whole.substr(i));
    for (int byte = 0; byte < 256; ++byte) {
      std::string url = whole;
      url[i] = static_cast<char>(byte);
      damaged.push_back(url);
    }
  }
  size_t accepted = 0;
  for (const std::string& text : damaged) {
    SCOPED_TRACE(absl::CEscape(text));
    const absl::StatusOr<InodeUrl> url = InodeUrl::Parse(text);
    if (!url.ok()) {
      EXPECT_EQ(url.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ++accepted;
    const absl::StatusOr<InodeUrl> again = InodeUrl::Parse(url->ToString());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, *url);
  }
  EXPECT_GT(accepted, 100u);
  EXPECT_LT(accepted, damaged.size() / 2);
}

// ----- Printing -----

TEST(InodeUrlTest, Prints) {
  EXPECT_EQ(InodeUrl().ToString(), "inode://0/0");
  EXPECT_EQ(InodeUrl(DevIno{64769, 131}).ToString(), "inode://64769/131");
  EXPECT_EQ(InodeUrl(DevIno{64769, 131}, 0).ToString(), "inode://64769/131?fd=0");
  EXPECT_EQ(InodeUrl(DevIno{kMax64, kMax64}, 4294967295u).ToString(),
            "inode://18446744073709551615/18446744073709551615?fd=4294967295");
  EXPECT_EQ(::testing::PrintToString(InodeUrl(DevIno{1, 2}, 3)), "inode://1/2?fd=3");
}

TEST(InodeUrlTest, NamesASessionsDescriptor) {
  const InodeUrl url = InodeUrl::ForSession(DevIno{1, 2}, 3);
  EXPECT_EQ(url.session_index(), 3u);
  EXPECT_EQ(url.index(), std::nullopt);
  EXPECT_TRUE(url.has_index());
  EXPECT_TRUE(InodeUrl(DevIno{1, 2}, 3).has_index());
  EXPECT_FALSE(InodeUrl(DevIno{1, 2}).has_index());
  EXPECT_EQ(url.ToString(), "inode://1/2?session=3");
  EXPECT_NE(url, InodeUrl(DevIno{1, 2}, 3));
  EXPECT_NE(url, InodeUrl(DevIno{1, 2}));
  EXPECT_NE(url, InodeUrl::ForSession(DevIno{1, 2}, 4));
  for (const char* text : {"inode://1/2?session=3", "inode://1/2?x=y&session=03&sessions=9#fd=1"}) {
    const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, url) << text;
  }
}

TEST(InodeUrlTest, RoundTripsRandomValues) {
  std::mt19937_64 random(20260101);
  for (int i = 0; i < 100000; ++i) {
    // Shifted, so that numbers of every length occur.
    const DevIno dev_ino{random() >> (random() % 64), random() >> (random() % 64)};
    const InodeUrl url =
        random() % 2 == 0 ? InodeUrl(dev_ino)
                          : InodeUrl(dev_ino, static_cast<uint32_t>(random()) >> (random() % 32));
    const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(url.ToString());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_EQ(*parsed, url);
    ASSERT_EQ(UrlToDevIno(*parsed), dev_ino);
    ASSERT_EQ(parsed->ToString(), url.ToString());
  }
}

TEST(InodeUrlTest, Compares) {
  const InodeUrl url(DevIno{1, 2}, 3);
  EXPECT_EQ(url, InodeUrl(DevIno{1, 2}, 3));
  EXPECT_NE(url, InodeUrl(DevIno{1, 2}, 4));
  EXPECT_NE(url, InodeUrl(DevIno{1, 2}));
  EXPECT_NE(url, InodeUrl(DevIno{2, 2}, 3));
  EXPECT_NE(url, InodeUrl(DevIno{1, 3}, 3));
  EXPECT_NE(InodeUrl(DevIno{1, 2}), InodeUrl(DevIno{1, 2}, 0));
}

TEST(DevInoTest, OrdersAndHashes) {
  EXPECT_LT((DevIno{1, 9}), (DevIno{2, 0}));
  EXPECT_LT((DevIno{1, 1}), (DevIno{1, 2}));
  EXPECT_FALSE((DevIno{1, 2}) < (DevIno{1, 2}));
  EXPECT_FALSE((DevIno{2, 0}) < (DevIno{1, 9}));
  EXPECT_TRUE(absl::VerifyTypeImplementsAbslHashCorrectly(
      {DevIno{0, 0}, DevIno{0, 1}, DevIno{1, 0}, DevIno{1, 1}, DevIno{kMax64, 1}}));
}

// ----- From descriptors -----

void ExpectSameAsFstat(int fd) {
  struct stat attributes;
  ASSERT_EQ(::fstat(fd, &attributes), 0);
  const absl::StatusOr<DevIno> dev_ino = FdToDevIno(BorrowedFd(fd));
  ASSERT_TRUE(dev_ino.ok()) << dev_ino.status();
  EXPECT_EQ(dev_ino->dev, attributes.st_dev);
  EXPECT_EQ(dev_ino->ino, attributes.st_ino);
  const absl::StatusOr<InodeUrl> url = FdToUrl(BorrowedFd(fd));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(*url, InodeUrl(*dev_ino));
}

TEST(FdToUrlTest, NumbersAreThoseOfFstat) {
  struct Kind {
    const char* name;
    UniqueFd fd;
  };
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  Kind kinds[] = {
      {"root directory", UniqueFd(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC))},
      {"directory by O_PATH", UniqueFd(::open("/tmp", O_PATH | O_CLOEXEC))},
      {"procfs file", UniqueFd(::open("/proc/self/status", O_RDONLY | O_CLOEXEC))},
      {"device", UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC))},
      {"memfd", UniqueFd(::memfd_create("test", MFD_CLOEXEC))},
      {"socket", UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))},
      {"eventfd", UniqueFd(::eventfd(0, EFD_CLOEXEC))},
      {"pipe, read end", UniqueFd(pipe_fds[0])},
      {"pipe, write end", UniqueFd(pipe_fds[1])},
  };
  for (const Kind& kind : kinds) {
    SCOPED_TRACE(kind.name);
    ASSERT_TRUE(kind.fd.valid());
    ExpectSameAsFstat(kind.fd.get());
  }
}

TEST(FdToUrlTest, NegativeNumberIsInvalid) {
  // -100 is AT_FDCWD: with an empty path the kernel would answer for the working directory.
  for (const int fd : {-1, -2, AT_FDCWD, std::numeric_limits<int>::min()}) {
    SCOPED_TRACE(fd);
    const absl::Status status = FdToUrl(BorrowedFd(fd)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("number ", fd)));
  }
}

TEST(FdToUrlTest, ClosedNumberIsInvalid) {
  const int closed = ::memfd_create("test", MFD_CLOEXEC);
  ASSERT_GE(closed, 0);
  ASSERT_EQ(::close(closed), 0);
  EXPECT_EQ(FdToUrl(BorrowedFd(closed)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FdToDevIno(BorrowedFd(closed)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FdToUrl(BorrowedFd(std::numeric_limits<int>::max())).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(FileToUrlTest, TakesAnythingThatHasADescriptor) {
  UniqueFd memory(::memfd_create("test", MFD_CLOEXEC));
  ASSERT_TRUE(memory.valid());
  const absl::StatusOr<InodeUrl> url = FdToUrl(memory);
  ASSERT_TRUE(url.ok()) << url.status();

  struct Device {
    int number;
    int fd() const { return number; }
  };
  struct Socket {
    int number;
    int native_handle() { return number; }
  };
  const Device device{memory.get()};
  Socket socket{memory.get()};
  EXPECT_EQ(*FileToUrl(memory), *url);
  EXPECT_EQ(*FileToUrl(device), *url);
  EXPECT_EQ(*FileToUrl(Device{memory.get()}), *url);
  EXPECT_EQ(*FileToUrl(socket), *url);
  EXPECT_EQ(*FileToUrl(Socket{memory.get()}), *url);

  FILE* const file = ::fdopen(memory.get(), "w");
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(*FileToUrl(file), *url);
  ASSERT_EQ(memory.Release(), ::fileno(file));
  ::fclose(file);
}

TEST(FileToUrlTest, StreamWithoutDescriptorIsInvalid) {
  char buffer[16] = "";
  FILE* const file = ::fmemopen(buffer, sizeof(buffer), "r");
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(FileToUrl(file).status().code(), absl::StatusCode::kInvalidArgument);
  ::fclose(file);
  FILE* const none = nullptr;
  EXPECT_EQ(FileToUrl(none).status().code(), absl::StatusCode::kInvalidArgument);
}

// ----- From paths -----

class FilenameToUrlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/inode_url_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    file_ = directory_ + "/file";
    fd_ = UniqueFd(::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(fd_.valid());
  }

  void TearDown() override {
    for (const char* name : {"/file", "/link", "/link2", "/dangling", "/loop"}) {
      ::unlink((directory_ + name).c_str());
    }
    EXPECT_EQ(::rmdir(directory_.c_str()), 0);
  }

  std::string directory_;
  std::string file_;
  UniqueFd fd_;
};

TEST_F(FilenameToUrlTest, IsTheUrlOfTheOpenFile) {
  const absl::StatusOr<InodeUrl> url = FilenameToUrl(file_);
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(*url, *FdToUrl(fd_));
}

TEST_F(FilenameToUrlTest, FollowsSymbolicLinks) {
  ASSERT_EQ(::symlink(file_.c_str(), (directory_ + "/link").c_str()), 0);
  ASSERT_EQ(::symlink("link", (directory_ + "/link2").c_str()), 0);
  const absl::StatusOr<InodeUrl> url = FilenameToUrl(directory_ + "/link2");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(*url, *FdToUrl(fd_));
}

TEST_F(FilenameToUrlTest, MissingFileIsNotFound) {
  EXPECT_EQ(FilenameToUrl(directory_ + "/missing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(FilenameToUrl(directory_ + "/missing/file").status().code(),
            absl::StatusCode::kNotFound);
  ASSERT_EQ(::symlink("missing", (directory_ + "/dangling").c_str()), 0);
  const absl::Status status = FilenameToUrl(directory_ + "/dangling").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(directory_ + "/dangling"));
}

TEST_F(FilenameToUrlTest, ImpossiblePathIsInvalid) {
  ASSERT_EQ(::symlink("loop", (directory_ + "/loop").c_str()), 0);
  for (const std::string& path :
       {std::string(), directory_ + "/loop", file_ + "/below", std::string(5000, 'x'),
        directory_ + "/" + std::string(300, 'x'), file_ + std::string("\0suffix", 7)}) {
    SCOPED_TRACE(absl::CEscape(path));
    EXPECT_EQ(FilenameToUrl(path).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// ----- Kernel facts: (dev, ino) is a name, not an identity -----

DevIno Of(const UniqueFd& fd) {
  const absl::StatusOr<DevIno> dev_ino = FdToDevIno(fd);
  EXPECT_TRUE(dev_ino.ok()) << dev_ino.status();
  return dev_ino.value_or(DevIno{});
}

TEST(KernelFactTest, AllEventfdsAndEpollsShareOneInode) {
  const UniqueFd first(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd second(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  EXPECT_EQ(Of(first), Of(second));
  EXPECT_EQ(Of(first), Of(epoll));
}

TEST(KernelFactTest, BothEndsOfAPipeShareOneInode) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd reader(fds[0]);
  const UniqueFd writer(fds[1]);
  EXPECT_EQ(Of(reader), Of(writer));
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd other_reader(fds[0]);
  const UniqueFd other_writer(fds[1]);
  EXPECT_NE(Of(reader), Of(other_reader));
}

TEST_F(FilenameToUrlTest, KernelFactReadOnlyAndReadWriteOpensShareOneInode) {
  const UniqueFd read_only(::open(file_.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(read_only.valid());
  EXPECT_EQ(Of(read_only), Of(fd_));
}

TEST(KernelFactTest, MemfdsAndSocketsHaveAnInodeEach) {
  const UniqueFd first(::memfd_create("same name", MFD_CLOEXEC));
  const UniqueFd second(::memfd_create("same name", MFD_CLOEXEC));
  EXPECT_NE(Of(first), Of(second));
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  const UniqueFd left(fds[0]);
  const UniqueFd right(fds[1]);
  EXPECT_NE(Of(left), Of(right));
}

}  // namespace
}  // namespace grpcfd
