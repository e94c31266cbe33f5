// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/message.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "fdchannel/fds/send_file.h"
#include "messages/walk.h"

namespace grpcfd {
namespace {

using google::protobuf::Message;
using internal::At;
using internal::Found;

// Bounds what an error message repeats of a field.
constexpr size_t kMaxQuoted = 256;

enum class Scheme { kOther, kFile, kUnix };

// The schemes' names, and the query parameter of inode URLs that keeps them. Parsers of inode URLs,
// Go's too, ignore it.
constexpr char kFileName[] = "file";
constexpr char kUnixName[] = "unix";
constexpr char kParameter[] = "scheme=";

Scheme SchemeOf(absl::string_view url) {
  if (absl::StartsWithIgnoreCase(url, "file:")) return Scheme::kFile;
  if (absl::StartsWithIgnoreCase(url, "unix:")) return Scheme::kUnix;
  return Scheme::kOther;
}

const char* Name(Scheme scheme) { return scheme == Scheme::kUnix ? kUnixName : kFileName; }

std::string Quote(absl::string_view text) {
  if (text.size() <= kMaxQuoted) return absl::StrCat("\"", absl::CEscape(text), "\"");
  return absl::StrCat("\"", absl::CEscape(text.substr(0, kMaxQuoted)), "\"...");
}

// The path of a file: or unix: URL.
absl::StatusOr<std::string> PathOf(absl::string_view url) {
  const auto malformed = [&url](const char* expected) {
    return absl::InvalidArgumentError(absl::StrCat("cannot open ", Quote(url), ": expected ",
                                                   expected,
                                                   "; the form is file:///absolute/path or "
                                                   "unix:///absolute/path"));
  };
  absl::string_view rest = url.substr(url.find(':') + 1);
  if (!absl::StartsWith(rest, "///")) return malformed("three slashes after the scheme");
  rest.remove_prefix(2);
  std::string path;
  path.reserve(rest.size());
  for (size_t i = 0; i < rest.size(); ++i) {
    if (rest[i] == '?' || rest[i] == '#') return malformed("%3F and %23 for ? and #");
    if (rest[i] != '%') {
      path += rest[i];
      continue;
    }
    if (rest.size() - i < 3 || !absl::ascii_isxdigit(rest[i + 1]) ||
        !absl::ascii_isxdigit(rest[i + 2])) {
      return malformed("two hexadecimal digits after each %");
    }
    uint32_t byte = 0;
    (void)absl::SimpleHexAtoi(rest.substr(i + 1, 2), &byte);  // They are digits.
    path += static_cast<char>(byte);
    i += 2;
  }
  return path;
}

absl::StatusOr<bool> IsSocket(BorrowedFd fd) {
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, "fstat");
  }
  return S_ISSOCK(status.st_mode);
}

absl::StatusOr<UniqueFd> Open(const std::string& url, Scheme scheme, int file_flags) {
  const absl::StatusOr<std::string> path = PathOf(url);
  if (!path.ok()) return path.status();
  // A socket can be opened in no other way (open(2), ENXIO); connect(2) needs no more.
  absl::StatusOr<UniqueFd> fd =
      internal::OpenForSending(*path, scheme == Scheme::kUnix ? O_PATH : file_flags);
  if (!fd.ok() || scheme != Scheme::kUnix) return fd;
  const absl::StatusOr<bool> is_socket = IsSocket(*fd);
  if (!is_socket.ok()) return is_socket.status();
  if (!*is_socket) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot send ", Quote(url), ": it is not a socket; other files are file://"));
  }
  return fd;
}

// The value of kParameter in an inode URL's query; empty if there is none.
absl::string_view ParameterOf(absl::string_view url) {
  url = url.substr(0, url.find('#'));
  size_t position = url.find('?');
  while (position != absl::string_view::npos) {
    url.remove_prefix(position + 1);
    position = url.find('&');
    const absl::string_view parameter = url.substr(0, position);
    if (absl::StartsWith(parameter, kParameter)) return parameter.substr(strlen(kParameter));
  }
  return absl::string_view();
}

