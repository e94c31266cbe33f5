// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/client/handshake.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace internal {
namespace {

bool IsSessionSocket(const UniqueFd& fd) {
  int domain = 0, type = 0;
  socklen_t size = sizeof(int);
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
         ::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0 && domain == AF_UNIX &&
         type == SOCK_SEQPACKET;
}

}  // namespace

Handshake::~Handshake() {
  Unwatch();
  // What a server should not have sent, read or not: closing it may block.
  if (socket_.valid()) fds_.push_back(std::move(socket_));
  if (const size_t count = fds_.size(); count != 0) {
    room_->Keep(count);
    reaper_->Close(std::move(fds_), [room = room_, count] { room->Closed(count); });
  }
}

void Handshake::Unwatch() {
  if (registration_ != 0) poller_->Remove(std::exchange(registration_, 0));
  if (timer_ != 0) poller_->CancelTimer(std::exchange(timer_, 0));
}

void Handshake::Finish(Outcome outcome) {
  const std::shared_ptr<Handshake> self = shared_from_this();  // `done` may drop it.
  Unwatch();
  const Done done = std::move(done_);
  done_ = nullptr;
  if (done) done(std::move(outcome));
}

void Handshake::Fail(absl::Status status, bool may_pass) {
  Outcome outcome;
  outcome.status = std::move(status);
  outcome.may_pass = may_pass;
  Finish(std::move(outcome));
}

void Handshake::Start(const sockaddr_un& address, socklen_t length, const Hello& hello,
                      absl::Duration timeout, Done done) {
  done_ = std::move(done);
  socket_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_.valid()) {
    return Fail(absl::ResourceExhaustedError(
                    absl::StrCat("no socket to connect to ", name_, " with: ", strerror(errno),
                                 "; raise this process's RLIMIT_NOFILE, or close some")),
                /*may_pass=*/false);
  }
  TakeOutOfBandInline(socket_);
  int result;
  do {
    result = ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    Outcome outcome;
    outcome.backlog_full = errno == EAGAIN;
    outcome.may_pass = true;
    outcome.status =
        absl::UnavailableError(absl::StrCat("cannot connect to ", name_, ": ", strerror(errno)));
    return Finish(std::move(outcome));
  }
  EncodeHello(hello, &hello_);
  if (!SendHello()) return;
  auto id = poller_->Add(socket_, Events(), [weak = weak_from_this()](uint32_t) {
    if (auto self = weak.lock()) self->OnEvent();
  });
  // The status is replaced: the caller did nothing wrong, and a socket can be watched.
  if (!id.ok()) return Fail(absl::ResourceExhaustedError(id.status().message()), false);
  registration_ = *id;
  timer_ = poller_->RunAfter(timeout, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (self == nullptr) return;
    self->timer_ = 0;
    self->Fail(absl::UnavailableError(absl::StrCat(
                   self->name_, " did not answer the hello in time (connect_timeout)")),
               /*may_pass=*/true);
  });
}

uint32_t Handshake::Events() const {
  return EPOLLIN | EPOLLRDHUP | (sent_ < hello_.size() ? static_cast<uint32_t>(EPOLLOUT) : 0u);
}

// False if it has failed. What the socket does not take goes later.
bool Handshake::SendHello() {
  while (sent_ < hello_.size()) {
    const IoResult sent = SendMessage(socket_, absl::MakeConstSpan(hello_).subspan(sent_), {});
    if (sent.would_block()) return true;
    if (!sent.ok()) {
      Fail(absl::UnavailableError(
               absl::StrCat("cannot send a hello to ", name_, ": ", strerror(sent.error))),
           /*may_pass=*/true);
      return false;
    }
    sent_ += sent.bytes;
  }
  return true;
}

void Handshake::OnEvent() {
  if (!done_) return;
  if (sent_ < hello_.size()) {
    if (!SendHello()) return;
    poller_->Modify(registration_, Events());
  }
  OnReply();
}

void Handshake::OnReply() {
  ReceivedMessage message;
  const IoResult io =
      ReceiveMessage(socket_, reply_.data() + received_, reply_.size() - received_, &message);
  for (UniqueFd& fd : message.fds) fds_.push_back(std::move(fd));
  if (!io.ok()) {
    if (io.would_block()) return;
    return Fail(
        absl::UnavailableError(absl::StrCat(name_, " broke the hello off: ", strerror(io.error))),
        /*may_pass=*/true);
  }
  // Not later: a server could send 253 with each byte.
  if (fds_.size() > 1) {
    return Fail(absl::InternalError(absl::StrCat(name_, " answered the hello with ", fds_.size(),
                                                 " descriptors instead of one")),
                /*may_pass=*/false);
  }
  if (message.control_truncated) {
    return Fail(absl::ResourceExhaustedError(
                    absl::StrCat("the socket of the session with ", name_,
                                 " could not be received: this process is at its RLIMIT_NOFILE; "
                                 "raise it, or close some descriptors")),
                /*may_pass=*/false);
  }
  if (message.size == 0) {
    return Fail(
        absl::UnavailableError(absl::StrCat(
            name_,
            " closed the connection during the hello: it is shutting down, or no grpcfd server")),
        /*may_pass=*/true);
  }
  received_ += message.size;
  const size_t compared = std::min(received_, kMagicSize);
  if (memcmp(reply_.data(), kHelloReplyMagic, compared) != 0) {
    return Fail(
        absl::FailedPreconditionError(absl::StrCat(
            "the server at ", name_,
            " is not a grpcfd server (grpcfd::AddListeningPort): it answers a hello with \"",
            absl::CEscape(std::string(reply_.data(), compared)), "\"")),
        /*may_pass=*/false);
  }
  if (received_ < reply_.size()) return;
  auto reply = DecodeHelloReply(reply_);
  if (!reply.ok()) {
    return Fail(
        absl::Status(reply.status().code(), absl::StrCat(name_, ": ", reply.status().message())),
        /*may_pass=*/false);
  }
  Finish(Judge(name_, *reply, &fds_));
}

Handshake::Outcome Handshake::Judge(const std::string& name, const HelloReply& reply,
                                    FdVector* fds) {
  Outcome outcome;
  outcome.reply = reply;
  if (reply.status != HelloStatus::kOk) {
    const absl::Status refused = HelloStatusToStatus(reply);
    outcome.status = absl::Status(refused.code(), absl::StrCat(name, ": ", refused.message()));
    outcome.may_pass = absl::IsUnavailable(refused);
    return outcome;
  }
  // Anything else would be taken for a session that cannot be used and never ends.
  if (fds->empty() || !IsSessionSocket((*fds)[0])) {
    outcome.status = absl::InternalError(
        absl::StrCat(name, " answered the hello ", fds->empty() ? "without" : "with something else",
                     fds->empty() ? "" : " than", " the session's SOCK_SEQPACKET unix socket"));
    return outcome;
  }
  if (reply.version < kMinVersion || reply.version > kMaxVersion) {
    outcome.status = absl::InternalError(
        absl::StrCat(name, " chose protocol version ", reply.version, ", which was not offered"));
    return outcome;
  }
  outcome.session = std::move((*fds)[0]);
  fds->clear();
  return outcome;
}

}  // namespace internal
}  // namespace grpcfd
