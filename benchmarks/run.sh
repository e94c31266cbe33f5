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
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
cd "$root"

quick=()
json=
plots=
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=(--quick) ;;
    --json) json=${2:?--json needs a file}; shift ;;
    --plots) plots=${2:?--plots needs a folder}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) wrong_use "unknown option '$1'" ;;
  esac
  shift
done
if [ -n "$plots" ] && [ ${#quick[@]} -gt 0 ]; then
  fail "--quick measures too few points for plots" 2
fi

groups=(build bench)
[ -z "$plots" ] || groups+=(plots)
tools/deps.sh "${groups[@]}"

# The build of tests and samples, with the benchmark.
quietly build/bench-configure.log configure release -DGRPCFD_BUILD_BENCHMARKS=ON
quietly build/bench-build.log cmake --build build/release --parallel "$(job_count)" --target grpcfd_bench grpcfd_bench_server

temporary_folder
[ -n "$json" ] || json=$folder/figures.json
programs=build/release/benchmarks
"$programs/grpcfd_bench" --server "$programs/grpcfd_bench_server" --dir "$folder" --json "$json" "${quick[@]}"

if [ -n "$plots" ]; then
  mkdir -p "$plots"
  python3 benchmarks/plot.py "$json" "$plots"
fi
