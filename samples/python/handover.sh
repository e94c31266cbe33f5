#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the C++ server of the handover sample, as it is built, with the client in Python.
#
#   samples/python/handover.sh FOLDER    the folder that holds handover_server
#
# Exit status 0 only if the client proved everything and the server stopped in good order.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/lib.sh"

if [ $# -ne 1 ] || [ ! -x "$1/handover_server" ]; then
  wrong_use "a folder with handover_server is needed"
fi
programs=$1
# Debian's, if another one comes first in PATH that has no grpcio.
python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -c "import grpc, google.protobuf" 2> /dev/null; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "no python3 with grpcio and protobuf; tools/deps.sh python installs them"
temporary_folder
target=unix:$folder/handover.sock

# The stubs are those that protoc generates for any service.
protoc --proto_path="$root/samples" --proto_path="$root/proto" --python_out="$folder" --grpc_out="$folder" \
  --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)" handover.proto

serve server "$programs/handover_server" "$target"
client_status=0
PYTHONPATH=$root/python:$folder client "$python" -B "$root/samples/python/handover_client.py" "$target" || client_status=$?
server_status=0
stop server || server_status=$?
if [ "$client_status" -ne 0 ] || [ "$server_status" -ne 0 ]; then
  fail "FAILED (exit status of the client $client_status, of the server $server_status)"
fi
