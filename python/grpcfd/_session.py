# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""One session with a server: its socket, its window, and who waits."""
from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import errno
import os
import socket
from typing import Callable, Deque, Iterator, List, Optional, Set, Tuple

from grpcfd import _errors, _url, _waiting, _wire
from grpcfd._keeper import Keeper
from grpcfd._received import Inbox, Limits, Received, duplicate

# Frames that one look reads at most: a server that never stops sending holds nobody up for ever.
_MOST_FRAMES = 256
# Plain numbers: an enum puts them together anew for each call.
_RECEIVE_FLAGS = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_SEND_FLAGS = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_RIGHTS_SPACE = socket.CMSG_SPACE(_wire.MAX_FDS_IN_FRAME * 4)


def receive(sock: socket.socket, size: int) -> Tuple[bytes, List[int], bool]:
    """One recvmsg(2): the bytes, the descriptors (close-on-exec) and whether some were lost."""
    data, control, flags, _ = sock.recvmsg(size + 1, _RIGHTS_SPACE, _RECEIVE_FLAGS)
    fds = array.array("i")
    for level, kind, payload in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return data, fds.tolist(), bool(flags & socket.MSG_CTRUNC)


class Moved(Exception):
    """The call goes on in another session."""


class Session:
    """Thread-safe. The methods that return Steps wait, in whatever drives them; no other does."""

    def __init__(
        self,
        sock: socket.socket,
        reply: _wire.Reply,
        limits: Limits,
        on_frame: Optional[Callable[["Session", _wire.Frame], None]] = None,
    ) -> None:
        """Takes the socket. `on_frame` gets LANDED and RESEND, without the lock."""
        sock.setblocking(False)
        self.version = reply.version
        self.scoped: Set[int] = set()  # Registered with it. The channel guards this.
        self._on_frame = on_frame
        self._frames: List[_wire.Frame] = []  # For on_frame.
        self._keeper: Optional[Keeper] = None
        self.id = reply.session_id
        self.limits = limits
        self.max_fds_per_call = min(limits.max_fds_per_call, reply.max_fds_per_call)
        self.window = min(limits.window, reply.window)
        self.peer_session_fds = reply.max_session_fds
        # A call was UNAVAILABLE: it may have gone to another process than the one at the other end.
        self.in_doubt = False
        self.unknown = False  # And said so: it did.
        self._pid = os.getpid()
        self._socket = sock
        self._signal = _waiting.Signal(sock.fileno())
        self._error: Optional[_errors.FdError] = None
        self._sent = 0
        self._credit = 0  # Of what was sent, what the server has disposed of.
        self._credited = 0  # Of what was disposed of here, what the server was told.
        self._credit_step = max(
            1, min(self.window // 4, self.window - self.max_fds_per_call + 1)
        )
        self._received = Received(limits)
        self._retired = False
        self._ended: Deque[int] = collections.deque(maxlen=max(1, self.window))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """What is in the trash is closed when the lock is free again."""
        trash: List[int] = []
        frames: List[_wire.Frame] = []
        try:
            with self._signal.lock:
                try:
                    yield
                finally:
                    trash, self._received.trash = self._received.trash, []
                    frames, self._frames = self._frames, []
        finally:
            _waiting.close_all(trash)
            if self._on_frame is not None:
                for frame in frames:
                    self._on_frame(self, frame)

    def watch(self, keeper: Keeper) -> None:
        """From now on the keeper's thread reads what comes."""
        with self._locked():
            if self._error is None:
                self._keeper = keeper
                self._signal.closer = keeper.close
                keeper.watch(self._socket.fileno(), self._look_up)

    def _look_up(self) -> None:
        with self._locked():
            self._read()

    def error(self) -> Optional[_errors.FdError]:
        """Why the session is dead; None if it is alive as far as its socket says."""
        with self._locked():
            self._read()
            return self._error

    def close(self, code: int = 0, text: str = "") -> None:
        """Ends the session. After fork(2) the child's copies go, and the session lives on."""
        if os.getpid() != self._pid:
            # Another thread may have had the lock when the process forked.
            self._received.drop_scoped()
            self._received.empty_all()
            _waiting.close_all(self._received.trash + self._signal.fds())
            self._socket.detach()
            return
        with self._locked():
            if code and self._error is None:
                self._send_small(_wire.Frame(_wire.CLOSE, code=code, text=text))
            error = _errors.failed_precondition("the channel was closed")
            self._die(error)
            self._received.empty_all(error)

    def retire(self) -> None:
        """There is a newer one: ends with its last call."""
        with self._locked():
            self._retired = True
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._retired and not self._received.inboxes:
            self._die(_errors.unavailable("the session was replaced by a newer one"))

    # --- Calls ---

    def begin(self, call_id: int) -> Inbox:
        inbox = Inbox()
        with self._locked():
            self._received.inboxes[call_id] = inbox
        return inbox

    def over(self, inbox: Inbox) -> None:
        """The RPC has ended: who waits for a descriptor need not wait any longer."""
        with self._locked():
            inbox.over = True
            self._signal.notify()

    def landed(self, inbox: Inbox) -> None:
        """A server has the call: it stays in this session."""
        with self._locked():
            inbox.kept = False
            self._signal.notify()

    def leave(self, call_id: int, inbox: Inbox) -> None:
        """The call goes on in another session."""
        with self._locked():
            inbox.moved = True
            self._signal.notify()
        self.end(call_id, inbox, sent=True, tell=True)

    def end(self, call_id: int, inbox: Inbox, sent: bool, tell: bool) -> None:
        """Closes what was not taken. `sent`: descriptors were sent for the call. `tell`: they may
        wait at the server for an RPC that never comes."""
        if os.getpid() != self._pid:
            return
        with self._locked():
            self._received.inboxes.pop(call_id, None)
            self._received.empty(inbox)
            inbox.closed = True
            if sent:
                self._ended.append(call_id)
            if self._error is None:
                self._read()
            if tell:
                self._send_discards()
            self._send_credit()
            self._end_if_unused()

    # --- Sending ---

    def send(
        self, call_id: int, first_index: int, fds: List[int], deadline: Optional[float]
    ) -> _waiting.Steps[None]:
        """Sends duplicates of `fds`, which stay the caller's."""
        for frame in _wire.data_frames(call_id, first_index, len(fds)):
            start = frame.first_index - first_index
            part = fds[start:start + frame.fd_count]
            while True:
                with self._locked():
                    seen = self._signal.count
                    room, sent = self._try_send(frame, part)
                if sent:
                    break
                try:
                    if room:
                        yield _waiting.Pause(0.002, deadline)
                    else:
                        yield _waiting.Changed(self._signal, seen, deadline)
                except _waiting.DeadlinePassed:
                    raise _errors.resource_exhausted(
                        f"the server has not taken enough of the {self._sent} descriptors that "
                        f"were sent in this session: {self.window} may wait there, and there is "
                        f"no room for {len(part)} more; take them in the server, or raise the "
                        "window at both ends"
                    ) from None

    def _try_send(self, frame: _wire.Frame, fds: List[int]) -> Tuple[bool, bool]:
        """Whether the window has room, and whether the frame was sent."""
        self._read()
        if self._error is not None:
            raise self._error
        if self._sent + len(fds) - self._credit > self.window:
            self._send_discards()
            return False, False
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        try:
            self._socket.sendmsg([_wire.encode_frame(frame)], [rights], _SEND_FLAGS)
        except BlockingIOError:
            return True, False
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                return True, False  # Of all processes of this user; some may be taken soon.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise
            self._read()
            self._die(_errors.unavailable("the server closed the session"))
            assert self._error is not None
            raise self._error from None
        self._sent += len(fds)
        return True, True

    def answer(self, frame: _wire.Frame, deadline: Optional[float]) -> _waiting.Steps[None]:
        """Sends a frame without descriptors."""
        while True:
            with self._locked():
                if self._error is not None or self._send_small(frame):
                    return
                self._read()
            yield _waiting.Pause(0.002, deadline)

    def withdraw(self, index: int) -> None:
        with self._locked():
            if self._error is None:
                self._send_small(_wire.Frame(_wire.WITHDRAW, numbers=(index,)))

    def _send_small(self, frame: _wire.Frame) -> bool:
        """Sends a frame without descriptors, if the socket takes it."""
        try:
            self._socket.sendmsg([_wire.encode_frame(frame)], [], _SEND_FLAGS)
            return True
        except OSError:
            return False  # Full, or at its end, which the next read finds.

    def _send_discards(self) -> None:
        if self._credit == self._sent:
            self._ended.clear()
        while self._ended and self._error is None:
            ids = tuple(list(self._ended)[:_wire.MAX_IDS_IN_DISCARD])
            if not self._send_small(_wire.Frame(_wire.DISCARD, numbers=ids)):
                return
            for _ in ids:
                self._ended.popleft()

    def _send_credit(self) -> None:
        disposed = self._received.disposed
        if disposed - self._credited < self._credit_step or self._error is not None:
            return
        if self._send_small(_wire.Frame(_wire.CREDIT, numbers=(disposed,))):
            self._credited = disposed

    # --- Receiving ---

    def take(
        self, inbox: Inbox, url: _url.InodeUrl, deadline: Optional[float], dup: bool
    ) -> _waiting.Steps[int]:
        """The descriptor of `url`, or a duplicate that leaves it there."""
        while True:
            with self._locked():
                seen = self._signal.count
                # Whatever happens after this is not seen by it.
                over = inbox.over
                empty = self._read()
                error = self._error
                moved, kept = inbox.moved, inbox.kept and not over
            if moved:
                raise Moved()
            fd = self._look(inbox, url, dup)
            if fd is not None:
                return fd
            if error is not None and not kept:
                raise error
            if empty and (over or url.scoped):
                raise _errors.not_found(
                    f"the server did not send {url}"
                    + (", or has withdrawn it" if url.scoped else " before the call ended")
                )
            try:
                yield _waiting.Changed(self._signal, seen, deadline)
            except _waiting.DeadlinePassed:
                raise _errors.deadline_exceeded(
                    f"{url} did not come in time; the server has to send it before the message "
                    "that names it"
                ) from None

    def _look(self, inbox: Inbox, url: _url.InodeUrl, dup: bool) -> Optional[int]:
        """Takes it from what came; None if it did not."""
        if url.index is None:
            index = self._find_inode(inbox, url)
            if index is None:
                return None
            url = dataclasses.replace(url, index=index)
        with self._locked():
            fd = self._received.claim(inbox, url, dup)
        if fd is None:
            return None
        good = False
        try:
            good = url.names(fd)
        finally:
            with self._locked():
                if good:
                    self._received.settle(url, dup)
                    self._send_credit()
                else:
                    self._received.give_back(inbox, url, dup, fd)
        if not good:
            raise _errors.invalid_argument(
                f"{url} is the name of another file than descriptor {url.index}: it was made for "
                "another call"
            )
        return fd

    def _find_inode(self, inbox: Inbox, url: _url.InodeUrl) -> Optional[int]:
        """The lowest index of the URL's inode."""
        with self._locked():
            indices = sorted(inbox.fds)
        for index in indices:
            with self._locked():
                if index not in inbox.fds:
                    continue
                copy = [duplicate(inbox.fds[index])]
            try:
                if url.names(copy[0]):
                    return index
            finally:
                _waiting.close_all(copy)
        with self._locked():
            if inbox.failure is not None:
                raise inbox.failure
        return None

    def _read(self) -> bool:
        """Reads what is in the socket. Whether it is empty now."""
        for _ in range(_MOST_FRAMES):
            if self._error is not None:
                return True
            try:
                data, fds, lost = receive(self._socket, _wire.FRAME_SIZE)
            except BlockingIOError:
                self._send_credit()
                return True
            except ConnectionResetError:
                continue  # Comes once; what the server sent, and then the end, follow.
            except OSError as error:
                self._die(_errors.unavailable(f"the session broke: {error}"))
                return True
            self._received.trash += fds  # Until somebody keeps them.
            try:
                if not data and not fds and not lost:
                    self._die(
                        _errors.unavailable(
                            "the server closed the session; a new call gets a new one"
                        )
                    )
                    return True
                self._deliver(_wire.decode_frame(data, self.version), fds, lost)
            except _wire.Malformed as error:
                self._cut(str(error))
            self._signal.notify()
        return False

    def _deliver(self, frame: _wire.Frame, fds: List[int], lost: bool) -> None:
        if frame.type == _wire.DATA:
            self._received.deliver(frame, fds, lost)
            return
        if fds or lost:
            raise _wire.Malformed("a frame that carries no descriptors came with some")
        if frame.type == _wire.CREDIT:
            if frame.numbers[0] > self._sent:
                raise _wire.Malformed(
                    f"credit for {frame.numbers[0]} descriptors came, {self._sent} were sent"
                )
            self._credit = max(self._credit, frame.numbers[0])
        elif frame.type == _wire.WITHDRAW:
            for index in frame.numbers:
                self._received.withdraw(index)
        elif frame.type == _wire.RESENT:
            raise _wire.Malformed("a RESENT frame came, which is the client's")
        elif frame.type in (_wire.LANDED, _wire.RESEND) and self._on_frame is not None:
            self._frames.append(frame)
        elif frame.type == _wire.RESEND:
            # Nothing was kept.
            self._send_small(frame._replace(type=_wire.RESENT, code=_wire.GONE))
        elif frame.type == _wire.CLOSE:
            self._die(
                _errors.unavailable(
                    f"the server cut the session (code {frame.code}): {frame.text}"
                )
            )

    def _cut(self, why: str) -> None:
        """The server broke the protocol: nothing of what it sent is kept."""
        self._send_small(_wire.Frame(_wire.CLOSE, code=_wire.PROTOCOL_ERROR, text=why))
        error = _errors.unavailable(f"the session was cut: {why}")
        self._received.empty_all(error)
        self._die(error)

    def _die(self, error: _errors.FdError) -> None:
        """What has come for calls can still be taken."""
        if self._error is not None:
            return
        self._error = error
        self._received.drop_scoped()
        self._ended.clear()
        if self._keeper is None:
            self._socket.detach()
            self._received.trash += self._signal.close()
            return
        # The keeper's thread closes it in its own time, and the server learns of it now.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.detach()
        self._keeper.close(self._signal.close())
