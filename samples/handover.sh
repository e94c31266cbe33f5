#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the handover sample as it is built: the server, one client against it, and the end of both.
#
#   samples/handover.sh FOLDER    the folder that holds handover_server and handover_client
#
# Exit status 0 only if the client proved everything and the server stopped in good order.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -x "$1/handover_server" ] || [ ! -x "$1/handover_client" ]; then
  echo "usage: samples/handover.sh FOLDER, the one that holds handover_server and handover_client" >&2
  exit 2
fi
programs=$1

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
mkfifo "$directory/output"
# timeout passes SIGTERM on, and kills a server that has not stopped 20 s later: a failure, not a hang.
timeout --kill-after=20 120 "$programs/handover_server" "$target" > "$directory/output" &
server=$!

# The server's first line says that it listens. It stands at the end of its output if it ends before: no need to wait then.
exec 3< "$directory/output"
if ! IFS= read -r -t 20 line <&3; then
  echo "samples/handover.sh: the server ended, or did not listen within 20 s" >&2
  exit 1
fi
echo "$line"

client_status=0
timeout --kill-after=20 60 "$programs/handover_client" "$target" || client_status=$?

kill -TERM "$server" 2> /dev/null || true
server_status=0
wait "$server" || server_status=$?
server=

if [ "$client_status" -ne 0 ] || [ "$server_status" -ne 0 ]; then
  echo "samples/handover.sh: FAILED (exit status of the client $client_status, of the server $server_status)" >&2
  exit 1
fi
if [ -e "$directory/handover.sock" ]; then
  echo "samples/handover.sh: FAILED: the server left its socket behind" >&2
  exit 1
fi
