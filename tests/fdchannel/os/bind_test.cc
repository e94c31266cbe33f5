// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/bind.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "fdchannel/os/path_lock.h"
#include "tests/fdchannel/seccomp.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What a test does just before the library's listen(2), and in place of its connect(2).
std::function<void()>* before_listen = nullptr;
std::function<bool(const sockaddr_un&)>* refuse_connect = nullptr;

}  // namespace
}  // namespace internal
}  // namespace grpcfd

// NOLINTBEGIN(readability-identifier-naming, bugprone-reserved-identifier)
extern "C" int __real_listen(int fd, int backlog);
extern "C" int __wrap_listen(int fd, int backlog) {
  if (grpcfd::internal::before_listen != nullptr) (*grpcfd::internal::before_listen)();
  return __real_listen(fd, backlog);
}

extern "C" int __real_connect(int fd, const sockaddr* address, socklen_t size);
extern "C" int __wrap_connect(int fd, const sockaddr* address, socklen_t size) {
  if (grpcfd::internal::refuse_connect != nullptr &&
      (*grpcfd::internal::refuse_connect)(*reinterpret_cast<const sockaddr_un*>(address))) {
    errno = ENOENT;
    return -1;
  }
  return __real_connect(fd, address, size);
}
// NOLINTEND(readability-identifier-naming, bugprone-reserved-identifier)

namespace grpcfd {
namespace internal {
namespace {

class ScopedUmask {
 public:
  explicit ScopedUmask(mode_t mask) : old_(::umask(mask)) {}
  ~ScopedUmask() { ::umask(old_); }

 private:
  const mode_t old_;
};

mode_t ModeOf(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 ? st.st_mode & 07777 : static_cast<mode_t>(-1);
}

BindOptions WithMode(mode_t mode) {
  BindOptions options;
  options.mode = mode;
  return options;
}

// Leaves behind what a server that crashed leaves: a socket file that nobody listens on.
void MakeStale(const std::string& path) {
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un sockaddr;
  const socklen_t length = Address(path).ToSockaddr(&sockaddr);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length), 0);
  ASSERT_EQ(::listen(fd.get(), 1), 0);
}

bool Answers(const SocketAddress& address) { return Connect(address).valid(); }

class BindTest : public ::testing::Test {
 protected:
  const TempDir dir_;
  const std::string path_ = dir_.File("s");
  const SocketAddress address_ = Address(path_);
};

TEST_F(BindTest, ListensNonBlockingAndCloseOnExec) {
  auto socket = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_TRUE(Answers(address_));
  EXPECT_TRUE(IsCloseOnExec(socket->fd()));
  EXPECT_NE(::fcntl(socket->fd().get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_THAT(dir_.List(), ElementsAre("s")) << "no lock file stays";
}

// bind(2) takes the umask off the mode of a socket, also of one that fchmod(2) has set.
TEST_F(BindTest, KernelCutsTheModeByTheUmask) {
  const ScopedUmask mask(022);
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::fchmod(fd.get(), 0666), 0);
  sockaddr_un sockaddr;
  const socklen_t length = address_.ToSockaddr(&sockaddr);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length), 0);
  EXPECT_EQ(ModeOf(path_), 0644u);
}

TEST_F(BindTest, ModeIsWhatWasAskedForWhateverTheUmask) {
  for (const mode_t mask : {0, 022, 077, 0777}) {
    const ScopedUmask scoped(mask);
    for (const mode_t mode : {0777, 0660, 0666, 0600, 0000}) {
      auto socket = BoundSocket::Bind(address_, WithMode(mode));
      ASSERT_TRUE(socket.ok()) << socket.status();
      EXPECT_EQ(ModeOf(path_), mode) << std::oct << "umask " << mask << ", mode " << mode;
    }
    const mode_t now = ::umask(mask);
    EXPECT_EQ(now, mask) << "the process's own umask is left alone";
  }
}

TEST_F(BindTest, WithoutModeTheUmaskDecides) {
  const ScopedUmask mask(027);
  auto socket = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_EQ(ModeOf(path_), 0750u);
}

