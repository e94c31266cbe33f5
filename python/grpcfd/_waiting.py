# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""How threads and coroutines wait.

What takes several steps is written once, as a generator that yields what it waits for: a Changed,
a Ready or a Pause. run() drives it in the thread that asks, arun() in the coroutine that asks. So
there is no thread of our own: whoever waits for a frame reads the socket.
"""
from __future__ import annotations

import asyncio
import math
import os
import select
import threading
import time
from typing import Generator, List, Optional, Set, TypeVar, Union

T = TypeVar("T")


class DeadlinePassed(Exception):
    """Thrown into a generator whose wait was in vain; it says what that means."""


def remaining(deadline: Optional[float]) -> Optional[float]:
    """Seconds until `deadline`, a time.monotonic(); None is for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def earlier(one: Optional[float], other: Optional[float]) -> Optional[float]:
    """The earlier of two deadlines."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _poll(fds: List[int], events: int, deadline: Optional[float]) -> bool:
    """Whether one of them was ready before the deadline."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, events)
    left = remaining(deadline)
    return bool(poller.poll(None if left is None else math.ceil(left * 1000)))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Signal:
    """Counts changes of something that `lock` guards, and wakes who waits for the next one.

    With a socket, one of the waiting threads polls it for all of them: a poll of each thread would
    miss what another one has read.
    """

    def __init__(self, fd: int = -1) -> None:
        self.lock = threading.Condition(threading.Lock())
        self.count = 0
        self.closer = close_all  # What closes the descriptors that were let go of.
        self._fd = fd
        self._polling = False
        self._wake_pipe: List[int] = []
        self._to_close: List[int] = []
        self._futures: Set[asyncio.Future[None]] = set()
        self._loop: Optional[asyncio.AbstractEventLoop] = None

    def notify(self) -> None:
        """Under the lock."""
        self.count += 1
        self.lock.notify_all()
        if self._polling and self._wake_pipe:
            try:
                os.write(self._wake_pipe[1], b"w")
            except BlockingIOError:
                pass  # It is full: the one who polls will wake.
        for future in self._futures:
            if not future.get_loop().is_closed():
                future.get_loop().call_soon_threadsafe(_wake, future)

    def close(self) -> List[int]:
        """Under the lock: lets go of the socket. Returns what the caller has to close, without
        the lock; while a thread polls, that thread does it."""
        self.notify()
        self._leave_loop()
        fds = self.fds()
        if self._polling:
            self._to_close = fds
            return []
        return fds

    def fds(self) -> List[int]:
        """All that is open here, given up to the caller."""
        fds = [fd for fd in (self._fd, *self._wake_pipe) if fd >= 0]
        self._fd = -1
        self._wake_pipe = []
        return fds

    def wait(self, seen: int, deadline: Optional[float]) -> bool:
        """Until count is not `seen` or the socket is readable. False at the deadline."""
        with self.lock:
            while self.count == seen and (self._polling or self._fd < 0):
                if not self.lock.wait(remaining(deadline)):
                    return self.count != seen
            if self.count != seen:
                return True
            if not self._wake_pipe:
                self._wake_pipe = list(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            fds = [self._fd, self._wake_pipe[0]]
            self._polling = True
        to_close: List[int] = []
        try:
            return _poll(fds, select.POLLIN, deadline)
        finally:
            with self.lock:
                self._polling = False
                self.lock.notify_all()
                to_close, self._to_close = self._to_close, []
                if self._wake_pipe:
                    try:
                        os.read(self._wake_pipe[0], 64)
                    except BlockingIOError:
                        pass  # Nobody woke us.
            self.closer(to_close)

    async def wait_async(self, seen: int, deadline: Optional[float]) -> bool:
        """The same for a coroutine. All coroutines of a Signal belong to one loop."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self.lock:
            if self.count != seen:
                return True
            self._futures.add(future)
            if self._loop is None and self._fd >= 0:
                self._loop = loop
                loop.add_reader(self._fd, self._on_readable)
        try:
            await asyncio.wait_for(future, remaining(deadline))
            return True
        except asyncio.TimeoutError:
            return False
        finally:
            with self.lock:
                self._futures.discard(future)
                if not self._futures:
                    self._leave_loop()

    def _on_readable(self) -> None:
        with self.lock:
            for future in self._futures:
                _wake(future)
            self._leave_loop()  # Whoever goes on waiting asks for it again.

    def _leave_loop(self) -> None:
        if self._loop is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            self._loop = None


class Changed:
    """Waits for the next change of a Signal after the `seen`th, or for its socket."""

    def __init__(self, signal: Signal, seen: int, deadline: Optional[float]) -> None:
        self._signal = signal
        self._seen = seen
        self._deadline = deadline

    def wait(self) -> bool:
        return self._signal.wait(self._seen, self._deadline)

    async def wait_async(self) -> bool:
        return await self._signal.wait_async(self._seen, self._deadline)


class Ready:
    """Waits until a socket can be read, or written to."""

    def __init__(self, fd: int, deadline: Optional[float], write: bool = False) -> None:
        self._fd = fd
        self._deadline = deadline
        self._write = write

    def wait(self) -> bool:
        return _poll([self._fd], select.POLLOUT if self._write else select.POLLIN, self._deadline)

    async def wait_async(self) -> bool:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if self._write:
            loop.add_writer(self._fd, _wake, future)
        else:
            loop.add_reader(self._fd, _wake, future)
        try:
            await asyncio.wait_for(future, remaining(self._deadline))
            return True
        except asyncio.TimeoutError:
            return False
        finally:
            if self._write:
                loop.remove_writer(self._fd)
            else:
                loop.remove_reader(self._fd)


class Pause:
    """Waits before another try, where the kernel gives nothing to wait for."""

    def __init__(self, seconds: float, deadline: Optional[float]) -> None:
        self._until = time.monotonic() + seconds
        self._deadline = deadline

    def _late(self) -> bool:
        return self._deadline is not None and self._deadline < self._until

    def wait(self) -> bool:
        if not self._late():
            time.sleep(remaining(self._until) or 0)
        return not self._late()

    async def wait_async(self) -> bool:
        if not self._late():
            await asyncio.sleep(remaining(self._until) or 0)
        return not self._late()


Need = Union[Changed, Ready, Pause]
Steps = Generator[Need, None, T]


def run(steps: Steps[T]) -> T:
    """Drives `steps` in this thread."""
    try:
        need = next(steps)
        while True:
            need = next(steps) if need.wait() else steps.throw(DeadlinePassed())
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


async def arun(steps: Steps[T]) -> T:
    """Drives `steps` in this coroutine."""
    try:
        need = next(steps)
        while True:
            need = next(steps) if await need.wait_async() else steps.throw(DeadlinePassed())
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


def close_all(fds: List[int]) -> None:
    """Closes each once. Without a lock: close(2) can block."""
    while fds:
        try:
            os.close(fds.pop())
        except OSError:
            pass  # The descriptor is gone all the same; close(2) reports what came before.
