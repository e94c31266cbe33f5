// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/socket_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stddef.h>

#include <string>

#include "tests/fdchannel/fd_test_util.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::HasSubstr;

using Kind = SocketAddress::Kind;

TEST(SocketAddressTest, ReadsTargetsAsGrpcDoes) {
  struct Case {
    std::string target;
    Kind kind;
    std::string name;
    std::string printed;
  };
  const Case cases[] = {
      {"unix:/run/app.sock", Kind::kPath, "/run/app.sock", "unix:/run/app.sock"},
      {"unix:app.sock", Kind::kPath, "app.sock", "unix:app.sock"},
      {"unix:///run/app.sock", Kind::kPath, "/run/app.sock", "unix:/run/app.sock"},
      {"unix:////run/app.sock", Kind::kPath, "//run/app.sock", "unix:////run/app.sock"},
      {"unix:/run/a%20b", Kind::kPath, "/run/a b", "unix:/run/a b"},
      {"unix:/run/a b", Kind::kPath, "/run/a b", "unix:/run/a b"},
      {"unix:/run/%41%3f%23%25", Kind::kPath, "/run/A?#%", "unix:/run/A%3f%23%25"},
      {"unix:/run/%4", Kind::kPath, "/run/%4", "unix:/run/%254"},
      {"unix:/run/100%", Kind::kPath, "/run/100%", "unix:/run/100%25"},
      {"unix:/run/%zz", Kind::kPath, "/run/%zz", "unix:/run/%25zz"},
      {"unix:/run/[a]\xc3\xa9", Kind::kPath, "/run/[a]\xc3\xa9", "unix:/run/[a]\xc3\xa9"},
      {"unix:unix:x", Kind::kPath, "unix:x", "unix:unix:x"},
      {"unix-abstract:app", Kind::kAbstract, "app", "unix-abstract:app"},
      {"unix-abstract:/app", Kind::kAbstract, "/app", "unix-abstract:/app"},
      {"unix-abstract:a%00b", Kind::kAbstract, std::string("a\0b", 3), "unix-abstract:a%00b"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.target);
    EXPECT_TRUE(SocketAddress::IsUnixTarget(c.target));
    const absl::StatusOr<SocketAddress> address = SocketAddress::Parse(c.target);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->kind(), c.kind);
    EXPECT_EQ(address->name(), c.name);
    EXPECT_EQ(address->ToString(), c.printed);
    const absl::StatusOr<SocketAddress> again = SocketAddress::Parse(address->ToString());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->kind(), c.kind);
    EXPECT_EQ(again->name(), c.name);
  }
}

TEST(SocketAddressTest, RefusesMalformedUnixTargets) {
  const std::pair<std::string, std::string> cases[] = {
      {"unix:", "empty"},
      {"unix://", "empty"},
      {"unix-abstract:", "empty"},
      {"unix://host/run/app.sock", "authority"},
      {"unix-abstract://app", "authority"},
      {"unix-abstract:///app", "authority"},
      {"unix:/run/a?b", "%3F"},
      {"unix:/run/a#b", "%3F"},
      {"unix-abstract:a?b", "%3F"},
      {"unix:/run/a,b", "comma"},
      {"unix:///run/a%2Cb", "comma"},
      {"unix-abstract:a,b", "comma"},
      {"unix:/run/%00", "NUL"},
      {std::string("unix:/run/a\0b", 13), "NUL"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.first);
    EXPECT_TRUE(SocketAddress::IsUnixTarget(c.first));
    const absl::Status status = SocketAddress::Parse(c.first).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.second));
    EXPECT_THAT(std::string(status.message()), HasSubstr("expected unix:path"));
  }
}

