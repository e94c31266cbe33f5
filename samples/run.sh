#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is needed (Debian), builds the handover sample and runs it: a server and a client, two processes that
# hand each other descriptors. Exit status 0 only if both programs proved everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs=${JOBS:-$(nproc)}
tools/deps.sh build

build=build/release
if [ ! -f "$build/CMakeCache.txt" ]; then
  generator=()
  if command -v ninja > /dev/null; then generator=(-G Ninja); fi
  build=build/samples
  [ -f "$build/CMakeCache.txt" ] && generator=()
  cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=g++ \
    -DGRPCFD_BUILD_TESTS=OFF -DGRPCFD_BUILD_TESTING_LIBRARY=OFF
fi
cmake --build "$build" --parallel "$jobs" --target handover_server handover_client

directory=$(mktemp -d)
server=
cleanup() {
  if [ -n "$server" ]; then
    kill -TERM "$server" 2> /dev/null || true
    wait "$server" 2> /dev/null || true
  fi
  rm -rf "$directory"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

target=unix:$directory/handover.sock
# timeout passes SIGTERM on, and kills a server that has not stopped 20 s later: a failure, not a hang.
timeout --kill-after=20 120 "$build/samples/handover_server" "$target" &
server=$!

# The socket's appearance is the server's sign that it is ready.
for ((i = 0; i < 200; ++i)); do
  [ ! -S "$directory/handover.sock" ] || break
  if ! kill -0 "$server" 2> /dev/null; then
    wait "$server" || echo "samples/run.sh: the server ended before it listened (exit status $?)" >&2
    server=
    exit 1
  fi
  sleep 0.05
done
if [ ! -S "$directory/handover.sock" ]; then
  echo "samples/run.sh: the server did not listen within 10 s" >&2
  exit 1
fi

client_status=0
timeout 60 "$build/samples/handover_client" "$target" || client_status=$?

kill -TERM "$server" 2> /dev/null || true
server_status=0
wait "$server" || server_status=$?
server=

if [ "$client_status" -ne 0 ] || [ "$server_status" -ne 0 ]; then
  echo "samples/run.sh: FAILED (exit status of the client $client_status, of the server $server_status)" >&2
  exit 1
fi
