#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""A client of the fdchannel protocol in the Python standard library, written from
fdchannel/wire/PROTOCOL.md alone. It shows that the document is enough; see README.md beside it.

  fdchannel_client.py SOCKET hello                 opens a session
  fdchannel_client.py SOCKET send CALL_ID FILE...  one DATA frame for each file
  fdchannel_client.py SOCKET share FILE...         registers each file for the whole session
  fdchannel_client.py SOCKET recv N                waits for N DATA frames, prints what is in them

It prints a line for each thing done and keeps the session open until its standard input ends.
"""
import array
import os
import secrets
import socket
import struct
import sys

HELLO_MAGIC = b"\x8eGRPCFD\n"
REPLY_MAGIC = b"\x8fGRPCFD\n"
# "<": little-endian, no padding.
HELLO = struct.Struct("<8sHHHH16sIII20s")
REPLY = struct.Struct("<8sHHHHQIII28s")
FRAME = struct.Struct("<BBHIQII40s")
METADATA = struct.Struct("<BBHIIIQ16sQ")
DATA, CREDIT, DISCARD, CLOSE, WITHDRAW = 1, 2, 3, 4, 5
MAX_FDS = 253
STATUSES = ("OK", "UNSUPPORTED_VERSION", "TOKEN_IN_USE", "TOO_MANY_SESSIONS", "REFUSED",
            "MALFORMED", "SHUTTING_DOWN", "OUT_OF_DESCRIPTORS")


class ProtocolError(Exception):
    """The peer broke a rule of PROTOCOL.md."""


def check(condition, what):
    if not condition:
        raise ProtocolError(what)


def receive(sock, size):
    """One recvmsg: (bytes, descriptors, whether some were lost). They are close-on-exec."""
    data, control, flags, _ = sock.recvmsg(size, socket.CMSG_SPACE(MAX_FDS * 4),
                                           socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[:len(payload) // 4 * 4])
    if flags & socket.MSG_TRUNC:
        data += b"?"  # Longer than asked: the size is wrong, whatever it was.
    return data, list(fds), bool(flags & socket.MSG_CTRUNC)


class Session:
    def __init__(self, path, max_fds_per_call=16, window=64, max_session_fds=16):
        self.token = secrets.token_bytes(16)
        self.window, self.sent, self.credit = window, 0, 0
        self.max_session_fds, self.scoped, self.registered = max_session_fds, {}, 0
        self.disposed, self.credited, self.seen, self.early = 0, 0, set(), []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.connect(path)
            stream.sendall(HELLO.pack(HELLO_MAGIC, HELLO.size, 1, 1, 0, self.token,
                                      max_fds_per_call, window, max_session_fds, bytes(20)))
            data, fds, lost = b"", [], False
            while len(data) < REPLY.size:
                part, more, truncated = receive(stream, REPLY.size - len(data))
                check(part, f"the server hung up after {len(data)} bytes: it has no fdchannel")
                data, fds, lost = data + part, fds + more, lost or truncated
        sockets = [socket.socket(fileno=fd) for fd in fds]
        (magic, size, version, status, flags, self.id, self.peer_max, self.peer_window,
         self.peer_session_fds, rest) = REPLY.unpack(data)
        check(magic == REPLY_MAGIC, f"not a reply: {data.hex()}")
        check(size == REPLY.size and flags == 0 and not any(rest), f"malformed reply: {data.hex()}")
        check(status < len(STATUSES), f"unknown status {status}")
        check(status == 0, f"the server answered {STATUSES[status % 8]}")
        check(version == 1 and self.id and self.peer_max and self.peer_window,
              f"bad reply: {data.hex()}")
        # Both ends go by the lower of their limits.
        self.window = min(window, self.peer_window)
        self.peer_max = min(max_fds_per_call, self.peer_max)
        self.credit_step = max(1, min(self.window // 4, self.window - max_fds_per_call + 1))
        check(len(sockets) == 1 and not lost, f"a reply carries one descriptor, got {len(sockets)}")
        self.socket = sockets[0]
        check(self.socket.type == socket.SOCK_SEQPACKET, "not a SOCK_SEQPACKET socket")
        self.socket.setblocking(True)  # It comes non-blocking.

    def send(self, call_id, first_index, fds, attempt=0):
        """Sends one DATA frame; waits while the window is full."""
        while self.sent + len(fds) - self.credit > self.window:
            self.early.append(self.read())
        frame = FRAME.pack(DATA, 0, len(fds), first_index, call_id, attempt, 0, bytes(40))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        self.socket.sendmsg([frame], [rights], socket.MSG_NOSIGNAL)
        self.sent += len(fds)

    def share(self, index, fd):
        """Registers a descriptor for the whole session, under an index never used before."""
        check(self.registered < self.peer_session_fds, "the server takes no more of them")
        self.send(0, index, [fd])
        self.registered += 1

    def withdraw(self, index):
        payload = index.to_bytes(4, "little") + bytes(36)
        frame = FRAME.pack(WITHDRAW, 0, 0, 0, 0, 0, 1, payload)
        self.socket.sendmsg([frame], [], socket.MSG_NOSIGNAL)
        self.registered -= 1

    def metadata(self, call_id, count, attempt=0, holes=0):
        """The value of the RPC's grpcfd-bin entry."""
        return METADATA.pack(1, 0, 0, attempt, count, holes, call_id, self.token, self.id)

    def read(self):
        """Reads one frame. DATA gives (call_id, attempt, first_index, descriptors), and the
        descriptors are the caller's to close; other frames give None."""
        data, fds, lost = receive(self.socket, FRAME.size)
        try:
            if not data and not fds:
                raise EOFError("the server closed the session")
            check(len(data) == FRAME.size, f"a frame has {FRAME.size} bytes, got {len(data)}")
            kind, flags, count, first, call_id, attempt, code, payload = FRAME.unpack(data)
            check(flags == 0 and DATA <= kind <= WITHDRAW, f"unknown frame: {data.hex()}")
            if kind == DATA:
                check(1 <= count <= MAX_FDS and (call_id or not attempt) and first + count < 2**32
                      and code == 0 and not any(payload), f"bad DATA: {data.hex()}")
                check(lost or len(fds) == count, f"{count} descriptors announced, {len(fds)} came")
                if not call_id:
                    fds = self.register(first, count, fds)
                    return None
                indices = {(call_id, attempt, first + k) for k in range(count)}
                check(not indices & self.seen, "an index came twice")
                self.seen |= indices
                self.dispose(count)
                if lost:
                    raise OSError("descriptors were lost: this process has no room for them")
                mine, fds = fds, []
                return call_id, attempt, first, mine
            check(not fds and not any((count, first, call_id, attempt)), f"bad frame: {data.hex()}")
            if kind == CREDIT:
                total = int.from_bytes(payload[:8], "little")
                check(code == 0 and not any(payload[8:]) and total <= self.sent,
                      f"bad CREDIT: {data.hex()}")
                self.credit = max(self.credit, total)
            elif kind == DISCARD:
                ids = struct.unpack("<5Q", payload)
                check(1 <= code <= 5 and all(ids[:code]) and not any(ids[code:]),
                      f"bad DISCARD: {data.hex()}")
            elif kind == WITHDRAW:
                indices = struct.unpack("<10I", payload)
                check(1 <= code <= 10 and not any(indices[code:]), f"bad WITHDRAW: {data.hex()}")
                for index in indices[:code]:
                    fd = self.scoped.pop(index, None)
                    if fd is not None:
                        os.close(fd)
            else:
                check(code, "CLOSE without a code")
                text = payload.rstrip(bytes(1)).decode("ascii", "replace")
                raise EOFError(f"the server cut the session, code {code}: {text}")
            return None
        finally:
            for fd in fds:
                os.close(fd)

    def register(self, first, count, fds):
        """Keeps session-scoped descriptors; those lost on the way are None. Returns what is not
        kept."""
        check(len(self.scoped) + count <= self.max_session_fds, "more than max_session_fds")
        check(not any(first + k in self.scoped for k in range(count)), "an index came twice")
        whole = len(fds) == count
        for k in range(count):
            self.scoped[first + k] = fds[k] if whole else None
        self.dispose(count)
        return [] if whole else fds

    def dispose(self, count):
        """Counts descriptors that were taken or closed, and tells the server now and then."""
        self.disposed += count
        if self.disposed - self.credited >= self.credit_step:
            self.credited = self.disposed
            payload = self.disposed.to_bytes(8, "little") + bytes(32)
            frame = FRAME.pack(CREDIT, 0, 0, 0, 0, 0, 0, payload)
            self.socket.sendmsg([frame], [], socket.MSG_NOSIGNAL)


