// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// All of grpcfd except grpcfd/coroutine.h, which needs C++20, and grpcfd/testing/..., which is in
// the library grpcfd::testing.
#ifndef GRPCFD_GRPCFD_H_
#define GRPCFD_GRPCFD_H_

#include "grpcfd/borrowed_fd.h"       // IWYU pragma: export
#include "grpcfd/client.h"            // IWYU pragma: export
#include "grpcfd/credentials.h"       // IWYU pragma: export
#include "grpcfd/deadline.h"          // IWYU pragma: export
#include "grpcfd/event_queue.h"       // IWYU pragma: export
#include "grpcfd/fd_channel.h"        // IWYU pragma: export
#include "grpcfd/fd_server.h"         // IWYU pragma: export
#include "grpcfd/fd_session.h"        // IWYU pragma: export
#include "grpcfd/fd_store.h"          // IWYU pragma: export
#include "grpcfd/fd_transceiver.h"    // IWYU pragma: export
#include "grpcfd/forward.h"           // IWYU pragma: export
#include "grpcfd/in_band.h"           // IWYU pragma: export
#include "grpcfd/in_process.h"        // IWYU pragma: export
#include "grpcfd/inode_url.h"         // IWYU pragma: export
#include "grpcfd/limits.h"            // IWYU pragma: export
#include "grpcfd/log.h"               // IWYU pragma: export
#include "grpcfd/mapped_memory.h"     // IWYU pragma: export
#include "grpcfd/message.h"           // IWYU pragma: export
#include "grpcfd/peer_credentials.h"  // IWYU pragma: export
#include "grpcfd/receive_policy.h"    // IWYU pragma: export
#include "grpcfd/server.h"            // IWYU pragma: export
#include "grpcfd/stats.h"             // IWYU pragma: export
#include "grpcfd/status.h"            // IWYU pragma: export
#include "grpcfd/status_macros.h"     // IWYU pragma: export
#include "grpcfd/unique_fd.h"         // IWYU pragma: export

#endif  // GRPCFD_GRPCFD_H_
