#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is needed (Debian), builds and measures: unary calls between Go and C++ over the in-band wire, beside the
# same calls Go to Go. Arguments go to bench.py beside this file (--blocks N, --calls N).
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../tools/lib.sh"
cd "$root"

tools/deps.sh build test go
configure release > /dev/null
cmake --build build/release --parallel "$(job_count)" --target grpcfd_cpp_peer grpcfd_go_peer > /dev/null
programs=build/release/tests/interop/go
tests/interop/go/bench.py --peer "go=$programs/go_peer" --peer "cpp=$programs/cpp_peer" "$@"
