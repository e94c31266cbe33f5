// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/socket_address.h"

#include <stddef.h>
#include <string.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {
namespace {

constexpr char kPathScheme[] = "unix:";
constexpr char kAbstractScheme[] = "unix-abstract:";

absl::Status Refuse(const std::string& target, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("socket address \"", absl::CHexEscape(target), "\": ", what,
                   "; expected unix:path, unix:///absolute/path or unix-abstract:name"));
}

bool IsHexDigit(char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); }

// `%41` is `A`; a per cent sign that no two hexadecimal digits follow stands for itself. That is
// what gRPC does to targets, and both connections must reach the same socket.
std::string PercentDecode(const std::string& in) {
  std::string out;
  out.reserve(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == '%' && in.size() - i > 2 && IsHexDigit(in[i + 1]) && IsHexDigit(in[i + 2])) {
      uint32_t byte = 0;
      (void)absl::SimpleHexAtoi(absl::string_view(in).substr(i + 1, 2), &byte);  // They are digits.
      out += static_cast<char>(byte);
      i += 2;
      continue;
    }
    out.push_back(in[i]);
  }
  return out;
}

// The inverse, for what Parse() would not take as it is, or a terminal not print.
std::string PercentEncode(const std::string& in) {
  std::string out;
  out.reserve(in.size());
  for (const char& c : in) {
    if (c == '%' || c == '?' || c == '#' || absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      absl::StrAppend(&out, "%", absl::BytesToHexString(absl::string_view(&c, 1)));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<SocketAddress> SocketAddress::Parse(const std::string& target) {
  Kind kind = Kind::kPath;
  std::string name;
  if (absl::StartsWith(target, kPathScheme)) {
    name = target.substr(sizeof(kPathScheme) - 1);
  } else if (absl::StartsWith(target, kAbstractScheme)) {
    kind = Kind::kAbstract;
    name = target.substr(sizeof(kAbstractScheme) - 1);
  } else {
    return absl::FailedPreconditionError(
        absl::StrCat("target \"", absl::CHexEscape(target),
                     "\" is not a unix socket; descriptors never leave "
                     "the host: expected unix:path, unix:///absolute/path or unix-abstract:name"));
  }
  // gRPC's client reads a target as a URI and cuts these off, its server takes them as part of the
  // name: the two would not meet.
  if (name.find_first_of("?#") != std::string::npos) {
    return Refuse(target, "'?' and '#' must be written %3F and %23");
  }
  if (absl::StartsWith(name, "//")) {
    if (kind == Kind::kAbstract) {
      return Refuse(target, "an abstract name has no authority, so it cannot start with \"//\"");
    }
    name.erase(0, 2);
    if (!name.empty() && name[0] != '/') {
      return Refuse(target, "an authority between unix:// and the path is not allowed");
    }
  }
  name = PercentDecode(name);
  // gRPC's client takes the decoded name apart at each comma, for a list of addresses.
  if (name.find(',') != std::string::npos) {
    return Refuse(target,
                  "a name cannot contain a comma, where gRPC ends an address: choose another");
  }
  if (name.empty()) return Refuse(target, "the name is empty");
  if (name.size() > kMaxLength) {
    return Refuse(target,
                  absl::StrCat("a name has at most ", kMaxLength, " bytes, got ", name.size()));
  }
  if (kind == Kind::kPath && name.find('\0') != std::string::npos) {
    return Refuse(target, "a path cannot contain a NUL byte");
  }
  return SocketAddress(kind, std::move(name));
}

absl::StatusOr<SocketAddress> SocketAddress::ParseTarget(const std::string& target) {
  if (IsUnixTarget(target) && PercentDecode(target).find(',') != std::string::npos) {
    return absl::FailedPreconditionError(absl::StrCat(
        "target \"", absl::CHexEscape(target),
        "\" names several addresses, for gRPC ends one at each comma; which of them a call goes to "
        "is not known when its descriptors are sent: make a channel for each address"));
  }
  return Parse(target);
}

bool SocketAddress::IsUnixTarget(const std::string& target) {
  return absl::StartsWith(target, kPathScheme) || absl::StartsWith(target, kAbstractScheme);
}

std::string SocketAddress::ToString() const {
  const char* scheme = kAbstractScheme;
  if (kind_ == Kind::kPath) {
    // A path that itself starts with two slashes would read as an authority.
    scheme = absl::StartsWith(name_, "//") ? "unix://" : kPathScheme;
  }
  return absl::StrCat(scheme, PercentEncode(name_));
}

socklen_t SocketAddress::ToSockaddr(sockaddr_un* out) const {
  memset(out, 0, sizeof(*out));
  out->sun_family = AF_UNIX;
  const size_t lead = kind_ == Kind::kAbstract ? 1 : 0;  // An abstract name follows a NUL byte.
  memcpy(out->sun_path + lead, name_.data(), name_.size());
  // Abstract names are counted, so a trailing NUL would be part of the name; a path ends with one
  // (unix(7)).
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_.size() + 1);
}

}  // namespace internal
}  // namespace grpcfd
