#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps the wall clock out of the rooms whose waits go by the monotonic one.

A wait by the wall clock hangs, or ends at once, when the clock is set. fdchannel/os/clock.h is the
one place that turns a deadline of the wall clock (docs/decisions/0022).
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("fdchannel", "inband")
EDGE = "fdchannel/os/clock.h"
WALL_CLOCK = re.compile(
    r"absl::Now\b|\bsystem_clock\b|\bToChronoTime\b|\bToTimespec\(.*[Tt]ime\b|\bCLOCK_REALTIME\b"
    r"|\bgettimeofday\b|\btime\((?:0|NULL|nullptr)\)|\bcv_\.wait_until\(.*system")
COMMENT = re.compile(r"//[^\n]*")
# Still to be turned: how many places there are.
KNOWN = 16


def main():
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            here = path.relative_to(ROOT).as_posix()
            if path.suffix not in (".h", ".cc") or here == EDGE:
                continue
            code = COMMENT.sub("", path.read_text(encoding="utf-8"))
            found += [f"{here}:{number}: {line.strip()}"
                      for number, line in enumerate(code.split("\n"), 1) if WALL_CLOCK.search(line)]
    print(f"clocks: {len(found)} uses of the wall clock in {' and '.join(FOLDERS)} ({KNOWN} known)")
    if len(found) <= KNOWN:
        return 0
    print("\n".join(found), file=sys.stderr)
    print(f"tools/check_clocks.py: use MonotonicTime of {EDGE}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
