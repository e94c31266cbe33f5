// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attach, Take, AttachAll, TakeAll: descriptors in protobuf messages whose schema says where they
// are.
//
// A field of type grpcfd.v1.Descriptor says in the schema that a descriptor belongs to it, and a
// whole message can be taken at once, nested, repeated and map fields included, or not at all.
// Fields that hold *paths* (option grpcfd.v1.descriptor_path) become descriptors on the way and
// paths again at the other end.
//     GRPCFD_ASSIGN_OR_RETURN(*request.mutable_memory(), grpcfd::Attach(*fds, memory));  // Client.
//     GRPCFD_ASSIGN_OR_RETURN(auto memory, grpcfd::Take(*fds, request->memory()));       // Server.
//
//  * AttachAll opens files with the rights of *this* process. Call it on messages that you filled
//    in, never on one that came from somebody else. It opens only marked fields, and TakeAll opens
//    nothing.
//  * These functions do not look into a google.protobuf.Any, because its bytes say nothing to code
//    that does not know its type. Unpack it, and then call them on the message that was in it.
//  * A path /proc/self/fd/N is valid only in this process. TakeAll puts such paths into fields;
//    each of them is valid only while the descriptor is open, so keep the TakenFds that TakeAll
//    returned.
//
// Messages may be generated or dynamic (google::protobuf::DynamicMessage). All functions may be
// called from any thread; a message or a TakenFds needs the caller's own synchronisation, as usual.
// In the library grpcfd::messages, which grpcfd::grpcfd brings along, and which needs no gRPC by
// itself.
#ifndef GRPCFD_MESSAGE_H_
#define GRPCFD_MESSAGE_H_

#include <fcntl.h>
#include <google/protobuf/message.h>
#include <stddef.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcfd/borrowed_fd.h"
#include "grpcfd/deadline.h"
#include "grpcfd/fd_transceiver.h"
#include "grpcfd/inode_url.h"
#include "grpcfd/unique_fd.h"
#include "grpcfd/v1/descriptor.pb.h"  // IWYU pragma: export

namespace grpcfd {

namespace internal {
class TakeAllOperation;
}  // namespace internal

// Sends a duplicate of `fd`, or `fd` itself, and returns what names it in a message. Errors as
// FdSender::SendFd.
absl::StatusOr<v1::Descriptor> Attach(FdSender& sender, BorrowedFd fd);
absl::StatusOr<v1::Descriptor> Attach(FdSender& sender, UniqueFd&& fd);

// The same into `out`, of which only the URL changes; label, offset and size are left as they are.
// After an error `out` is unchanged.
absl::Status Attach(FdSender& sender, BorrowedFd fd, v1::Descriptor* out);
absl::Status Attach(FdSender& sender, UniqueFd&& fd, v1::Descriptor* out);

// Takes the descriptor that `descriptor` names. Errors as FdReceiver::RecvFd; INVALID_ARGUMENT also
// if it names none. Several Descriptors may name the same descriptor: only the first Take gets it,
// so use TakeAll for them.
absl::StatusOr<UniqueFd> Take(FdReceiver& receiver, const v1::Descriptor& descriptor,
                              Deadline deadline = Deadline::Infinite());

// Opens what the marked fields of `message` name, sends the descriptors, and replaces each path by
// the inode URL of its descriptor. Marked are string fields with the option
// (grpcfd.v1.descriptor_path) = true, repeated ones and the values of map<..., string> too.
//   file:///path  opened with the open(2) flags `file_flags`. O_PATH, the default, gives the peer a
//                 handle that cannot be read or written, but can be opened through its
//                 /proc/self/fd path as far as the *peer's* own rights allow. Flags that open
//                 really (O_RDONLY) give it *this* process's right.
//   unix:///path  an O_PATH handle of the socket file, to which the peer can connect.
// Symbolic links are followed. As in URLs elsewhere, %20 stands for a blank, and %3F, %23 and %25
// for ?, # and %. Values that are empty or of another scheme (an inode URL, say) are left alone.
// Descriptors of type grpcfd.v1.Descriptor are Attach()'s business, and left alone too.
//
// All or nothing for the message: after an error it is unchanged, nothing stays open, and the
// status names the field. Everything is opened before the first descriptor is sent; those that were
// sent before a later one failed to be go with the call, as sending cannot be undone, and are
// closed with it.
//   INVALID_ARGUMENT   not an absolute path without host (file://host/x, file://x), a bad percent
//                      escape, a unix: path that is not a socket, an option on a field that is
//                      not a string, messages nested more than 100 deep, or more than 4096 names
//   others             as open(2) says (NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED at
//                      RLIMIT_NOFILE), or FdSender::SendFd (the call's limit of descriptors)
absl::Status AttachAll(FdSender& sender, google::protobuf::Message* message,
                       int file_flags = O_PATH);

// What TakeAll took, by where it is named in the message. Closes what is still in it.
//
// Fields are named by their path: `memory`, `planes[1].memory`, `by_name["left"].memory` (keys as
// in C and cut to 64 bytes, `by_id[7]` for numbers), `[package.extension]`. A grpcfd.v1.Descriptor
// can be given itself instead. Both of a copy and of the message that was walked, the descriptor
// with the same URL is meant; only where a message names several descriptors by one URL without
// index does the Descriptor have to be the one that was walked.
//
// Several fields may name one descriptor, if its URL has an index: then each of them gets a
// duplicate, and the last one the descriptor. Nothing is duplicated before that, so a peer cannot
// multiply what it sent.
//
// Thread-compatible.
class TakenFds {
 public:
  TakenFds() = default;
  TakenFds(TakenFds&&) = default;
  TakenFds& operator=(TakenFds&&) = default;

