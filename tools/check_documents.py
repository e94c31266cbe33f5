#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks what Markdown files say about the tree.

 * Each relative link leads to a file that exists, and to a heading of it.
 * Each message that docs/troubleshooting.md quotes occurs in the sources: the first code span of a
   row of a table whose first column is `message`. The string literals of a statement count as one
   text, so a message may be put together from several. `...` stands for a value.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("urls", "fdchannel", "inband", "messages", "interceptors", "testing", "include")
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$")
# A comment, a string literal, or the end of a statement.
TOKEN = re.compile(r'//[^\n]*|"((?:[^"\\\n]|\\.)*)"|;')


def documents():
    """All Markdown files but those of build trees."""
    found = sorted(ROOT.glob("*.md"))
    for folder in sorted(ROOT.iterdir()):
        if folder.is_dir() and folder.name not in ("build", ".git"):
            found += sorted(folder.rglob("*.md"))
    return found


def prose(path):
    """Yields (number, line) for the lines outside of code blocks."""
    in_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield number, line


def anchors(path):
    """The anchors of a file's headings, as Markdown viewers make them."""
    found = set()
    for _, line in prose(path):
        match = HEADING.match(line)
        if match:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match.group(1)).lower()
            found.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return found


def check_links(path, errors):
    count = 0
    here = path.relative_to(ROOT)
    for number, line in prose(path):
        for link in LINK.findall(line):
            if re.match(r"[a-z]+:", link):
                continue
            count += 1
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists():
                errors.append(f"{here}:{number}: there is no {link}")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                errors.append(f"{here}:{number}: {name or here} has no heading #{anchor}")
    return count


def source_texts():
    """The string literals of each statement, joined; one text for each statement."""
    texts = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".cc", ".h"):
                continue
            literals = []
            for token in TOKEN.finditer(path.read_text(encoding="utf-8")):
                if token.group() == ";":
                    texts.append("\0".join(literals))
                    literals = []
                elif token.group(1):
                    literals.append(token.group(1).replace('\\"', '"'))
    return texts


def quoted_messages(path):
    """Yields (number, message) for each row of the tables whose first column is `message`."""
    in_table = False
    for number, line in prose(path):
        if not line.startswith("|"):
            in_table = False
            continue
        first = line.strip("|").split("|")[0].strip()
        if first == "message":
            in_table = True
        elif in_table and set(first) - set("- :"):
            match = re.match(r"`([^`]+)`", first)
            yield number, match.group(1) if match else None


def check_messages(path, errors):
    texts = source_texts()
    count = 0
    here = path.relative_to(ROOT)
    for number, message in quoted_messages(path):
        if message is None:
            errors.append(f"{here}:{number}: the row does not begin with a message in backquotes")
            continue
        count += 1
        # Each piece between values, in this order, within one statement.
        pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip()]
        # A line break of the source may fall between any two words.
        pieces = [re.sub(r"\\ ", r"\\s*\0?\\s*", piece) for piece in pieces]
        pattern = re.compile(r".*?".join(pieces), re.DOTALL)
        if not pieces or not any(pattern.search(text) for text in texts):
            errors.append(f"{here}:{number}: no source has the message: {message}")
    return count


def main():
    errors = []
    found = documents()
    links = sum(check_links(path, errors) for path in found)
    messages = check_messages(ROOT / "docs" / "troubleshooting.md", errors)
    if not messages:
        errors.append("docs/troubleshooting.md quotes no message")
    for error in errors:
        print(error, file=sys.stderr)
    print(f"documents: {len(found)} files, {links} links, {messages} messages, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
