#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is needed (Debian), builds in Release, and measures grpcfd beside its peers: raw SCM_RIGHTS, sd-bus,
# Cap'n Proto and plain gRPC. docs/performance.md says what the figures mean and how they are taken.
#
#   benchmarks/run.sh                  everything, some minutes
#   benchmarks/run.sh --quick          within a minute, once built
#   benchmarks/run.sh --json FILE      also writes the figures as one flat JSON object
#   benchmarks/run.sh --plots FOLDER   also draws the plots of docs/performance.md there (not with --quick)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '/^# *Installs/,/^#   .*--plots/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

quick=()
json=
plots=
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=(--quick) ;;
    --json) json=${2:?--json needs a file}; shift ;;
    --plots) plots=${2:?--plots needs a folder}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "benchmarks/run.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
if [ -n "$plots" ] && [ ${#quick[@]} -gt 0 ]; then
  echo "benchmarks/run.sh: --quick measures too few points for plots" >&2
  exit 2
fi

groups=(build bench)
[ -z "$plots" ] || groups+=(plots)
tools/deps.sh "${groups[@]}"

# The build of tests and samples, with the benchmark.
generator=()
if [ ! -f build/release/CMakeCache.txt ] && command -v ninja > /dev/null; then generator=(-G Ninja); fi
mkdir -p build
{
  cmake --preset release -DGRPCFD_BUILD_BENCHMARKS=ON "${generator[@]}"
  cmake --build build/release --parallel "${JOBS:-$(nproc)}" --target grpcfd_bench grpcfd_bench_server
} > build/bench-build.log 2>&1 || { cat build/bench-build.log >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
[ -n "$json" ] || json=$folder/figures.json
programs=build/release/benchmarks
"$programs/grpcfd_bench" --server "$programs/grpcfd_bench_server" --dir "$folder" --json "$json" "${quick[@]}"

if [ -n "$plots" ]; then
  mkdir -p "$plots"
  python3 benchmarks/plot.py "$json" "$plots"
fi
