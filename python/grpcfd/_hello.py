# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a session: where a server is, the hello, and what its answers mean."""
from __future__ import annotations

import errno
import os
import socket
import stat
import time
from typing import List, NoReturn, Optional, Tuple

import grpc

from grpcfd import _errors, _waiting, _wire
from grpcfd._received import Limits
from grpcfd._session import receive

Answer = Tuple[Optional[socket.socket], _wire.Reply]
"""The socket of the session, if there is one, and the reply."""


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


def shake_hands(
    target: str,
    token: bytes,
    limits: Limits,
    deadline: Optional[float],
    max_version: int,
    connection: bytes = _wire.NO_CONNECTION,
    address: Optional[str] = None,
) -> _waiting.Steps[Answer]:
    """One connection, one hello. `address` is where to in place of the target's path, and
    `connection` names gRPC's connection that the session is for."""
    until = time.monotonic() + limits.connect_timeout
    soonest = _waiting.earlier(until, deadline)
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        yield from _connect(stream, address or address_of(target), soonest)
        # 64 bytes fit into a new socket.
        stream.send(
            _wire.encode_hello(
                token,
                limits.max_fds_per_call,
                limits.window,
                limits.max_session_fds,
                max_version,
                connection,
            ),
            socket.MSG_NOSIGNAL,
        )
        return (yield from _read_reply(stream, soonest, max_version))
    except _waiting.DeadlinePassed:
        if soonest is not until:
            raise
        raise _errors.unavailable(
            f"{target} did not answer the hello within {limits.connect_timeout} s"
        ) from None
    except _wire.NoReply as error:
        raise _errors.failed_precondition(
            f"the server at {target} takes no descriptors: it is not a grpcfd server, or "
            f"does not listen with AddListeningPort ({error})"
        ) from None
    except _wire.Malformed as error:
        raise _errors.unavailable(f"the server at {target}: {error}") from None
    except OSError as error:
        _fail(target, error)
    finally:
        stream.close()


def _connect(
    stream: socket.socket, address: str, deadline: Optional[float]
) -> _waiting.Steps[None]:
    while True:
        try:
            stream.connect(address)
            return
        except BlockingIOError:  # The server's backlog is full.
            yield _waiting.Pause(0.01, deadline)


def _read_reply(
    stream: socket.socket, deadline: Optional[float], max_version: int
) -> _waiting.Steps[Answer]:
    data, lost = b"", False
    fds: List[int] = []
    try:
        while len(data) < _wire.REPLY_SIZE:
            try:
                part, more, truncated = receive(stream, _wire.REPLY_SIZE - len(data))
            except BlockingIOError:
                yield _waiting.Ready(stream.fileno(), deadline)
                continue
            fds += more
            data, lost = data + part, lost or truncated
            if not part:
                break
        reply = _wire.decode_reply(data, max_version)
        if reply.status != _wire.OK and not fds:
            return None, reply
        if lost:
            raise _errors.resource_exhausted(
                "the session's socket could not be received: this process is at its RLIMIT_NOFILE"
            )
        if reply.status != _wire.OK or len(fds) != 1 or len(data) != _wire.REPLY_SIZE:
            raise _wire.Malformed(f"the reply came with {len(fds)} descriptors, expected one")
        if not _is_session_socket(fds[0]):
            raise _wire.Malformed("the reply came with a descriptor of the wrong kind")
        return socket.socket(fileno=fds.pop()), reply
    finally:
        _waiting.close_all(fds)


def _fail(target: str, error: OSError) -> NoReturn:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise _errors.resource_exhausted(f"no session with {target}: {error}") from error
    if error.errno in (errno.EACCES, errno.EPERM):
        raise _errors.FdError(
            grpc.StatusCode.PERMISSION_DENIED, f"no session with {target}: {error}"
        ) from error
    raise _errors.unavailable(f"no session with {target}: {error}") from error


def refuse(target: str, reply: _wire.Reply) -> NoReturn:
    """Raises what a reply without a session means."""
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
        _wire.ELSEWHERE: (
            grpc.StatusCode.UNAVAILABLE,
            "is another process than the one that has gRPC's connection; make the call again",
        ),
    }.get(
        reply.status,
        (grpc.StatusCode.INTERNAL, f"answered with an unknown status {reply.status}"),
    )
    raise _errors.FdError(code, f"the server at {target} {text}")
