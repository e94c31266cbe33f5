#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is needed (Debian), builds the handover sample and runs it: a server and a client, two processes that
# hand each other descriptors; then the same with a relay between them, a third process that passes everything on. Exit status 0 only
# if the programs proved everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs=${JOBS:-$(nproc)}
tools/deps.sh build

# The tests' build is good enough if there is one that has the samples.
build=build/release
if ! grep -qs '^GRPCFD_BUILD_SAMPLES:BOOL=ON$' "$build/CMakeCache.txt"; then
  build=build/samples
  generator=()
  if [ ! -f "$build/CMakeCache.txt" ] && command -v ninja > /dev/null; then generator=(-G Ninja); fi
  cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=g++ \
    -DGRPCFD_BUILD_TESTS=OFF -DGRPCFD_BUILD_TESTING_LIBRARY=OFF
fi
cmake --build "$build" --parallel "$jobs" --target handover_server handover_client relay

samples/handover.sh "$build/samples"
echo
samples/relay.sh "$build/samples"
