# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""FdChannel: the descriptors' side of a channel. Keeps one session with the server, and makes a
new one when that has ended."""
from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from typing import Dict, List, NoReturn, Optional

import grpc

from grpcfd import _errors, _url, _waiting, _wire
from grpcfd._session import Limits, Session, receive

# How long a server may take to notice that the session before has ended.
_TOKEN_PATIENCE = 1.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


def address_of(target: str) -> str:
    """What connect(2) takes. FAILED_PRECONDITION if no descriptor can get there."""
    if target.startswith("unix-abstract:"):
        name = "\0" + target[len("unix-abstract:"):]
    elif target.startswith("unix://"):
        name = target[len("unix://"):]
    elif target.startswith("unix:"):
        name = target[len("unix:"):]
    else:
        name = ""
    if not name or (target.startswith("unix://") and not name.startswith("/")):
        raise _errors.failed_precondition(
            f"{target!r} is not a unix socket, and descriptors never leave the host: expected "
            "unix:path, unix:///absolute/path or unix-abstract:name"
        )
    return name


def _is_session_socket(fd: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    sock = socket.socket(fileno=fd)
    kind = (sock.family, sock.type)
    sock.detach()
    return kind == (socket.AF_UNIX, socket.SOCK_SEQPACKET)


class FdChannel:
    """Thread-safe. Of no use in a child of fork(2), as is gRPC's channel."""

    def __init__(self, target: str, limits: Optional[Limits] = None) -> None:
        self._address = address_of(target)
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
            sock, reply = yield from self._shake_hands(deadline)
            if sock is not None:
                return Session(sock, reply, self.limits)
            if reply.status == _wire.TOKEN_IN_USE and former is not None:
                if former.error() is None:
                    return former
            if reply.status != _wire.TOKEN_IN_USE or time.monotonic() > patience:
                self._refuse(reply)
            yield _waiting.Pause(0.01, deadline)

    def _shake_hands(
        self, deadline: Optional[float]
    ) -> _waiting.Steps["tuple[Optional[socket.socket], _wire.Reply]"]:
        """One connection, one hello: the socket of the session, and the server's answer."""
        until = time.monotonic() + self.limits.connect_timeout
        soonest = _waiting.earlier(until, deadline)
        data, fds = b"", []  # type: bytes, List[int]
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            while True:
                try:
                    stream.connect(self._address)
                    break
                except BlockingIOError:  # The server's backlog is full.
                    yield _waiting.Pause(0.01, soonest)
            # 64 bytes fit into a new socket.
            stream.send(
                _wire.encode_hello(
                    self.token,
                    self.limits.max_fds_per_call,
                    self.limits.window,
                    self.limits.max_session_fds,
                ),
                socket.MSG_NOSIGNAL,
            )
            lost = False
            while len(data) < _wire.REPLY_SIZE:
                try:
                    part, more, truncated = receive(stream, _wire.REPLY_SIZE - len(data))
                except BlockingIOError:
                    yield _waiting.Ready(stream.fileno(), soonest)
                    continue
                data, lost = data + part, lost or truncated
                fds += more
                if not part:
                    break
            reply = _wire.decode_reply(data)
            if reply.status != _wire.OK and not fds:
                return None, reply
            if lost:
                raise _errors.resource_exhausted(
                    "the session's socket could not be received: this process is at its "
                    "RLIMIT_NOFILE"
                )
            if reply.status != _wire.OK or len(fds) != 1 or len(data) != _wire.REPLY_SIZE:
                raise _wire.Malformed(f"the reply came with {len(fds)} descriptors, expected one")
            if not _is_session_socket(fds[0]):
                raise _wire.Malformed("the reply came with a descriptor of the wrong kind")
            return socket.socket(fileno=fds.pop()), reply
        except _waiting.DeadlinePassed:
            if soonest is not until:
                raise
            raise _errors.unavailable(
                f"{self.target} did not answer the hello within {self.limits.connect_timeout} s"
            ) from None
        except _wire.NoReply as error:
            raise _errors.failed_precondition(
                f"the server at {self.target} takes no descriptors: it is not a grpcfd server, or "
                f"does not listen with AddListeningPort ({error})"
            ) from None
        except _wire.Malformed as error:
            raise _errors.unavailable(f"the server at {self.target}: {error}") from None
        except OSError as error:
            self._fail_to_connect(error)
        finally:
            stream.close()
            _waiting.close_all(fds)

    def _fail_to_connect(self, error: OSError) -> NoReturn:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise _errors.resource_exhausted(f"no session with {self.target}: {error}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise _errors.FdError(
                grpc.StatusCode.PERMISSION_DENIED, f"no session with {self.target}: {error}"
            ) from error
        raise _errors.unavailable(f"no session with {self.target}: {error}") from error

    def _refuse(self, reply: _wire.Reply) -> NoReturn:
        versions = f"{_wire.MIN_VERSION} to {_wire.MAX_VERSION}"
        code, text = {
            _wire.UNSUPPORTED_VERSION: (
                grpc.StatusCode.FAILED_PRECONDITION,
                f"speaks the protocol up to version {reply.version}, this client {versions}; "
                "bring the older of the two up to date",
            ),
            _wire.TOKEN_IN_USE: (
                grpc.StatusCode.UNAVAILABLE,
                "still has a session of this channel; try again once it has noticed its end",
            ),
            _wire.TOO_MANY_SESSIONS: (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "has as many sessions as its limits allow; close channels, or raise the limits",
            ),
            _wire.HELLO_REFUSED: (
                grpc.StatusCode.PERMISSION_DENIED,
                "refused a session to this process; connect as a user that it allows",
            ),
            _wire.MALFORMED: (
                grpc.StatusCode.INTERNAL,
                "could not read this client's hello; report this as a bug",
            ),
            _wire.SHUTTING_DOWN: (
                grpc.StatusCode.UNAVAILABLE,
                "is shutting down; try again once it is back",
            ),
            _wire.OUT_OF_DESCRIPTORS: (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "has no descriptors left for a session; raise its RLIMIT_NOFILE",
            ),
        }.get(
            reply.status,
            (grpc.StatusCode.INTERNAL, f"answered with an unknown status {reply.status}"),
        )
        raise _errors.FdError(code, f"the server at {self.target} {text}")

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
