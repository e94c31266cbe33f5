#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Format and lint.
#
#   tools/check.sh              everything
#   tools/check.sh --fast       all but clang-tidy, in seconds
#   tools/check.sh --turn       everything, but clang-tidy of a third of the files: which third is the commit's turn. CI runs this
#   tools/check.sh --fix        formats the sources in place
#   tools/check.sh FILE.cc...   clang-tidy of these files only
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

fast=
fix=
turn=
files=()
for argument in "$@"; do
  case "$argument" in
    --fast) fast=yes ;;
    --fix) fix=yes ;;
    --turn) turn=yes ;;
    -*) wrong_use "unknown option '$argument'" ;;
    *) files+=("$argument") ;;
  esac
done
tools/deps.sh build test lint

folders=(urls fdchannel inband messages interceptors testing include tests samples benchmarks cmake fuzz)
existing=()
for folder in "${folders[@]}"; do [ ! -d "$folder" ] || existing+=("$folder"); done
mapfile -t sources < <(find "${existing[@]}" -name '*.cc' -o -name '*.h' | LC_ALL=C sort)
mapfile -t scripts < <(find .ci tools tests samples benchmarks fuzz -name '*.sh' -o -path '.ci/run' | LC_ALL=C sort)

if [ -n "$fix" ]; then
  clang-format -i "${sources[@]}"
  echo "tools/check.sh: formatted ${#sources[@]} files"
  exit 0
fi

if [ ${#files[@]} -eq 0 ]; then
  echo "== format (${#sources[@]} files)"
  clang-format --dry-run -Werror "${sources[@]}"

  echo "== format of Go"
  unformatted=$(find tests samples -name '*.go' -print0 | xargs -0 gofmt -l)
  [ -z "$unformatted" ] || fail "gofmt -w is due for: $unformatted"

  echo "== dependencies"
  python3 tools/check_dependencies.py

  echo "== clocks"
  python3 tools/check_clocks.py

  echo "== sizes"
  python3 tools/report_sizes.py

  echo "== documents"
  python3 tools/extract_snippets.py commands
  python3 tools/check_documents.py

  echo "== shell scripts"
  shellcheck -x "${scripts[@]}"

  [ -z "$fast" ] || exit 0

  # The library, its testing part and the samples. The tests are left out: they take as long again, and the compilers'
  # warnings cover them.
  mapfile -t files < <(find urls fdchannel inband messages interceptors testing samples -name '*.cc' | LC_ALL=C sort)
  if [ -n "$turn" ]; then
    # Without a commit, as in a tarball, the first third.
    commit=$(git rev-parse --short=7 HEAD 2> /dev/null || echo 0)
    turn=$((16#${commit:0:7} % 3))
    chosen=()
    for ((i = turn; i < ${#files[@]}; i += 3)); do chosen+=("${files[i]}"); done
    files=("${chosen[@]}")
  fi
fi

echo "== clang-tidy (${#files[@]} files)"
quietly build/clang-configure.log configure clang
# The samples and messages/ include generated headers.
quietly build/clang-proto.log cmake --build build/clang --parallel "$(job_count)" --target handover_proto notes_proto grpcfd_messages
# Of interceptors/grpc/, what this gRPC needs (cmake/GrpcDialects.cmake).
compiled=()
for file in "${files[@]}"; do
  if [[ $file != interceptors/grpc/* ]] || grep -q "/$file\"" build/clang/compile_commands.json; then compiled+=("$file"); fi
done
printf '%s\0' "${compiled[@]}" |
  xargs -0 -n 1 -P "$(job_count)" clang-tidy --quiet -p build/clang 2> build/clang-tidy.log ||
  { grep -v 'warnings\? generated\|warnings treated as errors' build/clang-tidy.log >&2 || true; exit 1; }
echo "tools/check.sh: all is well"
