// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/connection_id.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr char kPrefix[] = "grpcfd-";
constexpr char kPeerScheme[] = "unix-abstract:";
constexpr size_t kDigits = 2 * kTokenSize;

// The id in an abstract name, which comes without its leading NUL. Exactly as NameOf() writes it:
// two spellings would be two names for the kernel.
ConnectionId Parse(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, kPrefix) || name.size() != kDigits) return ConnectionId();
  const bool digits = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
  });
  if (!digits) return ConnectionId();
  const std::string decoded = absl::HexStringToBytes(name);
  std::array<char, kTokenSize> bytes;
  std::copy(decoded.begin(), decoded.end(), bytes.begin());
  return ConnectionId(bytes);
}

using AddressFunction = int (*)(int, sockaddr*, socklen_t*);

ConnectionId Ask(AddressFunction function, BorrowedFd socket) {
  sockaddr_un address{};
  socklen_t length = sizeof(address);
  constexpr socklen_t kNameAt = offsetof(sockaddr_un, sun_path) + 1;
  if (function(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      address.sun_family != AF_UNIX || length <= kNameAt || length > sizeof(address) ||
      address.sun_path[0] != '\0') {
    return ConnectionId();
  }
  return Parse(absl::string_view(address.sun_path + 1, length - kNameAt));
}

}  // namespace

std::string NameOf(const ConnectionId& id) {
  return absl::StrCat(
      kPrefix, absl::BytesToHexString(absl::string_view(id.bytes().data(), id.bytes().size())));
}

bool NameSocket(BorrowedFd socket, const ConnectionId& id) {
  sockaddr_un address{};
  socklen_t length = sizeof(address);
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      address.sun_family != AF_UNIX || length > offsetof(sockaddr_un, sun_path)) {
    return false;
  }
  const std::string name = NameOf(id);
  memcpy(address.sun_path + 1, name.data(), name.size());
  address.sun_path[0] = '\0';
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0;
}

ConnectionId IdOfSocket(BorrowedFd socket) { return Ask(&::getsockname, socket); }

ConnectionId IdOfPeer(BorrowedFd socket) { return Ask(&::getpeername, socket); }

ConnectionId IdInPeerName(absl::string_view peer) {
  return absl::ConsumePrefix(&peer, kPeerScheme) ? Parse(peer) : ConnectionId();
}

}  // namespace internal
}  // namespace grpcfd
