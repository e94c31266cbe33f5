// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What libFuzzer calls. Compiled once for each target, which GRPCFD_FUZZ_TARGET names.
#include "fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  grpcfd::fuzz::GRPCFD_FUZZ_TARGET(data, size);
  return 0;
}