// What to call the received descriptor of a marked field. Without a parameter, as in URLs from
// programs that know of none, the descriptor itself decides.
absl::StatusOr<std::string> ProcPath(const std::string& url, BorrowedFd fd) {
  const absl::StatusOr<bool> is_socket = IsSocket(fd);
  if (!is_socket.ok()) return is_socket.status();
  const absl::string_view name = ParameterOf(url);
  if (!name.empty() && name != kFileName && name != kUnixName) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quote(url), ": expected scheme=file or scheme=unix"));
  }
  if (name == kUnixName && !*is_socket) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quote(url), " is said to be a socket, but what came is none"));
  }
  const bool is_unix = name.empty() ? *is_socket : name == kUnixName;
  return absl::StrCat(is_unix ? kUnixName : kFileName, ":///proc/self/fd/", fd.get());
}

}  // namespace

// --- One descriptor ---

absl::Status Attach(FdSender& sender, BorrowedFd fd, v1::Descriptor* out) {
  const absl::StatusOr<InodeUrl> url = sender.SendFd(fd);
  if (!url.ok()) return url.status();
  out->set_url(url->ToString());
  return absl::OkStatus();
}

absl::Status Attach(FdSender& sender, UniqueFd&& fd, v1::Descriptor* out) {
  const absl::StatusOr<InodeUrl> url = sender.SendFd(std::move(fd));
  if (!url.ok()) return url.status();
  out->set_url(url->ToString());
  return absl::OkStatus();
}

absl::StatusOr<v1::Descriptor> Attach(FdSender& sender, BorrowedFd fd) {
  v1::Descriptor descriptor;
  absl::Status status = Attach(sender, fd, &descriptor);
  if (!status.ok()) return status;
  return descriptor;
}

absl::StatusOr<v1::Descriptor> Attach(FdSender& sender, UniqueFd&& fd) {
  v1::Descriptor descriptor;
  absl::Status status = Attach(sender, std::move(fd), &descriptor);
  if (!status.ok()) return status;
  return descriptor;
}

absl::StatusOr<UniqueFd> Take(FdReceiver& receiver, const v1::Descriptor& descriptor,
                              Deadline deadline) {
  if (descriptor.url().empty()) {
    return absl::InvalidArgumentError(
        "the grpcfd.v1.Descriptor names no descriptor: its url is empty");
  }
  return receiver.RecvFd(descriptor.url(), deadline);
}

// --- Sending what a message names ---

absl::Status AttachAll(FdSender& sender, Message* message, int file_flags) {
  const absl::StatusOr<std::vector<Found>> all = internal::Walk(*message);
  if (!all.ok()) return all.status();
  struct Opened {
    const Found* found;
    Scheme scheme;
    UniqueFd fd;
    std::string url;
  };
  std::vector<Opened> opened;
  for (const Found& found : *all) {
    if (found.descriptor != nullptr) continue;
    const Scheme scheme = SchemeOf(found.value);
    if (scheme == Scheme::kOther) continue;
    absl::StatusOr<UniqueFd> fd = Open(found.value, scheme, file_flags);
    if (!fd.ok()) return At(found, fd.status());
    opened.push_back(Opened{&found, scheme, *std::move(fd), ""});
  }
  for (Opened& each : opened) {
    const absl::StatusOr<InodeUrl> url = sender.SendFd(std::move(each.fd));
    if (!url.ok()) return At(*each.found, url.status());
    each.url =
        absl::StrCat(url->ToString(), url->has_index() ? "&" : "?", kParameter, Name(each.scheme));
  }
  for (const Opened& each : opened) internal::Replace(message, *each.found, each.url);
  return absl::OkStatus();
}

// --- Taking what a message names ---

