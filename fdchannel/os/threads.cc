// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/os/threads.h"

#include <pthread.h>
#include <signal.h>

#include <string>
#include <system_error>
#include <utility>

namespace grpcfd {
namespace internal {
namespace {

// Whether StartThread made the thread that asks.
thread_local bool made_here = false;

}  // namespace

std::thread StartThread(const char* name, std::function<void()> body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  // Each thread names itself: for another's name glibc opens a file in /proc, which is not
  // close-on-exec, and a program that is executed at that moment inherits it.
  std::thread thread;
  try {
    thread = std::thread([name = std::string(name), body = std::move(body)] {
      pthread_setname_np(pthread_self(), name.c_str());
      made_here = true;
      body();
    });
  } catch (const std::system_error&) {
    // EAGAIN. What peers do can lead here, so no caller is to be unwound.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

void JoinOrLeave(std::thread* thread) {
  if (!thread->joinable()) return;
  if (made_here) {
    thread->detach();
  } else {
    thread->join();
  }
}

}  // namespace internal
}  // namespace grpcfd
