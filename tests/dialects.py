#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the tests that are left out with some gRPC with the list of them, dialects.txt."""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST)\((\w+),\s*(\w+)\)", re.MULTILINE)
CONDITION = re.compile(r"^#(if|ifdef|ifndef|else|elif|endif)\b\s*(.*)$")
LEFT_OUT = re.compile(r"^!\s*(GRPCFD_GRPC_\w+)$")


def tests_under_conditions(path):
    """Each test of a file that some condition of ours leaves out, with that condition."""
    stack = []
    pending = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = CONDITION.match(line)
        if match:
            kind, text = match.groups()
            if kind in ("if", "ifdef", "ifndef"):
                stack.append(text.strip())
            elif kind == "endif":
                stack.pop()
            else:
                stack[-1] = f"{kind} of {stack[-1]}"
            continue
        # A test's name may be on a second line.
        pending = line if line.startswith(("TEST", "TYPED_TEST")) else pending + " " + line.strip()
        match = TEST.match(pending)
        if not match:
            continue
        pending = ""
        for condition in stack:
            if "GRPCFD_GRPC_" in condition:
                yield ".".join(match.groups()), condition


def main():
    listed = {}
    for line in (HERE / "dialects.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        name, macro, reason = line.split(" ", 2)
        assert reason.endswith("."), line
        listed[name] = macro
    errors = []
    found = {}
    for path in sorted(HERE.rglob("*_test.cc")):
        for name, condition in tests_under_conditions(path):
            match = LEFT_OUT.match(condition)
            if not match:
                errors.append(f"{path.name}: {name} is under '{condition}', expected !GRPCFD_GRPC_...")
                continue
            found[name] = match.group(1)
    for name in sorted(found.keys() | listed.keys()):
        if found.get(name) != listed.get(name):
            errors.append(f"{name}: left out with {found.get(name)}, "
                          f"dialects.txt says {listed.get(name)}")
    for error in errors:
        print(error, file=sys.stderr)
    print(f"dialects: {len(found)} tests are left out with some gRPC, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
