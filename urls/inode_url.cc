// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Parsing and printing of inode URLs, and the way from a descriptor or a path to its URL.
//
// The parser is written out instead of built on a general URL parser: the language is four tokens,
// and what it refuses matters more than what it accepts. A URL that two programs read differently
// would let one of them check a descriptor and the other take a different one. So percent escapes,
// user names, ports and signs are refused wherever they could change a number, and every input
// accepted here means the same to Go's net/url.
#include "grpcfd/inode_url.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "urls/statx.h"

namespace grpcfd {
namespace {

constexpr char kScheme[] = "inode://";

// Bounds what an error message repeats. Messages end up in gRPC trailers, which share 8 KiB with
// everything else, and the input may be of any size.
constexpr size_t kMaxQuoted = 256;

std::string Quote(absl::string_view text) {
  if (text.size() <= kMaxQuoted) return absl::StrCat("\"", absl::CEscape(text), "\"");
  return absl::StrCat("\"", absl::CEscape(text.substr(0, kMaxQuoted)), "\"... (", text.size(),
                      " bytes)");
}

absl::Status Malformed(const std::string& url, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("not an inode URL: ", Quote(url), ": expected ", expected,
                   "; the form is inode://{dev}/{ino}[?fd={index}|?session={index}]"));
}

// Decimal digits, nothing else, at most `max`. absl::SimpleAtoi would also take signs and blanks.
bool ParseDecimal(absl::string_view text, uint64_t max, uint64_t* value) {
  if (text.empty()) return false;
  uint64_t result = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    const uint64_t digit = static_cast<uint64_t>(c - '0');
    if (result > (max - digit) / 10) return false;
    result = result * 10 + digit;
  }
  *value = result;
  return true;
}

// Cuts `*text` at the first `separator` and returns what was before it. `*found` says whether there
// was one; if not, `*text` is empty afterwards.
absl::string_view CutAt(absl::string_view* text, char separator, bool* found) {
  const size_t position = text->find(separator);
  *found = position != absl::string_view::npos;
  const absl::string_view head = text->substr(0, position);
  *text = *found ? text->substr(position + 1) : absl::string_view();
  return head;
}

// Reads the decimal digits at `*at`, which a byte that is none ends. False if there is no digit, or
// if they may be more than 64 bits hold.
bool ReadDigits(const char** at, uint64_t* value) {
  constexpr ptrdiff_t kSafe = std::numeric_limits<uint64_t>::digits10;
  const char* const begin = *at;
  const char* end = begin;
  uint64_t result = 0;
  for (unsigned digit; (digit = static_cast<unsigned>(*end) - unsigned{'0'}) <= 9; ++end) {
    result = result * 10 + digit;
  }
  *at = end;
  *value = result;
  return end != begin && end - begin <= kSafe;
}

// Passes `text`, if it is at `*at`.
template <size_t Size>
bool Pass(const char (&text)[Size], const char* end, const char** at) {
  constexpr size_t kLength = Size - 1;
  if (static_cast<size_t>(end - *at) < kLength || memcmp(*at, text, kLength) != 0) return false;
  *at += kLength;
  return true;
}

// The form that ToString() writes, which is all that most programs ever see, in one pass: for each
// descriptor of a call a URL is parsed. False, with nothing said about `url`, for all else.
bool ParseUsual(const std::string& url, DevIno* dev_ino, bool* of_session, uint64_t* index,
                bool* has_index) {
  // The string ends with a NUL, which ends digits too.
  const char* at = url.c_str();
  const char* const end = at + url.size();
  if (!Pass(kScheme, end, &at) || !ReadDigits(&at, &dev_ino->dev) || !Pass("/", end, &at) ||
      !ReadDigits(&at, &dev_ino->ino)) {
    return false;
  }
  *has_index = at != end;
  if (at == end) return true;
  *of_session = false;
  if (!Pass("?fd=", end, &at)) {
    if (!Pass("?session=", end, &at)) return false;
    *of_session = true;
  }
  return ReadDigits(&at, index) && at == end && *index <= std::numeric_limits<uint32_t>::max();
}

