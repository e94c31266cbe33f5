// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// EventQueue: brings the results of RecvFdAsync to the thread of the program's own event loop.
//
// A callback of RecvFdAsync runs on whichever thread learns of the descriptor: one of grpcfd's, or
// the caller's. A program that is built around a loop (epoll(7), poll(2), libuv, GLib, Qt) wants it
// on the loop's thread, where its state needs no lock. Such a loop can watch a descriptor that
// becomes readable, and this is that descriptor.
//
//   absl::StatusOr<std::unique_ptr<grpcfd::EventQueue>> queue = grpcfd::EventQueue::Create();
//   epoll_event event = {EPOLLIN, {}};
//   epoll_ctl(loop, EPOLL_CTL_ADD, (*queue)->fd(), &event);
//   ...
//   fds->RecvFdAsync(url, (*queue)->Wrap([](absl::StatusOr<grpcfd::UniqueFd> memory) { ... }));
//   ...
//   (*queue)->Process();  // When epoll_wait(2) says that fd() is readable.
//
// Do not read or close fd(), and remove it from an epoll set before the queue goes. Both level- and
// edge-triggered loops may watch it. Callbacks run one after another on the thread that called
// Process(), so one must not wait for what another brings.
#ifndef GRPCFD_EVENT_QUEUE_H_
#define GRPCFD_EVENT_QUEUE_H_

#include <stddef.h>

#include <memory>

#include "absl/status/statusor.h"
#include "grpcfd/fd_transceiver.h"

namespace grpcfd {

// Thread-safe: callbacks may be wrapped on any thread, and results come from any. Process() is
// meant for one thread; if several call it, each result is still processed once.
class EventQueue {
 public:
  // Costs one descriptor, an eventfd. RESOURCE_EXHAUSTED if it cannot be had (RLIMIT_NOFILE, or the
  // kernel is out of memory).
  static absl::StatusOr<std::unique_ptr<EventQueue>> Create();

  // Results that were not processed are dropped, and their descriptors closed here; so are those
  // that come later. Their callbacks are destroyed without having run. May be called by a callback
  // that Process() runs.
  ~EventQueue();
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;

  // Readable (POLLIN, EPOLLIN) when Process() has something to do. Close-on-exec and non-blocking;
  // stays the queue's. Readable with nothing to do is possible, and harmless.
  int fd() const;

  // Runs the callbacks whose results are here, in the order in which the results came, on this
  // thread, and returns how many. Never waits. Results that come while it runs are left for the
  // next call, and make fd() readable again, so that callbacks which ask for more cannot starve the
  // loop. An exception of a callback passes through; what was not run then is run by the next call.
  size_t Process();

  // A callback for RecvFdAsync that puts the result here, whichever thread brings it; `callback`
  // gets it in Process(). What Wrap() returns may outlive the queue: it closes the descriptor then.
  // Never blocks.
  FdReceiver::FdCallback Wrap(FdReceiver::FdCallback callback);

 private:
  struct State;

  explicit EventQueue(std::shared_ptr<State> state);

  const std::shared_ptr<State> state_;
};

}  // namespace grpcfd

#endif  // GRPCFD_EVENT_QUEUE_H_
