// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "inband/connection.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace grpcfd {
namespace internal {
namespace {

// Edge-triggered: a side that is held back is not reported again and again, and costs no system
// call to be left alone. EPOLLOUT is asked for only while there is something to write: otherwise
// each read of the other end would wake this thread.
constexpr uint32_t kWatch = EPOLLIN | EPOLLRDHUP | EPOLLET;
// Buffers that are moved before other connections get their turn.
constexpr int kTurns = 8;
// Bytes of the stream that pay for a descriptor. See InBandOptions::max_fds_burst.
constexpr size_t kBytesPerFd = 8;
// What was moved on is left in the kernel up to this (LazySocket), and descriptors to be closed are
// handed on in such numbers. Each has the price of waking a thread.
constexpr size_t kMaxUnsettled = 2048;
constexpr size_t kCloseTogether = 16;
constexpr absl::Duration kTidyInterval = absl::Milliseconds(5);
// The pause after a send failed for a shortage whose end is not reported.
constexpr absl::Duration kRetryInterval = absl::Milliseconds(10);

// Identifies the other end, for messages. A client does not ask its server.
std::string PeerOf(const InBandPeer& peer) {
  if (peer.credentials.uid == static_cast<uid_t>(-1)) return "the server";
  return absl::StrCat("pid ", peer.credentials.pid, ", uid ", peer.credentials.uid);
}

absl::Status Ended(const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("the connection of the call is gone (", why, "): a new call gets a new one"));
}

}  // namespace

// --- InBandPeer ---

void InBandPeer::ReceiveAsync(const DevIno& dev_ino, ReceivedFds::Caller* caller,
                              absl::Time deadline, ReceivedFds::FdCallback done) {
  const uint64_t id = next_waiter_.fetch_add(1, std::memory_order_relaxed);
  absl::StatusOr<UniqueFd> result;
  if (received.ReceiveAsync(dev_ino, caller, id, &done, &result)) return done(std::move(result));
  received.SetTimer(id, thread_->poller->RunAt(deadline, [weak = weak_from_this(), id] {
    if (auto self = weak.lock()) self->received.Expire(id);
  }));
}

void InBandPeer::Close(FdVector fds) {
  if (fds.empty()) return;
  thread_->reaper->Lane(credentials.uid)->Close(std::move(fds), /*after=*/nullptr);
}

void InBandPeer::SetLimit(size_t max_fds) {
  FdVector closing;
  received.SetLimit(max_fds, &closing);
  queue.SetLimit(max_fds, &closing);
  Close(std::move(closing));
}

// --- Connection ---

void Connection::Start() {
  if (ended_) return;
  for (Socket* socket : {&outer_, &inner_}) {
    auto id = thread_->poller->Add(
        socket->fd, kWatch,
        [self = shared_from_this(), socket](uint32_t events) { self->OnEvents(socket, events); });
    if (!id.ok()) return End(id.status());
    socket->registration = *id;
  }
}

void Connection::OnEvents(Socket* socket, uint32_t events) {
  // A reference of its own: End() removes the one that the poller has.
  const auto self = shared_from_this();
  if (ended_) return;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) socket->readable = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) socket->hung_up = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) socket->writable = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    // Nobody will read what is written there. What was written *here* before is still to be read.
    Direction& broken = socket == &outer_ ? out_ : in_;
    broken.closed = true;
    broken.pending.clear();
    broken.written = 0;
    StartLinger();
  }
  Pump();
}

void Connection::Pump() {
  bool more = true;
  for (int turn = 0; turn < kTurns && more && !ended_; ++turn) {
    more = Step(&in_);
    if (!ended_) more |= Step(&out_);
  }
  if (ended_) return;
  TidyUpInTime();
  if (in_.closed && out_.closed) return End(Ended("it was closed"));
  WatchForRoom(&inner_, !in_.pending.empty());
  WatchForRoom(&outer_, !out_.pending.empty() && retry_timer_ == 0);
  if (more && !pump_posted_) {
    pump_posted_ = true;
    thread_->poller->Post([self = shared_from_this()] {
      self->pump_posted_ = false;
      if (!self->ended_) self->Pump();
    });
  }
}

