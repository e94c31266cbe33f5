#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is needed (Debian), builds, and runs the tests.
#
#   tests/run.sh                  the plain build (g++, Release), all tests
#   tests/run.sh --asan           clang with -Wthread-safety -Werror, AddressSanitizer and UndefinedBehaviorSanitizer,
#                                 all tests but the install ones
#   tests/run.sh --tsan           ThreadSanitizer: urls, fdchannel and testing
#   tests/run.sh --clang          clang with -Wthread-safety -Werror, all tests
#   tests/run.sh --all            all four
#   tests/run.sh --root NAME      the plain build in another system, without Go and the benchmarks (tools/root.sh lists them)
#   tests/run.sh [...] -- ARGS    ARGS go to ctest, e.g. -R Frame or -L unit
#
# Without ARGS it ends with the table API style x call shape x ending, and fails if a cell is empty.
#
# JOBS is the number of parallel jobs (default: all processors).
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
cd "$root"

system=
presets=()
ctest_args=()
while [ $# -gt 0 ]; do
  case "$1" in
    --plain) presets+=(release) ;;
    --asan) presets+=(asan-ubsan) ;;
    --tsan) presets+=(tsan) ;;
    --clang) presets+=(clang) ;;
    --all) presets+=(release asan-ubsan tsan clang) ;;
    --root) system=${2:-}; shift; [ -n "$system" ] || wrong_use "expected the name of a root" ;;
    --) shift; ctest_args=("$@"); break ;;
    -h | --help) usage; exit 0 ;;
    *) wrong_use "unknown option '$1'" ;;
  esac
  shift
done
if [ -n "$system" ]; then
  [ ${#presets[@]} -eq 0 ] || wrong_use "--root NAME takes the plain build only"
  if [ ${#ctest_args[@]} -gt 0 ]; then set -- -- "${ctest_args[@]}"; else set --; fi
  exec tools/root.sh "$system" env GRPCFD_IN_ROOT="$system" tests/run.sh "$@"
fi
[ ${#presets[@]} -gt 0 ] || presets=(release)

groups=(build test)
benchmarks=OFF
# A root has no network, and what it was made with.
if [ -z "${GRPCFD_IN_ROOT:-}" ]; then
  groups+=(go python)
  benchmarks=ON
  case " ${presets[*]} " in *" release "*) groups+=(bench) ;; esac
fi
case " ${presets[*]} " in *" clang "*) groups+=(clang) ;; esac
case " ${presets[*]} " in *" asan-ubsan "*) groups+=(asan) ;; esac
tools/deps.sh "${groups[@]}"

total=0
failed=0
result=0
for preset in "${presets[@]}"; do
  echo "== tests/run.sh: $preset"
  run=()
  options=()
  case "$preset" in
    release) options=("-DGRPCFD_BUILD_BENCHMARKS=$benchmarks") ;;
    asan-ubsan | tsan) run=(with_fixed_addresses) ;;
  esac
  configure "$preset" "${options[@]}"
  cmake --build "build/$preset" --parallel "$(job_count)"
  log=build/$preset/ctest.log
  cells=build/$preset/tests/cells
  [ ! -d "$cells" ] || rm -f "$cells"/*
  status=0
  # A test that fails has one more try, and is named below if it needed it: many of them race processes and signals against
  # each other on machines that others load, but none may fail twice.
  "${run[@]}" ctest --test-dir "build/$preset" --output-on-failure --no-tests=error \
    --repeat until-pass:2 --parallel "$(job_count)" "${ctest_args[@]}" 2>&1 | tee "$log" || status=$?
  retried=$(sed -nE 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) .*\*\*\*.*/\1/p; s/^ +Test +#[0-9]+: ([^ ]+) .*\*\*\*.*/\1/p' "$log" | sort -u)
  summary=$(sed -nE 's/^[0-9]+% tests passed, ([0-9]+) tests? failed out of ([0-9]+)$/\1 \2/p' "$log" | tail -n 1)
  if [ -n "$summary" ]; then
    failed=$((failed + ${summary% *}))
    total=$((total + ${summary#* }))
  elif [ "$status" -eq 0 ]; then
    echo "tests/run.sh: ctest of $preset printed no summary" >&2
    status=1
  fi
  [ -z "$retried" ] || printf 'failed at the first try:\n%s\n' "$retried"
  # A choice of tests leaves cells empty.
  if [ ${#ctest_args[@]} -eq 0 ] && [ -d "$cells" ]; then
    tests/call_table.py "$cells" || status=1
  fi
  [ "$status" -eq 0 ] || result=$status
done

echo "tests: $((total - failed)) passed, $failed failed"
exit "$result"
