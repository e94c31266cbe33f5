# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""One session with a server: its socket, its window, and what came for which call."""
from __future__ import annotations

import array
import collections
import contextlib
import errno
import fcntl
import os
import socket
from typing import Deque, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from grpcfd import _errors, _url, _waiting, _wire

# Frames that one look reads at most: a server that never stops sending holds nobody up for ever.
_MOST_FRAMES = 256
# Indices of a call that are remembered above one that is missing.
_MOST_GAPS = 1 << 16
_RIGHTS_SPACE = socket.CMSG_SPACE(_wire.MAX_FDS_IN_FRAME * 4)


class Limits(NamedTuple):
    """What this process is prepared to hold for one server.

    Each end tells the other its own, and the lower ones hold. To raise a limit, raise it at both
    ends.
    """

    max_fds_per_call: int = 16
    """Descriptors of a call in one direction; of a stream those sent at once."""
    window: int = 64
    """Descriptors that were sent in a session and that the receiver has not disposed of."""
    max_session_fds: int = 16
    """Descriptors for all calls of a session (register()), in one direction."""
    recv_timeout: float = 10.0
    """Seconds that a call without a timeout waits for a descriptor, or for room to send one."""
    connect_timeout: float = 5.0
    """Seconds that one attempt to open a session may take."""


def receive(sock: socket.socket, size: int) -> Tuple[bytes, List[int], bool]:
    """One recvmsg(2): the bytes, the descriptors (close-on-exec) and whether some were lost."""
    data, control, flags, _ = sock.recvmsg(
        size + 1, _RIGHTS_SPACE, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    )
    fds = array.array("i")
    for level, kind, payload in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return data, fds.tolist(), bool(flags & socket.MSG_CTRUNC)


class Inbox:
    """What came for one call. The session's lock guards it."""

    def __init__(self) -> None:
        self.fds: Dict[int, int] = {}
        self.failure: Optional[_errors.FdError] = None
        self.over = False  # The RPC has ended: nothing more is sent for it.
        self._gone_below = 0  # All indices below have come, and so have those of _gone.
        self._gone: Set[int] = set()

    def came(self, index: int) -> bool:
        return index < self._gone_below or index in self._gone

    def note(self, index: int) -> bool:
        """False if the sender leaves out so many indices that they are not remembered."""
        self._gone.add(index)
        while self._gone_below in self._gone:
            self._gone.remove(self._gone_below)
            self._gone_below += 1
        return len(self._gone) <= _MOST_GAPS