bool Connection::Step(Direction* direction) {
  if (direction->closed) return false;
  const bool inbound = direction == &in_;
  if (!direction->pending.empty()) {
    const char* const data = direction->pending.data() + direction->written;
    const size_t size = direction->pending.size() - direction->written;
    if (!direction->to->writable) return false;
    direction->written += inbound ? WriteInner(data, size) : WriteOuter(data, size);
    if (ended_ || direction->closed) return false;
    if (direction->written < direction->pending.size()) return false;
    // Gives the memory back: most connections are idle most of the time.
    std::string().swap(direction->pending);
    direction->written = 0;
  }
  size_t size = 0;
  if (!direction->end_read && direction->from->readable) {
    size = inbound ? ReadOuter() : ReadInner();
    if (ended_) return false;
  }
  if (size != 0) {
    const char* const data = thread_->buffer.data();
    const size_t written = inbound ? WriteInner(data, size) : WriteOuter(data, size);
    if (ended_ || direction->closed) return false;
    if (written < size) {
      direction->pending.assign(data + written, size - written);
      return false;
    }
  }
  if (direction->end_read) {
    // Everything before it has been written.
    ::shutdown(direction->to->fd.get(), SHUT_WR);
    direction->closed = true;
    return false;
  }
  return direction->from->readable && size != 0;
}

size_t Connection::ReadOuter() {
  std::vector<char>& buffer = thread_->buffer;
  size_t size = 0;
  // A read ends behind each byte that has a descriptor. Several go to gRPC in one write.
  while (size < buffer.size() && outer_.readable) {
    if (TooManyUnclosed()) {
      // Closing takes its time (a network file system, say). When it is done, the reaper comes
      // back.
      unclosed_->awaited = true;
      if (TooManyUnclosed()) break;
      unclosed_->awaited = false;  // Meanwhile.
    }
    ReceivedMessage message;
    const size_t room = buffer.size() - size;
    const IoResult io = ReceiveMessage(outer_.fd, buffer.data() + size, room, &message);
    if (io.would_block()) {
      outer_.readable = false;
      break;
    }
    if (!io.ok() || (message.size == 0 && message.fds.empty())) {
      // A reset (the peer closed without reading everything) ends the stream as well.
      in_.end_read = true;
      outer_.readable = false;
      break;
    }
    size += message.size;
    flood_ -= std::min(flood_, message.size);
    if (!message.fds.empty()) {
      Count(&thread_->counters->fds_received, message.fds.size());
      flood_ += kBytesPerFd * message.fds.size();
      peer_->received.Keep(std::move(message.fds), &closing_);
      if (flood_ > kBytesPerFd * options_.max_fds_burst) {
        Count(&thread_->counters->cut_flood);
        End(absl::ResourceExhaustedError(absl::StrFormat(
            "the connection was cut: %s sent more than max_fds_burst = %d descriptors beyond one "
            "for each %d bytes (InBandOptions): raise it if that was meant",
            PeerOf(*peer_), options_.max_fds_burst, kBytesPerFd)));
        return 0;
      }
    } else if (message.size < room) {
      // Drained; what comes from now on is a new event (epoll(7)). After a hang-up there is none,
      // and the end has to be read.
      outer_.readable = outer_.hung_up;
    }
    if (message.control_truncated) {
      // It is not known which one is missing.
      Count(&thread_->counters->cut_truncated);
      End(absl::ResourceExhaustedError(
          absl::StrCat("the connection was cut: a descriptor of ", PeerOf(*peer_),
                       " was lost on the way in (this process is at RLIMIT_NOFILE: raise it; or a "
                       "security module refused it)")));
      return 0;
    }
  }
  return size;
}

