#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Prints the table API style x call shape x ending, and fails if a cell of it is empty.

    tests/call_table.py build/release/tests/cells

Each test of styles_test that holds leaves a file in that folder: for a cell what the caller was
told, for a pair of styles how many calls between them held.
"""

import pathlib
import sys

STYLES = ("sync", "callback", "async", "generic_async", "generic_callback")
SHAPES = ("unary", "client_stream", "server_stream", "bidi")
ENDINGS = ("ok", "error", "cancel", "deadline", "throw", "killed")
EMPTY = "-"
NOTES = """\
A cell shows what the caller was told, and is there only if each descriptor, in both directions, was
right by its content, and if no copy of any was left, at either end or on its way.
throw: gRPC catches what synchronous handlers throw (UNKNOWN), and what callback methods throw before
  they return a reactor (UNIMPLEMENTED). Reactions have to catch what they throw themselves, as has
  the program's own loop over a completion queue (UNKNOWN).
killed: with SIGKILL, once the server, and once the client, as a process of its own."""


def read(folder):
    return {path.name: path.read_text(encoding="utf-8").strip() or EMPTY
            for path in sorted(folder.iterdir()) if path.is_file()}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    found = read(folder) if folder.is_dir() else {}
    bad = []

    def entry(name):
        text = found.pop(name, EMPTY)
        if text in (EMPTY, "FAILED"):
            bad.append(f"{name}: {text if text != EMPTY else 'empty'}")
        return text

    rows = [("style", "call") + ENDINGS]
    for style in STYLES:
        for shape in SHAPES:
            rows.append((style, shape) + tuple(entry(f"cell.{style}.{shape}.{e}") for e in ENDINGS))
    cells = (len(rows) - 1) * len(ENDINGS)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        if i > 1 and row[0] == rows[i - 1][0]:
            row = ("",) + row[1:]
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    print(NOTES)

    held = sum(entry(f"mixed.{client}.{server}").isdigit()
               for client in STYLES for server in STYLES)
    if found:
        bad.append("no such cell: " + ", ".join(found))
    for line in bad:
        print(f"tests/call_table.py: {line}", file=sys.stderr)
    print(f"call table: {cells - sum(b.startswith('cell.') for b in bad)} of {cells} cells hold; "
          f"{held} of {len(STYLES) ** 2} pairs of client and server style")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
