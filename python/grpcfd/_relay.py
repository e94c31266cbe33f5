# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Relay: what gRPC connects to in place of the server, so that the server sees named connections.

grpcio has no way to bind its sockets to a name. So they come here, and a socket that has a name
goes on to the server; the bytes are copied both ways.
"""
from __future__ import annotations

import os
import socket
import tempfile
import weakref
from typing import TYPE_CHECKING, Callable, Optional, Set

from grpcfd import _hello, _wire
from grpcfd._keeper import Keeper

if TYPE_CHECKING:
    from grpcfd._session import Session

_CHUNK = 1 << 17
# The kernel has no event for "the backlog has room again", or "there are descriptors again".
_PAUSE = 0.01
_PREFIX = "\0grpcfd-"


class Connection:
    """One connection of gRPC's, and the session for it. The channel's lock guards what changes."""

    def __init__(self, name: bytes, address: str, handle: int) -> None:
        self.name = name
        self.address = address
        self.handle = handle  # Of the socket file, which may be renamed over; -1 if there is none.
        self.alive = True
        self.opening = False
        self.refused = False  # The server gives it no session.
        self.session: Optional["Session"] = None

    @property
    def handle_address(self) -> str:
        return f"/proc/self/fd/{self.handle}" if self.handle >= 0 else self.address


class _Pump:
    """Copies what comes from one socket to the other."""

    def __init__(
        self, keeper: Keeper, source: socket.socket, sink: socket.socket, end: Callable[[], None]
    ) -> None:
        self._loop = keeper.loop
        self._source = source
        self._sink = sink
        self._end = end
        self._buffer = memoryview(bytearray(_CHUNK))
        self._rest = self._buffer[:0]
        self._full = False
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        try:
            count = self._source.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            # HTTP/2 has no use for one half of a connection.
            self._end()
            return
        self._rest = self._buffer[:count]
        self._write()

    def _write(self) -> None:
        try:
            self._rest = self._rest[self._sink.send(self._rest, socket.MSG_NOSIGNAL):]
        except BlockingIOError:
            pass
        except OSError:
            self._end()
            return
        full = bool(self._rest)
        if full and not self._full:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._write)
        elif self._full and not full:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._read)
        self._full = full


class _Link:
    """gRPC's connection to the relay, and the relay's to the server. Of the keeper's thread."""

    def __init__(self, relay: "Relay", near: socket.socket) -> None:
        self._relay = relay
        self._near = near
        self._far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._connection: Optional[Connection] = None
        self._handle = -1
        self._ended = False
        relay.links.add(self)
        self._name = os.urandom(_wire.CONNECTION_SIZE)
        try:
            self._far.bind(_PREFIX + self._name.hex())
            if not relay.address.startswith("\0"):
                self._handle = os.open(relay.address, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            self.end()
            return
        self._connect()

    def _connect(self) -> None:
        if self._ended:
            return
        connection = Connection(self._name, self._relay.address, self._handle)
        try:
            self._far.connect(connection.handle_address)
        except BlockingIOError:
            self._relay.keeper.loop.call_later(_PAUSE, self._connect)
            return
        except OSError:
            self.end()
            return
        self._connection = connection
        keeper = self._relay.keeper
        _Pump(keeper, self._near, self._far, self.end)
        _Pump(keeper, self._far, self._near, self.end)
        self._relay.came(connection)

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._relay.links.discard(self)
        for sock in (self._near, self._far):
            self._relay.keeper.loop.remove_reader(sock)
            self._relay.keeper.loop.remove_writer(sock)
        self.close()
        if self._connection is not None:
            self._connection.handle = -1
        self._relay.gone(self._connection)

    def close(self) -> None:
        """Closes, and no more: that is all that a child of fork(2) may do."""
        self._near.close()
        self._far.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Relay:
    """Thread-safe. `came` and `gone` are called in the keeper's thread, `gone` with None
    if a connection could not be made."""

    def __init__(
        self,
        keeper: Keeper,
        target: str,
        came: Callable[[Connection], None],
        gone: Callable[[Optional[Connection]], None],
    ) -> None:
        self.keeper = keeper
        self.address = _hello.address_of(target)
        self.came = came
        self.gone = gone
        self.links: Set[_Link] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._place = -1
        try:
            # A socket without a name of its own: nobody else can connect, and nothing stays behind.
            with tempfile.TemporaryDirectory(prefix="grpcfd-") as folder:
                path = os.path.join(folder, "relay")
                self._listener.bind(path)
                self._listener.listen(socket.SOMAXCONN)
                self._place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except BaseException:
            self._listener.close()
            raise
        self.target = f"unix:/proc/self/fd/{self._place}"
        _relays.add(self)
        keeper.call(self._listen)

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self.keeper.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            near = self._listener.accept()[0]
        except BlockingIOError:
            return
        except OSError:
            # This process is at its RLIMIT_NOFILE.
            self.keeper.loop.remove_reader(self._listener)
            self.keeper.loop.call_later(_PAUSE, self._listen)
            return
        near.setblocking(False)
        try:
            _Link(self, near)
        except OSError:
            near.close()  # There was no descriptor for the other one.

    def close(self) -> None:
        if not self.keeper.call(self._close):
            self.close_all()

    def _close(self) -> None:
        if self._listener.fileno() >= 0:
            self.keeper.loop.remove_reader(self._listener)
        for link in list(self.links):
            link.end()
        self.close_all()

    def close_all(self) -> None:
        self._listener.close()
        place, self._place = self._place, -1
        if place >= 0:
            os.close(place)
        for link in list(self.links):
            link.close()
        self.links.clear()


_relays: "weakref.WeakSet[Relay]" = weakref.WeakSet()


def _after_fork() -> None:
    # A connection ends when all copies are closed, and the child has no thread that serves them.
    for relay in list(_relays):
        relay.close_all()


os.register_at_fork(after_in_child=_after_fork)