// The first client finds the mode that was asked for: it is complete before listen(2).
TEST_F(BindTest, ModeIsCompleteBeforeAnybodyCanConnect) {
  std::vector<mode_t> seen;
  std::function<void()> look = [&] {
    seen.push_back(ModeOf(path_));
    EXPECT_FALSE(Answers(address_));
  };
  before_listen = &look;
  for (const mode_t mask : {0, 022, 077, 0777}) {
    const ScopedUmask scoped(mask);
    for (const mode_t mode : {0777, 0660, 0600, 0000}) {
      seen.clear();
      EXPECT_TRUE(BoundSocket::Bind(address_, WithMode(mode)).ok());
      EXPECT_THAT(seen, ElementsAre(mode)) << std::oct << "umask " << mask << ", mode " << mode;
    }
  }
  before_listen = nullptr;
}

// Somebody who looks all the time never sees a wider mode than the one asked for; and no other one,
// if the umask leaves it as it is.
TEST_F(BindTest, ModeIsNeverWiderFromFirstSight) {
  for (const mode_t mask : {0, 077}) {
    const ScopedUmask scoped(mask);
    std::atomic<bool> stop{false};
    std::atomic<int> looks{0};
    std::set<mode_t> seen;
    std::thread watcher([&] {
      while (!stop.load()) {
        const mode_t mode = ModeOf(path_);
        looks.fetch_add(1);
        if (mode != static_cast<mode_t>(-1)) seen.insert(mode);
      }
    });
    for (int i = 0; i < 100; ++i) {
      auto socket = BoundSocket::Bind(address_, WithMode(0660));
      ASSERT_TRUE(socket.ok()) << socket.status();
      // The watcher looks at least once at each.
      const int before = looks.load();
      while (looks.load() < before + 2) std::this_thread::yield();
    }
    stop.store(true);
    watcher.join();
    EXPECT_THAT(seen, Contains(0660u));
    EXPECT_THAT(seen, Each(AnyOf(0660u, 0660u & ~mask))) << std::oct << "umask " << mask;
  }
}

// fchmodat2 came with Linux 6.6; before, and in sandboxes that do not know it, /proc does.
TEST_F(BindTest, ModeIsRightWhereFchmodat2IsRefused) {
  constexpr int kFchmodat2 = 452;
  for (const int error : {EPERM, ENOSYS}) {
    const int result = RunRefusing({{kFchmodat2, {}}}, error, [this] {
      ::umask(077);
      auto socket = BoundSocket::Bind(address_, WithMode(0666));
      return socket.ok() && ModeOf(path_) == 0666 && Answers(address_) ? 0 : 1;
    });
    EXPECT_EQ(result, 0) << "errno " << error;
  }
}

TEST_F(BindTest, StaleFileIsReplaced) {
  MakeStale(path_);
  ASSERT_FALSE(Answers(address_));
  auto socket = BoundSocket::Bind(address_, WithMode(0600));
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_TRUE(Answers(address_));
  EXPECT_EQ(ModeOf(path_), 0600u);
  EXPECT_THAT(dir_.List(), ElementsAre("s")) << "no lock file stays";
}

TEST_F(BindTest, LiveServerIsLeftAlone) {
  auto first = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(first.ok()) << first.status();
  struct stat before, after;
  ASSERT_EQ(::lstat(path_.c_str(), &before), 0);
  auto second = BoundSocket::Bind(address_, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(path_));
  ASSERT_EQ(::lstat(path_.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_TRUE(Answers(address_));
}

// connect(2) says EAGAIN then, which is not a sign of death.
TEST_F(BindTest, LiveServerWithAFullBacklogIsLeftAlone) {
  BindOptions options;
  options.backlog = 1;
  auto first = BoundSocket::Bind(address_, options);
  ASSERT_TRUE(first.ok()) << first.status();
  std::vector<UniqueFd> waiting;
  for (;;) {
    UniqueFd next = Connect(address_, SOCK_NONBLOCK);
    if (!next.valid()) break;
    waiting.push_back(std::move(next));
  }
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(dir_.List(), ElementsAre("s"));
}

// Where nobody may try the file, the reason is that, and not a server that may not be there.
TEST_F(BindTest, FileThatCannotBeTriedIsNotCalledAServer) {
  MakeStale(path_);
  ASSERT_EQ(::chmod(path_.c_str(), 0), 0);
  ASSERT_EQ(::chmod(dir_.path().c_str(), 01777), 0);
  const int result = RunRefusing({}, 0, [this] {
    const uid_t owner = ::geteuid();
    if (owner == 0 && ::setresuid(65534, 65534, 65534) != 0) return 2;
    const absl::Status status = BoundSocket::Bind(address_, {}).status();
    const std::string text(status.message());
    return absl::IsPermissionDenied(status) &&
                   text.find(absl::StrCat("user ", owner, "'s")) != std::string::npos &&
                   text.find("listening there") == std::string::npos
               ? 0
               : 3;
  });
  EXPECT_EQ(result, 0);
  EXPECT_THAT(dir_.List(), ElementsAre("s")) << "it is left alone";
}

// In a chroot without /proc the path is tried instead of the handle.
TEST_F(BindTest, StaleAndLiveAreToldApartWithoutProc) {
  std::function<bool(const sockaddr_un&)> without_proc = [](const sockaddr_un& address) {
    return absl::StartsWith(address.sun_path, "/proc/");
  };
  refuse_connect = &without_proc;
  MakeStale(path_);
  auto socket = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_TRUE(absl::IsAlreadyExists(BoundSocket::Bind(address_, {}).status()));
  EXPECT_TRUE(Answers(address_));
  socket->Close();
  EXPECT_THAT(dir_.List(), IsEmpty());
  refuse_connect = nullptr;
}

// A server of another kind of socket: connect(2) says EPROTOTYPE.
TEST_F(BindTest, LiveDatagramSocketIsLeftAlone) {
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un sockaddr;
  const socklen_t length = address_.ToSockaddr(&sockaddr);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length), 0);
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(dir_.List(), ElementsAre("s"));
}

