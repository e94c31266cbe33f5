#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the benchmark with hardly any calls: it must go through, with every figure and no descriptor left.
#
#   benchmarks/smoke.sh GRPCFD_BENCH GRPCFD_BENCH_SERVER
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"

temporary_folder
"$1" --server "$2" --dir "$folder" --json "$folder/figures.json" --smoke
grep -q '"leaked_fds": *0' "$folder/figures.json"
