#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Two peers, each in Go or C++, over the in-band wire.

    interop_test.py CASE --client LANGUAGE --server LANGUAGE --peer LANGUAGE=PROGRAM... [--tls] [--calls N]

--list prints the cases. Every exchange is checked by content, at both ends: each file that is sent says which one it
is.
"""

import argparse
import os
import sys

from peers import Folder, Frames, Peer, Recorder, eventually

BURST = 64  # Descriptors that may leave together, before other bytes follow.
KEPT = 64  # What a C++ peer keeps of a connection, in each direction, where that is the question.


class Run:
    """A server, and what is needed to start clients."""

    def __init__(self, options):
        self.options = options
        self.extra = {"go": [], "cpp": []}
        if options.case == "no_leaks":
            self.extra["cpp"] = ["--kept", str(KEPT)]
        if options.case == "both_wires":
            self.extra["cpp"] = ["--wire", "both"]
        self.folder = Folder(options.peer["go"] if options.tls else None)
        self.socket = self.folder.file("server")
        try:
            self.server = Peer(options.peer[options.server], "server", "--socket", self.socket,
                               *self.folder.security["server"], *self.extra[options.server])
        except BaseException:
            self.folder.remove()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self.server.__exit__(*error)
        finally:
            self.folder.remove()

    def client(self, path=None):
        return Peer(self.options.peer[self.options.client], "client", "--socket", path or self.socket,
                    *self.folder.security["client"], *self.extra[self.options.client])


def expect(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: {got}, expected {wanted}")


def exchange(run, mode, send, receive, calls=30):
    with run.client() as client:
        client.ask("connect")
        got = client.ask(f"{mode} calls={calls} send={send} receive={receive}")
        expect(got, {"calls": str(calls), "sent": str(calls * send), "received": str(calls * receive)}, "result")


def unary_to_server(run):
    exchange(run, "unary", send=3, receive=0)


def unary_to_client(run):
    exchange(run, "unary", send=0, receive=3)


def unary_both_ways(run):
    exchange(run, "unary", send=3, receive=3)


def stream_to_server(run):
    exchange(run, "stream", send=3, receive=0)


def stream_to_client(run):
    exchange(run, "stream", send=0, receive=3)


def stream_both_ways(run):
    exchange(run, "stream", send=3, receive=3)


def many_at_once(run):
    """As many as one burst, one more, and several bursts, queued at once."""
    for count in (BURST, BURST + 1, 200):
        exchange(run, "unary", send=count, receive=0, calls=2)
        exchange(run, "unary", send=0, receive=count, calls=2)
    exchange(run, "stream", send=BURST + 1, receive=BURST + 1, calls=3)


def later_call_asks_again(run):
    """A descriptor stays with its connection: a call that brings none may name one that came earlier."""
    with run.client() as client:
        client.ask("connect")
        client.ask("unary calls=5 send=2 receive=0")
        for _ in range(3):
            client.ask("again")


def two_connections(run):
    """Each client's descriptors are found by its own calls, with both at work."""
    with run.client() as one, run.client() as other:
        one.ask("connect")
        other.ask("connect")
        for _ in range(5):
            command = b"unary calls=20 send=2 receive=2\n"
            for client in (one, other):
                client.process.stdin.write(command)
                client.process.stdin.flush()
            for client in (one, other):
                expect(client.expect("OK")["received"], "40", "descriptors received")


def both_wires(run):
    """A C++ server with both wires on one path: a client of each kind at a time."""
    with run.client() as one, Peer(run.options.peer["cpp"], "client", "--socket", run.socket, "--wire", "fdchannel",
                                   *run.folder.security["client"]) as other:
        for client in (one, other):
            client.ask("connect")
        for _ in range(5):
            one.ask("unary calls=10 send=2 receive=2")
            # On the fdchannel a descriptor is taken once, and these clients ask twice: to the server only.
            expect(other.ask("unary calls=10 send=2 receive=0")["sent"], "20", "descriptors sent")


def settled(peer):
    """The count of open descriptors, once it no longer changes."""
    counts = []
    eventually(lambda: counts.append(peer.open_descriptors()) or len(set(counts[-5:])) == 1 and len(counts) >= 5,
               "a steady count of descriptors")
    return counts[-1]


