#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the Go samples as they are built: a Go client with a C++ server, and a C++ client with a Go server.
#
#   samples/go/notes.sh FOLDER    the folder that holds go_client, go_server, notes_client and notes_server
#
# Exit status 0 only if all four ended well.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/lib.sh"

if [ $# -ne 1 ] || [ ! -x "$1/go_client" ] || [ ! -x "$1/notes_server" ]; then
  wrong_use "a folder with go_client, go_server, notes_client and notes_server is needed"
fi
programs=$1
temporary_folder

# swap CLIENT SERVER: the server, one client against it, and the end of both.
swap() {
  local socket=$folder/$2.sock status=0
  serve "$2" "$programs/$2" "$socket"
  client "$programs/$1" "$socket"
  stop "$2" || status=$?
  [ "$status" -eq 0 ] || fail "FAILED (exit status of $2 $status)"
}

swap go_client notes_server
swap notes_client go_server
