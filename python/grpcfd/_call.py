# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""One call's descriptors: CallState, which both kinds of channels use, and Call for threads."""
from __future__ import annotations

import dataclasses
import fcntl
import os
import threading
import time
import types
from typing import IO, Any, Dict, List, Optional, Protocol, Sequence, Tuple, Type, Union

import grpc

from grpcfd import _errors, _url, _waiting, _wire
from grpcfd._fd_channel import FdChannel
from grpcfd._received import Inbox
from grpcfd._session import Moved, Session
from grpcfd.v1 import descriptor_pb2

# Of how many descriptors the metadata names the URLs, for logs.
_MOST_URLS = 16
_ENTRY = "grpcfd-bin"
_URLS = "grpcfd-urls"


class HasFileno(Protocol):
    def fileno(self) -> int: ...


FileDescriptorLike = Union[int, HasFileno]
"""A number, or what has a fileno(): a file, a socket."""

Name = Union[str, descriptor_pb2.Descriptor]
"""What names a descriptor in a message."""

Metadata = Sequence[Tuple[str, Union[str, bytes]]]


class Key(str):
    """The key of the metadata entry that ties an RPC to the state of its descriptors. It lives
    through whatever an interceptor does to the metadata. Its value says "not bound to a session":
    so an RPC goes out by a channel without grpcfd."""

    state: "CallState"


def find_state(metadata: Any) -> "Optional[CallState]":
    """The state whose entry is in an RPC's metadata."""
    for key, _ in metadata or ():
        if isinstance(key, Key):
            return key.state
    return None


def duplicate(fd: FileDescriptorLike) -> int:
    """A duplicate, close-on-exec; of a file after its buffer was flushed. OSError if it is
    closed."""
    if not isinstance(fd, int):
        flush = getattr(fd, "flush", None)
        if flush is not None:
            flush()
        fd = fd.fileno()
    # 3: never in the place of a standard stream.
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def url_of(name: Name) -> _url.InodeUrl:
    return _url.parse(name if isinstance(name, str) else name.url)


def wrap(fd: int, mode: str) -> IO[Any]:
    """Opens a file object on `fd`, which is taken, also if this fails."""
    try:
        return os.fdopen(fd, mode)
    except BaseException:
        # Of a directory, fdopen says so and leaves it open.
        _waiting.close_all([fd])
        raise


