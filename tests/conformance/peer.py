# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The fdchannel protocol in the Python standard library, written from fdchannel/wire/PROTOCOL.md
alone: it shows that the document is enough. It says whatever a case tells it to, right or wrong,
and keeps no rule by itself."""
import array
import os
import select
import socket
import struct
import subprocess
import time

HELLO_MAGIC = b"\x8eGRPCFD\n"
REPLY_MAGIC = b"\x8fGRPCFD\n"
# "<": little-endian, no padding.
HELLO = struct.Struct("<8sHHHH16sIII20s")
REPLY = struct.Struct("<8sHHHHQIII28s")
FRAME = struct.Struct("<BBHIQII40s")
METADATA = struct.Struct("<BBHIIIQ16sQ")
DATA, CREDIT, DISCARD, CLOSE, WITHDRAW, LANDED, RESEND, RESENT = 1, 2, 3, 4, 5, 6, 7, 8
PROTOCOL_ERROR = 1
OK, UNSUPPORTED_VERSION, TOKEN_IN_USE, MALFORMED, ELSEWHERE = 0, 1, 2, 5, 8
MAX_FDS = 253
# How long a case waits for what must come. Far more than it takes: nothing is timed with it.
PATIENCE = 20


class Failed(Exception):
    """The program under test did not do what the document says."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def hello(token, versions=(1, 1), limits=(16, 64, 16), connection=bytes(16), **other):
    fields = dict(magic=HELLO_MAGIC, size=64, flags=0, reserved=connection + bytes(4))
    fields.update(other)
    return HELLO.pack(
        fields["magic"], fields["size"], *versions, fields["flags"], token, *limits,
        fields["reserved"],
    )


def reply(status=0, version=1, session_id=7, limits=(16, 64, 16), **other):
    if status:
        session_id, limits = 0, (0, 0, 0)
    fields = dict(magic=REPLY_MAGIC, size=64, flags=0, reserved=bytes(28))
    fields.update(other)
    return REPLY.pack(
        fields["magic"], fields["size"], version, status, fields["flags"], session_id, *limits,
        fields["reserved"],
    )


def frame(kind, count=0, first=0, call=0, attempt=0, code=0, payload=b"", flags=0):
    return FRAME.pack(kind, flags, count, first, call, attempt, code, payload.ljust(40, b"\0"))


def data(count, first=0, call=1, attempt=0):
    return frame(DATA, count, first, call, attempt)


def credit(total):
    return frame(CREDIT, payload=struct.pack("<Q", total))


def discard(*ids, n=None):
    return frame(DISCARD, code=len(ids) if n is None else n, payload=struct.pack(
        f"<{len(ids)}Q", *ids))


def withdraw(*indices, n=None):
    return frame(WITHDRAW, code=len(indices) if n is None else n, payload=struct.pack(
        f"<{len(indices)}I", *indices))


def landed(*ids):
    return frame(LANDED, code=len(ids), payload=struct.pack(f"<{len(ids)}Q", *ids))


def close(code, text=b""):
    return frame(CLOSE, code=code, payload=text)


def metadata(token, session_id, call=1, count=0, holes=0, attempt=0, version=1):
    return METADATA.pack(version, 0, 0, attempt, count, holes, call, token, session_id)


class Got:
    """A frame that came, with its descriptors. They are closed with it."""

    def __init__(self, bytes_, fds):
        self.fds = fds
        check(len(bytes_) == 64, f"a frame has 64 bytes, {len(bytes_)} came")
        (self.type, flags, self.count, self.first, self.call, self.attempt, self.code,
         self.payload) = FRAME.unpack(bytes_)
        check(flags == 0, f"flags are not 0: {bytes_.hex()}")
        check(1 <= self.type <= 8, f"an unknown type: {bytes_.hex()}")
        check(len(fds) == (self.count if self.type == DATA else 0),
              f"{len(fds)} descriptors came with {bytes_.hex()}")
        if self.type == DATA:
            check(1 <= self.count <= MAX_FDS and self.code == 0 and not any(self.payload),
                  f"a malformed DATA frame: {bytes_.hex()}")
        elif self.type in (RESEND, RESENT):
            check(self.call and not any((self.count, self.first)) and not any(self.payload),
                  f"a malformed frame: {bytes_.hex()}")
        else:
            check(not any((self.count, self.first, self.call, self.attempt)),
                  f"fields that are DATA's are not 0: {bytes_.hex()}")

    def __del__(self):
        for fd in getattr(self, "fds", ()):
            os.close(fd)

    @property
    def total(self):
        check(self.code == 0 and not any(self.payload[8:]), "a malformed CREDIT frame")
        return int.from_bytes(self.payload[:8], "little")

    def numbers(self, size):
        """Of DISCARD and LANDED (8), and of WITHDRAW (4)."""
        numbers = struct.unpack(f"<{40 // size}{'Q' if size == 8 else 'I'}", self.payload)
        check(1 <= self.code <= len(numbers) and not any(numbers[self.code:]),
              "a malformed list of numbers")
        return numbers[:self.code]

    def contents(self):
        return [os.pread(fd, 4096, 0).decode() for fd in self.fds]


