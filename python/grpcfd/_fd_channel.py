# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""FdChannel: the descriptors' side of a channel. Keeps a session with the server, with a relay one
for each of gRPC's connections, and makes a new one when that has ended."""
from __future__ import annotations

import os
import random
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Callable, Dict, List, Optional

import grpc

from grpcfd import _errors, _hello, _keeper, _url, _waiting, _wire
from grpcfd._received import Limits
from grpcfd._relay import Connection, Relay
from grpcfd._session import Session

if TYPE_CHECKING:
    from grpcfd._call import CallState

# How long a server may take to notice that the session before has ended.
_TOKEN_PATIENCE = 1.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0
# Another process may accept the next hello, or this one is about to accept gRPC's connection.
_FIRST_ELSEWHERE = 0.001
_LONGEST_ELSEWHERE = 0.02
# How many more hellos a call is worth whose session the server did not know: each may be accepted
# by another process.
_MORE_HELLOS = 8


class FdChannel:
    """Thread-safe. Of no use in a child of fork(2), as is gRPC's channel."""

    def __init__(
        self, target: str, limits: Optional[Limits] = None, relay: bool = False
    ) -> None:
        _hello.address_of(target)  # Says so at once if it is none.
        self.target = target
        self.limits = limits or Limits()
        if (
            min(self.limits.max_fds_per_call, self.limits.window) < 1
            or self.limits.max_session_fds < 0
        ):
            raise _errors.invalid_argument(
                f"{self.limits}: max_fds_per_call and window are 1 or more, max_session_fds is 0 "
                "or more"
            )
        # From getrandom(2). For the life of the channel, over all reconnects.
        self.token = os.urandom(_wire.TOKEN_SIZE)
        self._pid = os.getpid()
        self._signal = _waiting.Signal()
        self._session: Optional[Session] = None
        self._connecting = False
        self._closed = False
        self._calls = 0
        self._registered: Dict[int, int] = {}
        self._next_scoped = 0
        self._registry_lock = threading.Lock()
        # With a relay: gRPC's connections, the newest last, and the calls that may be sent again.
        self._connections: List[Connection] = []
        self._calls_by_id: Dict[int, "CallState"] = {}
        self._used = False
        self._keeper: Optional[_keeper.Keeper] = None
        self._relay: Optional[Relay] = None
        # Has gRPC connect. The channel sets it; it is called once.
        self.connect: Optional[Callable[[], None]] = None
        self._tried = False  # gRPC has.
        if relay:
            self._keeper = _keeper.acquire()
            self._relay = self._make_relay(self._keeper)

    def _make_relay(self, keeper: _keeper.Keeper) -> Relay:
        # The thread must not hold the channel: it ends when its owner lets go of it.
        weak = weakref.ref(self)

        def came(connection: Connection) -> None:
            channel = weak()
            if channel is not None:
                channel._came(connection)

        def gone(connection: Optional[Connection]) -> None:
            channel = weak()
            if channel is not None:
                channel._gone(connection)

        return Relay(keeper, self.target, came, gone)

    @property
    def grpc_target(self) -> str:
        """What gRPC connects to."""
        return self.target if self._relay is None else self._relay.target

    def is_mine(self) -> bool:
        """Not in a child of fork(2), where locks may be held for ever."""
        return os.getpid() == self._pid

    def check_process(self) -> None:
        if not self.is_mine():
            raise _errors.failed_precondition(
                f"this channel was made by process {self._pid}, which forked: its session and its "
                "connection are the parent's. Make a channel in each process, after fork(2)"
            )

    def next_call_id(self) -> int:
        with self._signal.lock:
            self._calls += 1
            return self._calls

    def close(self) -> None:
        """Ends the sessions. What has come and was not taken is closed."""
        sessions = self._all_sessions()
        if self.is_mine():
            with self._signal.lock:
                self._closed = True
                sessions = self._all_sessions()
                self._signal.notify()
        self._session = None
        for session in sessions:
            session.close()
        registered, self._registered = self._registered, {}
        _waiting.close_all(list(registered.values()))

    def close_relay(self) -> None:
        """After close(), and after gRPC's channel."""
        relay, self._relay = self._relay, None
        keeper, self._keeper = self._keeper, None
        if relay is not None:
            relay.close()
        if keeper is not None and self.is_mine():
            _keeper.release(keeper)

    def __del__(self) -> None:
        if hasattr(self, "_keeper"):
            self.close()
            self.close_relay()

    def _all_sessions(self) -> List[Session]:
        sessions = [self._session, *(one.session for one in self._connections)]
        return [session for session in sessions if session is not None]

    # --- gRPC's connections, in the keeper's thread ---

    def _came(self, connection: Connection) -> None:
        with self._signal.lock:
            self._connections.append(connection)
            self._tried = True
            self._signal.notify()
            used = self._used and not self._closed
        if used:
            self.open_all()

    def _gone(self, connection: Optional[Connection]) -> None:
        if connection is None:
            with self._signal.lock:
                self._tried = True
                self._signal.notify()
            return
        with self._signal.lock:
            connection.alive = False
            self._connections.remove(connection)
            session, connection.session = connection.session, None
            self._signal.notify()
        if session is not None:
            session.retire()

    def open_all(self) -> None:
        """Has the keeper's thread open what sessions there are not."""
        if self._keeper is not None:
            with self._signal.lock:
                connections = list(self._connections)
            for connection in connections:
                self._keeper.start(self._open_quietly(connection))

    def _open_quietly(self, connection: Connection) -> _waiting.Steps[None]:
        try:
            yield from self._open(connection, None)
        except (_errors.FdError, OSError):
            pass  # Whoever needs the session tries again, and is told.

    def _open(
        self, connection: Connection, deadline: Optional[float]
    ) -> _waiting.Steps[Optional[Session]]:
        """The session for a connection; None if there cannot be one now."""
        session = connection.session
        if session is not None and session.error() is None:
            return session
        with self._signal.lock:
            if connection.opening or connection.refused or self._closed or not connection.alive:
                return None
            connection.opening = True
        session = None
        try:
            session = yield from self._hello_for(connection, deadline)
            if session is None:
                connection.refused = True
                return None
            if (yield from self._publish(session, connection, deadline)):
                return session
            session.retire()
            return None
        except BaseException:
            if session is not None:
                session.close()
            raise
        finally:
            with self._signal.lock:
                connection.opening = False
                self._signal.notify()

    def _hello_for(
        self, connection: Connection, deadline: Optional[float]
    ) -> _waiting.Steps[Optional[Session]]:
        until = time.monotonic() + self.limits.connect_timeout
        pause = _FIRST_ELSEWHERE
        by_handle = True
        while connection.alive:
            address = connection.handle_address if by_handle else connection.address
            try:
                sock, reply = yield from _hello.shake_hands(
                    self.target,
                    self.token,
                    self.limits,
                    deadline,
                    _wire.MAX_VERSION,
                    connection.name,
                    address,
                )
            except _errors.FdError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or not by_handle:
                    raise
                by_handle = False  # Who listened there may listen at the path again.
                continue
            if sock is not None:
                return self._session_of(sock, reply)
            if reply.status == _wire.MALFORMED and reply.version < 2:
                return None  # It knows of no connections.
            again = reply.status in (_wire.ELSEWHERE, _wire.TOKEN_IN_USE)
            if not again or time.monotonic() > until:
                _hello.refuse(self.target, reply)
            by_handle = True
            # Not in step with the processes that accept, or the same one may get each hello.
            yield _waiting.Pause(pause * random.random(), deadline)
            pause = min(2 * pause, _LONGEST_ELSEWHERE)
        return None

    def _session_of(self, sock: socket.socket, reply: _wire.Reply) -> Session:
        if self._keeper is None:
            return Session(sock, reply, self.limits)
        weak = weakref.ref(self)

        def on_frame(session: Session, frame: _wire.Frame) -> None:
            channel = weak()
            if channel is not None:
                channel._on_frame(session, frame)

        session = Session(sock, reply, self.limits, on_frame)
        session.watch(self._keeper)
        return session

    def _on_frame(self, session: Session, frame: _wire.Frame) -> None:
        for call_id in frame.numbers:  # LANDED
            call = self._calls_by_id.get(call_id)
            if call is not None:
                call.landed()
        if frame.type == _wire.RESEND and self._keeper is not None:
            self._keeper.start(self._resend(session, frame))

    def _resend(self, session: Session, frame: _wire.Frame) -> _waiting.Steps[None]:
        deadline = time.monotonic() + self.limits.recv_timeout
        call = self._calls_by_id.get(frame.call_id)
        sent = False
        try:
            # gRPC's own attempts all say the first one's number.
            if call is not None and not frame.attempt:
                sent = yield from call.resend(session, deadline)
        except (_errors.FdError, OSError):
            pass  # What the server waits for does not come.
        code = _wire.SENT if sent else _wire.GONE
        answer = _wire.Frame(_wire.RESENT, call_id=frame.call_id, attempt=frame.attempt, code=code)
        try:
            yield from session.answer(answer, deadline)
        except _waiting.DeadlinePassed:
            pass  # Nor does the server wait any longer.

    # --- Calls that may be sent again ---

    def keep(self, call_id: int, call: "CallState") -> None:
        self._calls_by_id[call_id] = call

    def let_go(self, call_id: int) -> None:
        self._calls_by_id.pop(call_id, None)

    # --- The session ---

    def session(
        self, deadline: Optional[float], wait_for_ready: bool
    ) -> _waiting.Steps[Session]:
        """The session of a call: that of gRPC's newest connection, where that is known. Connects
        if there is none."""
        try:
            if self._relay is not None:
                session = yield from self._named_session(deadline)
                if session is not None:
                    return session
        except _waiting.DeadlinePassed:
            raise _errors.deadline_exceeded(
                f"no session with {self.target} before the call's deadline"
            ) from None
        return (yield from self._session_for_none(deadline, wait_for_ready))

    def _await_first(self, deadline: Optional[float]) -> _waiting.Steps[None]:
        """Until gRPC has connected for the first time, or could not: so that the first session is
        for its connection."""
        until = time.monotonic() + self.limits.connect_timeout
        with self._signal.lock:
            connect, self.connect = self.connect, None
        if connect is not None:
            connect()
        while True:
            with self._signal.lock:
                if self._tried or self._closed:
                    return
                seen = self._signal.count
            try:
                yield _waiting.Changed(self._signal, seen, _waiting.earlier(until, deadline))
            except _waiting.DeadlinePassed:
                return

    def _named_session(self, deadline: Optional[float]) -> _waiting.Steps[Optional[Session]]:
        if not self._tried:
            yield from self._await_first(deadline)
        while True:
            with self._signal.lock:
                self._used = True
                seen = self._signal.count
                connections = self._connections[::-1]
            for connection in connections:
                session = connection.session
                if session is not None and session.error() is None:
                    return session
            opening = False
            for connection in connections:
                try:
                    session = yield from self._open(connection, deadline)
                except _errors.FdError:
                    continue  # A session for no connection says why there is none, if need be.
                if session is not None:
                    return session
                opening = opening or connection.opening
            if not opening:
                # The server that gets the call waits for the session of its connection.
                self.open_all()
                return None
            yield _waiting.Changed(self._signal, seen, deadline)

    def _session_for_none(
        self, deadline: Optional[float], wait_for_ready: bool
    ) -> _waiting.Steps[Session]:
        pause = _FIRST_PAUSE
        while True:
            with self._signal.lock:
                seen = self._signal.count
                session = None if self._connecting else self._session
                if self._closed:
                    raise _errors.failed_precondition("the channel was closed")
            if session is not None and session.error() is None:
                if not session.in_doubt:
                    return session
            with self._signal.lock:
                mine = self._signal.count == seen and not self._connecting
                self._connecting = self._connecting or mine
            try:
                if not mine:
                    yield _waiting.Changed(self._signal, seen, deadline)
                    continue
                return (yield from self._renew(session, deadline))
            except _waiting.DeadlinePassed:
                raise _errors.deadline_exceeded(
                    f"no session with {self.target} before the call's deadline"
                ) from None
            except _errors.FdError as error:
                if not wait_for_ready or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
            finally:
                if mine:
                    with self._signal.lock:
                        self._connecting = False
                        self._signal.notify()
            try:
                yield _waiting.Pause(pause, deadline)
            except _waiting.DeadlinePassed:
                raise _errors.deadline_exceeded(
                    f"no server at {self.target} before the call's deadline"
                ) from None
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _renew(
        self, former: Optional[Session], deadline: Optional[float]
    ) -> _waiting.Steps[Session]:
        """A new session, with what is registered. What came in the former can still be taken. If
        the former is in doubt and the server that answers has it, there is no other."""
        try:
            session = yield from self._connect(former, deadline)
        except _errors.FdError:
            if former is not None and former.error() is None:
                return former  # In doubt, and better than none.
            raise
        if session is former:
            session.in_doubt = session.unknown = False
            return session
        try:
            published = yield from self._publish(session, None, deadline)
        except BaseException:
            session.close()
            raise
        if published:
            if former is not None:
                former.retire()
            return session
        session.close()
        raise _errors.failed_precondition("the channel was closed")

    def _publish(
        self, session: Session, connection: Optional[Connection], deadline: Optional[float]
    ) -> _waiting.Steps[bool]:
        """Sends what is registered, and then has calls use the session. False if nobody wants it
        any more."""
        while True:
            copies: Dict[int, int] = {}
            try:
                with self._registry_lock:
                    # Of a server that takes fewer than there are, the earliest.
                    for index in sorted(self._registered)[:session.peer_session_fds]:
                        if index not in session.scoped:
                            # Somebody may unregister it meanwhile.
                            copies[index] = os.dup(self._registered[index])
                            session.scoped.add(index)
                    if not copies:
                        return self._use(session, connection)
                for index, fd in copies.items():
                    yield from session.send(0, index, [fd], deadline)
            finally:
                _waiting.close_all(list(copies.values()))

    def _use(self, session: Session, connection: Optional[Connection]) -> bool:
        former = None
        with self._signal.lock:
            if self._closed:
                return False
            if connection is None:
                self._session = session
            elif connection.alive:
                connection.session = session
                former, self._session = self._session, None
            else:
                return False
        if former is not None:
            former.retire()
        return True

    def _connect(
        self, former: Optional[Session], deadline: Optional[float]
    ) -> _waiting.Steps[Session]:
        patience = time.monotonic() + _TOKEN_PATIENCE
        more_hellos = _MORE_HELLOS
        while True:
            # Version 2 asks for somebody who reads all the time.
            version = _wire.MIN_VERSION if self._keeper is None else _wire.MAX_VERSION
            sock, reply = yield from _hello.shake_hands(
                self.target, self.token, self.limits, deadline, version
            )
            if sock is not None:
                return self._session_of(sock, reply)
            if reply.status == _wire.TOKEN_IN_USE and former is not None:
                if former.error() is None:
                    if not former.unknown or not more_hellos:
                        return former
                    more_hellos -= 1
            if reply.status != _wire.TOKEN_IN_USE or time.monotonic() > patience:
                _hello.refuse(self.target, reply)
            yield _waiting.Pause(0.01, deadline)

    # --- Descriptors for all calls ---

    def register(self, fd: int, deadline: Optional[float]) -> _waiting.Steps[str]:
        """Takes `fd`."""
        owned = [fd]
        try:
            self.check_process()
            session = yield from self.session(deadline, wait_for_ready=False)
            with self._registry_lock:
                if len(self._registered) >= session.peer_session_fds:
                    raise _errors.resource_exhausted(
                        f"the server holds {session.peer_session_fds} descriptors for all calls "
                        "of a session (max_session_fds): unregister some, or raise it"
                    )
                index = self._next_scoped
                self._next_scoped += 1
                self._registered[index] = owned.pop()
                with self._signal.lock:
                    others = [one for one in self._all_sessions() if one is not session]
                # Of several sessions each has it, but those that are being opened: see _publish().
                for one in (session, *others):
                    one.scoped.add(index)
            try:
                yield from session.send(0, index, [fd], deadline)
            except BaseException:
                owned.append(self._registered.pop(index))
                raise
            for one in others:
                try:
                    yield from one.send(0, index, [fd], deadline)
                except _errors.FdError:
                    pass  # Of a connection that ends, or a server that lags: the call says so.
            return str(_url.of(fd, index, scoped=True))
        finally:
            _waiting.close_all(owned)

    def unregister(self, url: str) -> None:
        self.check_process()
        name = _url.parse(url)
        index = name.index if name.scoped and name.index is not None else -1
        with self._registry_lock:
            fd = self._registered.pop(index, None)
        if fd is None:
            raise _errors.not_found(f"{url} is not registered")
        _waiting.close_all([fd])
        with self._signal.lock:
            sessions = self._all_sessions()
        for session in sessions:
            session.withdraw(index)
