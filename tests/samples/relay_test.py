#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""A chain of three processes: what the client of the handover sample proves of the server, it proves
through a relay as well, and the relay keeps nothing.

    relay_test.py RELAY_SH FOLDER
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

RELAY_SH, FOLDER = sys.argv[1:3]

PASSED = re.compile(r"relay: (inode://\d+/\d+\?fd=\d+)\s+(passed on|passed back)")
PROVED = re.compile(r"\S.*?\s+(inode://\d+/\d+\?fd=\d+)\s+(client -> server|server -> client)\s+\S.*")


def start(program, *arguments):
    process = subprocess.Popen([f"{FOLDER}/{program}", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline(), f"{program} did not start"
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def descriptors(pid):
    table = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            table[number] = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            pass
    return table


class RelayTest(unittest.TestCase):

    def test_the_same_urls_at_each_hop(self):
        result = subprocess.run([RELAY_SH, FOLDER], capture_output=True, text=True, timeout=100,
                                check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(result.stderr, "")
        server, relay, *lines = result.stdout.splitlines()
        self.assertRegex(server, r"^handover_server: pid \d+ listens on unix:/")
        self.assertRegex(relay, r"^relay: pid \d+ listens on unix:/.* and passes on to unix:/")
        passed = [PASSED.fullmatch(line).groups() for line in lines if line.startswith("relay: ")]
        proved = [match.groups() for match in map(PROVED.fullmatch, lines)
                  if match and not match.string.startswith("relay: ")]
        # The client saw both directions of URLs that the relay passed, and nothing else.
        self.assertGreaterEqual(len(proved), 10, result.stdout)
        for direction, way in (("passed on", "client -> server"), ("passed back", "server -> client")):
            self.assertEqual(sorted(url for url, which in passed if which == direction),
                             sorted(url for url, which in proved if which == way))
        self.assertRegex(lines[-1], r"^\d+ descriptors handed over and proved; .*; 0 left open$")

    def test_the_relay_keeps_nothing(self):
        with tempfile.TemporaryDirectory() as directory:
            front, back = f"unix:{directory}/front", f"unix:{directory}/back"
            server = start("handover_server", back)
            relay = start("relay", front, back)
            tables = []
            for _ in range(3):
                client = subprocess.run([f"{FOLDER}/handover_client", front], capture_output=True,
                                        text=True, timeout=60, check=False)
                self.assertEqual(client.returncode, 0, client.stdout + client.stderr)
                # Only files of the calls: connections of clients that went come and go.
                tables.append([name for name in descriptors(relay.pid).values()
                               if "handover" in name or "memfd" in name or "eventfd" in name])
            self.assertEqual(stop(relay), 0)
            self.assertEqual(stop(server), 0)
        self.assertFalse([name for name in tables[-1] if "handover-" in name], tables[-1])
        self.assertLessEqual(len(tables[2]), len(tables[1]), tables)

    def test_without_targets_it_explains_itself(self):
        result = subprocess.run([f"{FOLDER}/relay"], capture_output=True, text=True, timeout=60,
                                check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("--socket", result.stdout + result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
