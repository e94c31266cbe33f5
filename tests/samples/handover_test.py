#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The handover sample does what it says, and says what it does.

    handover_test.py HANDOVER_SH FOLDER

Runs the two programs in FOLDER through samples/handover.sh, as samples/run.sh does, and reads what they print. Then
the ways in which they must fail: a sample that cannot fail proves nothing.
"""

import re
import subprocess
import sys
import tempfile
import unittest

HANDOVER_SH, FOLDER = sys.argv[1:3]

LINE = re.compile(r"(?P<kind>\S.*?)\s+(?P<url>inode://\d+/\d+\?fd=\d+)\s+"
                  r"(?P<direction>client -> server|server -> client)\s+(?P<proof>\S.*)")
LAST = re.compile(r"(\d+) descriptors handed over and proved; open before and after: "
                  r"client (\d+) and (\d+), server (\d+) and (\d+); 0 left open")

TO_SERVER = ["unlinked file", "memfd", "eventfd", "eventfd", "file, read-only", "file, read-write",
             "TCP listener"] + ["memfd, in stream"] * 3
TO_CLIENT = ["pipe, read end", "pipe, write end", "memfd, sealed"] + ["pipe, in stream"] * 3


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def without_index(url):
    return url.split("?")[0]


class HandoverTest(unittest.TestCase):

    def test_each_descriptor_is_proved_and_none_left_open(self):
        result = run(HANDOVER_SH, FOLDER)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(result.stderr, "")
        first, *lines, last = result.stdout.splitlines()
        self.assertRegex(first, r"^handover_server: pid \d+ listens on unix:/")

        rows = [LINE.fullmatch(line) for line in lines]
        self.assertTrue(all(rows), result.stdout)
        by_direction = {"client -> server": [], "server -> client": []}
        urls = {}
        for row in rows:
            by_direction[row["direction"]].append(row["kind"])
            urls.setdefault(row["kind"], []).append(row["url"])
        self.assertEqual(by_direction["client -> server"], TO_SERVER)
        self.assertEqual(by_direction["server -> client"], TO_CLIENT)

        # The sample is about these: equal inodes, told apart by the index.
        for pair in (urls["eventfd"], urls["file, read-only"] + urls["file, read-write"],
                     urls["pipe, read end"] + urls["pipe, write end"]):
            self.assertNotEqual(pair[0], pair[1])
            self.assertEqual(without_index(pair[0]), without_index(pair[1]))

        counts = LAST.fullmatch(last)
        self.assertTrue(counts, last)
        count, client_before, client_after, server_before, server_after = map(int, counts.groups())
        self.assertEqual(count, len(rows))
        self.assertEqual(client_before, client_after)
        self.assertEqual(server_before, server_after)
        self.assertGreater(client_before, 3)
        self.assertGreater(server_before, 3)

    def test_a_target_that_cannot_carry_descriptors_fails(self):
        result = run(f"{FOLDER}/handover_client", "127.0.0.1:1")
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertIn("FAILED_PRECONDITION", result.stderr)

    def test_a_server_that_cannot_listen_says_why(self):
        with tempfile.TemporaryDirectory() as directory:
            result = run(f"{FOLDER}/handover_server", "--socket",
                         f"unix:{directory}/missing/handover.sock")
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertIn("NOT_FOUND", result.stderr)

    def test_without_a_target_both_explain_themselves(self):
        for program in ("handover_server", "handover_client"):
            result = run(f"{FOLDER}/{program}")
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("--socket", result.stdout + result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
