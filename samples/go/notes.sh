#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the Go samples as they are built: a Go client with a C++ server, and a C++ client with a Go server.
#
#   samples/go/notes.sh FOLDER    the folder that holds go_client, go_server, notes_client and notes_server
#
# Exit status 0 only if all four ended well.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -x "$1/go_client" ] || [ ! -x "$1/notes_server" ]; then
  echo "usage: samples/go/notes.sh FOLDER, the one that holds go_client, go_server, notes_client and notes_server" >&2
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

# swap CLIENT SERVER: the server, one client against it, and the end of both.
swap() {
  local socket=$directory/$2.sock line status=0
  mkfifo "$directory/$2"
  # timeout passes SIGTERM on, and kills a server that has not stopped 20 s later: a failure, not a hang.
  timeout --kill-after=20 120 "$programs/$2" "$socket" > "$directory/$2" &
  server=$!
  exec 3< "$directory/$2"
  if ! IFS= read -r -t 20 line <&3; then
    echo "samples/go/notes.sh: $2 ended, or did not listen within 20 s" >&2
    exit 1
  fi
  echo "$line"
  timeout --kill-after=20 60 "$programs/$1" "$socket"
  kill -TERM "$server"
  wait "$server" || status=$?
  server=
  if [ "$status" -ne 0 ]; then
    echo "samples/go/notes.sh: FAILED (exit status of $2 $status)" >&2
    exit 1
  fi
}

swap go_client notes_server
swap notes_client go_server