class CallState:
    """Thread-safe.

    open() ties it to a session. Descriptors that are sent before wait in a queue, which
    send_queue() sends; those that are sent later go out at once. bind() is the moment of the RPC.
    """

    def __init__(self, channel: FdChannel) -> None:
        channel.check_process()
        self._channel = channel
        self._lock = threading.Lock()
        self._queue: List[int] = []
        self._urls: List[str] = []  # Of the first few.
        self._next_index = 0
        self._begun = False
        self._closed = False
        self._ended_well = False
        self._deadline: Optional[float] = None
        self._session: Optional[Session] = None
        self._inbox = Inbox()
        self._call_id = 0
        self._without: Optional[_errors.FdError] = None
        # By index, what was sent, until a server has the call. None if it is not kept.
        self._kept: Optional[Dict[int, int]] = None
        self._over = False
        # In a session of version 2, one sends at a time: a session's server may ask for all again.
        self._turn = _waiting.Signal()
        self._turn_taken = False
        key = Key(_ENTRY)
        key.state = self
        self.metadata: Metadata = ((key, _wire.UNBOUND_METADATA),)

    # --- For the one who has the call ---

    def send(self, fd: int) -> _waiting.Steps[str]:
        """Takes `fd`."""
        owned = [fd]
        try:
            self._channel.check_process()
            name = _url.of(fd, 0)  # Without the lock: fstat(2) can block.
            with self._lock:
                self._check()
                session = self._session
                index = self._next_index
                if session is not None:
                    if self._inbox.over:
                        raise _errors.failed_precondition("the RPC has ended")
                    if not self._begun:
                        self._check_number(session, index + 1)
                elif self._begun:
                    raise _errors.failed_precondition("the RPC is being started")
                url = str(dataclasses.replace(name, index=index))
                self._next_index += 1
                if index < _MOST_URLS:
                    self._urls.append(url)
                if session is None:
                    self._queue.append(owned.pop())
                    return url
            yield from self._send_now(index, owned)
            return url
        finally:
            _waiting.close_all(owned)

    def take(
        self, url: _url.InodeUrl, timeout: Optional[float], dup: bool
    ) -> _waiting.Steps[int]:
        self._channel.check_process()
        deadline = self._limit(timeout)
        while True:
            with self._lock:
                self._check()
                session, inbox = self._session, self._inbox
                if session is None or not self._begun:
                    raise _errors.failed_precondition(
                        "the RPC has not begun: pass metadata=fds.metadata to the stub's method, "
                        "of a channel of grpcfd"
                    )
            try:
                return (yield from session.take(inbox, url, deadline, dup))
            except Moved:
                pass

    def _send_now(self, first_index: int, fds: List[int]) -> _waiting.Steps[None]:
        """Those that are kept leave `fds`; the caller closes the others."""
        session = self._session
        assert session is not None
        deadline = self._limit(None)
        if session.version < 2:
            yield from session.send(self._call_id, first_index, fds, deadline)
            return
        yield from self._take_turn(deadline)
        try:
            session = self._session  # Another one perhaps.
            assert session is not None
            try:
                yield from session.send(self._call_id, first_index, fds, deadline)
            except _errors.FdError:
                if self._kept is None or session.error() is None:
                    raise
                # The server that gets the call asks for them, by another session.
                self._channel.open_all()
            with self._lock:
                if self._kept is not None:
                    self._kept.update(enumerate(fds, first_index))
                    fds.clear()
        finally:
            self._give_turn()

    def _take_turn(self, deadline: float) -> _waiting.Steps[None]:
        while True:
            with self._turn.lock:
                if not self._turn_taken:
                    self._turn_taken = True
                    return
                seen = self._turn.count
            try:
                yield _waiting.Changed(self._turn, seen, deadline)
            except _waiting.DeadlinePassed:
                raise _errors.resource_exhausted(
                    "what this call sent before has not gone out in time"
                ) from None

    def _give_turn(self) -> None:
        with self._turn.lock:
            self._turn_taken = False
            self._turn.notify()

    def close(self) -> None:
        """Closes what was queued and not sent, and what came and was not taken."""
        if not self._channel.is_mine():
            self._lock = threading.Lock()  # Another thread of the parent may have had the old one.
        with self._lock:
            if self._closed:
                return
            self._closed = True
            queue, self._queue = self._queue, []
            session, inbox = self._session, self._inbox
            kept, self._kept = self._kept, None
        _waiting.close_all(queue)
        self._close_kept(kept)
        if session is not None:
            session.end(self._call_id, inbox, bool(self._next_index), not self._ended_well)

    def _close_kept(self, kept: Optional[Dict[int, int]]) -> None:
        if kept is not None:
            self._channel.let_go(self._call_id)
            _waiting.close_all(list(kept.values()))

    def _check(self) -> None:
        if self._closed:
            raise _errors.failed_precondition("the `with` block has ended")
        if self._without is not None:
            raise self._without

    def _check_number(self, session: Session, number: int) -> None:
        most = min(session.max_fds_per_call, session.window)
        if number > most:
            raise _errors.invalid_argument(
                f"{number} descriptors are attached, a call to this server brings {most} at most "
                "(max_fds_per_call): raise it at both ends"
            )

    def _limit(self, timeout: Optional[float]) -> float:
        patience = self._channel.limits.recv_timeout
        own = None if timeout is None else time.monotonic() + timeout
        limit = _waiting.earlier(own, self._deadline)
        return time.monotonic() + patience if limit is None else limit

    # --- For the channel ---

    def open(self, timeout: Optional[float], wait_for_ready: bool) -> _waiting.Steps[None]:
        """Ties the call to a session. A server without an fdchannel is no error here, but where
        descriptors are sent or taken: it can serve a call that brings none."""
        self._channel.check_process()
        with self._lock:
            if self._closed or self._begun or self._session is not None:
                raise _errors.failed_precondition(
                    "the descriptors belong to one RPC, which was made already, or whose `with` "
                    "block has ended: use call() for each"
                )
            self._begun = True  # Two threads do not come here.
        if timeout is not None:
            self._deadline = time.monotonic() + timeout
        deadline = self._deadline if wait_for_ready else self._limit(None)
        try:
            session = yield from self._channel.session(deadline, wait_for_ready)
            call_id = self._channel.next_call_id()
            inbox = session.begin(call_id)
            keeps = inbox.kept = session.version >= 2
            with self._lock:
                self._session, self._inbox, self._call_id = session, inbox, call_id
                closed = self._closed
                if keeps and not closed:
                    self._kept = {}
                    self._channel.keep(call_id, self)
            if closed:  # By another thread meanwhile.
                session.end(call_id, inbox, sent=False, tell=False)
        except _errors.FdError as error:
            self._without = error
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                raise
        finally:
            self._begun = False

    def send_queue(self) -> _waiting.Steps[None]:
        with self._lock:
            queue, self._queue = self._queue, []
        try:
            if not queue:
                return
            session = self._session
            if session is None:
                raise self._without or _errors.failed_precondition("the call is not open")
            self._check_number(session, len(queue))
            yield from self._send_now(0, queue)
        except _errors.FdError as error:
            self._without = error
            raise
        finally:
            _waiting.close_all(queue)

    def bind(self, timeout: Optional[float]) -> Metadata:
        """The RPC is made now. The metadata that it has to have in place of `metadata`."""
        self._channel.check_process()
        with self._lock:
            if self._closed or self._begun:
                raise _errors.failed_precondition(
                    "the descriptors belong to one RPC, which was made already, or whose `with` "
                    "block has ended: use call() for each"
                )
            self._begun = True
            if timeout is not None:
                self._deadline = time.monotonic() + timeout
            if self._session is None:
                return ((_ENTRY, _wire.UNBOUND_METADATA),)
            entry = _wire.encode_metadata(
                self._call_id, self._next_index, self._channel.token, self._session.id
            )
            if not self._urls:
                return ((_ENTRY, entry),)
            return ((_ENTRY, entry), (_URLS, " ".join(self._urls)))

    def end(self, code: Optional[grpc.StatusCode], details: Optional[str] = None) -> None:
        """The RPC is over; None if its status is not known."""
        self._ended_well = code == grpc.StatusCode.OK
        with self._lock:
            session, inbox = self._session, self._inbox
            kept, self._kept = self._kept, None
            self._over = True
        self._close_kept(kept)
        if session is not None:
            session.over(inbox)
            if code == grpc.StatusCode.UNAVAILABLE:
                # Perhaps it went to another process than the session. The next call asks.
                session.in_doubt = True
                session.unknown = f"session {session.id}, which is gone" in (details or "")

    # --- For the server, in the keeper's thread ---

    def landed(self) -> None:
        """A server has the call."""
        with self._lock:
            kept, self._kept = self._kept, None
            session, inbox = self._session, self._inbox
        self._close_kept(kept)
        if session is not None:
            session.landed(inbox)

    def resend(self, session: Session, deadline: float) -> _waiting.Steps[bool]:
        """Sends all that was sent once more, in `session`, where the call goes on. False if it was
        not kept."""
        yield from self._take_turn(deadline)
        copies: Dict[int, int] = {}
        try:
            with self._lock:
                if self._kept is None or self._over:
                    return False
                former, old_inbox = self._session, self._inbox
                assert former is not None
                for index, fd in self._kept.items():
                    copies[index] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            inbox = old_inbox
            if former is not session:
                inbox = session.begin(self._call_id)
                inbox.kept = True
            try:
                for index, fd in copies.items():
                    yield from session.send(self._call_id, index, [fd], deadline)
            finally:
                with self._lock:
                    mine = not self._closed and not self._over
                    if mine:
                        self._session, self._inbox = session, inbox
                if former is not session:
                    if mine:
                        former.leave(self._call_id, old_inbox)
                    else:
                        session.end(self._call_id, inbox, sent=True, tell=True)
            return mine
        finally:
            self._give_turn()
            _waiting.close_all(list(copies.values()))

    def remaining(self) -> Optional[float]:
        """What is left of the RPC's timeout."""
        return _waiting.remaining(self._deadline)


