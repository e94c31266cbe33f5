#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the handover sample as it is built: the server, one client against it, and the end of both.
#
#   samples/handover.sh FOLDER    the folder that holds handover_server and handover_client
#
# Exit status 0 only if the client proved everything and the server stopped in good order.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"

if [ $# -ne 1 ] || [ ! -x "$1/handover_server" ] || [ ! -x "$1/handover_client" ]; then
  wrong_use "a folder with handover_server and handover_client is needed"
fi
programs=$1
temporary_folder
target=unix:$folder/handover.sock

serve server "$programs/handover_server" "$target"
client_status=0
client "$programs/handover_client" "$target" || client_status=$?
server_status=0
stop server || server_status=$?

if [ "$client_status" -ne 0 ] || [ "$server_status" -ne 0 ]; then
  fail "FAILED (exit status of the client $client_status, of the server $server_status)"
fi
[ ! -e "$folder/handover.sock" ] || fail "FAILED: the server left its socket behind"
