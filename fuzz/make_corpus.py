#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz targets: fuzz/make_corpus.py, from anywhere.

One seed for each thing the formats can say (fdchannel/wire/PROTOCOL.md). What fuzzing finds is added
beside them, under a name that says what it was, and is not touched here.
"""

import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"
TOKEN = bytes(range(1, 17))


def write(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def hello(low=1, high=1, token=TOKEN, fds=16, window=64):
    return struct.pack("<8sHHHH16sII24x", b"\x8eGRPCFD\n", 64, low, high, 0, token, fds, window)


def reply(status=0, session=7, fds=16, window=64):
    return struct.pack("<8sHHHHQII32x", b"\x8fGRPCFD\n", 64, 1, status, 0, session, fds, window)


def frame(kind, count=0, index=0, call=0, attempt=0, code=0, payload=b""):
    return struct.pack("<BBHIQII40s", kind, 0, count, index, call, attempt, code, payload)


def metadata(attempt=0, count=0, call=1, token=TOKEN, session=7):
    return struct.pack("<BBHIIIQ16sQ", 1, 0, 0, attempt, count, 0, call, token, session)


FRAMES = {
    "data": frame(1, count=2, call=42),
    "data-full": frame(1, count=253, index=0xFFFFFFFF - 253, call=2**64 - 1, attempt=3),
    "credit": frame(2, payload=struct.pack("<Q", 17)),
    "discard": frame(3, code=5, payload=struct.pack("<5Q", 1, 2, 3, 4, 5)),
    "scoped": frame(1, count=1, index=3),
    "withdraw": frame(5, code=2, payload=struct.pack("<2I", 0, 3)),
    "close": frame(4, code=3, payload=b"server is shutting down"),
}


def main():
    write("hello", "hello", hello())
    write("hello", "hello-versions", hello(low=2, high=0xFFFF))
    write("hello", "reply", reply())
    for status in range(1, 8):
        write("hello", f"reply-{status}", reply(status, 0, 0, 0))
    write("hello", "http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    write("hello", "tls", b"\x16\x03\x01\x02\x00\x01")
    write("hello", "partial", hello()[:7])

    for name, content in FRAMES.items():
        write("frame", name, content)
    write("frame", "short", FRAMES["data"][:63])
    write("frame", "long", FRAMES["data"] + b"\0")

    # Flags, size, honest or not; then headers, or a length and raw bytes.
    write("cmsg", "honest", bytes([0, 0, 64, 1, 2, 1, 1, 1, 3, 0, 1, 2, 2]))
    write("cmsg", "honest-low-numbers", bytes([0, 0, 64, 1, 3, 1, 0, 0, 0, 1, 0, 2]))
    write("cmsg", "truncated", bytes([1, 1, 64, 1, 7, 1] + [1] * 7))
    rights = struct.pack("<QiiIIII", 16 + 16, 1, 1, 100, 101, 102, 103)
    for name, length in (("one", len(rights)), ("cut", 19), ("beyond", 0xFFFF)):
        write("cmsg", "raw-" + name, bytes([0, 0, 64, 0]) + struct.pack("<H", length) + rights)
    for name, size in (("no-length", 0), ("short-length", 8), ("huge-length", 2**63)):
        raw = struct.pack("<Qii", size, 1, 1) + rights
        write("cmsg", "raw-" + name, bytes([0, 0, 1, 0]) + struct.pack("<H", len(raw)) + raw)

    for name, text in {
        "plain": "inode://64769/131",
        "index": "inode://64769/131?fd=0",
        "session": "inode://26/4711?session=3",
        "session-and-index": "inode://26/4711?session=3&fd=3",
        "scheme": "inode://26/4711?fd=3&scheme=unix",
        "largest": "inode://18446744073709551615/18446744073709551615?fd=4294967295",
        "too-large": "inode://18446744073709551616/1?fd=4294967296",
        "other": "file:///etc/passwd",
        "empty": "",
        "signs": "inode://-1/+2?fd=-0",
        "twice": "inode://1/2?fd=1&fd=2",
        "escaped": "inode://1/2?f%64=1#fragment",
        "user": "inode://user:word@1/2/3",
    }.items():
        write("url", name, text.encode())

    write("metadata", "bound", metadata(count=2))
    write("metadata", "no-session", metadata(session=0))
    write("metadata", "unbound", metadata(call=0, token=bytes(16), session=0))
    write("metadata", "attempt", metadata(attempt=2, count=16, call=2**63))
    write("metadata", "urls", b"inode://64769/131?fd=0 inode://64769/132?fd=1")
    write("metadata", "urls-many", b" ".join(b"inode://1/%d?fd=%d" % (i, i) for i in range(17)))
    write("metadata", "urls-spaces", b" inode://1/2  inode://1/3 ")

    # Role; then for each message its descriptors, its kind, its fields or bytes, and what follows.
    write("session", "data", bytes([0, 1, 5, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]))
    write("session", "raw", bytes([0, 2, 0, 63]) + FRAMES["data"] + bytes([0]))
    write("session", "lie", bytes([0, 17, 15, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]))
    for name in ("credit", "discard", "scoped", "withdraw", "close"):
        write("session", name, bytes([1, 0, 0, 63]) + FRAMES[name] + bytes([0]))
    write("session", "many", bytes([0]) + bytes([1, 5, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]) * 8)

    # On a connection or a session; then descriptors, a length, and bytes, again and again.
    write("listener", "hello", bytes([0, 0, 63]) + hello())
    write("listener", "hello-pieces", bytes([0, 0, 9]) + hello()[:10] + bytes([0, 53]) + hello()[10:])
    write("listener", "hello-fds", bytes([0, 3, 40, 63]) + hello())
    write("listener", "http2", bytes([0, 0, 23]) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    write("listener", "silent", bytes([0]))
    write("listener", "data", bytes([1, 3, 2, 63]) + FRAMES["data"])
    write("listener", "close", bytes([1, 0, 63]) + FRAMES["close"])


if __name__ == "__main__":
    main()
