#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance suite of fdchannel/wire/PROTOCOL.md. README.md beside it says what a program
under test has to understand.

  conformance.py client PROGRAM [ARGUMENT...]    the program is a client; the runner is the server
  conformance.py server PROGRAM [ARGUMENT...]    the other way round
  conformance.py list                            all cases, as a table
  conformance.py check PROTOCOL DOCUMENT         whether the sections that cases name are in the
                                                 one, and that table is in the other

Options before PROGRAM: --case C7 runs that case only. Prints a line for each case. The exit status
is 0 if all passed.
"""
import pathlib
import re
import sys
import tempfile

import client_cases
import peer
import server_cases

ROLES = {
    "client": (client_cases.CASES, client_cases.Server),
    "server": (server_cases.CASES, server_cases.Client),
}


def run(role, number, command):
    """Why it failed, or nothing. Each case has a program of its own."""
    cases, other_end = ROLES[role]
    program = peer.Program(command)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        other = other_end(program, folder)
        for step in (lambda: cases[number][2](other), other.close, program.end):
            try:
                step()
            except (peer.Failed, peer.Error, OSError) as error:
                failures.append(f"{type(error).__name__}: {error}")
    return "; ".join(failures)


def table():
    lines = ["| case | section of PROTOCOL.md | what must hold |", "|---|---|---|"]
    for cases, _ in ROLES.values():
        for number, (section, what, _) in cases.items():
            lines.append(f"| {number} | {section} | {' '.join(what.split())} |")
    return "\n".join(lines) + "\n"


def check(protocol, document):
    """What is not as it should be."""
    headings = re.findall(r"^#+ (.*)$", pathlib.Path(protocol).read_text("utf-8"), re.MULTILINE)
    named = {section for cases, _ in ROLES.values() for section, _, _ in cases.values()}
    faults = [f"{protocol} has no section {name!r}" for name in sorted(named - set(headings))]
    if table() not in pathlib.Path(document).read_text("utf-8"):
        faults.append(f"{document} does not have the table that `conformance.py list` prints")
    return faults


def main(arguments):
    if arguments == ["list"]:
        print(table(), end="")
        return 0
    if len(arguments) == 3 and arguments[0] == "check":
        faults = check(*arguments[1:])
        print("\n".join(faults))
        return 1 if faults else 0
    if len(arguments) < 2 or arguments[0] not in ROLES:
        sys.stderr.write(__doc__)
        return 2
    role, *command = arguments
    cases = ROLES[role][0]
    numbers = list(cases)
    while command and command[0] == "--case" and len(command) > 2:
        numbers, command = [command[1]], command[2:]
    if not command or any(number not in cases for number in numbers):
        sys.stderr.write(__doc__)
        return 2
    failed = 0
    for number in numbers:
        section, what, _ = cases[number]
        why = run(role, number, command)
        print(f"{number:4} {'FAILED' if why else 'ok':6} {section}: {' '.join(what.split())}",
              flush=True)
        if why:
            print(f"            {why}", flush=True)
            failed += 1
    print(f"{len(numbers) - failed} of {len(numbers)} cases passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
