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
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"

for program in handover_server relay handover_client; do
  if [ $# -ne 1 ] || [ ! -x "$1/$program" ]; then
    wrong_use "a folder with handover_server, relay and handover_client is needed"
  fi
done
programs=$1
temporary_folder
front=unix:$folder/front.sock
back=unix:$folder/handover.sock

serve server "$programs/handover_server" "$back"
serve relay "$programs/relay" "$front" "$back"
relay_output=$server_output
client_status=0
client "$programs/handover_client" "$front" > "$folder/client" || client_status=$?
relay_status=0
stop relay || relay_status=$?
server_status=0
stop server || server_status=$?

cat <&"$relay_output"
cat "$folder/client"
if [ "$client_status" -ne 0 ] || [ "$relay_status" -ne 0 ] || [ "$server_status" -ne 0 ]; then
  fail "FAILED (exit status of the client $client_status, of the relay $relay_status, of the server $server_status)"
fi
