#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Dependencies point one way: urls <- fdchannel <- inband <- interceptors, and all but the last know no gRPC;
messages stands on fdchannel, beside interceptors, and knows protobuf but no gRPC.

Follows the includes of each file of a layer through the project's own headers, the public ones
too, and fails with the whole chain when it reaches something above its layer. Also fails when a
test file is in no CMakeLists.txt: it would never run.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)
GRPC = re.compile(r"^(grpc|grpcpp|grpc\+\+)/")
PROTOBUF = re.compile(r"^google/protobuf/|\.pb\.h$")
FORBIDDEN = {
    "urls": ("fdchannel/", "inband/", "messages/", "interceptors/", "samples/", "tests/"),
    "fdchannel": ("inband/", "messages/", "interceptors/", "samples/", "tests/"),
    "inband": ("messages/", "interceptors/", "samples/", "tests/"),
    "testing": ("inband/", "messages/", "interceptors/", "samples/", "tests/"),
    "messages": ("inband/", "interceptors/", "samples/", "tests/"),
    "interceptors": ("messages/", "samples/", "tests/"),
    "include": ("urls/", "fdchannel/", "inband/", "messages/", "interceptors/", "samples/", "tests/"),
}
WITHOUT_GRPC = ("urls", "fdchannel", "inband", "testing", "messages")
WITHOUT_PROTOBUF = ("urls", "fdchannel", "inband", "testing")


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def resolve(name):
    for base in (ROOT / "include", ROOT):
        if (base / name).is_file():
            return base / name
    return None


def walk(layer, path, chain, seen, errors):
    for _, name in includes(path):
        here = chain + [name]
        if layer in WITHOUT_GRPC and GRPC.match(name):
            errors.append(f"{layer} must not reach gRPC: " + " -> ".join(here))
            continue
        if layer in WITHOUT_PROTOBUF and PROTOBUF.search(name):
            errors.append(f"{layer} must not reach protobuf: " + " -> ".join(here))
            continue
        if name.startswith(FORBIDDEN[layer]):
            errors.append(f"{layer} must not include this: " + " -> ".join(here))
            continue
        target = resolve(name)
        if layer != "include" and target and target not in seen:
            seen.add(target)
            walk(layer, target, here, seen, errors)


def main():
    errors = []
    count = 0
    for layer in FORBIDDEN:
        for path in sorted((ROOT / layer).rglob("*")):
            if path.suffix in (".h", ".cc"):
                count += 1
                walk(layer, path, [str(path.relative_to(ROOT))], {path}, errors)
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
