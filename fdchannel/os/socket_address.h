// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// SocketAddress: the unix socket that gRPC targets such as `unix:/run/app.sock` name.
//
// A path over 107 bytes is an error, because sun_path has 108 and cutting would name
// another path (unix(7), "Pathname sockets"). An abstract name is not a path: no file
// mode protects it, and every process of the network namespace may connect or bind it
// first (containerd, CVE-2020-15257). So a listener asks for it to be allowed by
// name.
#ifndef GRPCFD_FDCHANNEL_OS_SOCKET_ADDRESS_H_
#define GRPCFD_FDCHANNEL_OS_SOCKET_ADDRESS_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grpcfd {
namespace internal {

// A plain value.
class SocketAddress {
 public:
  enum class Kind { kPath, kAbstract };

  // Longest path or abstract name, in bytes.
  static constexpr size_t kMaxLength = sizeof(sockaddr_un{}.sun_path) - 1;

  // Reads gRPC's target forms: `unix:relative/or/absolute/path`, `unix:///absolute/path`,
  // `unix-abstract:name`. `%41` is decoded, as gRPC does. INVALID_ARGUMENT, with the input and what
  // was expected, for an empty or too long name, an authority (`unix://host/path`,
  // `unix-abstract://name`), a path with a NUL byte, and a bare '?' or '#', which gRPC's client
  // cuts off and its server keeps (1.51.1). FAILED_PRECONDITION for a target of another scheme
  // (dns:, ipv4:, host:port): descriptors never leave the host.
  static absl::StatusOr<SocketAddress> Parse(const std::string& target);

  // The same for what a channel is made for. FAILED_PRECONDITION for a list of unix sockets, which
  // gRPC separates by commas.
  static absl::StatusOr<SocketAddress> ParseTarget(const std::string& target);

  // Whether gRPC would take `target` for a unix socket (`unix:` or `unix-abstract:`), well-formed
  // or not.
  static bool IsUnixTarget(const std::string& target);

  Kind kind() const { return kind_; }
  // The path, or the abstract name without its leading NUL.
  const std::string& name() const { return name_; }
  // The target form, for messages.
  std::string ToString() const;

  // Fills `*out` and returns the length to pass to bind(2) or connect(2).
  socklen_t ToSockaddr(sockaddr_un* out) const;

 private:
  SocketAddress(Kind kind, std::string name) : kind_(kind), name_(std::move(name)) {}

  Kind kind_;
  std::string name_;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_SOCKET_ADDRESS_H_