namespace internal {

class TakeAllOperation {
 public:
  TakeAllOperation(FdReceiver* receiver, absl::Time deadline)
      : receiver_(receiver), deadline_(deadline) {}

  // `paths`: work out what to replace the marked fields by, too.
  absl::Status Run(const Message& message, bool paths) {
    absl::StatusOr<std::vector<Found>> all = internal::Walk(message);
    if (!all.ok()) return all.status();
    // All that can be refused without taking anything comes first.
    for (Found& found : *all) {
      absl::Status status = Check(std::move(found));
      if (!status.ok()) return status;
    }
    for (size_t i = 0; i < found_.size(); ++i) {
      const absl::Status status = TakeOne(found_[i], urls_[i]);
      if (!status.ok()) return At(found_[i], status);
    }
    for (size_t i = 0; paths && i < found_.size(); ++i) {
      paths_.emplace_back();
      if (found_[i].descriptor != nullptr) continue;
      absl::StatusOr<std::string> path =
          ProcPath(found_[i].value, taken_.held_[taken_.names_[i].held].fd);
      if (!path.ok()) return At(found_[i], path.status());
      paths_.back() = *std::move(path);
    }
    return absl::OkStatus();
  }

  void WritePaths(Message* message) const {
    for (size_t i = 0; i < found_.size(); ++i) {
      if (!paths_[i].empty()) internal::Replace(message, found_[i], paths_[i]);
    }
  }

  TakenFds Result() { return std::move(taken_); }

 private:
  absl::Status Check(Found found) {
    if (found.descriptor == nullptr) {
      if (SchemeOf(found.value) != Scheme::kOther) {
        return At(found, absl::InvalidArgumentError(absl::StrCat(
                             "expected an inode URL, got ", Quote(found.value),
                             ": a received message must not name a path; the sender calls "
                             "AttachAll, which sends the descriptor")));
      }
      // Other schemes are left alone, as AttachAll does.
      if (!absl::StartsWithIgnoreCase(found.value, "inode:")) return absl::OkStatus();
    }
    absl::StatusOr<InodeUrl> url = InodeUrl::Parse(found.value);
    if (!url.ok()) return At(found, url.status());
    found_.push_back(std::move(found));
    urls_.push_back(*std::move(url));
    return absl::OkStatus();
  }

  absl::Status TakeOne(const Found& found, const InodeUrl& url) {
    std::vector<TakenFds::Held>& held = taken_.held_;
    size_t index = held.size();
    // Without an index it means another one each time.
    if (url.has_index()) {
      index = static_cast<size_t>(
          std::find_if(held.begin(), held.end(),
                       [&url](const TakenFds::Held& each) { return each.url == url; }) -
          held.begin());
    }
    if (index == held.size()) {
      absl::StatusOr<UniqueFd> fd = receiver_->RecvFd(url, deadline_);
      if (!fd.ok()) return fd.status();
      held.push_back(TakenFds::Held{url, *std::move(fd), 0});
    }
    ++held[index].users;
    taken_.names_.push_back(TakenFds::Name{found.path, found.descriptor, index, false});
    return absl::OkStatus();
  }

  FdReceiver* const receiver_;
  const absl::Time deadline_;
  std::vector<Found> found_;
  std::vector<InodeUrl> urls_;      // Of found_.
  std::vector<std::string> paths_;  // For found_; empty where there is nothing to replace.
  TakenFds taken_;                  // Its names are those of found_.
};

}  // namespace internal

absl::StatusOr<TakenFds> TakeAll(FdReceiver& receiver, const Message& message, Deadline deadline) {
  internal::TakeAllOperation operation(&receiver, deadline.time());
  const absl::Status status = operation.Run(message, /*paths=*/false);
  if (!status.ok()) return status;
  return operation.Result();
}

absl::StatusOr<TakenFds> TakeAll(FdReceiver& receiver, Message* message, Deadline deadline) {
  internal::TakeAllOperation operation(&receiver, deadline.time());
  const absl::Status status = operation.Run(*message, /*paths=*/true);
  if (!status.ok()) return status;
  operation.WritePaths(message);
  return operation.Result();
}