TEST_F(BindTest, OtherFilesAreLeftAlone) {
  const UniqueFd file(::open(path_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(file.get(), "keep", 4), 4);
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Content(file), "keep");
  EXPECT_THAT(dir_.List(), ElementsAre("s"));
  ASSERT_EQ(::unlink(path_.c_str()), 0);

  ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(::rmdir(path_.c_str()), 0);
}

TEST_F(BindTest, SymbolicLinksAreNotFollowed) {
  const std::string target = dir_.File("target");
  ASSERT_EQ(::symlink(target.c_str(), path_.c_str()), 0);
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kAlreadyExists)
      << "dangling";
  MakeStale(target);
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kAlreadyExists)
      << "to a stale socket";
  EXPECT_THAT(dir_.List(), ElementsAre("s", "target"));
}

// The lock file's name may be a link that another user put there: it is not followed, and what it
// names not touched.
TEST_F(BindTest, LinkInPlaceOfTheLockFileIsRefused) {
  const std::string target = dir_.File("victim");
  ASSERT_EQ(::symlink(target.c_str(), (path_ + ".grpcfd-lock").c_str()), 0);
  EXPECT_FALSE(BoundSocket::Bind(address_, {}).ok());
  EXPECT_THAT(dir_.List(), ElementsAre("s.grpcfd-lock"));
}

