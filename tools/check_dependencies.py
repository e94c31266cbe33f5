#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Holds the layout: dependencies point one way.

ROOMS lists the rooms from the bottom to the top. A file may include its own room and the rooms
above it in the list; `also_not` names the exceptions. An include that needs gRPC or protobuf is
followed through the project's own headers, the public ones too.

Also fails when a source lies outside of every room, or when a test is in no CMakeLists.txt: it
would never run.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)
GRPC = re.compile(r"^(grpc|grpcpp|grpc\+\+)/")
PROTOBUF = re.compile(r"^google/protobuf/|\.pb\.h$")

# From the bottom to the top. A room is a folder with all that is below it, unless that is a room of
# its own, or a single file.
ROOMS = [
    "include",
    "urls",
    "fdchannel/os",
    "fdchannel/fds",
    "fdchannel/wire",
    "fdchannel/session",
    "fdchannel/calls/call_transport.h",
    "fdchannel/client",
    "fdchannel/server",
    "fdchannel/calls",
    "inband",
    "messages",
    "interceptors/grpc",
    "interceptors",
    "testing",
]
# Above in the list, and not to be included all the same.
ALSO_NOT = {
    # Typed descriptors and the testing library need nothing of gRPC's part.
    "interceptors/grpc": ("messages",),
    "messages": ("inband",),
    "testing": ("inband", "messages", "interceptors"),
}
WITHOUT_GRPC = ("urls", "fdchannel", "inband", "messages", "testing")
WITHOUT_PROTOBUF = ("urls", "fdchannel", "inband", "testing")
# Nobody in a room includes these.
OUTSIDE = ("samples/", "tests/", "benchmarks/", "fuzz/")


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def resolve(name):
    for base in (ROOT / "include", ROOT):
        if (base / name).is_file():
            return base / name
    return None


def room_of(path):
    """The room of a file, or None: the longest entry of ROOMS that it is, or is below of."""
    name = path.relative_to(ROOT).as_posix()
    fits = [room for room in ROOMS if name == room or name.startswith(room + "/")]
    return max(fits, key=len, default=None)


def check_rooms(path, room, errors):
    """Each include of the file itself."""
    here = path.relative_to(ROOT)
    for _, name in includes(path):
        if name.startswith(OUTSIDE):
            errors.append(f"{here} must not include {name}")
            continue
        target = resolve(name)
        other = room_of(target) if target else None
        if other is None or other == room:
            continue
        if ROOMS.index(other) > ROOMS.index(room) or other in ALSO_NOT.get(room, ()):
            errors.append(f"{here}: {room} must not include {other} ({name})")


def check_reach(path, layer, chain, seen, errors):
    """All that the file includes, however far away."""
    for _, name in includes(path):
        here = chain + [name]
        if layer in WITHOUT_GRPC and GRPC.match(name):
            errors.append(f"{layer} must not reach gRPC: " + " -> ".join(here))
            continue
        if layer in WITHOUT_PROTOBUF and PROTOBUF.search(name):
            errors.append(f"{layer} must not reach protobuf: " + " -> ".join(here))
            continue
        target = resolve(name)
        if target and target not in seen:
            seen.add(target)
            check_reach(target, layer, here, seen, errors)


def main():
    errors = []
    count = 0
    for top in sorted({room.split("/")[0] for room in ROOMS}):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            count += 1
            room = room_of(path)
            if room is None:
                errors.append(f"{path.relative_to(ROOT)} is in no room: {', '.join(ROOMS)}")
                continue
            check_rooms(path, room, errors)
            if top != "include":
                check_reach(path, top, [str(path.relative_to(ROOT))], {path}, errors)
    lists = "\n".join(p.read_text(encoding="utf-8")
                      for p in sorted((ROOT / "tests").rglob("CMakeLists.txt")))
    for path in sorted((ROOT / "tests").rglob("*_test.cc")):
        if path.name not in lists:
            errors.append(f"{path.relative_to(ROOT)} is in no CMakeLists.txt under tests/")
    if not count:
        errors.append(f"found no sources under {ROOT}")
    for error in errors:
        print(error, file=sys.stderr)
    print(f"dependencies: {count} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
