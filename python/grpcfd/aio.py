# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The same for asyncio, beside grpc.aio.

    async with grpcfd.aio.insecure_channel("unix:/run/app.sock") as channel:
        stub = device_pb2_grpc.DeviceStub(channel)
        async with grpcfd.aio.call(channel) as fds:
            request = device_pb2.AttachRequest(memory=await fds.attach(memory))
            reply = await stub.Attach(request, metadata=fds.metadata)
            event = await fds.take(reply.event)

A channel and its calls belong to one event loop. No thread waits for descriptors: the loop does.
"""
from __future__ import annotations

import asyncio
import time
import types
from typing import IO, Any, Optional, Sequence, Tuple, Type

import grpc
import grpc.aio

from grpcfd import _call, _waiting
from grpcfd._channel import channel_options
from grpcfd._fd_channel import FdChannel
from grpcfd._received import Limits
from grpcfd.v1 import descriptor_pb2

__all__ = ["Call", "Channel", "call", "insecure_channel", "intercept", "secure_channel"]


class _Method:
    """A multi-callable of any of the four kinds, which sees the end of an RPC with descriptors."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(
        self,
        request: Any = None,
        timeout: Optional[float] = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: Optional[bool] = None,
        compression: Any = None,
    ) -> Any:
        state = _call.find_state(metadata)
        if state is not None:
            metadata = _call.bound(metadata, state.bind(timeout))
        try:
            rpc = self._inner(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
        except BaseException:
            if state is not None:
                state.end(None)
            raise
        if state is not None:
            _end_with(rpc, state)
        return rpc


def _end_with(rpc: Any, state: _call.CallState) -> None:
    def end(done: Any) -> None:
        code = _code_of(done)
        state.end(code, _result_of(done.details()) if code is not None else None)

    rpc.add_done_callback(end)


def _code_of(rpc: Any) -> Optional[grpc.StatusCode]:
    code: Optional[grpc.StatusCode] = _result_of(rpc.code())
    return code


def _result_of(answer: Any) -> Any:
    """Of a coroutine of an RPC that is done: it has its answer at hand and need not be awaited."""
    try:
        answer.send(None)
    except StopIteration as stop:
        return stop.value
    except asyncio.CancelledError:
        pass
    finally:
        answer.close()
    return None


class Channel(grpc.aio.Channel):  # type: ignore[misc]
    """A grpc.aio.Channel for any stub. insecure_channel(), secure_channel() and intercept() make
    one."""

    def __init__(self, inner: grpc.aio.Channel, fd_channel: FdChannel) -> None:
        self._inner = inner
        self.fd_channel = fd_channel
        fd_channel.connect = lambda: inner.get_state(try_to_connect=True) and None

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.stream_stream(*args, **kwargs))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def register(
        self, fd: _call.FileDescriptorLike, timeout: Optional[float] = None
    ) -> str:
        """Sends a duplicate of `fd` once, for all calls, and returns a URL that any call's message
        may use (with metadata=fds.metadata, as always). After a reconnect it is there again."""
        patience = self.fd_channel.limits.recv_timeout if timeout is None else timeout
        steps = self.fd_channel.register(_call.duplicate(fd), time.monotonic() + patience)
        return await _waiting.arun(steps)

    def unregister(self, url: str) -> None:
        """Takes back what register() returned `url` for."""
        self.fd_channel.unregister(url)

    async def close(self, grace: Optional[float] = None) -> None:
        """Ends the channel, after `grace` seconds for its RPCs, and then the session."""
        await self._inner.close(grace)
        self.fd_channel.close()
        self.fd_channel.close_relay()

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await self.close()