size_t Connection::ReadInner() {
  std::vector<char>& buffer = thread_->buffer;
  const IoResult io = inner_stream_.Receive(buffer.data(), buffer.size());
  if (io.ok() && io.bytes > 0) {
    if (io.bytes < buffer.size()) inner_.readable = inner_.hung_up;
    return io.bytes;
  }
  inner_.readable = false;
  if (!io.would_block()) out_.end_read = true;
  return 0;
}

size_t Connection::WriteInner(const char* data, size_t size) {
  const IoResult io = SendMessage(inner_.fd, absl::MakeConstSpan(data, size), {});
  if (io.ok()) {
    if (io.bytes < size) inner_.writable = false;
    return io.bytes;
  }
  inner_.writable = false;
  if (!io.would_block()) in_.closed = true;  // gRPC has closed its end.
  return 0;
}

size_t Connection::WriteOuter(const char* data, size_t size) {
  size_t written = 0;
  while (written < size && outer_.writable && !ended_ && !out_.closed) {
    // Looked at after the bytes were read: what is queued from here on belongs to later bytes.
    bool is_last = true;
    if (leaving_ == nullptr) leaving_ = peer_->queue.Pop();
    if (leaving_ != nullptr) is_last = peer_->queue.empty();
    // One byte for each descriptor but the last, which takes all the rest along. It is one system
    // call less, and wakes the peer once instead of twice.
    written += SendOuter(data + written, is_last ? size - written : 1);
  }
  return written;
}

size_t Connection::SendOuter(const char* data, size_t size) {
  const int number = leaving_ == nullptr ? -1 : leaving_->get();
  const IoResult io = SendMessage(outer_.fd, absl::MakeConstSpan(data, size),
                                  absl::MakeConstSpan(&number, leaving_ == nullptr ? 0 : 1));
  if (io.ok()) {
    if (leaving_ != nullptr) {
      // Gone, also if not all bytes are: it went with the first of them.
      Count(&thread_->counters->fds_sent);
      peer_->queue.Done(std::move(leaving_), &closing_);
      leaving_ = nullptr;
    }
    retry_until_ = MonotonicTime::InfiniteFuture();
    if (io.bytes < size) outer_.writable = false;
    return io.bytes;
  }
  switch (io.error) {
    case EAGAIN:
      outer_.writable = false;
      break;
    case ETOOMANYREFS:
    case ENOBUFS:
    case ENOMEM:
      // The kernel counts descriptors in flight for each user; they may be other connections'. The
      // bytes wait too: a descriptor must not come after the call that it is for.
      RetryLater(io.error);
      break;
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
      out_.closed = true;  // The peer is gone. What it wrote before is still read.
      break;
    default:
      if (leaving_ == nullptr) {
        out_.closed = true;
        break;
      }
      Count(&thread_->counters->cut_unsendable);
      End(absl::FailedPreconditionError(
          absl::StrCat("the connection was cut: a descriptor could not be sent to ", PeerOf(*peer_),
                       " (sendmsg: ", strerror(io.error),
                       "); EPERM: the peer takes none (a server must listen with Wire::kInBand or "
                       "kBoth); EINVAL: of a kind that the kernel does not pass")));
  }
  return 0;
}

void Connection::WatchForRoom(Socket* socket, bool wanted) {
  if (socket->wants_out == wanted) return;
  socket->wants_out = wanted;
  // Reports at once if there is room by now.
  thread_->poller->Modify(socket->registration, wanted ? kWatch | EPOLLOUT : kWatch);
}

void Connection::RetryLater(int error) {
  const MonotonicTime now = MonotonicTime::Now();
  if (retry_until_ == MonotonicTime::InfiniteFuture()) retry_until_ = now + options_.linger;
  if (now >= retry_until_) {
    Count(&thread_->counters->cut_unsendable);
    return End(absl::ResourceExhaustedError(
        absl::StrCat("the connection was cut: the kernel took no descriptor for ", PeerOf(*peer_),
                     " from this user for ", absl::FormatDuration(options_.linger),
                     " (sendmsg: ", strerror(error),
                     "): too many are in flight; raise RLIMIT_NOFILE, or end peers that do not "
                     "read")));
  }
  outer_.writable = false;
  if (retry_timer_ != 0) return;
  retry_timer_ = thread_->poller->RunAfter(kRetryInterval, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || self->ended_) return;
    self->retry_timer_ = 0;
    self->outer_.writable = true;
    self->Pump();
  });
}

