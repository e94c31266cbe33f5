#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""What a unary call costs between Go and C++ over the in-band wire, beside the same call Go to Go.

    bench.py --peer go=PROGRAM --peer cpp=PROGRAM [--blocks N] [--calls N]

All pairings run in one run, in turns: one block of calls of each, then the next block of each, so that whatever else the
machine does hits all alike. Printed are the medians of the blocks' medians in microseconds, and the ratio to Go to Go:
the median of the ratios of blocks that ran side by side. bench.sh builds and runs this.
"""

import argparse
import contextlib
import statistics
import sys

from peers import Folder, Peer

# "stock": the same C++ program without the in-band wire, so with gRPC's own connections. It carries plain calls only, and
# shows what of a C++ call is gRPC's and what the relay's.
PAIRINGS = (("go", "go"), ("cpp", "go"), ("stock", "go"), ("go", "cpp"), ("go", "stock"), ("cpp", "cpp"))
KINDS = {"plain": "no descriptor", "same": "the same descriptor each time", "fresh": "a new descriptor each time"}
TARGETS = {"plain": 1.5, "same": 1.3, "fresh": 1.3}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="append", default=[], help="LANGUAGE=PROGRAM")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--calls", type=int, default=500, help="calls of a block")
    options = parser.parse_args()
    programs = dict(peer.split("=", 1) for peer in options.peer)

    def block_of(client, kind, calls):
        result = client.ask(f"bench calls={calls} kind={kind}")
        if kind == "fresh":
            # Go keeps every descriptor until the connection closes: a new one, and warm.
            client.ask("close")
            client.ask("connect")
            client.ask("bench calls=100 kind=plain")
        return result

    def kinds(pairing):
        return ("plain",) if "stock" in pairing else KINDS

    programs["stock"] = programs["cpp"]
    extra = {"go": [], "cpp": ["--wire", "in-band"], "stock": ["--wire", "fdchannel"]}
    folder = Folder()
    with contextlib.ExitStack() as stack:
        stack.callback(folder.remove)
        for language, arguments in extra.items():
            stack.enter_context(Peer(programs[language], "server", "--socket", folder.file(language), *arguments))
        clients = {pairing: stack.enter_context(Peer(programs[pairing[0]], "client", "--socket",
                                                     folder.file(pairing[1]), *extra[pairing[0]]))
                   for pairing in PAIRINGS}
        for pairing, client in clients.items():
            client.ask("connect")
            for kind in kinds(pairing):
                block_of(client, kind, 1000)  # Warm.
        p50 = {(pairing, kind): [] for pairing in PAIRINGS for kind in KINDS}
        p99 = {key: [] for key in p50}
        for block in range(options.blocks):
            # The order turns, so that none always runs behind the same other.
            for i in range(len(PAIRINGS)):
                pairing = PAIRINGS[(block + i) % len(PAIRINGS)]
                for kind in kinds(pairing):
                    result = block_of(clients[pairing], kind, options.calls)
                    p50[pairing, kind].append(float(result["p50"]))
                    p99[pairing, kind].append(float(result["p99"]))

    print(f"{options.blocks} blocks of {options.calls} calls each, in turns; microseconds\n")
    print("| client | server | call | p50 | p99 | p50 to Go-Go | target |")
    print("|---|---|---|---|---|---|---|")
    names = {"go": "Go", "cpp": "C++", "stock": "C++, no relay"}
    for kind, meaning in KINDS.items():
        for pairing in [pairing for pairing in PAIRINGS if kind in kinds(pairing)]:
            own, base = p50[pairing, kind], p50[("go", "go"), kind]
            ratio = statistics.median(a / b for a, b in zip(own, base))
            # The targets are for C++ with Go; C++ to C++ has the fdchannel.
            target = f"at most {TARGETS[kind]}" if pairing in (("cpp", "go"), ("go", "cpp")) else ""
            print(f"| {names[pairing[0]]} | {names[pairing[1]]} | {meaning} | {statistics.median(own):.1f} | "
                  f"{statistics.median(p99[pairing, kind]):.1f} | {ratio:.2f} | {target} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