TEST_F(BindTest, LockFileThatACrashLeftBehindDoesNotMatter) {
  const UniqueFd left(::open((path_ + ".grpcfd-lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  MakeStale(path_);
  auto socket = BoundSocket::Bind(address_, {});
  EXPECT_TRUE(socket.ok()) << socket.status();
  EXPECT_THAT(dir_.List(), ElementsAre("s"));
}

// In a directory that others may write to, anybody can be there first with the lock file, and never
// let go of it.
TEST_F(BindTest, LockFileOfAnotherUserIsIgnored) {
  const std::string lock_path = path_ + ".grpcfd-lock";
  const UniqueFd lock(::open(lock_path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_TRUE(absl::IsUnavailable(PathLock::Take(path_).status())) << "this user's counts";
  {
    auto taken = PathLock::Take(path_, ::geteuid() + 1);
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_FALSE(taken->held());
  }
  EXPECT_THAT(dir_.List(), ElementsAre("s.grpcfd-lock")) << "it is left alone";
  // The same for one that others may lock: their link to a file of this user's.
  ASSERT_EQ(::fchmod(lock.get(), 0644), 0);
  auto socket = BoundSocket::Bind(address_, {});
  EXPECT_TRUE(socket.ok()) << socket.status();
  EXPECT_THAT(dir_.List(), ElementsAre("s", "s.grpcfd-lock"));
}

// As nobody, who may not even open it; root would.
TEST_F(BindTest, LockFileThatCannotBeOpenedIsIgnored) {
  constexpr uid_t kNobody = 65534;
  const uid_t stranger = ::geteuid() == 0 ? kNobody : ::geteuid();
  ASSERT_EQ(::chmod(dir_.path().c_str(), 01777), 0);
  const UniqueFd lock(::open((path_ + ".grpcfd-lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  MakeStale(path_);
  ASSERT_EQ(::chown(path_.c_str(), stranger, static_cast<gid_t>(-1)), 0);
  if (::geteuid() != 0) {
    ASSERT_EQ(::fchmod(lock.get(), 0), 0);
  }
  const int result = RunRefusing({}, 0, [&] {
    if (::geteuid() == 0 && ::setresuid(stranger, stranger, stranger) != 0) return 2;
    // A file of one's own that cannot be opened is an error, one of another's is none.
    auto taken = PathLock::Take(path_, stranger == kNobody ? stranger : stranger + 1);
    if (!taken.ok() || taken->held()) return 3;
    if (stranger != kNobody) return 0;
    auto socket = BoundSocket::Bind(address_, {});
    return socket.ok() && Answers(address_) ? 0 : 4;
  });
  EXPECT_EQ(result, 0);
}

// Between bind(2) and listen(2) a socket refuses connections as one does whose process is gone.
// Whoever binds holds the lock until it listens, and whoever finds the lock held leaves the file
// alone.
TEST_F(BindTest, SocketThatIsAboutToListenIsLeftAlone) {
  const UniqueFd lock(::open((path_ + ".grpcfd-lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un sockaddr;
  const socklen_t length = address_.ToSockaddr(&sockaddr);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length), 0);
  ASSERT_FALSE(Answers(address_)) << "a kernel fact";
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kUnavailable);
  ASSERT_EQ(::listen(fd.get(), 5), 0);
  EXPECT_TRUE(Answers(address_)) << "the file is still there";
  EXPECT_EQ(BoundSocket::Bind(address_, {}).status().code(), absl::StatusCode::kUnavailable)
      << "as long as the lock is held";
  EXPECT_THAT(dir_.List(), ElementsAre("s", "s.grpcfd-lock"));
}

TEST_F(BindTest, NoDirectory) {
  auto socket = BoundSocket::Bind(Address(dir_.File("no/s")), {});
  EXPECT_EQ(socket.status().code(), absl::StatusCode::kNotFound) << socket.status();
}

// Each round several threads find the same path: stale, or free. One gets it, and the others say
// why they did not; nobody is left listening where no client can find it.
void Race(const TempDir& dir, const std::string& path, bool stale) {
  const SocketAddress address = Address(path);
  for (int round = 0; round < 200; ++round) {
    if (stale) MakeStale(path);
    constexpr int kThreads = 3;
    std::atomic<int> waiting{0};
    std::vector<absl::StatusOr<BoundSocket>> results;
    for (int i = 0; i < kThreads; ++i) results.push_back(absl::UnknownError("not run"));
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        waiting.fetch_add(1);
        while (waiting.load() < kThreads) std::this_thread::yield();
        BindOptions options;
        if (i == 1) options.mode = 0600;
        results[static_cast<size_t>(i)] = BoundSocket::Bind(address, options);
      });
    }
    for (std::thread& thread : threads) thread.join();
    int winners = 0;
    for (auto& result : results) {
      if (result.ok()) {
        ++winners;
        // The one who thinks so is the one whom clients reach.
        const UniqueFd client = Connect(address);
        ASSERT_TRUE(client.valid());
        const UniqueFd accepted(::accept4(result->fd().get(), nullptr, nullptr, SOCK_CLOEXEC));
        ASSERT_TRUE(accepted.valid()) << "round " << round << ": another server has the path";
      } else {
        ASSERT_TRUE(result.status().code() == absl::StatusCode::kAlreadyExists ||
                    result.status().code() == absl::StatusCode::kUnavailable)
            << result.status();
      }
    }
    ASSERT_EQ(winners, 1) << "round " << round;
    results.clear();
    ASSERT_THAT(dir.List(), IsEmpty()) << "round " << round;
  }
}

TEST_F(BindTest, OnlyOneOfSeveralClearsAStalePathAway) { Race(dir_, path_, /*stale=*/true); }

// A socket between bind(2) and listen(2) looks stale to the others.
TEST_F(BindTest, OnlyOneOfSeveralBindsAFreePath) { Race(dir_, path_, /*stale=*/false); }

TEST_F(BindTest, OnlyOneOfTwoProcessesClearsAStalePathAway) {
  for (int round = 0; round < 50; ++round) {
    MakeStale(path_);
    int go[2], out[2];
    ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(out, O_CLOEXEC), 0);
    pid_t children[2];
    for (pid_t& child : children) {
      child = ::fork();
      if (child == 0) {
        char byte;
        ::close(go[1]);
        [[maybe_unused]] ssize_t got = ::read(go[0], &byte, 1);  // Both start at the end of it.
        auto socket = BoundSocket::Bind(address_, {});
        const bool typed = socket.status().code() == absl::StatusCode::kAlreadyExists ||
                           socket.status().code() == absl::StatusCode::kUnavailable;
        byte = socket.ok() ? 'w' : typed ? 'l' : 'x';
        if (::write(out[1], &byte, 1) != 1) ::_exit(1);
        ::close(out[1]);
        got = ::read(out[0], &byte, 0);
        ::pause();  // Keeps what it has until it is killed: a server that crashes.
      }
    }
    ::close(out[1]);
    ::close(go[0]);
    ::close(go[1]);
    char bytes[2] = {};
    for (char& byte : bytes) ASSERT_EQ(::read(out[0], &byte, 1), 1);
    ::close(out[0]);
    EXPECT_EQ(std::count(bytes, bytes + 2, 'w'), 1) << "round " << round;
    EXPECT_EQ(std::count(bytes, bytes + 2, 'l'), 1) << "round " << round;
    EXPECT_TRUE(Answers(address_));
    for (const pid_t child : children) {
      ::kill(child, SIGKILL);
      ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    }
    EXPECT_THAT(dir_.List(), ElementsAre("s"));
    ASSERT_EQ(::unlink(path_.c_str()), 0);
  }
}

TEST_F(BindTest, PathOf107BytesIsTheLongest) {
  const std::string longest = dir_.File(std::string(107 - dir_.path().size() - 1, 'x'));
  ASSERT_EQ(longest.size(), 107u);
  {
    auto socket = BoundSocket::Bind(Address(longest), WithMode(0600));
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_TRUE(Answers(Address(longest)));
    EXPECT_EQ(ModeOf(longest), 0600u) << "not cut";
  }
  MakeStale(longest);
  EXPECT_TRUE(BoundSocket::Bind(Address(longest), {}).ok()) << "a stale one is replaced too";
  for (const size_t more : {1, 2}) {
    auto address = SocketAddress::Parse("unix:" + longest + std::string(more, 'x'));
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << 107 + more;
  }
  EXPECT_THAT(dir_.List(), IsEmpty());
}

TEST_F(BindTest, AbstractNamesAreOptIn) {
  auto address = SocketAddress::Parse(absl::StrCat("unix-abstract:grpcfd-test-", ::getpid()));
  ASSERT_TRUE(address.ok()) << address.status();
  auto refused = BoundSocket::Bind(*address, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("allow_abstract"));

  BindOptions options = WithMode(0600);  // Means nothing here.
  options.allow_abstract = true;
  {
    auto socket = BoundSocket::Bind(*address, options);
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_TRUE(Answers(*address));
    EXPECT_EQ(BoundSocket::Bind(*address, options).status().code(),
              absl::StatusCode::kAlreadyExists);
  }
  EXPECT_FALSE(Answers(*address));
}

TEST_F(BindTest, BacklogIsTheOptions) {
  const auto fits = [&](int backlog) {
    BindOptions options;
    options.backlog = backlog;
    auto socket = BoundSocket::Bind(address_, options);
    EXPECT_TRUE(socket.ok()) << socket.status();
    std::vector<UniqueFd> waiting;
    while (waiting.size() < 100) {
      UniqueFd next = Connect(address_, SOCK_NONBLOCK);
      if (!next.valid()) break;
      waiting.push_back(std::move(next));
    }
    return waiting.size();
  };
  // The kernel lets one more in than asked (unix_recvq_full: greater, not greater or equal).
  EXPECT_EQ(fits(1), 2u);
  EXPECT_EQ(fits(20), 21u);
}

// As many as gRPC's own listener takes. A burst of clients of a busy server waits instead of being
// refused.
TEST_F(BindTest, BacklogIsTheSystemsUnlessGiven) {
  std::ifstream file("/proc/sys/net/core/somaxconn");
  size_t somaxconn = 0;
  ASSERT_TRUE(file >> somaxconn);
  auto socket = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  const size_t expected = std::min<size_t>(somaxconn + 1, 400);
  std::vector<UniqueFd> waiting;
  while (waiting.size() < expected) {
    waiting.push_back(Connect(address_, SOCK_NONBLOCK));
    ASSERT_TRUE(waiting.back().valid()) << "number " << waiting.size() << " of " << expected;
  }
}

TEST_F(BindTest, CloseRemovesItsOwnFileOnce) {
  auto socket = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  socket->Close();
  EXPECT_THAT(dir_.List(), IsEmpty());
  EXPECT_FALSE(socket->fd().valid());
  auto next = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(next.ok()) << next.status();
  socket->Close();
  EXPECT_TRUE(Answers(address_)) << "a second Close() is for nobody else's file";
}

TEST_F(BindTest, CloseLeavesAFileThatIsNotItsOwn) {
  auto socket = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  ASSERT_EQ(::rename(path_.c_str(), dir_.File("moved").c_str()), 0);
  auto other = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(other.ok()) << other.status();
  socket->Close();
  EXPECT_THAT(dir_.List(), ElementsAre("moved", "s"));
  EXPECT_TRUE(Answers(address_));

  ASSERT_EQ(::unlink(path_.c_str()), 0);
  const UniqueFd file(::open(path_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  other->Close();
  EXPECT_THAT(dir_.List(), ElementsAre("moved", "s")) << "nor any other kind of file";
}

TEST_F(BindTest, MovesKeepTheFile) {
  auto first = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(first.ok()) << first.status();
  BoundSocket moved = *std::move(first);
  first->Close();
  EXPECT_TRUE(Answers(address_));
  auto second = BoundSocket::Bind(Address(dir_.File("t")), {});
  ASSERT_TRUE(second.ok()) << second.status();
  moved = *std::move(second);
  EXPECT_THAT(dir_.List(), ElementsAre("t")) << "what it had before is closed and removed";
  EXPECT_TRUE(Answers(Address(dir_.File("t"))));
}

// --- Socket activation ---

TEST_F(BindTest, AdoptsAListeningSocket) {
  auto made = BoundSocket::Bind(address_, {});
  ASSERT_TRUE(made.ok()) << made.status();
  // As a service manager passes it: blocking, and inherited.
  UniqueFd given(::dup(made->fd().get()));
  ASSERT_EQ(::fcntl(given.get(), F_SETFL, 0), 0);
  auto adopted = BoundSocket::Adopt(std::move(given));
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_TRUE(IsCloseOnExec(adopted->fd()));
  EXPECT_NE(::fcntl(adopted->fd().get(), F_GETFL) & O_NONBLOCK, 0);
  const UniqueFd client = Connect(address_);
  EXPECT_TRUE(UniqueFd(::accept4(adopted->fd().get(), nullptr, nullptr, SOCK_CLOEXEC)).valid());
  adopted->Close();
  EXPECT_THAT(dir_.List(), ElementsAre("s")) << "the file is the service manager's";
}

TEST_F(BindTest, AdoptRefusesWhatDoesNotListenOnAUnixStream) {
  const auto refused = [](UniqueFd fd) {
    return BoundSocket::Adopt(std::move(fd)).status().code();
  };
  constexpr absl::StatusCode kWrong = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(refused(UniqueFd()), kWrong) << "nothing";
  EXPECT_EQ(refused(MakeFile("x")), kWrong) << "a file";
  EXPECT_EQ(refused(UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))), kWrong)
      << "not bound";
  EXPECT_EQ(refused(std::move(MakePair(SOCK_STREAM).a)), kWrong) << "connected";
  EXPECT_EQ(refused(UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))), kWrong)
      << "datagrams";
  UniqueFd seqpacket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un sockaddr;
  const socklen_t length = address_.ToSockaddr(&sockaddr);
  ASSERT_EQ(::bind(seqpacket.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length),
            0);
  ASSERT_EQ(::listen(seqpacket.get(), 1), 0);
  EXPECT_EQ(refused(std::move(seqpacket)), kWrong) << "listens for another kind of connection";
  UniqueFd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in loopback = {};
  loopback.sin_family = AF_INET;
  loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(
      ::bind(tcp.get(), reinterpret_cast<const struct sockaddr*>(&loopback), sizeof(loopback)), 0);
  ASSERT_EQ(::listen(tcp.get(), 1), 0);
  EXPECT_EQ(refused(std::move(tcp)), kWrong) << "TCP";
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
