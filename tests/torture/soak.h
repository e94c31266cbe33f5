// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Row 26: many clients and threads on one server for a long time, with faults of all kinds among
// the calls. Without gRPC, so that ThreadSanitizer can judge it (soak_test.cc).
#ifndef GRPCFD_TESTS_TORTURE_SOAK_H_
#define GRPCFD_TESTS_TORTURE_SOAK_H_

#include <stdint.h>

namespace grpcfd {
namespace torture {

struct SoakOptions {
  int clients = 64;
  int threads = 16;
  uint64_t descriptors = 100'000;
};

struct SoakResult {
  uint64_t descriptors = 0;  // Received and compared.
  uint64_t calls = 0;
  uint64_t faults = 0;
  uint64_t swaps = 0;
  // Of the resident set, from the end of the first fifth to the end; in bytes.
  int64_t rss_drift = 0;
};

// Expectations fail the current test.
SoakResult Soak(const SoakOptions& options);

}  // namespace torture
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_TORTURE_SOAK_H_
