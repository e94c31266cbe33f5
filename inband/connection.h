// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// InBandPeer: what the calls of one relayed connection share. Connection: its two sockets and the
// bytes in between.
//
// The outer socket leads to the peer, and descriptors come and go with its bytes. The inner one
// leads to gRPC in this process, and carries only bytes.
//
// Invariants:
//
// A descriptor is kept before gRPC gets the byte that it came with, or any later byte. So a call
// finds what it names without waiting, though nothing says which call a descriptor is for.
//
// What was queued before gRPC wrote some bytes leaves before the last of them, if there is a byte
// for each. The queue is read after the bytes, never before.
//
// One sendmsg(2) carries one descriptor: a peer that reads with room for few descriptors loses
// none. If sendmsg(2) sends less than asked, the descriptor went with the first byte.
//
// Nothing blocks. If one side does not read, the other side is not read either.
#ifndef GRPCFD_INBAND_CONNECTION_H_
#define GRPCFD_INBAND_CONNECTION_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "fdchannel/os/clock.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/connection_id.h"
#include "fdchannel/os/poller.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/session/counters.h"
#include "grpcfd/in_band.h"
#include "grpcfd/peer_credentials.h"
#include "grpcfd/unique_fd.h"
#include "inband/lazy_socket.h"
#include "inband/received_fds.h"
#include "inband/send_queue.h"

namespace grpcfd {
namespace internal {

class Connection;

// One thread of a relay. All but the first three is used by that thread only.
struct RelayThread {
  std::shared_ptr<Poller> poller;
  std::shared_ptr<Reaper> reaper;
  std::shared_ptr<InBandCounters> counters;
  std::vector<char> buffer;

  // Connections to be tidied up when `tidy_timer` (a timerfd) expires. Not a timer of the poller's:
  // with one of those, each epoll_wait(2) arms and disarms a timer of the kernel's, which in a
  // virtual machine costs more than the messages in between.
  UniqueFd tidy_timer;
  std::vector<std::weak_ptr<Connection>> untidy;
};

// Thread-safe. Calls keep it: what came before the connection ended can be had as long as one of
// them is there.
class InBandPeer : public std::enable_shared_from_this<InBandPeer> {
 public:
  InBandPeer(std::shared_ptr<RelayThread> thread, const InBandOptions& options, size_t max_fds,
             PeerCredentials peer_credentials, absl::Status refused)
      : received(max_fds, thread->counters, thread->poller),
        queue(options.max_queued_fds, max_fds, thread->counters),
        credentials(std::move(peer_credentials)),
        refusal(std::move(refused)),
        thread_(std::move(thread)) {}
  ~InBandPeer() { Close(received.TakeAll()); }
  InBandPeer(const InBandPeer&) = delete;
  InBandPeer& operator=(const InBandPeer&) = delete;

  // As RecvFdAsync: `done` once, here if the outcome is at hand, else on the relay's thread.
  void ReceiveAsync(const DevIno& dev_ino, ReceivedFds::Caller* caller, absl::Time deadline,
                    ReceivedFds::FdCallback done);
  // Closes on a thread that may wait for the close.
  void Close(FdVector fds);
  void SetLimit(size_t max_fds);
  InBandCounters& counters() const { return *thread_->counters; }

  ReceivedFds received;
  SendQueue queue;
  // Who connected, for servers.
  const PeerCredentials credentials;
  // Why its calls must not use descriptors.
  const absl::Status refusal;
  // The name of the connection, if it has one. Written before the first call.
  ConnectionId connection;

 private:
  const std::shared_ptr<RelayThread> thread_;
  std::atomic<uint64_t> next_waiter_{1};
};

// All methods on the relay's thread, but for the constructor.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // Non-blocking stream sockets: to the peer, and to gRPC.
  struct Sockets {
    UniqueFd outer;
    UniqueFd inner;
  };
  // `on_end` is called once, when the connection is over.
  Connection(std::shared_ptr<RelayThread> thread, std::shared_ptr<InBandPeer> peer, Sockets sockets,
             const InBandOptions& options, std::function<void()> on_end)
      : thread_(std::move(thread)),
        peer_(std::move(peer)),
        options_(options),
        on_end_(std::move(on_end)),
        outer_stream_(std::move(sockets.outer)),
        inner_stream_(std::move(sockets.inner)),
        outer_(outer_stream_),
        inner_(inner_stream_.fd()) {
    Count(&thread_->counters->connections_now);
    TakeOutOfBandInline(outer_.fd);
  }
  ~Connection() {
    CloseOuter();  // End() has, unless it never started.
    thread_->counters->connections_now.fetch_sub(1, std::memory_order_relaxed);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void Start();
  // Moves what can be moved at once, then ends the connection.
  void Finish(const absl::Status& status);
  // Does the work that is not needed for each message.
  void TidyUp();

 private:
  struct Socket {
    explicit Socket(BorrowedFd borrowed) : fd(borrowed) {}

    const BorrowedFd fd;
    Poller::Id registration = 0;
    bool readable = true;
    bool writable = true;
    bool hung_up = false;    // No event will report the end: read until it comes.
    bool wants_out = false;  // Registered for EPOLLOUT.
  };
  // Bytes from one socket to the other.
  struct Direction {
    Socket* from;
    Socket* to;
    std::string pending;  // Read, not written.
    size_t written = 0;   // Of `pending`.
    bool end_read = false;
    bool closed = false;  // Nothing moves any more, and `to` has been told.
  };

  // What the reaper has not closed yet, and whether reading waits for it.
  struct Unclosed {
    std::atomic<size_t> count{0};
    std::atomic<bool> awaited{false};
  };

  void OnEvents(Socket* socket, uint32_t events);
  void Pump();
  // False when there is nothing more to do for now.
  bool Step(Direction* direction);
  size_t ReadOuter();
  size_t ReadInner();
  // Returns how many of the bytes were written.
  size_t WriteInner(const char* data, size_t size);
  size_t WriteOuter(const char* data, size_t size);
  // One sendmsg(2), with the descriptor that is leaving, if any.
  size_t SendOuter(const char* data, size_t size);
  void WatchForRoom(Socket* socket, bool wanted);
  void RetryLater(int error);
  void StartLinger();
  // At once if it is much, else soon.
  void TidyUpInTime();
  void End(const absl::Status& status);
  // Where nobody waits for it, if it may hold descriptors: closing those can block.
  void CloseOuter();
  bool TooManyUnclosed() const;
  void CloseLater(FdVector fds);

  const std::shared_ptr<RelayThread> thread_;
  const std::shared_ptr<InBandPeer> peer_;
  const InBandOptions options_;
  std::function<void()> on_end_;
  UniqueFd outer_stream_;
  LazySocket inner_stream_;
  Socket outer_;
  Socket inner_;
  Direction in_{&outer_, &inner_, {}, 0, false, false};
  Direction out_{&inner_, &outer_, {}, 0, false, false};
  SendQueue::SharedFd leaving_;  // Taken from the queue, not sent yet.
  size_t flood_ = 0;             // Bytes that are owed for descriptors.
  const std::shared_ptr<Unclosed> unclosed_ = std::make_shared<Unclosed>();
  FdVector closing_;  // To be handed on when the bytes have moved.
  Poller::Id linger_timer_ = 0;
  Poller::Id retry_timer_ = 0;
  MonotonicTime retry_until_ = MonotonicTime::InfiniteFuture();
  bool pump_posted_ = false;
  bool untidy_ = false;  // Listed with the thread.
  bool ended_ = false;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INBAND_CONNECTION_H_