// --- What was taken ---

std::vector<std::string> TakenFds::paths() const {
  std::vector<std::string> paths;
  paths.reserve(names_.size());
  for (const Name& name : names_) paths.push_back(name.path);
  return paths;
}

absl::StatusOr<size_t> TakenFds::Find(const std::string& path) const {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i].path == path) return i;
  }
  return absl::NotFoundError(
      absl::StrCat("no field ", Quote(path), " of the message named a descriptor"));
}

absl::StatusOr<size_t> TakenFds::Find(const v1::Descriptor& descriptor) const {
  if (descriptor.url().empty()) {
    return absl::NotFoundError("the grpcfd.v1.Descriptor names no descriptor: its url is empty");
  }
  const absl::StatusOr<InodeUrl> url = InodeUrl::Parse(descriptor.url());
  if (!url.ok()) return url.status();
  size_t first = names_.size();
  bool several = false;
  for (size_t i = 0; i < names_.size(); ++i) {
    const Name& name = names_[i];
    if (held_[name.held].url != *url) continue;
    if (name.address == &descriptor) return i;
    // Fields that name one descriptor can stand in for each other: the first that has not had it.
    if (first == names_.size() || (names_[first].taken && names_[first].held == name.held)) {
      first = i;
    }
    several = several || names_[first].held != name.held;
  }
  if (first == names_.size()) {
    return absl::NotFoundError(absl::StrCat(
        url->ToString(), " was named by no grpcfd.v1.Descriptor of the message that was walked"));
  }
  if (several) {
    return absl::FailedPreconditionError(
        absl::StrCat("the message named several descriptors by ", url->ToString(),
                     ", which has no index, and this grpcfd.v1.Descriptor is a copy: ask by the "
                     "path of the field"));
  }
  return first;
}

absl::StatusOr<UniqueFd> TakenFds::TakeName(size_t index) {
  Name& name = names_[index];
  Held& held = held_[name.held];
  if (name.taken) {
    return absl::FailedPreconditionError(
        absl::StrCat("the descriptor of ", Quote(name.path), " was taken out before"));
  }
  if (held.users > 1) {
    absl::StatusOr<UniqueFd> copy = BorrowedFd(held.fd).Dup();
    if (!copy.ok()) return copy.status();
    name.taken = true;
    --held.users;
    return copy;
  }
  name.taken = true;
  held.users = 0;
  return std::move(held.fd);
}

absl::StatusOr<BorrowedFd> TakenFds::Get(const std::string& path) const {
  const absl::StatusOr<size_t> index = Find(path);
  if (!index.ok()) return index.status();
  if (names_[*index].taken) {
    return absl::FailedPreconditionError(
        absl::StrCat("the descriptor of ", Quote(path), " was taken out before"));
  }
  return BorrowedFd(held_[names_[*index].held].fd);
}

absl::StatusOr<BorrowedFd> TakenFds::Get(const v1::Descriptor& descriptor) const {
  const absl::StatusOr<size_t> index = Find(descriptor);
  if (!index.ok()) return index.status();
  if (names_[*index].taken) {
    return absl::FailedPreconditionError(
        absl::StrCat("the descriptor of ", descriptor.url(), " was taken out before"));
  }
  return BorrowedFd(held_[names_[*index].held].fd);
}

absl::StatusOr<UniqueFd> TakenFds::Take(const std::string& path) {
  const absl::StatusOr<size_t> index = Find(path);
  if (!index.ok()) return index.status();
  return TakeName(*index);
}

absl::StatusOr<UniqueFd> TakenFds::Take(const v1::Descriptor& descriptor) {
  const absl::StatusOr<size_t> index = Find(descriptor);
  if (!index.ok()) return index.status();
  return TakeName(*index);
}

}  // namespace grpcfd
