# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""What came in a session: the descriptors of its calls and its own, and what was disposed of."""
from __future__ import annotations

import errno
import fcntl
from typing import Dict, List, NamedTuple, Optional, Set

from grpcfd import _errors, _url, _wire

# Indices of a call that are remembered above one that is missing.
_MOST_GAPS = 1 << 16


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


class Inbox:
    """What came for one call. The session's lock guards it."""

    def __init__(self) -> None:
        self.fds: Dict[int, int] = {}
        self.failure: Optional[_errors.FdError] = None
        self.over = False  # The RPC has ended: nothing more is sent for it.
        self.closed = False
        self.kept = False  # What the call brings is kept: it may go on in another session.
        self.moved = False  # It has.
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


class Received:
    """The session's lock guards it. It closes nothing: what is to be closed goes into `trash`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.trash: List[int] = []
        self.inboxes: Dict[int, Inbox] = {}
        self.disposed = 0  # Taken, closed, or lost on the way.
        self._held = 0
        # None: it came and could not be kept.
        self._scoped: Dict[int, Optional[int]] = {}

    # --- From the server ---

    def deliver(self, frame: _wire.Frame, fds: List[int], lost: bool) -> None:
        """A DATA frame. The descriptors are in the trash already, and leave it if they are kept.
        Malformed if the server broke a rule."""
        if len(fds) > frame.fd_count or (len(fds) < frame.fd_count and not lost):
            raise _wire.Malformed(
                f"a frame that announces {frame.fd_count} descriptors came with {len(fds)}"
            )
        whole = None if lost else fds
        if frame.call_id:
            self._deliver_to_call(frame, whole)
        else:
            self._deliver_scoped(frame, whole)

    def _deliver_to_call(self, frame: _wire.Frame, fds: Optional[List[int]]) -> None:
        inbox = self.inboxes.get(frame.call_id)
        # This client makes no second attempt by itself.
        if inbox is None or frame.attempt:
            self.disposed += frame.fd_count
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
            self.empty(inbox)
            self.disposed += frame.fd_count
            return
        self._keep(fds)
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
            self._keep(fds)
            self._scoped.update(zip(indices, fds))
        self.disposed += frame.fd_count

    def withdraw(self, index: int) -> None:
        fd = self._scoped.pop(index, None)
        if fd is not None:
            self.trash.append(fd)

    # --- For those who ask ---

    def claim(self, inbox: Inbox, url: _url.InodeUrl, dup: bool) -> Optional[int]:
        """The descriptor of `url`, which has an index, or a duplicate; None if it is not here. The
        caller looks whether it is of that inode, without the lock, for fstat(2) can block: then
        says settle(), and otherwise give_back()."""
        assert url.index is not None
        if url.scoped:
            return self._claim_scoped(url, url.index)
        if inbox.failure is not None:
            raise inbox.failure
        fd = inbox.fds.get(url.index)
        if fd is None:
            if inbox.came(url.index):
                raise _errors.failed_precondition(f"{url} was taken before; dup() copies")
            return None
        if dup:
            return duplicate(fd)
        self._held -= 1
        return inbox.fds.pop(url.index)

    def _claim_scoped(self, url: _url.InodeUrl, index: int) -> Optional[int]:
        if index not in self._scoped:
            return None
        fd = self._scoped[index]
        if fd is None:
            raise _errors.resource_exhausted(
                f"{url} came, and this process had no room for it (RLIMIT_NOFILE)"
            )
        return duplicate(fd)

    def settle(self, url: _url.InodeUrl, dup: bool) -> None:
        if not dup and not url.scoped:
            self.disposed += 1

    def give_back(self, inbox: Inbox, url: _url.InodeUrl, dup: bool, fd: int) -> None:
        if dup or url.scoped:
            self.trash.append(fd)
        elif inbox.closed:
            self.trash.append(fd)
            self.disposed += 1
        else:
            assert url.index is not None
            inbox.fds[url.index] = fd
            self._held += 1

    # --- Ends ---

    def empty(self, inbox: Inbox) -> None:
        self.trash += inbox.fds.values()
        self._held -= len(inbox.fds)
        self.disposed += len(inbox.fds)
        inbox.fds.clear()

    def empty_all(self, error: Optional[_errors.FdError] = None) -> None:
        """With an error, that is what whoever asks gets."""
        for inbox in self.inboxes.values():
            self.empty(inbox)
            inbox.failure = inbox.failure or error

    def drop_scoped(self) -> None:
        self.trash += [fd for fd in self._scoped.values() if fd is not None]
        self._scoped.clear()

    def _keep(self, fds: List[int]) -> None:
        self.trash = [fd for fd in self.trash if fd not in fds]


def duplicate(fd: int) -> int:
    try:
        # 3: never in the place of a standard stream.
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise _errors.resource_exhausted(
            "this process is at its RLIMIT_NOFILE: raise it"
        ) from None
