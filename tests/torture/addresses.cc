// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Row 25: taking an address. Nobody connects before the mode is what it is to be, and nobody loses
// an address to somebody who comes later.
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/os/bind.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using internal::BindOptions;
using internal::BoundSocket;
using internal::Eventually;

namespace {

// A listening socket bound without any care.
UniqueFd BindPlainly(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = internal::Address(path).ToSockaddr(&address);
  EXPECT_EQ(0, ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length)) << path;
  EXPECT_EQ(0, ::listen(fd.get(), 8));
  return fd;
}

ino_t InodeAt(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 ? st.st_ino : 0;
}

BindOptions WithMode(mode_t mode) {
  BindOptions options;
  options.mode = mode;
  return options;
}

absl::StatusCode CodeOf(const absl::StatusOr<BoundSocket>& bound) { return bound.status().code(); }

class Binder {
 public:
  static constexpr int kKinds = 7;

  Binder() : path_(dir_.File("s")), address_(internal::Address(path_)) {}

  void Try(int kind) {
    switch (kind) {
      case 0:
        return ModeAtFirstSight();
      case 1:
        return Stale();
      case 2:
        return Live();
      case 3:
        return Links();
      case 4:
        return OtherFile();
      case 5:
        return Lengths();
      case 6:
        return ReplacedWhileBound();
      default:
        break;
    }
  }

  // Somebody who knows nothing of the lock puts a living socket and a dead one at the path in turn,
  // while we bind there again and again. The living one is there when it was put there last.
  void Swap(uint64_t rounds) {
    const std::string live_path = dir_.File("live"), stale_path = dir_.File("stale");
    const UniqueFd live = BindPlainly(live_path);
    BindPlainly(stale_path).Reset();
    const ino_t live_inode = InodeAt(live_path);
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> bound{0};
    std::thread binder([&] {
      while (!stop && !Failed()) {
        auto socket = BoundSocket::Bind(address_, WithMode(0600));
        if (socket.ok()) {
          ++bound;
        } else {
          EXPECT_TRUE(absl::IsAlreadyExists(socket.status()) ||
                      absl::IsUnavailable(socket.status()) || absl::IsNotFound(socket.status()))
              << socket.status();
        }
      }
    });
    const std::string next = dir_.File("next");
    std::mt19937 random(25);
    for (uint64_t i = 0; i < rounds && !Failed(); ++i) {
      EXPECT_EQ(0, ::link(stale_path.c_str(), next.c_str()));
      EXPECT_EQ(0, ::rename(next.c_str(), path_.c_str()));
      // Long enough, now and then, for the other thread to have seen it.
      for (const absl::Time until = absl::Now() + absl::Microseconds(random() % 200);
           absl::Now() < until;) {
        std::this_thread::yield();
      }
      EXPECT_EQ(0, ::link(live_path.c_str(), next.c_str()));
      EXPECT_EQ(0, ::rename(next.c_str(), path_.c_str()));
      // rename(2) of two links to one file does nothing and leaves both.
      ::unlink(next.c_str());
      EXPECT_TRUE(Eventually([&] { return InodeAt(path_) == live_inode; }))
          << "a living socket was unlinked in round " << i;
    }
    stop = true;
    binder.join();
    swap_bound_ = bound;
    ::unlink(path_.c_str());
    ::unlink(live_path.c_str());
    ::unlink(stale_path.c_str());
  }
  uint64_t swap_bound() const { return swap_bound_; }