void Connection::StartLinger() {
  if (linger_timer_ != 0) return;
  linger_timer_ = thread_->poller->RunAfter(options_.linger, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || self->ended_) return;
    self->linger_timer_ = 0;
    self->End(Ended("one side closed it, and the other did not take the rest in time"));
  });
}

void Connection::TidyUpInTime() {
  const size_t unsettled = inner_stream_.unsettled();
  if (unsettled == 0 && closing_.empty()) return;
  if (unsettled > kMaxUnsettled || closing_.size() >= kCloseTogether || TooManyUnclosed()) {
    return TidyUp();
  }
  if (untidy_) return;
  untidy_ = true;
  if (thread_->untidy.empty()) {
    itimerspec once{};
    once.it_value = absl::ToTimespec(kTidyInterval);
    ::timerfd_settime(thread_->tidy_timer.get(), /*flags=*/0, &once, nullptr);
  }
  thread_->untidy.push_back(weak_from_this());
}

void Connection::TidyUp() {
  untidy_ = false;
  if (ended_) return;
  inner_stream_.Settle();
  if (!closing_.empty()) CloseLater(std::exchange(closing_, {}));
}

void Connection::Finish(const absl::Status& status) {
  const auto self = shared_from_this();
  if (ended_) return;
  inner_.readable = true;
  for (int turn = 0; turn < kTurns && Step(&out_); ++turn) {
  }
  End(status);
}

void Connection::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  const auto self = shared_from_this();
  for (Socket* socket : {&outer_, &inner_}) {
    if (socket->registration != 0) thread_->poller->Remove(socket->registration);
  }
  for (Poller::Id timer : {linger_timer_, retry_timer_}) {
    if (timer != 0) thread_->poller->CancelTimer(timer);
  }
  FdVector closing = peer_->queue.End(status);
  if (leaving_ != nullptr) {
    Count(&thread_->counters->fds_unsent);
    peer_->queue.Done(std::move(leaving_), &closing);
  }
  for (UniqueFd& fd : closing_) closing.push_back(std::move(fd));
  closing_.clear();
  peer_->Close(std::move(closing));
  // Before the end can be noticed by the sockets: later requests are told why.
  peer_->received.End(status);
  CloseOuter();
  inner_stream_.Close();
  if (on_end_) std::exchange(on_end_, nullptr)();
}

void Connection::CloseOuter() {
  if (!outer_stream_.valid()) return;
  // The peer is to see the end now, and can send nothing from here on, so what the kernel says next
  // stays true.
  ::shutdown(outer_stream_.get(), SHUT_RDWR);
  if (NothingUnread(outer_stream_)) {
    // As nearly always. Not for the reaper, which may be busy: a peer that keeps it so is not to
    // have everybody's sockets wait there.
    return outer_stream_.Reset();
  }
  // Unread bytes may have descriptors, which go with the socket.
  FdVector closing;
  closing.push_back(std::move(outer_stream_));
  peer_->Close(std::move(closing));
}

bool Connection::TooManyUnclosed() const {
  return unclosed_->count + closing_.size() > options_.max_fds_per_connection;
}

void Connection::CloseLater(FdVector fds) {
  const size_t count = fds.size();
  unclosed_->count += count;
  thread_->reaper->Lane(peer_->credentials.uid)
      ->Close(std::move(fds),
              [weak = weak_from_this(), unclosed = unclosed_, count, thread = thread_] {
                unclosed->count -= count;
                if (!unclosed->awaited.exchange(false)) return;
                thread->poller->Post([weak] {
                  const auto self = weak.lock();
                  if (self != nullptr && !self->ended_) self->Pump();
                });
              });
}

}  // namespace internal
}  // namespace grpcfd
