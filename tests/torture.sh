#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the scorecard of docs/reliability.md and prints its table: hostile peers, faults and exhaustion.
#
#   tests/torture.sh                  every row in its short form: every distinct case, at least 1 % of the count
#   tests/torture.sh --full           every row with its whole count: for a release. Rows that a former run of the same
#                                     commit has done are not run again; --again forgets them
#   tests/torture.sh [--full] ROW...  these rows, done before or not; ROW is 1 to 32
#   tests/torture.sh --markdown       prints the table of the last full run as docs/reliability.md has it, and runs nothing
#   tests/torture.sh --build DIR      uses the programs of this build folder instead of making a Release build
#
# Exit status: 0 if every row that was asked for held, 1 if not. A row that needs root is "not run" for other users, and
# does not count against them; for root it does.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
cd "$root"

full=false
again=false
markdown=false
build=${TORTURE_BUILD:-}
rows=()
while [ $# -gt 0 ]; do
  case "$1" in
    --full) full=true ;;
    --again) again=true ;;
    --markdown) markdown=true ;;
    --build)
      build=${2:?tests/torture.sh: --build needs a folder}
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    [0-9] | [0-9][0-9]) rows+=("$(printf '%02d' "$((10#$1))")") ;;
    *) wrong_use "unknown argument '$1'" ;;
  esac
  shift
done

if [ -z "$build" ]; then
  build=build/release
  if ! $markdown; then
    configure release > /dev/null
    cmake --build "$build" --parallel "$(job_count)" --target torture
  fi
fi
torture=$build/tests/torture/torture
# One line for each row that was done in full, with the commit and the day it was done.
state=$build/torture.state

header() {
  printf '| # | injected | done | outcome | figure |\n|---|---|---|---|---|\n'
}
# RESULT|row|injected|count|outcome|figure as a row of the table.
row_of() { sed -nE 's/^RESULT\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|(.*)$/| \1 | \2 | \3 | \4 | \5 |/p' <<< "$1"; }

if $markdown; then
  [ -f "$state" ] || { echo "tests/torture.sh: no full run in $build" >&2; exit 1; }
  printf 'Run on %s, Linux %s, %s processors, with gRPC %s, commit %s.\n\n' "$(date -u -r "$state" +%Y-%m-%d)" \
    "$(uname -r | cut -d- -f1)" "$(nproc)" "$(pkg-config --modversion grpc++ 2> /dev/null || echo unknown)" \
    "$(tail -n 1 "$state" | cut -d' ' -f1)"
  header
  while read -r _ result; do row_of "$result"; done < <(sort -t'|' -k2,2 -s "$state")
  exit 0
fi

commit=$(git rev-parse --short HEAD 2> /dev/null || echo unknown)
if $again; then rm -f "$state"; fi
named=true
if [ ${#rows[@]} -eq 0 ]; then
  named=false
  mapfile -t rows < <("$torture" list | cut -d'|' -f1)
fi

# AddressSanitizer of g++ 12 does not start where the kernel randomises addresses with more than 28 bits.
run=()
if setarch --addr-no-randomize true 2> /dev/null; then run=(setarch --addr-no-randomize); fi
form=()
if $full; then form=(--full); fi
failed=0
held=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
header
for row in "${rows[@]}"; do
  if $full && ! $named && [ -f "$state" ] && done_before=$(grep -E "^$commit RESULT\|$row\|[^|]*\|[^|]*\|held\|" "$state"); then
    row_of "${done_before#* }"
    held=$((held + 1))
    continue
  fi
  status=0
  if $full && [ "$row" = 06 ] && command -v clang++ > /dev/null; then
    # 10 million runs, coverage-guided: five parsers share them.
    fuzz/run.sh --runs 2000000 > "$log" 2>&1 || status=$?
    outcome=held
    if [ "$status" -ne 0 ]; then outcome=FAILED; fi
    printf 'RESULT|06|fuzzed hello, frame, cmsg, URL and metadata|%s|%s|libFuzzer, ASan and UBSan: %s\n' \
      "$(sed -nE 's/^fuzz: ([0-9]+) runs.*/\1/p' "$log")" "$outcome" \
      "$(sed -nE 's/^([a-z]+) +([0-9]+) runs.*/\1 \2/p' "$log" | paste -sd, | sed 's/,/, /g')" >> "$log"
  else
    "${run[@]}" "$torture" "$row" "${form[@]}" > "$log" 2>&1 || status=$?
  fi
  result=$(grep '^RESULT|' "$log" || true)
  [ -n "$result" ] || result="RESULT|$row|?|0|FAILED|the program ended with status $status and no result"
  row_of "$result"
  if [ "$status" -eq 0 ]; then
    held=$((held + 1))
  elif [ "$status" -ne 3 ] || [ "$(id -u)" -eq 0 ]; then
    failed=$((failed + 1))
    grep -v '^RESULT|' "$log" | tail -n 40 >&2 || true
  fi
  if $full; then
    touch "$state"
    grep -v "RESULT|$row|" "$state" > "$log" || true
    printf '%s %s\n' "$commit" "$result" >> "$log"
    cp "$log" "$state"
  fi
done
printf '\ntorture: %d held, %d failed\n' "$held" "$failed"
[ "$failed" -eq 0 ]