  // How many fields named a descriptor, and their paths in the order of the message.
  size_t size() const { return names_.size(); }
  std::vector<std::string> paths() const;

  // A view of the descriptor, which stays here. NOT_FOUND if the field named none;
  // FAILED_PRECONDITION if it was taken out, or if an URL without index means several.
  absl::StatusOr<BorrowedFd> Get(const v1::Descriptor& descriptor) const;
  absl::StatusOr<BorrowedFd> Get(const std::string& path) const;

  // Takes it out. Errors as Get, and RESOURCE_EXHAUSTED if a duplicate is needed at RLIMIT_NOFILE.
  // A /proc/self/fd path that TakeAll wrote stays right as long as the descriptor is open, unless a
  // duplicate was returned.
  absl::StatusOr<UniqueFd> Take(const v1::Descriptor& descriptor);
  absl::StatusOr<UniqueFd> Take(const std::string& path);

 private:
  friend class internal::TakeAllOperation;
  struct Held {
    InodeUrl url;
    UniqueFd fd;
    size_t users = 0;  // Fields that name it and have not taken it out.
  };
  struct Name {
    std::string path;
    const google::protobuf::Message* address = nullptr;  // Only compared.
    size_t held = 0;
    bool taken = false;
  };

  absl::StatusOr<size_t> Find(const v1::Descriptor& descriptor) const;
  absl::StatusOr<size_t> Find(const std::string& path) const;
  absl::StatusOr<UniqueFd> TakeName(size_t index);

  std::vector<Held> held_;
  std::vector<Name> names_;
};

// Takes every descriptor that `message` names: those of all grpcfd.v1.Descriptor with a URL, and of
// all marked string fields with an inode URL. Only what is set counts, so of a oneof its one
// member.
//
// The form with a pointer also replaces each marked field's inode URL by a path,
// file:///proc/self/fd/N or, for socket files, unix:///proc/self/fd/N, which is good for open(2)
// and connect(2) while the returned TakenFds holds the descriptor.
//
// All or nothing: after an error everything taken is closed (it cannot be taken again), the message
// is unchanged, and the status names the field.
//   INVALID_ARGUMENT   a URL cannot be parsed; a marked field holds a file: or unix: path, which a
//                      peer must not name here (it could be one of this process's
//                      /proc/self/fd); it claims to be a socket and is not one; an option on a
//                      field that is not a string; messages are nested more than 100 deep, or there
//                      are more than 4096 names
//   others             as FdReceiver::RecvFd; `deadline` is for all of them together
// How many descriptors that can be is bounded by what the call brought.
absl::StatusOr<TakenFds> TakeAll(FdReceiver& receiver, const google::protobuf::Message& message,
                                 Deadline deadline = Deadline::Infinite());
absl::StatusOr<TakenFds> TakeAll(FdReceiver& receiver, google::protobuf::Message* message,
                                 Deadline deadline = Deadline::Infinite());

}  // namespace grpcfd

#endif  // GRPCFD_MESSAGE_H_
