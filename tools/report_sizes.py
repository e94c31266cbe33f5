#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Reports what has grown too long: functions, class declarations, files.

A function has at most 60 lines, a class declaration at most 150. A longer one says why in its
comment, on a line that begins with "Long because". Lambdas count with the function around them.

Fails if there are more long ones than KNOWN says, in the library or in the other folders. Lower
the number there when you have shortened one.

    tools/report_sizes.py          the offenders, and the five longest files of each part
    tools/report_sizes.py --all    all functions and classes over half of the limit, longest first
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_FUNCTION = 60
MAX_CLASS = 150
REASON = "// Long because"
LIBRARY = ("include", "urls", "fdchannel", "inband", "messages", "interceptors", "testing")
OTHERS = ("samples", "tests", "benchmarks", "fuzz")
# How many there are today that give no reason: (functions, classes).
KNOWN = {"library": (0, 0), "others": (29, 4)}

# What carries no structure: comments, raw strings, strings, characters, preprocessor lines. The
# quote in 1'000 is part of a number.
NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^()\s\\]*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:\\\n|[^\n])*",
    re.DOTALL | re.MULTILINE)
TYPE = re.compile(r"\b(class|struct|union)\b(?!.*\benum\b)")
TEMPLATE = re.compile(r"\btemplate\s*<[^{};]*?>(?=\s*(?:class|struct|union)\b)")
ATTRIBUTE = re.compile(r"\bABSL_\w+(?:\([^()]*\))?|\balignas\([^()]*\)|\[\[[^\]]*\]\]")


def blank(match):
    """Spaces in place of all but the line breaks, so that positions stay."""
    return re.sub(r"[^\n]", " ", match.group())


def kind_of(head, outer):
    """What the brace after `head` opens: "namespace", "class", "function" or "block"."""
    if outer not in ("namespace", "class"):
        return "block"
    head = TEMPLATE.sub("", ATTRIBUTE.sub("", head)).strip()
    if re.search(r"\bnamespace\b", head) or head.startswith("extern"):
        return "namespace"
    if re.search(r"\benum\b", head):
        return "block"
    if TYPE.match(head):
        return "class"
    return "function" if "(" in head else "block"


def name_of(head, kind):
    head = " ".join(TEMPLATE.sub("", ATTRIBUTE.sub("", head)).split())
    if kind == "class":
        found = re.match(r"(?:class|struct|union)\s+([\w:]+)", head)
        return found.group(1) if found else "(unnamed)"
    test = re.match(r"(TEST\w*|TYPED_TEST\w*)\s*\(([^)]*)\)", head)
    if test:
        return test.group(2).replace(", ", ".").replace(",", ".")
    found = re.search(r"([\w:~]+|operator[^\w\s(]+)\s*\(", head)
    return found.group(1) if found else head[:40]


def gives_reason(lines, first):
    """Whether the comment that ends above line `first` (from 0) has a line with a reason."""
    at = first - 1
    while at >= 0 and lines[at].strip().startswith("//"):
        if lines[at].strip().startswith(REASON):
            return True
        at -= 1
    return False


def measure(path):
    """Yields (kind, name, first line, lines, has a reason) of each function and class."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    code = NOISE.sub(blank, text)
    stack = []  # (kind, name, position of the head)
    start = 0  # Of the declaration or statement that is being read.
    parentheses = 0
    for at, char in enumerate(code):
        if char in "([":
            parentheses += 1
        elif char in ")]":
            parentheses -= 1
        elif char == "{":
            outer = stack[-1][0] if stack else "namespace"
            head = code[start:at]
            kind = "block" if parentheses else kind_of(head, outer)
            stack.append((kind, name_of(head, kind), start + len(head) - len(head.lstrip()),
                          parentheses))
            parentheses = 0
            start = at + 1
        elif char == "}":
            if not stack:
                line = code.count("\n", 0, at) + 1
                raise ValueError(f"{path}:{line}: a brace too many")
            kind, name, head, parentheses = stack.pop()
            if kind in ("function", "class"):
                first = code.count("\n", 0, head)
                length = code.count("\n", 0, at) - first + 1
                yield kind, name, first + 1, length, gives_reason(lines, first)
            if kind != "block" or parentheses == 0:
                start = at + 1
        elif char == ";" and parentheses == 0:
            start = at + 1
        elif char == ":" and parentheses == 0 and code[start:at].strip() in (
                "public", "private", "protected"):
            start = at + 1
    if stack:
        raise ValueError(f"{path}: a brace is not closed")


def report(part, folders, show_all):
    """Prints one part; returns whether it is within KNOWN."""
    found, files = [], []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            here = path.relative_to(ROOT).as_posix()
            files.append((path.read_text(encoding="utf-8").count("\n"), here))
            found += [(length, kind, name, f"{here}:{line}", reason)
                      for kind, name, line, length, reason in measure(path)]
    limits = {"function": MAX_FUNCTION, "class": MAX_CLASS}
    counts = dict.fromkeys(limits, 0)
    for length, kind, name, where, reason in sorted(found, key=lambda entry: -entry[0]):
        limit = limits[kind]
        long = length > limit and not reason
        counts[kind] += long
        if long or show_all and length > limit // 2:
            print(f"  {length:5}  {kind:8}  {name}  ({where})")
    for length, here in sorted(files, reverse=True)[:5]:
        print(f"  {length:5}  file      {here}")
    functions, classes = KNOWN[part]
    print(f"sizes, {part}: {len(files)} files, {sum(length for length, _ in files)} lines; "
          f"{counts['function']} functions over {MAX_FUNCTION} lines ({functions} known), "
          f"{counts['class']} classes over {MAX_CLASS} ({classes} known)")
    return counts["function"] <= functions and counts["class"] <= classes


def main():
    show_all = sys.argv[1:] == ["--all"]
    within = [report("library", LIBRARY, show_all), report("others", OTHERS, show_all)]
    if all(within):
        return 0
    print(f"tools/report_sizes.py: shorten what is new in the list, or give the reason in its "
          f"comment, on a line that begins with \"{REASON}\"", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