def no_leaks(run):
    """What stays open is what this wire keeps: all of a connection's in Go, a bounded number in C++; and nothing once
    the connection is closed."""
    calls = run.options.calls
    streamed = max(calls // 10, 10)
    most = {"go": calls + streamed, "cpp": 2 * KEPT}
    with run.client() as client:
        languages = {client: run.options.client, run.server: run.options.server}
        for _ in range(2):  # What the programs open once, at their first call.
            client.ask("connect")
            client.ask("unary calls=20 send=1 receive=1")
            client.ask("close")
        before = {peer: settled(peer) for peer in languages}
        client.ask("connect")
        client.ask(f"unary calls={calls} send=1 receive=1")
        client.ask(f"stream calls={streamed} send=1 receive=1")
        for peer, language in languages.items():
            limit = before[peer] + most[language] + 20  # 20: the connection itself, a thread's own.
            eventually(lambda peer=peer, limit=limit: peer.open_descriptors() <= limit,
                       f"no more than {limit} descriptors in the {language} peer")
        client.ask("close")
        for peer, language in languages.items():
            eventually(lambda peer=peer: peer.open_descriptors() <= before[peer],
                       f"{before[peer]} descriptors in the {language} peer, as before the connection")


def record(run, command, size):
    path = run.folder.file("recorder")
    if os.path.exists(path):
        os.unlink(path)
    recorder = Recorder(path, run.socket, size)
    try:
        with run.client(path) as client:
            client.ask("connect")
            client.ask(command)
    finally:
        recorder.finish()
    return recorder


def sides(recorder):
    return ((recorder.sent, "client"), (recorder.answered, "server"))


def names(side, calls, each):
    return [f"{side}.{call + 1}.{i}" for call in range(calls) for i in range(each)]


def trace(run):
    """Which byte of the connection carried which descriptor."""
    calls, each = 5, 3
    recorder = record(run, f"unary calls={calls} send={each} receive={each}", size=1)
    for reads, side in sides(recorder):
        for data, contents in reads:
            if len(contents) > 1:
                raise AssertionError(f"one byte, {data}, carried {contents}")
        expect([content for _, contents in reads for content in contents], names(side, calls, each), "order")
        if run.options.tls:
            continue
        frames = Frames(reads)
        offsets = [offset for offset, _ in frames.descriptors]
        headers, data = frames.first(Frames.HEADERS), frames.first(Frames.DATA)
        expect(len(headers), calls, "calls in the record")
        # The last byte that may carry a descriptor of a call: its headers' for the client, who queues before the call;
        # its reply's for the server. And none leaves before the call began, which is after the one before it ended.
        latest = headers if side == "client" else data
        for call in range(calls):
            earliest = latest[call - 1][1] if call else 0
            for offset in offsets[call * each:(call + 1) * each]:
                if not earliest <= offset < latest[call][1]:
                    raise AssertionError(f"call {call}: the {side}'s descriptor at byte {offset}, expected within "
                                         f"{earliest} to {latest[call][1]}")


def trace_of_many(run):
    """More than leave together still go one to a byte, in order. How many bytes in a row carry one says nothing: Go stops
    after BURST in each write (the test of its package looks at the writes), but the next write may begin with more; C++
    goes on as long as there are bytes, so that nothing waits for a next write that may never come."""
    count = 2 * BURST + 22
    recorder = record(run, f"stream calls=2 send={count} receive={count}", size=1)
    for reads, side in sides(recorder):
        expect(max(len(contents) for _, contents in reads), 1, "descriptors with one byte")
        expect([content for _, contents in reads for content in contents], names(side, 2, count), "order")


def trace_of_messages(run):
    """How much the message with a descriptor has. Go: one byte, for each descriptor. C++: one byte for each but the last
    that is queued, which takes along what is left to be written. A read of any size ends behind such a message, so that
    one which begins with it is as long as it. Reads that begin with earlier bytes say nothing (a write of other frames
    may come between two descriptors of a call), but were each message longer, no read could be of one byte."""
    recorder = record(run, "unary calls=5 send=3 receive=3", size=65536)
    for reads, side in sides(recorder):
        expect([content for _, contents in reads for content in contents], names(side, 5, 3), "order")
        expect(min(len(data) for data, contents in reads if contents), 1, f"the {side}'s shortest message with a descriptor")
    languages = {"client": run.options.client, "server": run.options.server}
    recorder = record(run, "unary calls=5 send=1 receive=1", size=65536)
    for reads, side in sides(recorder):
        expect([content for _, contents in reads for content in contents], names(side, 5, 1), "order")
        if languages[side] == "cpp" and min(len(data) for data, contents in reads if contents) == 1:
            raise AssertionError(f"the {side}'s only descriptor went with one byte, and the rest in another message")


CASES = {case.__name__: case for case in (
    unary_to_server, unary_to_client, unary_both_ways, stream_to_server, stream_to_client, stream_both_ways,
    many_at_once, later_call_asks_again, two_connections, both_wires, no_leaks, trace, trace_of_many, trace_of_messages)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--client", required=True, choices=("go", "cpp"))
    parser.add_argument("--server", required=True, choices=("go", "cpp"))
    parser.add_argument("--peer", action="append", default=[], help="LANGUAGE=PROGRAM")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--calls", type=int, default=int(os.environ.get("GRPCFD_INTEROP_CALLS", "1000")),
                        help="calls of no_leaks")
    options = parser.parse_args()
    options.peer = dict(peer.split("=", 1) for peer in options.peer)
    with Run(options) as run:
        CASES[options.case](run)
    print(f"{options.case}: {options.client} client, {options.server} server{', TLS' if options.tls else ''}: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
