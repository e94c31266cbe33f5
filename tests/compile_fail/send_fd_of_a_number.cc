// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Must not compile, and say what to write instead.
#include "grpcfd/fd_transceiver.h"

absl::StatusOr<grpcfd::InodeUrl> Send(grpcfd::FdSender& sender) { return sender.SendFd(3); }
