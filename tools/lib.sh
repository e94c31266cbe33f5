# shellcheck shell=bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts share. Each sources it first thing. Sets the shell's strict mode; root, the folder of the tree; and me, the
# script's name from there, for messages.
set -euo pipefail
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
me=$(realpath --relative-to="$root" "$0")

# fail MESSAGE [STATUS]: says why, and exits: with 1 unless told otherwise.
fail() {
  echo "$me: $1" >&2
  exit "${2:-1}"
}

# usage: the comment at the head of the script, below the licence.
usage() { awk 'NR > 4 && (!/^#/ || /^# shellcheck/) { exit } NR > 4 { sub(/^# ?/, ""); print }' "$0"; }

# wrong_use MESSAGE: says what is wrong and how it is right, and exits with 2.
wrong_use() {
  usage >&2
  fail "$1" 2
}

# temporary_folder: sets folder, which goes with the script.
temporary_folder() {
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
}

# configure PRESET [ARGUMENT...]: configures build/PRESET, with Ninja if there is one and the folder is new.
configure() {
  local generator=()
  if [ ! -f "$root/build/$1/CMakeCache.txt" ] && command -v ninja > /dev/null; then generator=(-G Ninja); fi
  cmake --preset "$@" "${generator[@]}"
}

# job_count: how many processes build at once.
job_count() { echo "${JOBS:-$(nproc)}"; }

# quietly LOG COMMAND...: shows the output, which goes to the file LOG, only if the command fails, and exits then.
quietly() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  "$@" > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
}

# with_fixed_addresses COMMAND...: the sanitizers of g++ 12 and clang 14 do not start where the kernel randomises addresses with
# more than 28 bits.
with_fixed_addresses() {
  if setarch --addr-no-randomize true 2> /dev/null; then
    setarch --addr-no-randomize "$@"
  else
    "$@"
  fi
}

# --- Servers of a script's, which end with it ---

declare -A servers=()  # Process ids, by name.

# serve NAME COMMAND...: starts a server with its output in the pipe $folder/NAME, and prints the first line of it, which says
# that it listens. The rest can be read from the descriptor server_output. Needs temporary_folder, which it extends.
serve() {
  local name=$1 line
  shift
  trap stop_all EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkfifo "$folder/$name"
  # timeout passes SIGTERM on, and kills what has not stopped 20 s later: a failure, not a hang.
  timeout --kill-after=20 120 "$@" > "$folder/$name" &
  servers[$name]=$!
  exec {server_output}< "$folder/$name"
  # The output is at its end if the server ends before: no need to wait then.
  IFS= read -r -t 20 -u "$server_output" line || fail "$name ended, or did not listen within 20 s"
  echo "$line"
}

# stop NAME: ends a server; returns its exit status.
stop() {
  local pid=${servers[$1]}
  unset "servers[$1]"
  kill -TERM "$pid" 2> /dev/null || true
  wait "$pid"
}

stop_all() {
  local name
  for name in "${!servers[@]}"; do stop "$name" 2> /dev/null || true; done
  rm -rf "$folder"
}

# client COMMAND...: runs a client of these servers, and not for ever.
client() { timeout --kill-after=20 60 "$@"; }