def send(sock, bytes_, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([bytes_], rights, socket.MSG_NOSIGNAL)


def receive(sock, size, patience=PATIENCE):
    """One recvmsg: (bytes, descriptors); None if nothing comes."""
    if not select.select([sock], [], [], patience)[0]:
        return None
    try:
        bytes_, control, _, _ = sock.recvmsg(
            size, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return receive(sock, size, patience)  # Once; the rest follows.
    fds = array.array("i")
    for level, kind, payload in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[:len(payload) // 4 * 4])
    return bytes_, fds.tolist()


class Session:
    """One end of a session's socket."""

    def __init__(self, sock, session_id, token, limits):
        self.socket, self.id, self.token, self.limits = sock, session_id, token, limits

    def send(self, bytes_, fds=()):
        send(self.socket, bytes_, fds)

    def next(self, kind=None, patience=PATIENCE):
        """The next frame; of `kind`, others are passed over. None if none comes."""
        until = time.monotonic() + patience
        while True:
            got = receive(self.socket, 65, max(0, until - time.monotonic()))
            if got is None:
                return None
            check(got != (b"", []), "the session has ended")
            one = Got(*got)
            if kind in (None, one.type):
                return one

    def frame(self, kind):
        one = self.next(kind)
        check(one is not None, f"a frame of type {kind} did not come")
        return one

    def expect_none(self, kind):
        one = self.next(kind, patience=0)
        check(one is None, f"a frame of type {kind} came that must not")

    def expect_cut(self, code=PROTOCOL_ERROR):
        """CLOSE with this code, and the end."""
        while True:
            got = receive(self.socket, 65)
            check(got is not None, "the session goes on")
            check(got != (b"", []), "the session ended without CLOSE")
            one = Got(*got)
            if one.type == CLOSE:
                break
        check(one.code == code, f"CLOSE with the code {one.code}, expected {code}")
        text = one.payload.rstrip(b"\0")
        check(all(0x20 <= byte <= 0x7e for byte in text), "the text of CLOSE is not ASCII")
        self.expect_end()

    def expect_end(self):
        got = receive(self.socket, 65)
        check(got == (b"", []), "the session did not end after CLOSE")

    def end(self):
        self.socket.close()


def file_of(content):
    fd = os.memfd_create("conformance", os.MFD_CLOEXEC)
    os.pwrite(fd, content.encode(), 0)
    return fd


def url_of(fd, index, scoped=False):
    status = os.fstat(fd)
    return f"inode://{status.st_dev}/{status.st_ino}?{'session' if scoped else 'fd'}={index}"


class Error(Exception):
    """The program under test answered `error CODE ...`."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")
        self.code = code


class Program:
    """The program under test: one command a line, one answer a line."""

    def __init__(self, command):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, *words):
        """Gives a command without waiting for the answer."""
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def answer(self):
        """The answer's words. Error if it is one."""
        readable = select.select([self._process.stdout], [], [], PATIENCE)[0]
        check(readable, "the program does not answer")
        line = self._process.stdout.readline()
        check(line.endswith("\n"), "the program has ended")
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "error":
            raise Error(*(rest + " ").split(" ", 1))
        check(word == "ok", f"not an answer: {line!r}")
        return rest

    def ask(self, *words):
        self.say(*words)
        return self.answer()

    def fails(self, *words, code=None):
        """The command must fail, with this code if one is given."""
        try:
            text = self.ask(*words)
        except Error as error:
            check(code in (None, error.code), f"{words}: {error}, expected {code}")
            return
        raise Failed(f"{words}: expected an error, got {text!r}")

    def end(self):
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # It has ended, and says below how.
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = "none: it did not end with its input"
        self._process.stdout.close()
        check(status == 0, f"exit status {status}")
