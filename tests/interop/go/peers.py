# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The two programs of an interop run, and a proxy between them that writes down what passes.

Both programs, of whichever language, take the same commands on their standard input and answer each with one line;
README.md beside this file lists them.
"""

import array
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time

PATIENCE = 100  # Seconds. Reached by failures only: one call of a peer gives up after 60.


class PeerError(Exception):
    """A peer said that something failed, or nothing at all."""


class Peer:
    """One program. Use it in a with statement."""

    def __init__(self, *command):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.output = b""
        try:
            self.expect("READY")
        except BaseException:
            self.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is not None:
            self.kill()
            return
        self.process.stdin.close()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        rest = self.process.stdout.read()
        self.process.stdout.close()
        if status != 0 or rest:
            raise PeerError(f"{self.command} ended with {status}: {rest.decode()}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def line(self):
        end = time.monotonic() + PATIENCE
        while b"\n" not in self.output:
            readable, _, _ = select.select([self.process.stdout], [], [], end - time.monotonic())
            got = os.read(self.process.stdout.fileno(), 65536) if readable else b""
            if not got:
                raise PeerError(f"{self.command}: {'it ended' if readable else 'no answer'}")
            self.output += got
        line, self.output = self.output.split(b"\n", 1)
        return line.decode()

    def expect(self, word):
        line = self.line()
        if line.split()[:1] != [word]:
            raise PeerError(f"{self.command}: {line}")
        return dict(pair.split("=", 1) for pair in line.split()[1:])

    def ask(self, command):
        """Gives a command and returns its results by name."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        return self.expect("OK")

    def open_descriptors(self):
        return int(self.ask("fds")["fds"])


def eventually(condition, what):
    """Waits for what another process does in its own time and tells nobody of."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never came: {what}")
        time.sleep(0.01)


class Folder:
    """A folder for the sockets and the certificate of a run."""

    def __init__(self, certifier=None):
        self.path = tempfile.mkdtemp(prefix="grpcfd_go.")
        self.security = {"client": [], "server": []}
        if certifier:
            certificate, key = self.file("cert.pem"), self.file("key.pem")
            subprocess.run([certifier, "certificate", "--cert", certificate, "--key", key], check=True)
            self.security = {"client": ["--cert", certificate], "server": ["--cert", certificate, "--key", key]}

    def file(self, name):
        return os.path.join(self.path, name)

    def remove(self):
        shutil.rmtree(self.path)


class Recorder:
    """A proxy on a path of its own. It passes bytes and descriptors on as they come, and keeps, for each direction, the
    list of its reads: the bytes of each, and the contents of the descriptors that came with them.

    size is how much one read may take. With 1, each descriptor is seen at its very byte. With more, the kernel's rule
    shows how much a sender put into the message with a descriptor: a read ends behind it (unix(7), recvmsg).
    """

    def __init__(self, path, target, size):
        self.target, self.size = target, size
        self.sent = []  # By the client.
        self.answered = []  # By the server.
        self.failure = None
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            client, _ = self.listener.accept()
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.connect(self.target)
            with client, server:
                ways = [threading.Thread(target=self.forward, args=way)
                        for way in ((client, server, self.sent), (server, client, self.answered))]
                for way in ways:
                    way.start()
                for way in ways:
                    way.join()
        except OSError as failure:
            self.failure = failure

    def forward(self, source, target, reads):
        try:
            while True:
                data, ancillary, flags, _ = source.recvmsg(self.size, 4096, socket.MSG_CMSG_CLOEXEC)
                fds = array.array("i")
                for _, _, bytes_ in ancillary:
                    fds.frombytes(bytes_)
                if flags & socket.MSG_CTRUNC:
                    raise OSError("MSG_CTRUNC")
                reads.append((data, [os.pread(fd, 4096, 0).decode() for fd in fds]))
                try:
                    if not data:
                        target.shutdown(socket.SHUT_WR)
                        return
                    passed = target.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
                    target.sendall(data[passed:])
                finally:
                    for fd in fds:
                        os.close(fd)
        except (BrokenPipeError, ConnectionResetError):
            for end in (source, target):  # One side is gone: so is the connection.
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        except OSError as failure:
            self.failure = failure

    def finish(self):
        """Waits for the connection's end."""
        self.thread.join(PATIENCE)
        self.listener.close()
        if self.thread.is_alive() or self.failure:
            raise AssertionError(f"the recorder: {self.failure or 'the connection never ended'}")


class Frames:
    """The HTTP/2 frames of one direction, from a record with reads of one byte each. The last may be cut off, where a
    peer closed while the other still sent, and is left out then.

    frames: (type, flags, stream, offset of the first byte, offset behind the last). descriptors: (offset, content).
    """

    DATA, HEADERS = 0, 1
    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

    def __init__(self, reads):
        self.data = b"".join(data for data, _ in reads)
        self.descriptors = []
        offset = 0
        for data, contents in reads:
            self.descriptors += [(offset, content) for content in contents]
            offset += len(data)
        at = len(self.PREFACE) if self.data.startswith(self.PREFACE) else 0
        self.frames = []
        while at + 9 <= len(self.data):
            end = at + 9 + int.from_bytes(self.data[at:at + 3], "big")
            if end > len(self.data):
                break
            stream = int.from_bytes(self.data[at + 5:at + 9], "big") & 0x7fffffff
            self.frames.append((self.data[at + 3], self.data[at + 4], stream, at, end))
            at = end

    def first(self, kind):
        """The first frame of this type of each stream: (begin, end), in the order of the streams."""
        found = {}
        for type_, _, stream, begin, end in self.frames:
            if type_ == kind:
                found.setdefault(stream, (begin, end))
        return [found[stream] for stream in sorted(found)]
