# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Channel: a grpc.Channel whose calls can bring descriptors."""
from __future__ import annotations

import time
from typing import Any, Callable, Optional, Sequence, Tuple

import grpc

from grpcfd import _call, _waiting
from grpcfd._fd_channel import FdChannel
from grpcfd._received import Limits


class _Method:
    """A multi-callable of any of the four kinds. Sends the descriptors of a call before its RPC,
    and sees the RPC's end."""

    def __init__(self, inner: Any, streams: bool) -> None:
        self._inner = inner
        self._streams = streams  # The response is a stream: it ends later.

    def __call__(
        self,
        request: Any,
        timeout: Optional[float] = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: Optional[bool] = None,
        compression: Any = None,
    ) -> Any:
        rest = (credentials, wait_for_ready, compression)
        return self._run(self._inner, self._streams, request, timeout, metadata, rest)

    def with_call(
        self,
        request: Any,
        timeout: Optional[float] = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: Optional[bool] = None,
        compression: Any = None,
    ) -> Any:
        rest = (credentials, wait_for_ready, compression)
        return self._run(self._inner.with_call, False, request, timeout, metadata, rest)

    def future(
        self,
        request: Any,
        timeout: Optional[float] = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: Optional[bool] = None,
        compression: Any = None,
    ) -> Any:
        rest = (credentials, wait_for_ready, compression)
        return self._run(self._inner.future, True, request, timeout, metadata, rest)

    def _run(
        self,
        method: Callable[..., Any],
        returns_call: bool,
        request: Any,
        timeout: Optional[float],
        metadata: Any,
        rest: Tuple[Any, Optional[bool], Any],
    ) -> Any:
        state = _call.find_state(metadata)
        if state is None:
            return method(request, timeout, metadata, *rest)
        _waiting.run(state.open(timeout, bool(rest[1])))
        _waiting.run(state.send_queue())
        left = state.remaining()
        entries = state.bind(left)
        code, details = None, None
        try:
            result = method(request, left, _call.bound(metadata, entries), *rest)
            code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            raise
        finally:
            if code != grpc.StatusCode.OK or not returns_call:
                state.end(code, details)
        if returns_call:
            _end_with(result, state)
        return result


def _end_with(call: Any, state: _call.CallState) -> None:
    def end() -> None:
        # It is known now: this does not block.
        state.end(call.code(), call.details())

    if not call.add_callback(end):
        end()  # It is over already.


def _connect(inner: grpc.Channel) -> None:
    """Has gRPC connect, as the next call would."""

    def ignore(_: grpc.ChannelConnectivity) -> None:
        pass

    inner.subscribe(ignore, try_to_connect=True)
    inner.unsubscribe(ignore)


class Channel(grpc.Channel):  # type: ignore[misc]
    """A grpc.Channel for any stub. insecure_channel(), secure_channel() and intercept() make one.

    Thread-safe, and as grpc.Channel of no use in a child of fork(2): calls with descriptors are
    FAILED_PRECONDITION there.
    """

    def __init__(self, inner: grpc.Channel, fd_channel: FdChannel) -> None:
        self._inner = inner
        self.fd_channel = fd_channel
        fd_channel.connect = lambda: _connect(inner)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.unary_unary(*args, **kwargs), streams=False)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.unary_stream(*args, **kwargs), streams=True)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.stream_unary(*args, **kwargs), streams=False)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._inner.stream_stream(*args, **kwargs), streams=True)

    def subscribe(self, callback: Any, try_to_connect: Optional[bool] = False) -> None:
        self._inner.subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self._inner.unsubscribe(callback)

    def register(self, fd: _call.FileDescriptorLike, timeout: Optional[float] = None) -> str:
        """Sends a duplicate of `fd` once, for all calls, and returns a URL that any call's message
        may use (with metadata=fds.metadata, as always). After a reconnect it is there again."""
        patience = self.fd_channel.limits.recv_timeout if timeout is None else timeout
        steps = self.fd_channel.register(_call.duplicate(fd), time.monotonic() + patience)
        return _waiting.run(steps)

    def unregister(self, url: str) -> None:
        """Takes back what register() returned `url` for."""
        self.fd_channel.unregister(url)

    def close(self) -> None:
        """Ends the session and the channel."""
        self.fd_channel.close()
        self._inner.close()
        self.fd_channel.close_relay()

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()


def insecure_channel(
    target: str,
    options: Optional[Sequence[Tuple[str, Any]]] = None,
    compression: Optional[grpc.Compression] = None,
    *,
    limits: Optional[Limits] = None,
    relay: bool = False,
) -> Channel:
    """grpc.insecure_channel() to a unix socket, for calls with descriptors.

    FAILED_PRECONDITION if `target` is no unix socket: descriptors never leave the host.

    With `relay`, descriptors land where their call lands, also while a server is replaced by
    another, or where several processes accept from one socket: a thread of this package stands
    between gRPC and the socket, and copies what gRPC sends. docs/guides/python.md says what it
    costs.
    """
    fd_channel = FdChannel(target, limits, relay)
    try:
        inner = grpc.insecure_channel(
            fd_channel.grpc_target, channel_options(options, relay), compression
        )
    except BaseException:
        fd_channel.close_relay()
        raise
    return Channel(inner, fd_channel)


def channel_options(
    options: Optional[Sequence[Tuple[str, Any]]], relay: bool
) -> Optional[Sequence[Tuple[str, Any]]]:
    """gRPC keeps connections by their address, and a relay's is used again after it."""
    return [*(options or ()), ("grpc.use_local_subchannel_pool", 1)] if relay else options


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Optional[Sequence[Tuple[str, Any]]] = None,
    compression: Optional[grpc.Compression] = None,
    *,
    limits: Optional[Limits] = None,
    relay: bool = False,
) -> Channel:
    """grpc.secure_channel() to a unix socket, for calls with descriptors. TLS covers the RPCs; the
    descriptors go over a unix socket that nobody else can read. `relay` as in
    insecure_channel()."""
    fd_channel = FdChannel(target, limits, relay)
    try:
        inner = grpc.secure_channel(
            fd_channel.grpc_target, credentials, channel_options(options, relay), compression
        )
    except BaseException:
        fd_channel.close_relay()
        raise
    return Channel(inner, fd_channel)


def intercept(channel: grpc.Channel, target: str, *, limits: Optional[Limits] = None) -> Channel:
    """The same around any channel to `target`, which is closed with the one returned."""
    return Channel(channel, FdChannel(target, limits))


def call(channel: Channel) -> _call.Call:
    """The descriptors of one RPC on `channel`, for use in a `with` statement."""
    return _call.Call(_call.CallState(channel.fd_channel))
