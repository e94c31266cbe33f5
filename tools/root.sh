#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Other systems to build and test in, as folders below build/roots/.
#
#   tools/root.sh NAME               makes the root NAME, unless it is there
#   tools/root.sh NAME COMMAND...    makes it, and runs COMMAND in it
#
#   debian12   Debian 12: gRPC 1.51
#   debian13   Debian 13: gRPC 1.51, newer compilers and kernel headers
#   grpc-new   Debian unstable with the newest gRPC of Debian experimental
#
# COMMAND runs in this tree, which it sees read-only, as root, without a network. Its build/ is build/in/NAME.
#
# Needs Debian, root, and the group `roots` of tools/deps.sh. Takes the mirror from apt's configuration; GRPCFD_MIRROR names another.
# Exit status 75: the root could not be made, since packages are not to be had.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

name=${1:-}
[ $# -eq 0 ] || shift
# What apt takes from experimental. The rest, abseil too, is what these packages were built against.
newer=""
case "$name" in
  debian12) suites=(bookworm) ;;
  debian13) suites=(trixie) ;;
  grpc-new) suites=(unstable experimental); newer="src:grpc src:protobuf" ;;
  -h | --help) usage; exit 0 ;;
  *) wrong_use "unknown root '$name'" ;;
esac
system=build/roots/$name

# What apt says when a package, or all of them, cannot be had. A full disk, say, is another matter.
no_packages='Unable to locate package|Failed to fetch|Unable to fetch|Could not resolve|Could not connect|Temporary failure'
no_packages+='|unmet dependencies|held broken packages|no installation candidate|not installable|does not have a Release file'
no_packages+='|is not signed|NO_PUBKEY'

# The address from which this machine's apt gets its own release.
mirror() {
  local codename
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  # shellcheck disable=SC2016  # $(...) is apt's own
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
    awk -v codename="$codename" '$2 == codename && $3 == "main" && !uri {uri = $1} END {print uri}'
}

make_root() {
  [ "$(id -u)" -eq 0 ] || fail "making a root takes the user root"
  tools/deps.sh roots
  local uri=${GRPCFD_MIRROR:-$(mirror)}
  [ -n "$uri" ] || fail "apt's configuration names no mirror; set GRPCFD_MIRROR" 75
  local packages sources=() options=() path
  packages=$(tools/deps.sh --print build test | paste -sd ,)
  for suite in "${suites[@]}"; do sources+=("deb $uri $suite main"); done
  # What nobody reads here.
  for path in doc man info locale; do options+=(--dpkgopt="path-exclude=/usr/share/$path/*"); done
  if [ -n "$newer" ]; then
    # shellcheck disable=SC2016  # $1 is the hook's own
    options+=(--setup-hook='mkdir -p "$1/etc/apt/preferences.d"'
      --setup-hook='printf "Package: %s\nPin: release a=experimental\nPin-Priority: 990\n" '"'$newer'"' > "$1/etc/apt/preferences.d/grpcfd"')
  fi
  mkdir -p build/roots
  rm -rf "$system.new"
  echo "$me: making $system (${suites[*]})"
  # In a mount namespace of its own: what mmdebstrap mounts is gone with it. A mirror may be a snapshot of some day.
  unshare --mount mmdebstrap --variant=apt --include="$packages" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io "${options[@]}" \
    "${suites[0]}" "$system.new" "${sources[@]}" > "$system.log" 2>&1 || {
    tail -n 15 "$system.log" >&2
    rm -rf "$system.new"
    if grep -qE "$no_packages" "$system.log"; then fail "packages of $name are not to be had; $system.log tells more" 75; fi
    fail "mmdebstrap failed; $system.log tells more"
  }
  mv "$system.new" "$system"
}

[ -d "$system" ] || make_root
[ $# -gt 0 ] || exit 0

mkdir -p "build/in/$name" "$system/grpcfd"
# shellcheck disable=SC2016  # for the inner shell
exec unshare --mount --net --pid --fork --kill-child bash -c '
  set -euo pipefail
  root=$1 build=$2
  shift 2
  ip link set lo up
  mount --bind . "$root/grpcfd"
  mount -o remount,bind,ro "$root/grpcfd"
  mount --bind "$build" "$root/grpcfd/build"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp"
  exec chroot "$root" bash -c '\''cd /grpcfd && exec "$@"'\'' bash "$@"
' bash "$system" "build/in/$name" "$@"
