#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the handover sample with a relay in the middle, as it is built: three processes, client -> relay -> server.
#
#   samples/relay.sh FOLDER    the folder that holds handover_server, handover_client and relay
#
# Prints what the relay passed on, by URL, and then what the client proved: the same descriptors as without a relay. Exit status 0
# only if the client proved everything, and relay and server stopped in good order.
set -euo pipefail

for program in handover_server relay handover_client; do
  if [ $# -ne 1 ] || [ ! -x "$1/$program" ]; then
    echo "usage: samples/relay.sh FOLDER, the one that holds handover_server, relay and handover_client" >&2
    exit 2
  fi
done
programs=$1

directory=$(mktemp -d)
server=
relay=
stop() {  # The process's exit status.
  kill -TERM "$1" 2> /dev/null || true
  wait "$1"
}
cleanup() {
  if [ -n "$relay" ]; then stop "$relay" || true; fi
  if [ -n "$server" ]; then stop "$server" || true; fi
  rm -rf "$directory"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

front=unix:$directory/front.sock
back=unix:$directory/handover.sock

mkfifo "$directory/server" "$directory/relay"

# listening PROGRAM FD: prints the first line of a program's output, which says that it listens. The output is at its end if the
# program ends before: no need to wait then.
listening() {
  if ! IFS= read -r -t 20 -u "$2" line; then
    echo "samples/relay.sh: $1 ended, or did not listen within 20 s" >&2
    exit 1
  fi
  echo "$line"
}

# timeout passes SIGTERM on, and kills what has not stopped 20 s later: a failure, not a hang.
timeout --kill-after=20 120 "$programs/handover_server" "$back" > "$directory/server" &
server=$!
exec 3< "$directory/server"
listening handover_server 3
timeout --kill-after=20 120 "$programs/relay" "$front" "$back" > "$directory/relay" &
relay=$!
exec 4< "$directory/relay"
listening relay 4

client_status=0
timeout --kill-after=20 60 "$programs/handover_client" "$front" > "$directory/client" || client_status=$?

relay_status=0
stop "$relay" || relay_status=$?
relay=
server_status=0
stop "$server" || server_status=$?
server=

cat <&4
cat "$directory/client"
if [ "$client_status" -ne 0 ] || [ "$relay_status" -ne 0 ] || [ "$server_status" -ne 0 ]; then
  echo "samples/relay.sh: FAILED (exit status of the client $client_status, of the relay $relay_status, of the server $server_status)" >&2
  exit 1
fi
