#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps README.md and docs/ true.

extract --out DIR   writes the C++ block that follows a line `<!-- snippet: NAME file -->` to a file
                    of its own. Each block that follows `<!-- snippet: NAME body -->` becomes a
                    function of bodies.cc, after #include "snippet_prelude.h": one file compiles much
                    faster than thirty. Prints the files' paths. A schema that follows
                    `<!-- snippet: NAME proto -->` becomes NAME.proto beside them.
quickstart --out DIR  writes each block of README.md that follows a line
                    `<!-- quickstart: FILE -->` to DIR/FILE.
commands            checks that each command in a shell block that follows `<!-- run -->` is one
                    that .ci/run or a script it calls really runs.
"""

import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNNERS = (".ci/run", "tests/run.sh", "samples/run.sh", "tools/check.sh")
SNIPPET = re.compile(r"^<!--\s*snippet:\s*([A-Za-z_][A-Za-z0-9_]*)\s+(body|file|proto)\s*-->$")
QUICKSTART = re.compile(r"^<!--\s*quickstart:\s*([A-Za-z][A-Za-z0-9_.]*)\s*-->$")
RUN = re.compile(r"^<!--\s*run\s*-->$")
LOOKS_LIKE_MARK = re.compile(r"^<!--\s*(snippet|quickstart|run)\b")


def documents():
    readme = ROOT / "README.md"
    found = [readme] if readme.exists() else []
    return found + sorted((ROOT / "docs").rglob("*.md"))


def marked_blocks(path):
    """Yields (mark, language, number of the block's first line, lines) for each marked block."""
    lines = path.read_text(encoding="utf-8").splitlines()
    where = path.relative_to(ROOT)
    i = 0
    while i < len(lines):
        line = lines[i].strip()
        if line.startswith("```"):  # An unmarked block: marks inside it are text.
            i = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == "```"), None)
            if i is None:
                sys.exit(f"{where}: a code block is not closed")
        elif LOOKS_LIKE_MARK.match(line):
            if not (SNIPPET.match(line) or QUICKSTART.match(line) or RUN.match(line)):
                sys.exit(f"{where}:{i + 1}: expected '<!-- snippet: NAME body|file|proto -->', "
                         f"'<!-- quickstart: FILE -->' or '<!-- run -->', found: {line}")
            start = i + 1
            while start < len(lines) and not lines[start].strip():
                start += 1
            if start == len(lines) or not lines[start].startswith("```"):
                sys.exit(f"{where}:{i + 1}: no code block follows this mark")
            end = next((j for j in range(start + 1, len(lines)) if lines[j] == "```"), None)
            if end is None:
                sys.exit(f"{where}:{start + 1}: this code block is not closed")
            yield line, lines[start][3:].strip(), start + 2, lines[start + 1:end]
            i = end
        i += 1


def write_if_changed(path, text):
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def extract(out):
    out.mkdir(parents=True, exist_ok=True)
    names = set()
    files = {}
    bodies = ['#include "snippet_prelude.h"']
    for document in documents():
        where = document.relative_to(ROOT)
        for mark, language, first_line, lines in marked_blocks(document):
            match = SNIPPET.match(mark)
            if not match:
                continue
            name, kind = match.groups()
            expected = "proto" if kind == "proto" else "cpp"
            if language != expected:
                sys.exit(f"{where}:{first_line}: snippet {name} is '{language}', "
                         f"expected '{expected}'")
            if name in names:
                sys.exit(f"{where}:{first_line}: there is a snippet {name} already")
            names.add(name)
            line = f'#line {first_line} "{where}"'
            if kind == "proto":
                write_if_changed(out / f"{name}.proto", "\n".join(lines) + "\n")
            elif kind == "body":
                # So that snippets may return, and leave with GRPCFD_ASSIGN_OR_RETURN.
                bodies += [f"grpc::Status Snippet_{name}();", f"grpc::Status Snippet_{name}() {{",
                           line, *lines, "return grpc::Status::OK;", "}"]
            else:
                files[out / f"{name}.cc"] = [line, *lines]
    files[out / "bodies.cc"] = bodies
    for path, code in files.items():
        write_if_changed(path, "\n".join(code) + "\n")
    for stale in set(out.glob("*.cc")) - set(files):
        stale.unlink()
    for path in files:
        print(path)


def extract_quick_start(out):
    readme = ROOT / "README.md"
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for mark, _, first_line, lines in marked_blocks(readme):
        match = QUICKSTART.match(mark)
        if not match:
            continue
        path = out / match.group(1)
        if path.exists():
            sys.exit(f"README.md:{first_line}: {path.name} is there already")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        count += 1
    if not count:
        sys.exit("README.md has no block that follows '<!-- quickstart: FILE -->'")
    print(f"quick start: {count} files")
    return 0


def commands_of(lines):
    text = "\n".join(lines).replace("\\\n", " ")
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip().removeprefix("$ ")
        for command in line.split("&&"):
            command = " ".join(command.split())
            if command:
                yield command


def check_commands():
    run = set()
    for runner in RUNNERS:
        text = (ROOT / runner).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if not line.lstrip().startswith("#"):
                run.add(f" {' '.join(line.split())} ")
    bad = 0
    count = 0
    for document in documents():
        for mark, _, first_line, lines in marked_blocks(document):
            if not RUN.match(mark):
                continue
            for command in commands_of(lines):
                count += 1
                if not any(f" {command} " in line for line in run):
                    print(f"{document.relative_to(ROOT)}:{first_line}: CI does not run this: "
                          f"{command}", file=sys.stderr)
                    bad += 1
    print(f"documented commands: {count - bad} of {count} are run by CI")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("extract").add_argument("--out", type=pathlib.Path, required=True)
    actions.add_parser("quickstart").add_argument("--out", type=pathlib.Path, required=True)
    actions.add_parser("commands")
    arguments = parser.parse_args()
    if arguments.action == "extract":
        return extract(arguments.out)
    if arguments.action == "quickstart":
        return extract_quick_start(arguments.out)
    return check_commands()


if __name__ == "__main__":
    sys.exit(main())