def insecure_channel(
    target: str,
    options: Optional[Sequence[Tuple[str, Any]]] = None,
    compression: Optional[grpc.Compression] = None,
    interceptors: Optional[Sequence[Any]] = None,
    *,
    limits: Optional[Limits] = None,
    relay: bool = False,
) -> Channel:
    """grpc.aio.insecure_channel() to a unix socket, for calls with descriptors. `relay` as in
    grpcfd.insecure_channel().

    FAILED_PRECONDITION if `target` is no unix socket: descriptors never leave the host.
    """
    fd_channel = FdChannel(target, limits, relay)
    try:
        inner = grpc.aio.insecure_channel(
            fd_channel.grpc_target, channel_options(options, relay), compression, interceptors
        )
    except BaseException:
        fd_channel.close_relay()
        raise
    return Channel(inner, fd_channel)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Optional[Sequence[Tuple[str, Any]]] = None,
    compression: Optional[grpc.Compression] = None,
    interceptors: Optional[Sequence[Any]] = None,
    *,
    limits: Optional[Limits] = None,
    relay: bool = False,
) -> Channel:
    """grpc.aio.secure_channel() to a unix socket, for calls with descriptors. `relay` as in
    grpcfd.insecure_channel()."""
    fd_channel = FdChannel(target, limits, relay)
    try:
        inner = grpc.aio.secure_channel(
            fd_channel.grpc_target,
            credentials,
            channel_options(options, relay),
            compression,
            interceptors,
        )
    except BaseException:
        fd_channel.close_relay()
        raise
    return Channel(inner, fd_channel)


def intercept(
    channel: grpc.aio.Channel, target: str, *, limits: Optional[Limits] = None
) -> Channel:
    """The same around any channel to `target`, which is closed with the one returned."""
    return Channel(channel, FdChannel(target, limits))


def call(
    channel: Channel, timeout: Optional[float] = None, wait_for_ready: bool = False
) -> "Call":
    """The descriptors of one RPC on `channel`, for use in an `async with` statement.

    That opens the session, if there is none: within `timeout` seconds, and with `wait_for_ready`
    also if the server is still to come.
    """
    return Call(_call.CallState(channel.fd_channel), timeout, wait_for_ready)


class Call:
    """The descriptors of one RPC. call() makes one. Methods and errors are those of grpcfd.Call."""

    def __init__(
        self, state: _call.CallState, timeout: Optional[float], wait_for_ready: bool
    ) -> None:
        self._state = state
        self._timeout = timeout
        self._wait_for_ready = wait_for_ready

    async def __aenter__(self) -> "Call":
        await _waiting.arun(self._state.open(self._timeout, self._wait_for_ready))
        return self

    async def __aexit__(
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
    def metadata(self) -> _call.Metadata:
        """What ties an RPC to these descriptors: stub.Method(request, metadata=fds.metadata)."""
        return self._state.metadata

    async def send(self, fd: _call.FileDescriptorLike) -> str:
        """Sends a duplicate of `fd`, which stays yours, at once, and returns its URL for the
        message."""
        return await _waiting.arun(self._state.send(_call.duplicate(fd)))

    async def attach(
        self, fd: _call.FileDescriptorLike, label: str = "", offset: int = 0, size: int = 0
    ) -> descriptor_pb2.Descriptor:
        """send(), for a field of the type grpcfd.v1.Descriptor."""
        url = await self.send(fd)
        return descriptor_pb2.Descriptor(url=url, label=label, offset=offset, size=size)

    async def take(self, name: _call.Name, timeout: Optional[float] = None) -> int:
        """The descriptor that a message names, once: it is yours to close."""
        steps = self._state.take(_call.url_of(name), timeout, dup=False)
        return await _waiting.arun(steps)

    async def dup(self, name: _call.Name, timeout: Optional[float] = None) -> int:
        """A duplicate, yours to close. The descriptor stays here, to be taken."""
        return await _waiting.arun(self._state.take(_call.url_of(name), timeout, dup=True))

    async def open(
        self, name: _call.Name, mode: str = "rb", timeout: Optional[float] = None
    ) -> IO[Any]:
        """take(), as a file object."""
        return _call.wrap(await self.take(name, timeout), mode)

    def close(self) -> None:
        """Closes what was not taken, and what was not sent. `async with` calls it."""
        self._state.close()