class Session:
    """Thread-safe. The methods that return Steps wait, in whatever drives them; no other does."""

    def __init__(self, sock: socket.socket, reply: _wire.Reply, limits: Limits) -> None:
        """Takes the socket."""
        sock.setblocking(False)
        self.id = reply.session_id
        self.limits = limits
        self.max_fds_per_call = min(limits.max_fds_per_call, reply.max_fds_per_call)
        self.window = min(limits.window, reply.window)
        self.peer_session_fds = reply.max_session_fds
        # A call was UNAVAILABLE: it may have gone to another process than the one at the other end.
        self.in_doubt = False
        self._pid = os.getpid()
        self._socket = sock
        self._signal = _waiting.Signal(sock.fileno())
        self._error: Optional[_errors.FdError] = None
        self._trash: List[int] = []
        self._sent = 0
        self._credit = 0  # Of what was sent, what the server has disposed of.
        self._disposed = 0
        self._credited = 0  # Of what was disposed of, what the server was told.
        self._credit_step = max(
            1, min(self.window // 4, self.window - self.max_fds_per_call + 1)
        )
        self._held = 0
        self._inboxes: Dict[int, Inbox] = {}
        # None: it came and could not be kept.
        self._scoped: Dict[int, Optional[int]] = {}
        self._retired = False
        self._ended: Deque[int] = collections.deque(maxlen=max(1, self.window))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """What is in the trash is closed when the lock is free again."""
        trash: List[int] = []
        try:
            with self._signal.lock:
                try:
                    yield
                finally:
                    trash, self._trash = self._trash, []
        finally:
            _waiting.close_all(trash)

    def error(self) -> Optional[_errors.FdError]:
        """Why the session is dead; None if it is alive as far as its socket says."""
        with self._locked():
            self._read()
            return self._error

    def close(self, code: int = 0, text: str = "") -> None:
        """Ends the session. After fork(2) the child's copies go, and the session lives on."""
        if os.getpid() != self._pid:
            # Another thread may have had the lock when the process forked.
            _waiting.close_all(self._all_fds() + self._signal.fds())
            self._socket.detach()
            return
        with self._locked():
            if code and self._error is None:
                self._send_small(_wire.Frame(_wire.CLOSE, code=code, text=text))
            self._die(_errors.failed_precondition("the channel was closed"))
            for inbox in self._inboxes.values():
                self._empty(inbox)

    def retire(self) -> None:
        """There is a newer one: ends with its last call."""
        with self._locked():
            self._retired = True
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._retired and not self._inboxes:
            self._die(_errors.unavailable("the session was replaced by a newer one"))

    # --- Calls ---

    def begin(self, call_id: int) -> Inbox:
        inbox = Inbox()
        with self._locked():
            self._inboxes[call_id] = inbox
        return inbox

    def over(self, inbox: Inbox) -> None:
        """The RPC has ended: who waits for a descriptor need not wait any longer."""
        with self._locked():
            inbox.over = True
            self._signal.notify()

    def end(self, call_id: int, inbox: Inbox, sent: bool, tell: bool) -> None:
        """Closes what was not taken. `sent`: descriptors were sent for the call. `tell`: they may
        wait at the server for an RPC that never comes."""
        if os.getpid() != self._pid:
            return
        with self._locked():
            self._inboxes.pop(call_id, None)
            self._empty(inbox)
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
            self._socket.sendmsg(
                [_wire.encode_frame(frame)], [rights], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
            )
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

    def withdraw(self, index: int) -> None:
        with self._locked():
            if self._error is None:
                self._send_small(_wire.Frame(_wire.WITHDRAW, numbers=(index,)))

    def _send_small(self, frame: _wire.Frame) -> bool:
        """Sends a frame without descriptors, if the socket takes it."""
        try:
            self._socket.sendmsg(
                [_wire.encode_frame(frame)], [], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
            )
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
        if self._disposed - self._credited < self._credit_step or self._error is not None:
            return
        if self._send_small(_wire.Frame(_wire.CREDIT, numbers=(self._disposed,))):
            self._credited = self._disposed

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
                # A session-scoped one may have been withdrawn meanwhile.
                fd = None if url.scoped else self._find(inbox, url, dup)
                if fd is None:
                    empty = self._read()
                    fd = self._find(inbox, url, dup)
                if fd is not None:
                    self._send_credit()
                    return fd
                if self._error is not None:
                    raise self._error
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

    def _find(self, inbox: Inbox, url: _url.InodeUrl, dup: bool) -> Optional[int]:
        """The descriptor, if it is here."""
        if url.scoped:
            return self._find_scoped(url)
        if inbox.failure is not None:
            raise inbox.failure
        index = url.index
        if index is None:
            fitting = [i for i, fd in sorted(inbox.fds.items()) if _is(fd, url)]
            if not fitting:
                return None
            index = fitting[0]
        if index not in inbox.fds:
            if inbox.came(index):
                raise _errors.failed_precondition(f"{url} was taken before; dup() copies")
            return None
        if not _is(inbox.fds[index], url):
            raise _errors.invalid_argument(
                f"{url} is the name of another file than descriptor {index} of this call: it was "
                "made for another call"
            )
        if dup:
            return _dup(inbox.fds[index])
        self._dispose(1)
        self._held -= 1
        return inbox.fds.pop(index)

    def _find_scoped(self, url: _url.InodeUrl) -> Optional[int]:
        if url.index not in self._scoped:
            return None
        fd = self._scoped[url.index]
        if fd is None:
            raise _errors.resource_exhausted(
                f"{url} came, and this process had no room for it (RLIMIT_NOFILE)"
            )
        if not _is(fd, url):
            raise _errors.invalid_argument(f"{url} is the name of another file")
        return _dup(fd)

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
            self._trash += fds  # Until somebody owns them.
            try:
                if not data and not fds and not lost:
                    self._die(
                        _errors.unavailable(
                            "the server closed the session; a new call gets a new one"
                        )
                    )
                    return True
                self._deliver(_wire.decode_frame(data), fds, lost)
            except _wire.Malformed as error:
                self._cut(str(error))
            self._signal.notify()
        return False

    def _deliver(self, frame: _wire.Frame, fds: List[int], lost: bool) -> None:
        if frame.type == _wire.DATA:
            if len(fds) > frame.fd_count or (len(fds) < frame.fd_count and not lost):
                raise _wire.Malformed(
                    f"a frame that announces {frame.fd_count} descriptors came with {len(fds)}"
                )
            whole = None if lost else fds
            if frame.call_id:
                self._deliver_data(frame, whole)
            else:
                self._deliver_scoped(frame, whole)
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
                fd = self._scoped.pop(index, None)
                if fd is not None:
                    self._trash.append(fd)
        elif frame.type == _wire.CLOSE:
            self._die(
                _errors.unavailable(
                    f"the server cut the session (code {frame.code}): {frame.text}"
                )
            )

    def _deliver_data(self, frame: _wire.Frame, fds: Optional[List[int]]) -> None:
        inbox = self._inboxes.get(frame.call_id)
        # This client makes no second attempt by itself.
        if inbox is None or frame.attempt:
            self._dispose(frame.fd_count)
            return
        indices = range(frame.first_index, frame.first_index + frame.fd_count)
        noted = True
        for index in indices:
            if inbox.came(index):
                raise _wire.Malformed(f"descriptor {index} of a call came twice")
            noted = inbox.note(index) and noted
        if inbox.failure is None:
            inbox.failure = self._refusal(frame, fds, noted)
        if inbox.failure is not None or fds is None:
            self._empty(inbox)
            self._dispose(frame.fd_count)
            return
        self._own(fds)
        self._held += len(fds)
        inbox.fds.update(zip(indices, fds))

    def _refusal(
        self, frame: _wire.Frame, fds: Optional[List[int]], noted: bool
    ) -> Optional[_errors.FdError]:
        """Why a call fails whose descriptors cannot be kept."""
        if fds is None:
            return _errors.resource_exhausted(
                "descriptors of this call could not be received: this process is at its "
                "RLIMIT_NOFILE (raise it, or take them sooner), or a security module refused one"
            )
        if frame.fd_count > self.limits.max_fds_per_call:
            return _errors.resource_exhausted(
                f"the server sent {frame.fd_count} descriptors at once, max_fds_per_call is "
                f"{self.limits.max_fds_per_call}: raise it"
            )
        if self._held + frame.fd_count > self.limits.window:
            return _errors.resource_exhausted(
                f"{self._held} descriptors that came wait to be taken, the window is "
                f"{self.limits.window}: take them sooner, or raise it"
            )
        if not noted:
            return _errors.resource_exhausted("the server left out too many indices of this call")
        return None

    def _deliver_scoped(self, frame: _wire.Frame, fds: Optional[List[int]]) -> None:
        indices = range(frame.first_index, frame.first_index + frame.fd_count)
        if any(index in self._scoped for index in indices):
            raise _wire.Malformed("a session-scoped descriptor came twice")
        if len(self._scoped) + frame.fd_count > self.limits.max_session_fds:
            raise _wire.Malformed(
                f"more than {self.limits.max_session_fds} session-scoped descriptors came"
            )
        if fds is None:
            self._scoped.update((index, None) for index in indices)
        else:
            self._own(fds)
            self._scoped.update(zip(indices, fds))
        self._dispose(frame.fd_count)

    def _own(self, fds: List[int]) -> None:
        """Takes what was just received out of the trash."""
        self._trash = [fd for fd in self._trash if fd not in fds]

    def _dispose(self, count: int) -> None:
        self._disposed += count

    def _empty(self, inbox: Inbox) -> None:
        self._trash += inbox.fds.values()
        self._held -= len(inbox.fds)
        self._dispose(len(inbox.fds))
        inbox.fds.clear()

    def _cut(self, why: str) -> None:
        """The server broke the protocol: nothing of what it sent is kept."""
        self._send_small(_wire.Frame(_wire.CLOSE, code=_wire.PROTOCOL_ERROR, text=why))
        for inbox in self._inboxes.values():
            self._empty(inbox)
        self._die(_errors.unavailable(f"the session was cut: {why}"))

    def _all_fds(self) -> List[int]:
        fds = [fd for fd in self._scoped.values() if fd is not None]
        self._scoped.clear()
        for inbox in self._inboxes.values():
            fds += inbox.fds.values()
            inbox.fds.clear()
        return fds

    def _die(self, error: _errors.FdError) -> None:
        """What has come for calls can still be taken."""
        if self._error is not None:
            return
        self._error = error
        self._trash += [fd for fd in self._scoped.values() if fd is not None]
        self._scoped.clear()
        self._ended.clear()
        self._socket.detach()
        self._trash += self._signal.close()


def _is(fd: int, url: _url.InodeUrl) -> bool:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino) == (url.dev, url.ino)


def _dup(fd: int) -> int:
    try:
        # 3: never in the place of a standard stream.
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise _errors.resource_exhausted(
            "this process is at its RLIMIT_NOFILE: raise it"
        ) from None