def say(*words):
    print(*words, flush=True)


def run(path, command, *rest):
    session = Session(path)
    say("session", session.id)
    say("token", session.token.hex())
    if command == "send":
        names = rest[1:]
        for index, name in enumerate(names):
            if name == "-":
                continue  # A hole, as a process leaves that forwards a call and filters.
            with open(name, "rb") as file:
                session.send(int(rest[0]), index, [file.fileno()])
            say("sent", index, name)
        say("metadata", session.metadata(int(rest[0]), len(names), holes=names.count("-")).hex())
    if command == "share":
        for index, name in enumerate(rest):
            with open(name, "rb") as file:
                session.share(index, file.fileno())
            say("shared", index, name)
        say("metadata", session.metadata(1, 0).hex())
        if sys.stdin.buffer.readline():
            session.withdraw(0)
            say("withdrawn", 0)
    frames = int(rest[0]) if command == "recv" else 0
    while frames:
        data = session.early.pop(0) if session.early else session.read()
        if data is None:
            continue
        frames -= 1
        call_id, attempt, first, fds = data
        for index, fd in enumerate(fds, first):
            with open(fd, "rb") as file:
                if file.seekable():
                    file.seek(0)  # The offset is the sender's too, and may be anywhere.
                say("received", call_id, attempt, index, file.read().hex())
    say("done")
    sys.stdin.buffer.read()


def main(arguments):
    count = len(arguments)
    wanted = {"hello": count == 2, "send": count > 3, "share": count > 2, "recv": count == 3}
    if count < 2 or not wanted.get(arguments[1]):
        sys.stderr.write(__doc__)
        return 2
    try:
        run(*arguments)
    except (ProtocolError, EOFError, OSError) as error:
        say("error", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