bool HasBadPercentEscape(absl::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') continue;
    if (i + 2 >= text.size()) return true;
    if (!absl::ascii_isxdigit(text[i + 1]) || !absl::ascii_isxdigit(text[i + 2])) return true;
  }
  return false;
}

// Whether `url` has blanks or control characters. They are not allowed, not even in the
// parts that are ignored: a newline in a URL forges lines in whatever log it is printed to.
bool HasBlankOrControl(const std::string& url) {
  return std::any_of(url.begin(), url.end(),
                     [](char c) { return absl::ascii_isspace(c) || absl::ascii_iscntrl(c); });
}

// Cuts off the scheme, and the fragment and the query with what introduces them. In the order of
// RFC 3986: the fragment goes first, so that a `?` in it means nothing.
absl::Status CutParts(const std::string& url, absl::string_view* rest, bool* has_query,
                      absl::string_view* query) {
  *rest = url;
  if (!absl::StartsWithIgnoreCase(*rest, kScheme)) {
    return Malformed(url, "it to begin with inode://");
  }
  rest->remove_prefix(sizeof(kScheme) - 1);
  bool has_fragment = false;
  absl::string_view fragment = *rest;
  *rest = CutAt(&fragment, '#', &has_fragment);
  if (HasBadPercentEscape(fragment)) {
    return Malformed(url, "two hexadecimal digits after each % of the fragment");
  }
  *query = *rest;
  *rest = CutAt(query, '?', has_query);
  return absl::OkStatus();
}

// "{dev}/{ino}".
absl::Status ParseDevIno(const std::string& url, absl::string_view text, DevIno* dev_ino) {
  constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();
  bool has_slash = false;
  const absl::string_view dev_text = CutAt(&text, '/', &has_slash);
  if (!ParseDecimal(dev_text, kMax64, &dev_ino->dev)) {
    return Malformed(url, absl::StrCat("the device in decimal digits after inode://, at most ",
                                       kMax64, ", not ", Quote(dev_text)));
  }
  if (!has_slash) return Malformed(url, "a / and the inode number after the device");
  if (!ParseDecimal(text, kMax64, &dev_ino->ino)) {
    return Malformed(
        url, absl::StrCat("the inode in decimal digits after the device and one /, at most ",
                          kMax64, ", not ", Quote(text)));
  }
  return absl::OkStatus();
}

// The errors of a path that are the caller's to correct. absl::ErrnoToStatus calls some of them
// FAILED_PRECONDITION, which reads as if a retry could help.
absl::Status PathError(int error, const std::string& path) {
  const std::string message = absl::StrCat("statx of path ", Quote(path));
  switch (error) {
    case ELOOP:
    case ENAMETOOLONG:
    case ENOTDIR:
      return absl::InvalidArgumentError(absl::ErrnoToStatus(error, message).message());
    default:
      return absl::ErrnoToStatus(error, message);
  }
}

}  // namespace

