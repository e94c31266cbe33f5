#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# The one list of Debian packages that grpcfd is built, tested and checked with. Installs those that are missing.
#
#   tools/deps.sh [build|test|go|python|clang|asan|bench|plots|lint|roots]...   default: build test go python clang asan lint
#   tools/deps.sh --print GROUP...                                              prints the packages, and installs nothing
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build=(g++ make cmake ninja-build pkg-config libabsl-dev libgrpc++-dev libprotobuf-dev
       protobuf-compiler protobuf-compiler-grpc libcli11-dev libgtest-dev libgmock-dev
       libssl-dev)
test=(python3 libasio-dev spin)
# protobuf 1.3 brings the source of the generator that goes with this gRPC.
go=(golang-go golang-google-grpc-dev golang-github-golang-protobuf-1-3-dev)
# What the Python package needs, and what its tests need: the types, the style, and the wheel are checked.
python=(python3 python3-grpcio python3-protobuf python3-numpy python3-pytest python3-pip python3-setuptools python3-wheel
        mypy flake8)
clang=(clang)
asan=(clang libclang-rt-14-dev)
bench=(capnproto libcapnp-dev libsystemd-dev valgrind)
plots=(gnuplot-nox python3)
roots=(mmdebstrap iproute2 util-linux)
lint=(golang-go clang clang-format clang-tidy python3 shellcheck)

print=
if [ "${1:-}" = --print ]; then
  print=yes
  shift
fi
[ $# -gt 0 ] || set -- build test go python clang asan lint
wanted=()
for group in "$@"; do
  case "$group" in
    build) wanted+=("${build[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    go) wanted+=("${go[@]}") ;;
    python) wanted+=("${python[@]}") ;;
    clang) wanted+=("${clang[@]}") ;;
    asan) wanted+=("${asan[@]}") ;;
    bench) wanted+=("${bench[@]}") ;;
    plots) wanted+=("${plots[@]}") ;;
    lint) wanted+=("${lint[@]}") ;;
    roots) wanted+=("${roots[@]}") ;;
    *) wrong_use "unknown group '$group'" ;;
  esac
done

if [ -n "$print" ]; then
  printf '%s\n' "${wanted[@]}"
  exit 0
fi

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
  echo "$me: no apt-get here; on Debian 12 these packages are needed: ${wanted[*]}" >&2
  exit 0
fi

missing=()
for package in "${wanted[@]}"; do
  # shellcheck disable=SC2016  # ${...} is dpkg-query's own
  status=$(dpkg-query -W -f='${db:Status-Status} ' "$package" 2> /dev/null || true)
  case " $status" in
    *" installed "*) ;;
    *) missing+=("$package") ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo > /dev/null; then
    fail "not root and no sudo; please install: ${missing[*]}"
  fi
  as_root=(sudo)
fi
echo "$me: installing ${missing[*]}"
"${as_root[@]}" apt-get -q -o DPkg::Lock::Timeout=120 update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "${missing[@]}"
