#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Checks the models of this folder with Spin: all states of each, and that deliberate mistakes in them are found.
#
#   tests/model/run.sh
#
# Needs spin and gcc (tools/deps.sh test). Exit status: 0 if all holds, 1 if not.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
result=0

# check holds|fails SAFETY|LIVENESS MODEL [-DNAME=VALUE]...
check() {
  local expected=$1 kind=$2 model=$3 options
  shift 3
  if [ "$kind" = SAFETY ]; then options=(-DSAFETY -DNOCLAIM); else options=(-DNFAIR=3); fi
  spin -a "-D$kind" "$@" "$here/$model" > spin.log || { cat spin.log >&2; exit 1; }
  gcc -O1 -w "${options[@]}" -o pan pan.c
  if [ "$kind" = SAFETY ]; then options=(); else options=(-a -f); fi
  ./pan "${options[@]}" -n -m1000000 > pan.log || { cat pan.log >&2; exit 1; }
  if grep -q "Search not completed" pan.log && ! grep -q "errors: [1-9]" pan.log; then
    cat pan.log >&2
    exit 1
  fi
  local found=holds
  grep -q "errors: 0" pan.log || found=fails
  local states
  states=$(awk '/states, stored/ { print $1 }' pan.log)
  printf '%-12s %-8s %-28s %s, %s states\n' "$model" "$kind" "$*" "$found" "$states"
  [ "$found" = "$expected" ] || { echo "run.sh: expected that it $expected" >&2; result=1; }
}

check holds SAFETY leader.pml -DABSENT=0
check holds SAFETY leader.pml -DABSENT=2
check holds LIVENESS leader.pml -DABSENT=0
check holds LIVENESS leader.pml -DABSENT=1
check holds LIVENESS leader.pml -DABSENT=2
check fails SAFETY leader.pml -DABSENT=0 -DMISTAKE=1
check fails SAFETY leader.pml -DABSENT=2 -DMISTAKE=2
check fails SAFETY leader.pml -DABSENT=2 -DMISTAKE=3
check fails LIVENESS leader.pml -DABSENT=0 -DMISTAKE=4
check holds LIVENESS window.pml
check fails LIVENESS window.pml -DMISTAKE=1
check fails LIVENESS window.pml -DMISTAKE=2
check fails LIVENESS window.pml -DMISTAKE=3
exit "$result"
