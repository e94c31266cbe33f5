#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The Go samples do what they say, and say what they do.

    go_test.py NOTES_SH FOLDER

Runs the programs in FOLDER through samples/go/notes.sh, as samples/run.sh --go does, and reads what they print.
"""

import re
import subprocess
import sys
import unittest

NOTES_SH, FOLDER = sys.argv[1:3]

URL = r"inode://\d+/\d+\S*\s+"
LINES = (
    r"C\+\+ server listens",
    r"Go client -> server  " + URL + r"the file says: a note from a Go client, read by a C\+\+ server",
    r"server -> Go client  " + URL + r"the pipe says: greetings from a C\+\+ server",
    r"Go server listens",
    r"C\+\+ client -> server " + URL + r"the file says: a note from a C\+\+ client, read by a Go server",
    r"server -> C\+\+ client " + URL + r"the pipe says: greetings from a Go server",
)


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


class GoTest(unittest.TestCase):

    def test_both_pairings(self):
        result = run(NOTES_SH, FOLDER)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(result.stderr, "")
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), len(LINES), result.stdout)
        for line, expected in zip(lines, LINES):
            self.assertRegex(line, f"^{expected}$")

    def test_clients_without_a_server_fail(self):
        for program in ("go_client", "notes_client"):
            result = run(f"{FOLDER}/{program}", "/nonexistent/socket")
            self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
            self.assertEqual(result.stdout, "")
            self.assertIn("client: ", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