def bound(metadata: Any, entries: Metadata) -> List[Tuple[str, Union[str, bytes]]]:
    """An RPC's metadata, with `entries` in place of those of CallState.metadata."""
    return [*(pair for pair in metadata if not isinstance(pair[0], Key)), *entries]


class Call:
    """The descriptors of one RPC. grpcfd.call() makes one.

    Thread-safe. Errors are FdError, with the status codes that docs/guides/python.md lists; OSError
    for a descriptor of this process that is closed.
    """

    def __init__(self, state: CallState) -> None:
        self._state = state

    def __enter__(self) -> "Call":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[types.TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_state"):
            self.close()

    @property
    def metadata(self) -> Metadata:
        """What ties an RPC to these descriptors: stub.Method(request, metadata=fds.metadata), or
        [*fds.metadata, ("key", "value")]. For one RPC, of the channel that call() was given."""
        return self._state.metadata

    def send(self, fd: FileDescriptorLike) -> str:
        """Sends a duplicate of `fd`, which stays yours, and returns its URL for the message.

        Before the RPC it waits here for it. During the RPC, in a stream, it goes out at once.
        """
        return _waiting.run(self._state.send(duplicate(fd)))

    def attach(
        self, fd: FileDescriptorLike, label: str = "", offset: int = 0, size: int = 0
    ) -> descriptor_pb2.Descriptor:
        """send(), for a field of the type grpcfd.v1.Descriptor."""
        return descriptor_pb2.Descriptor(
            url=self.send(fd), label=label, offset=offset, size=size
        )

    def take(self, name: Name, timeout: Optional[float] = None) -> int:
        """The descriptor that a message names, once: it is yours to close, and close-on-exec.

        Waits for `timeout` seconds at most, and no longer than the RPC's timeout; for
        Limits.recv_timeout if there is neither.
        """
        return _waiting.run(self._state.take(url_of(name), timeout, dup=False))

    def dup(self, name: Name, timeout: Optional[float] = None) -> int:
        """A duplicate, yours to close. The descriptor stays here, to be taken."""
        return _waiting.run(self._state.take(url_of(name), timeout, dup=True))

    def open(self, name: Name, mode: str = "rb", timeout: Optional[float] = None) -> IO[Any]:
        """take(), as a file object. Its offset is shared with the sender."""
        return wrap(self.take(name, timeout), mode)

    def close(self) -> None:
        """Closes what was not taken, and what was not sent. `with` calls it."""
        self._state.close()