 private:
  // Never a wider mode than asked for; and no other one, if the umask leaves it as it is.
  void ModeAtFirstSight() {
    const mode_t mode = ++turn_ % 2 == 0 ? 0600 : 0666;
    const mode_t mask = turn_ % 4 < 2 ? 0 : 0077;
    std::atomic<bool> done{false};
    std::atomic<uint64_t> wrong{0};
    std::thread watcher([&] {
      while (!done) {
        struct stat st;
        if (::lstat(path_.c_str(), &st) != 0) continue;
        const mode_t seen = st.st_mode & 07777;
        if (seen != mode && (mask == 0 || (seen & ~mode) != 0)) ++wrong;
      }
    });
    const mode_t old = ::umask(mask);
    {
      auto socket = BoundSocket::Bind(address_, WithMode(mode));
      EXPECT_TRUE(socket.ok()) << socket.status();
      struct stat st;
      EXPECT_EQ(0, ::lstat(path_.c_str(), &st));
      EXPECT_EQ(mode, st.st_mode & 07777) << "when it listens";
    }
    ::umask(old);
    done = true;
    watcher.join();
    EXPECT_EQ(0u, wrong) << "seen with a mode that was not asked for";
  }
  void Stale() {
    BindPlainly(path_).Reset();
    auto socket = BoundSocket::Bind(address_, {});
    EXPECT_TRUE(socket.ok()) << socket.status();
    EXPECT_TRUE(internal::Connect(address_).valid());
  }
  void Live() {
    const UniqueFd live = BindPlainly(path_);
    const ino_t inode = InodeAt(path_);
    EXPECT_EQ(absl::StatusCode::kAlreadyExists, CodeOf(BoundSocket::Bind(address_, {})));
    EXPECT_EQ(inode, InodeAt(path_)) << "the file of a living server";
    EXPECT_TRUE(internal::Connect(address_).valid());
    ::unlink(path_.c_str());
  }
  // To a living server, to one that is gone, to nothing.
  void Links() {
    const std::string target = dir_.File("target");
    UniqueFd live = BindPlainly(target);
    ASSERT_EQ(0, ::symlink(target.c_str(), path_.c_str()));
    for (int state = 0; state < 3; ++state) {
      const ino_t inode = InodeAt(path_);
      EXPECT_EQ(absl::StatusCode::kAlreadyExists, CodeOf(BoundSocket::Bind(address_, {})));
      EXPECT_EQ(inode, InodeAt(path_)) << "the link was touched";
      if (state < 2) {
        EXPECT_NE(0u, InodeAt(target)) << "a link was followed";
      }
      if (state == 0) live.Reset();
      if (state == 1) ::unlink(target.c_str());
    }
    EXPECT_EQ(0u, InodeAt(target)) << "a dangling link was followed";
    ::unlink(path_.c_str());
  }
  void OtherFile() {
    FILE* const file = fopen(path_.c_str(), "we");
    ASSERT_NE(nullptr, file);
    fclose(file);
    EXPECT_EQ(absl::StatusCode::kAlreadyExists, CodeOf(BoundSocket::Bind(address_, {})));
    EXPECT_NE(0u, InodeAt(path_));
    ::unlink(path_.c_str());
  }
  // sun_path holds 107 bytes and the zero behind them.
  void Lengths() {
    for (const size_t length : {107u, 108u, 109u}) {
      const std::string path =
          dir_.path() + "/" + std::string(length - dir_.path().size() - 1, 'x');
      auto address = internal::SocketAddress::Parse("unix:" + path);
      if (length > 107) {
        EXPECT_EQ(absl::StatusCode::kInvalidArgument, address.status().code());
        continue;
      }
      ASSERT_TRUE(address.ok()) << address.status();
      auto socket = BoundSocket::Bind(*address, {});
      EXPECT_TRUE(socket.ok()) << socket.status();
      EXPECT_TRUE(internal::Connect(*address).valid());
      EXPECT_NE(0u, InodeAt(path));
    }
  }
  // Another server has taken the path meanwhile: closing leaves its file.
  void ReplacedWhileBound() {
    auto socket = BoundSocket::Bind(address_, {});
    ASSERT_TRUE(socket.ok()) << socket.status();
    ::unlink(path_.c_str());
    const UniqueFd other = BindPlainly(path_);
    const ino_t inode = InodeAt(path_);
    socket->Close();
    EXPECT_EQ(inode, InodeAt(path_)) << "another's file was unlinked";
    ::unlink(path_.c_str());
  }

  const internal::TempDir dir_;
  const std::string path_;
  const internal::SocketAddress address_;
  unsigned turn_ = 0;
  uint64_t swap_bound_ = 0;
};

}  // namespace

void Row25(Row* row) {
  Binder binder;
  const uint64_t count = row->Count(10'000);
  for (uint64_t i = 0; i < count && !Failed(); ++i) {
    binder.Try(static_cast<int>(i % Binder::kKinds));
    row->Done();
  }
  binder.Swap(count);
  row->Done(count);
  row->Figure(absl::StrCat(Binder::kKinds, " kinds and ", count, " swaps, ", binder.swap_bound(),
                           " bound in between"));
}

}  // namespace torture
}  // namespace grpcfd
