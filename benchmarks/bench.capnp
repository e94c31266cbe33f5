# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# What the Cap'n Proto variant of the benchmark calls. A descriptor travels with a capability.

@0xbf5147bd1c2bd0a5;

interface Handle {}

interface Bench {
  call @0 (handles :List(Handle), verify :Bool) -> (contents :List(Text));
}
