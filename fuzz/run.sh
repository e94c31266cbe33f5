#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Builds the fuzz targets with clang, AddressSanitizer and UndefinedBehaviorSanitizer, and runs them.
#
#   fuzz/run.sh [--seconds N | --runs N] [TARGET...]     default: 10 seconds for each target
#
# --runs is for each target that only parses; those with a socket (session, listener) take a hundredth of it.
# TARGET: hello frame cmsg url metadata session listener. The seeds are in fuzz/corpus; what is found on the way stays
# in build/fuzz/corpus. An input that breaks something is printed and kept in build/fuzz: put it into fuzz/corpus/TARGET,
# under a name that says what it was, together with the fix.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
cd "$root"

seconds=10
runs=
targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds=${2:?--seconds needs a number}; shift ;;
    --runs) runs=${2:?--runs needs a number}; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) wrong_use "unknown option '$1'" ;;
    *) targets+=("$1") ;;
  esac
  shift
done
[ ${#targets[@]} -gt 0 ] || targets=(hello frame cmsg url metadata session listener)

build=build/fuzz
generator=()
if [ ! -f "$build/CMakeCache.txt" ] && command -v ninja > /dev/null; then generator=(-G Ninja); fi
cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=clang++ \
  -DGRPCFD_FUZZ=ON -DGRPCFD_SANITIZE=address,undefined -DGRPCFD_BUILD_TESTS=OFF -DGRPCFD_BUILD_SAMPLES=OFF \
  -DGRPCFD_BUILD_TESTING_LIBRARY=OFF -DGRPCFD_INSTALL=OFF > /dev/null
cmake --build "$build" --parallel "$(job_count)" --target "${targets[@]/#/fuzz_}" > "$build/build.log" \
  || { tail -n 40 "$build/build.log" >&2; exit 1; }

total=0
for target in "${targets[@]}"; do
  mkdir -p "$build/corpus/$target"
  limit=(-max_total_time="$seconds")
  if [ -n "$runs" ]; then
    count=$runs
    case "$target" in session | listener) count=$(((runs + 99) / 100)) ;; esac
    limit=(-runs="$count")
  fi
  log=$build/$target.log
  if ! with_fixed_addresses "$build/fuzz/fuzz_$target" "${limit[@]}" -max_len=4096 -timeout=30 -rss_limit_mb=1024 \
    -print_final_stats=1 -artifact_prefix="$build/$target-" "$build/corpus/$target" "fuzz/corpus/$target" > "$log" 2>&1; then
    tail -n 60 "$log" >&2
    fail "$target broke; its input is $build/$target-*"
  fi
  executed=$(sed -nE 's/^stat::number_of_executed_units: +([0-9]+)/\1/p' "$log")
  coverage=$(sed -nE 's/.* cov: ([0-9]+) .*/\1/p' "$log" | tail -n 1)
  printf '%-9s %10s runs, coverage %s\n' "$target" "$executed" "$coverage"
  total=$((total + executed))
done
echo "fuzz: $total runs, nothing found"
