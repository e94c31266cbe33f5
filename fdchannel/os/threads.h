// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// StartThread, JoinOrLeave: the two ways in which a background thread of this library begins and
// ends.
#ifndef GRPCFD_FDCHANNEL_OS_THREADS_H_
#define GRPCFD_FDCHANNEL_OS_THREADS_H_

#include <functional>
#include <thread>

namespace grpcfd {
namespace internal {

// A thread with all signals blocked (the application's handlers run on the application's threads)
// and a name of at most 15 bytes, as `ps -L` and debuggers show it. Not joinable if the system has
// no thread to give (RLIMIT_NPROC, pids.max): `body` is gone then, and will not run.
std::thread StartThread(const char* name, std::function<void()> body);

// Joins `thread`, if it is one. Called on a thread that StartThread made, the very same one (an
// application's callback dropped the last reference to the object that owns it) or another, it must
// not wait: two such threads that drop each other's objects would wait for each other. The thread
// is let go then, and ends by itself as soon as it has nothing left to do. Its body must therefore
// own all it touches.
void JoinOrLeave(std::thread* thread);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_OS_THREADS_H_