// gRPC's client takes a list of them. A channel for it is no mistake, but cannot carry descriptors.
TEST(SocketAddressTest, AChannelsTargetMayNameSeveral) {
  for (const char* target : {"unix:/run/a,/run/b", "unix:///run/a%2Cb", "unix-abstract:a,b"}) {
    SCOPED_TRACE(target);
    const absl::Status status = SocketAddress::ParseTarget(target).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("several addresses"));
  }
  EXPECT_EQ(SocketAddress::ParseTarget("unix:").status().code(),
            absl::StatusCode::kInvalidArgument);
  auto one = SocketAddress::ParseTarget("unix:/run/a");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->name(), "/run/a");
}

TEST(SocketAddressTest, OtherTargetsAreNotUnixSockets) {
  for (const char* target :
       {"", "localhost:50051", "dns:///host", "ipv4:127.0.0.1:1", "/run/app.sock",
        "UNIX:/run/app.sock", "unix", "vsock:1:2", " unix:/a"}) {
    SCOPED_TRACE(target);
    EXPECT_FALSE(SocketAddress::IsUnixTarget(target));
    const absl::Status status = SocketAddress::Parse(target).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("\"") + target + "\""));
  }
}

TEST(SocketAddressTest, LengthLimitIsExact) {
  static_assert(SocketAddress::kMaxLength == 107, "unix(7)");
  for (const std::string& scheme : {std::string("unix:"), std::string("unix-abstract:")}) {
    const absl::StatusOr<SocketAddress> longest =
        SocketAddress::Parse(scheme + std::string(107, 'x'));
    ASSERT_TRUE(longest.ok()) << longest.status();
    sockaddr_un address;
    EXPECT_LE(longest->ToSockaddr(&address), sizeof(address));
    for (const size_t size : {108, 109, 5000}) {
      const absl::Status status = SocketAddress::Parse(scheme + std::string(size, 'x')).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), HasSubstr("got " + std::to_string(size)));
    }
    // What counts is the name, not how it is written.
    std::string encoded = scheme;
    for (int i = 0; i < 107; ++i) encoded += "%78";
    EXPECT_EQ(SocketAddress::Parse(encoded)->name(), std::string(107, 'x'));
  }
}

TEST(SocketAddressTest, SockaddrOfAPath) {
  sockaddr_un address;
  const socklen_t size = SocketAddress::Parse("unix:/run/x")->ToSockaddr(&address);
  EXPECT_EQ(size, offsetof(sockaddr_un, sun_path) + 7);
  EXPECT_EQ(address.sun_family, AF_UNIX);
  EXPECT_STREQ(address.sun_path, "/run/x");
}

TEST(SocketAddressTest, SockaddrOfAnAbstractName) {
  sockaddr_un address;
  const socklen_t size = SocketAddress::Parse("unix-abstract:x%00y")->ToSockaddr(&address);
  EXPECT_EQ(size, offsetof(sockaddr_un, sun_path) + 4);
  EXPECT_EQ(std::string(address.sun_path, 4), std::string("\0x\0y", 4));
}

// Bound by one, reached by the other, at the longest length too.
TEST(SocketAddressTest, BindAndConnectMeet) {
  char directory[] = "/tmp/grpcfd-test-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  const std::string path =
      std::string(directory) + "/" + std::string(106 - sizeof(directory) + 1, 's');
  const std::string abstract = "grpcfd-test-" + std::to_string(::getpid());
  for (const std::string& target :
       {"unix:" + path, "unix-abstract:" + abstract,
        "unix-abstract:" + abstract + std::string(107 - abstract.size(), 's')}) {
    SCOPED_TRACE(target);
    const absl::StatusOr<SocketAddress> address = SocketAddress::Parse(target);
    ASSERT_TRUE(address.ok()) << address.status();
    sockaddr_un raw;
    const socklen_t size = address->ToSockaddr(&raw);
    const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&raw), size), 0);
    EXPECT_EQ(::listen(server.get(), 1), 0);
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&raw), size), 0);
  }
  EXPECT_EQ(path.size(), 107u);
  EXPECT_EQ(::unlink(path.c_str()), 0);
  EXPECT_EQ(::rmdir(directory), 0);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
