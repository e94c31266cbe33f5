# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""FdChannel: the descriptors' side of a channel. Keeps one session with the server, and makes a
new one when that has ended."""
from __future__ import annotations

import os
import threading
import time
from typing import Dict, Optional

import grpc

from grpcfd import _errors, _hello, _url, _waiting, _wire
from grpcfd._received import Limits
from grpcfd._session import Session

# How long a server may take to notice that the session before has ended.
_TOKEN_PATIENCE = 1.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


class FdChannel:
    """Thread-safe. Of no use in a child of fork(2), as is gRPC's channel."""

    def __init__(self, target: str, limits: Optional[Limits] = None) -> None:
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
        """Ends the session. What has come and was not taken is closed."""
        if self.is_mine():
            with self._signal.lock:
                self._closed = True
                self._signal.notify()
        session, self._session = self._session, None
        if session is not None:
            session.close()
        registered, self._registered = self._registered, {}
        _waiting.close_all(list(registered.values()))

    def __del__(self) -> None:
        if hasattr(self, "_registered"):
            self.close()

    # --- The session ---

    def session(
        self, deadline: Optional[float], wait_for_ready: bool
    ) -> _waiting.Steps[Session]:
        """The session of all calls; connects if there is none."""
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
            session.in_doubt = False
            return session
        copies: Dict[int, int] = {}
        try:
            with self._registry_lock:
                # Of a server that takes fewer than there are, the earliest.
                for index in sorted(self._registered)[:session.peer_session_fds]:
                    # Somebody may unregister it meanwhile.
                    copies[index] = os.dup(self._registered[index])
            for index, fd in copies.items():
                yield from session.send(0, index, [fd], deadline)
        except BaseException:
            session.close()
            raise
        finally:
            _waiting.close_all(list(copies.values()))
        with self._signal.lock:
            if not self._closed:
                self._session = session
        if self._session is session:
            if former is not None:
                former.retire()
            return session
        session.close()
        raise _errors.failed_precondition("the channel was closed")

    def _connect(
        self, former: Optional[Session], deadline: Optional[float]
    ) -> _waiting.Steps[Session]:
        patience = time.monotonic() + _TOKEN_PATIENCE
        while True:
            sock, reply = yield from _hello.shake_hands(
                self.target, self.token, self.limits, deadline
            )
            if sock is not None:
                return Session(sock, reply, self.limits)
            if reply.status == _wire.TOKEN_IN_USE and former is not None:
                if former.error() is None:
                    return former
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
            try:
                yield from session.send(0, index, [fd], deadline)
            except BaseException:
                owned.append(self._registered.pop(index))
                raise
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
        session = self._session
        if session is not None:
            session.withdraw(index)
