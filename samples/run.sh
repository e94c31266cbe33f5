#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is needed (Debian), builds samples and runs them.
#
#   samples/run.sh         handover: a server and a client, two processes that hand each other descriptors; then the same
#                          with a relay between them, a third process that passes everything on; then the same server with
#                          a client in Python
#   samples/run.sh --go    go/: a Go client with a C++ server, and a C++ client with a Go server
#
# Exit status 0 only if the programs proved everything.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
cd "$root"

groups=(build python)
scripts=(samples/handover.sh samples/relay.sh samples/python/handover.sh)
folder=samples
targets=(handover_server handover_client relay)
options=()
case "$*" in
  "") ;;
  --go)
    groups=(build go)
    scripts=(samples/go/notes.sh)
    folder=samples/go
    targets=(notes_server notes_client grpcfd_sample_go_server grpcfd_sample_go_client)
    options=(-DGRPCFD_GO_TESTS=ON)
    ;;
  *) wrong_use "unknown option '$*'" ;;
esac

tools/deps.sh "${groups[@]}"

# One build for samples, tests and benchmarks: what is there already is not compiled again.
build=build/release
if [ ! -f "$build/CMakeCache.txt" ]; then
  configure release -DGRPCFD_BUILD_TESTS=OFF -DGRPCFD_BUILD_TESTING_LIBRARY=OFF "${options[@]}"
else
  cmake -DGRPCFD_BUILD_SAMPLES=ON "${options[@]}" "$build"
fi
cmake --build "$build" --parallel "$(job_count)" --target "${targets[@]}"

for i in "${!scripts[@]}"; do
  [ "$i" -eq 0 ] || echo
  "${scripts[i]}" "$build/$folder"
done