absl::StatusOr<InodeUrl> InodeUrl::Parse(const std::string& url) {
  DevIno usual;
  bool of_session = false;
  bool has_index = false;
  uint64_t usual_index = 0;
  if (ParseUsual(url, &usual, &of_session, &usual_index, &has_index)) {
    const auto index = static_cast<uint32_t>(usual_index);
    if (!has_index) return InodeUrl(usual);
    return of_session ? ForSession(usual, index) : InodeUrl(usual, index);
  }
  if (HasBlankOrControl(url)) return Malformed(url, "no blank and no control character");
  absl::string_view rest, query;
  bool has_query = false;
  absl::Status status = CutParts(url, &rest, &has_query, &query);
  if (!status.ok()) return status;
  DevIno dev_ino;
  status = ParseDevIno(url, rest, &dev_ino);
  if (!status.ok()) return status;

  InodeUrl result(dev_ino);
  bool has_value = false;
  while (has_query) {
    const absl::string_view parameter = CutAt(&query, '&', &has_query);
    absl::string_view value = parameter;
    const absl::string_view name = CutAt(&value, '=', &has_value);
    if (name != "fd" && name != "session") continue;
    // Two indices would be read as the first by one program and as the last by another.
    if (result.has_index()) return Malformed(url, "at most one fd or session parameter");
    constexpr uint64_t kMax32 = std::numeric_limits<uint32_t>::max();
    uint64_t index = 0;
    if (!ParseDecimal(value, kMax32, &index)) {
      return Malformed(url, absl::StrCat("the index in decimal digits after ", name, "=, at most ",
                                         kMax32, ", not ", Quote(value)));
    }
    (name == "fd" ? result.index_ : result.session_index_) = static_cast<uint32_t>(index);
  }
  return result;
}

std::string InodeUrl::ToString() const {
  // One string and no copies in between: a call prints a URL for each of its descriptors.
  constexpr size_t kDigits64 = std::numeric_limits<uint64_t>::digits10 + 1;
  constexpr size_t kTexts = sizeof(kScheme) + sizeof("/?session=");
  // Numbers end before the last kTexts, which nothing reaches then: what compilers want to see.
  std::array<char, kTexts + 3 * kDigits64 + kTexts> buffer;
  char* at = buffer.data();
  const auto number = [&at, end = buffer.data() + buffer.size() - kTexts](uint64_t value) {
    at = std::to_chars(at, end, value).ptr;
  };
  const auto text = [&at](absl::string_view piece) {
    memcpy(at, piece.data(), piece.size());
    at += piece.size();
  };
  text(kScheme);
  number(dev_ino_.dev);
  text("/");
  number(dev_ino_.ino);
  if (index_.has_value()) {
    text("?fd=");
    number(*index_);
  } else if (session_index_.has_value()) {
    text("?session=");
    number(*session_index_);
  }
  return std::string(buffer.data(), static_cast<size_t>(at - buffer.data()));
}

absl::StatusOr<DevIno> FdToDevIno(BorrowedFd fd) {
  // Checked here because the kernel would not refuse every negative number: AT_FDCWD is -100, and
  // with an empty path it means the working directory (statx(2)).
  if (!fd.valid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected an open descriptor, got the number ", fd.get()));
  }
  DevIno dev_ino;
  const int error = internal::StatxDevIno(fd.get(), "", AT_EMPTY_PATH, &dev_ino);
  if (error == EBADF) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected an open descriptor, but number ", fd.get(), " is closed"));
  }
  if (error != 0) {
    return absl::ErrnoToStatus(error, absl::StrCat("statx of descriptor ", fd.get()));
  }
  return dev_ino;
}

absl::StatusOr<InodeUrl> FdToUrl(BorrowedFd fd) {
  const absl::StatusOr<DevIno> dev_ino = FdToDevIno(fd);
  if (!dev_ino.ok()) return dev_ino.status();
  return InodeUrl(*dev_ino);
}

absl::StatusOr<InodeUrl> FilenameToUrl(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("expected the path of a file, got none");
  // The kernel would stop at the NUL and look at another file than the one that was asked for.
  if (path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected the path of a file, got one with a NUL byte in it: ", Quote(path)));
  }
  DevIno dev_ino;
  const int error = internal::StatxDevIno(AT_FDCWD, path.c_str(), 0, &dev_ino);
  if (error != 0) return PathError(error, path);
  return InodeUrl(dev_ino);
}

DevIno UrlToDevIno(const InodeUrl& url) { return url.dev_ino(); }

absl::StatusOr<DevIno> UrlStringToDevIno(const std::string& url) {
  const absl::StatusOr<InodeUrl> parsed = InodeUrl::Parse(url);
  if (!parsed.ok()) return parsed.status();
  return parsed->dev_ino();
}

}  // namespace grpcfd
