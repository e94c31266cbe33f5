#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Counts, with callgrind, the instructions that a call's descriptors take in this library, there and back, in one thread and
# without gRPC (benchmarks/instructions.cc), and fails if they are more than benchmarks/instructions.txt allows. Unlike times
# these counts are the same on a busy machine: a slow-down that no test sees is seen here.
#
#   benchmarks/instructions.sh PROGRAM            compares with the ceilings
#   benchmarks/instructions.sh PROGRAM --record   prints the lines for benchmarks/instructions.txt, 5 % above what was counted
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"

program=${1:?the first argument is the program, build/release/benchmarks/grpcfd_bench_instructions}
record=${2:-}
[ -z "$record" ] || [ "$record" = --record ] || wrong_use "unknown option '$record'"
ceilings=$(dirname "${BASH_SOURCE[0]}")/instructions.txt
temporary_folder

# Instructions of so many calls, start and end of the process included.
count() {
  valgrind --tool=callgrind --callgrind-out-file="$folder/out" "$program" "$1" "$2" > "$folder/log" 2>&1 ||
    { cat "$folder/log" >&2; exit 1; }
  awk '$1 == "summary:" { print $2; found = 1 } END { exit !found }' "$folder/out"
}

# Which compiler's code it is: each has its own ceilings.
build=$("$program" --compiler)
result=0
for descriptors in 1 16 253; do
  # The difference leaves out what is done once: start, warm-up, end.
  few=$(count 100 "$descriptors")
  many=$(count 300 "$descriptors")
  counted=$(((many - few) / 200))
  if [ -n "$record" ]; then
    echo "$build $descriptors $((counted + counted / 20))"
    continue
  fi
  ceiling=$(awk -v build="$build" -v n="$descriptors" '$1 == build && $2 == n { print $3 }' "$ceilings")
  if [ -z "$ceiling" ]; then
    fail "no ceiling for $descriptors descriptors and $build: add the lines that --record prints to $ceilings"
  fi
  verdict=
  if [ "$counted" -gt "$ceiling" ]; then
    verdict=": TOO MANY"
    result=1
  fi
  printf '%3d descriptors: %7d instructions a call, at most %7d (%s)%s\n' "$descriptors" "$counted" "$ceiling" "$build" "$verdict"
done
if [ "$result" -ne 0 ]; then
  echo "$me: the way of a descriptor has become longer. If that is what the change is worth, say so in its commit, and" >&2
  echo "raise the ceilings to what --record prints. callgrind_annotate shows where the instructions are." >&2
fi
exit "$result"
