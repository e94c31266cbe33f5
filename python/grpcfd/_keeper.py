# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Keeper: the thread of channels with a relay. It copies their bytes, reads their sessions, and
answers a server that asks for descriptors again. One of a process, as long as such a channel is."""
from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import threading
from typing import Any, Callable, List, Optional, Set

from grpcfd import _waiting


class Keeper:
    """Thread-safe. acquire() gives one, and release() takes it back."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self.users = 0
        self._pid = os.getpid()
        self._ended = False
        self._tasks: Set[asyncio.Task[None]] = set()
        # The collector can end a channel, and so come here, at any moment of a thread.
        self._lock = threading.RLock()
        # A daemon, so that a channel that nobody closed does not hold up the exit: _end() does it.
        self._thread = threading.Thread(target=self._run, name="grpcfd", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        with self._lock:
            self._ended = True
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(_settle(tasks))
        self.loop.close()

    def call(self, function: Callable[..., Any], *args: Any) -> bool:
        """Has the thread call it. False if there is no such thread any more, or in this process."""
        if os.getpid() != self._pid:
            return False
        with self._lock:
            if self._ended:
                return False
            self.loop.call_soon_threadsafe(function, *args)
            return True

    def start(self, steps: _waiting.Steps[None]) -> None:
        """Drives `steps` in the thread."""
        if not self.call(self._start, steps):
            steps.close()

    def _start(self, steps: _waiting.Steps[None]) -> None:
        task = self.loop.create_task(_waiting.arun(steps))
        self._tasks.add(task)  # The loop itself does not hold it.
        task.add_done_callback(self._tasks.discard)

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Until close() has got it."""
        self.call(self.loop.add_reader, fd, on_readable)

    def close(self, fds: List[int]) -> None:
        """Closes what may be watched."""
        if fds and not self.call(self._close, fds):
            _waiting.close_all(fds)

    def _close(self, fds: List[int]) -> None:
        for fd in fds:
            self.loop.remove_reader(fd)
        _waiting.close_all(fds)

    def stop(self) -> None:
        self.call(self.loop.stop)

    def join(self) -> None:
        self._thread.join()

    def forget(self) -> None:
        """In a child of fork(2): the thread is the parent's."""
        self._selector.close()


async def _settle(tasks: Any) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # What was called meanwhile.


_lock = threading.RLock()
_current: Optional[Keeper] = None


def acquire() -> Keeper:
    global _current
    with _lock:
        if _current is None:
            _current = Keeper()
        _current.users += 1
        return _current


def release(keeper: Keeper) -> None:
    """What it was told to do before is done."""
    global _current
    with _lock:
        keeper.users -= 1
        if keeper.users:
            return
        if _current is keeper:
            _current = None
    keeper.stop()


def _end() -> None:
    with _lock:
        keeper = _current
    if keeper is not None:
        keeper.stop()
        keeper.join()


def _after_fork() -> None:
    global _lock, _current
    _lock = threading.RLock()
    keeper, _current = _current, None
    if keeper is not None:
        keeper.forget()


atexit.register(_end)
os.register_at_fork(after_in_child=_after_fork)
