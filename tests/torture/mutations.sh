#!/usr/bin/env bash
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Shows that the scorecard can fail: takes six protections away, one at a time, on a copy of the tree, and runs the row
# that is there for it. A row that still holds has tested nothing.
#
#   tests/torture/mutations.sh            all six; prints a table; not 0 if one survives. Takes a build for each
#   tests/torture/mutations.sh --check    only that each change still applies, once; in seconds
#
# Exit status: 0 if every row turned red. One row needs root. JOBS is as for the other scripts.
# shellcheck source=tools/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/lib.sh"
cd "$root"

# What goes, the row that must turn red, the file, and the change: a pattern and its replacement, for perl, over the
# whole file.
names=() rows=() files=() patterns=() replacements=()
mutation() {
  names+=("$1")
  rows+=("$2")
  files+=("$3")
  patterns+=("$4")
  replacements+=("$5")
}
mutation 'count check' 03 fdchannel/session/session_receive.cc \
  'if \(message->fds\.size\(\) > count \|\|\s+\(message->fds\.size\(\) < count && !message->control_truncated\)\) \{' \
  'if (message->fds.size() < count \&\& !message->control_truncated) {'
mutation 'MSG_CTRUNC' 02 fdchannel/os/cmsg.cc \
  'message->control_truncated = \(header\.msg_flags & MSG_CTRUNC\) != 0;' \
  'message->control_truncated = false;'
mutation 'owner before check' 03 fdchannel/os/cmsg.cc \
  'if \(owned\.valid\(\)\) \{\n' \
  'if (message->data_truncated) {\n          (void)owned.Release();  // Looked at first, owned later.\n        } else if (owned.valid()) {\n'
mutation 'quota of a uid' 12 fdchannel/server/quota.cc \
  'if \(user->held \+ n > per_uid\) \{' \
  'if (user->held + n > 4 * per_uid) {'
mutation 'token' 24 fdchannel/server/server_core.cc \
  'if \(it != sessions_\.end\(\) && it->second\.session->token\(\) == token\) return it->second;' \
  'if (it != sessions_.end()) return it->second;\n    (void)token;'

mutation 'room for a look' 29 fdchannel/session/read_room.cc \
  'const uint64_t room = used < limit_ \? \(limit_ - used\) / kMaxFdsPerMessage : 0;' \
  'const uint64_t room = messages;'

# Applies mutation $1 in the tree $2. Fails unless it matches exactly once.
apply() {
  PATTERN=${patterns[$1]} REPLACEMENT=${replacements[$1]} perl -0777 -i -e '
    my $text = <>;
    my $replacement = $ENV{REPLACEMENT};
    $replacement =~ s/\\n/\n/g;
    $replacement =~ s/\\&/&/g;
    my $count = ($text =~ s/$ENV{PATTERN}/$replacement/g);
    print $text;
    exit($count == 1 ? 0 : 1);' "$2/${files[$1]}"
}

temporary_folder
work=$folder
copy() {
  rm -rf "${work:?}/tree"
  mkdir "$work/tree"
  tar -cf - --exclude=./build --exclude=./.git . | tar -xf - -C "$work/tree"
}

if [ "${1:-}" = --check ]; then
  status=0
  for i in "${!names[@]}"; do
    mkdir -p "$(dirname "$work/${files[$i]}")"
    cp "${files[$i]}" "$work/${files[$i]}"
    apply "$i" "$work" || { echo "$me: '${names[$i]}' no longer applies to ${files[$i]}" >&2; status=1; }
  done
  exit "$status"
fi

generator=()
if command -v ninja > /dev/null; then generator=(-G Ninja); fi
survivors=0
copy
# The copy is built as build/dev is, so that ccache knows what has not changed.
export CCACHE_BASEDIR=$work/tree CCACHE_NOHASHDIR=1
build=$work/tree/build/dev
(cd "$work/tree" && cmake --preset dev "${generator[@]}" -DGRPCFD_BUILD_SAMPLES=OFF -DGRPCFD_INSTALL=OFF) > /dev/null
printf '| taken away | row | without it |\n|---|---|---|\n'
for i in "${!names[@]}"; do
  cp "$work/tree/${files[$i]}" "$work/original"
  apply "$i" "$work/tree" || fail "'${names[$i]}' no longer applies"
  cmake --build "$build" --parallel "$(job_count)" --target torture > "$work/log" 2>&1 \
    || { tail -n 30 "$work/log" >&2; exit 1; }
  status=0
  with_fixed_addresses timeout 300 "$build/tests/torture/torture" "${rows[$i]}" > "$work/log" 2>&1 || status=$?
  case "$status" in
    0) outcome='SURVIVES' ;;
    3) outcome='not run: needs root' ;;
    # "what failed" of the first expectation.
    *) outcome="red: $(grep -m 1 -A 5 ': Failure' "$work/log" | tail -n +2 | tr -s ' \n' ' ' | tr '|' '/' | cut -c1-160)" ;;
  esac
  case "$outcome" in red:*) ;; *) survivors=$((survivors + 1)) ;; esac
  printf '| %s | %s | %s |\n' "${names[$i]}" "${rows[$i]}" "$outcome"
  cp "$work/original" "$work/tree/${files[$i]}"
done
[ "$survivors" -eq 0 ]
