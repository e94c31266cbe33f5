# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of fdchannel/wire/PROTOCOL.md: hello, frames, and the metadata of an RPC.

Everything here is a function of its arguments. Nothing in a frame is ignored: a decoder raises
Malformed for each byte that is not what the document says.
"""
from __future__ import annotations

import struct
from typing import NamedTuple, Sequence, Tuple

# The versions that this client speaks.
MIN_VERSION = 1
MAX_VERSION = 2

HELLO_MAGIC = b"\x8eGRPCFD\n"
REPLY_MAGIC = b"\x8fGRPCFD\n"
TOKEN_SIZE = 16
CONNECTION_SIZE = 16
NO_CONNECTION = bytes(CONNECTION_SIZE)
FRAME_SIZE = 64
MAX_FDS_IN_FRAME = 253
MAX_IDS_IN_DISCARD = 5  # And in LANDED.
MAX_INDICES_IN_WITHDRAW = 10

DATA, CREDIT, DISCARD, CLOSE, WITHDRAW, LANDED, RESEND, RESENT = 1, 2, 3, 4, 5, 6, 7, 8
SENT, GONE = 1, 2
PROTOCOL_ERROR, RESOURCE_EXHAUSTED, SHUTDOWN, REFUSED = 1, 2, 3, 4

OK = 0
UNSUPPORTED_VERSION = 1
TOKEN_IN_USE = 2
TOO_MANY_SESSIONS = 3
HELLO_REFUSED = 4
MALFORMED = 5
SHUTTING_DOWN = 6
OUT_OF_DESCRIPTORS = 7
ELSEWHERE = 8

# "<": little-endian, no padding.
_HELLO = struct.Struct("<8sHHHH16sIII16s4x")
_REPLY = struct.Struct("<8sHHHHQIII28s")
_FRAME = struct.Struct("<BBHIQII40s")
_METADATA = struct.Struct("<BBHIIIQ16sQ")
_NO_PAYLOAD = bytes(40)

HELLO_SIZE = _HELLO.size
REPLY_SIZE = _REPLY.size


class Malformed(Exception):
    """The peer sent what PROTOCOL.md does not allow."""


class NoReply(Malformed):
    """The answer is not the reply of a server with an fdchannel."""


class Reply(NamedTuple):
    """A HelloReply."""

    version: int
    status: int
    session_id: int
    max_fds_per_call: int
    window: int
    max_session_fds: int


class Frame(NamedTuple):
    """A frame. `numbers` has a CREDIT's total, the call ids of a DISCARD and a
    LANDED, a WITHDRAW's indices."""

    type: int
    fd_count: int = 0
    first_index: int = 0
    call_id: int = 0
    attempt: int = 0
    code: int = 0
    numbers: Tuple[int, ...] = ()
    text: str = ""


def encode_hello(
    token: bytes,
    max_fds_per_call: int,
    window: int,
    max_session_fds: int,
    max_version: int = MAX_VERSION,
    connection: bytes = NO_CONNECTION,
) -> bytes:
    """`connection` is not zero only with a max_version of 2 or more."""
    return _HELLO.pack(
        HELLO_MAGIC,
        HELLO_SIZE,
        MIN_VERSION,
        max_version,
        0,
        token,
        max_fds_per_call,
        window,
        max_session_fds,
        connection,
    )


def decode_reply(data: bytes, max_version: int = MAX_VERSION) -> Reply:
    """NoReply if it is none at all, Malformed if it breaks a rule, or breaks off."""
    if len(data) < REPLY_SIZE and REPLY_MAGIC.startswith(data[:8]):
        raise Malformed(
            f"it closed the connection after {len(data)} bytes of its reply: it is shutting down, "
            "or no grpcfd server"
        )
    if len(data) < REPLY_SIZE or data[:8] != REPLY_MAGIC:
        raise NoReply(f"{len(data)} bytes came, expected a reply of {REPLY_SIZE}")
    _, size, version, status, flags, session_id, most, window, scoped, rest = (
        _REPLY.unpack(data)
    )
    if size != REPLY_SIZE or flags or any(rest) or not version:
        raise Malformed(f"a malformed reply came: {data.hex()}")
    limits = (session_id, most, window)
    if status == OK:
        good = all(limits) and MIN_VERSION <= version <= max_version
    else:
        good = not any(limits) and not scoped
    if not good:
        raise Malformed(f"a reply with impossible values came: {data.hex()}")
    return Reply(version, status, session_id, most, window, scoped)


def encode_frame(frame: Frame) -> bytes:
    payload = _NO_PAYLOAD
    code = frame.code
    if frame.type == CREDIT:
        payload = struct.pack("<Q32x", *frame.numbers)
    elif frame.type in (DISCARD, LANDED):
        code = len(frame.numbers)
        payload = struct.pack(f"<{code}Q", *frame.numbers).ljust(40, b"\0")
    elif frame.type == WITHDRAW:
        code = len(frame.numbers)
        payload = struct.pack(f"<{code}I", *frame.numbers).ljust(40, b"\0")
    elif frame.type == CLOSE:
        payload = frame.text.encode("ascii", "replace")[:40].ljust(40, b"\0")
    return _FRAME.pack(
        frame.type,
        0,
        frame.fd_count,
        frame.first_index,
        frame.call_id,
        frame.attempt,
        code,
        payload,
    )


def decode_frame(data: bytes, version: int = MAX_VERSION) -> Frame:
    """A frame of a session of that version. Raises Malformed."""
    if len(data) != FRAME_SIZE:
        raise Malformed(f"a frame of {len(data)} bytes came, expected {FRAME_SIZE}")
    kind, flags, count, first, call_id, attempt, code, payload = _FRAME.unpack(data)
    if flags or not DATA <= kind <= (RESENT if version >= 2 else WITHDRAW):
        raise Malformed(f"an unknown frame came: {data.hex()}")
    if kind == DATA:
        if (
            not 1 <= count <= MAX_FDS_IN_FRAME
            or first + count > 0xFFFFFFFF
            or (attempt and not call_id)
            or code
            or payload != _NO_PAYLOAD
        ):
            raise Malformed(f"a malformed DATA frame came: {data.hex()}")
        return Frame(DATA, count, first, call_id, attempt)
    if kind in (RESEND, RESENT):
        codes = (SENT, GONE) if kind == RESENT else (0,)
        if count or first or not call_id or code not in codes or payload != _NO_PAYLOAD:
            raise Malformed(f"a malformed RESEND or RESENT frame came: {data.hex()}")
        return Frame(kind, call_id=call_id, attempt=attempt, code=code)
    if count or first or call_id or attempt:
        raise Malformed(f"a frame with fields that are DATA's came: {data.hex()}")
    if kind == CREDIT:
        if code or any(payload[8:]):
            raise Malformed(f"a malformed CREDIT frame came: {data.hex()}")
        return Frame(CREDIT, numbers=struct.unpack_from("<Q", payload))
    if kind == CLOSE:
        text = payload.rstrip(b"\0")
        if not code or any(not 0x20 <= byte <= 0x7E for byte in text):
            raise Malformed(f"a malformed CLOSE frame came: {data.hex()}")
        return Frame(CLOSE, code=code, text=text.decode("ascii"))
    form, most = (
        ("<10I", MAX_INDICES_IN_WITHDRAW)
        if kind == WITHDRAW
        else ("<5Q", MAX_IDS_IN_DISCARD)
    )
    numbers: Tuple[int, ...] = struct.unpack(form, payload)
    if (
        not 1 <= code <= most
        or any(numbers[code:])
        or (kind != WITHDRAW and not all(numbers[:code]))
    ):
        raise Malformed(f"a malformed DISCARD, LANDED or WITHDRAW frame came: {data.hex()}")
    return Frame(kind, code=code, numbers=numbers[:code])


def data_frames(call_id: int, first_index: int, count: int) -> Sequence[Frame]:
    """The DATA frames for so many descriptors in a row."""
    return [
        Frame(DATA, min(MAX_FDS_IN_FRAME, count - k), first_index + k, call_id)
        for k in range(0, count, MAX_FDS_IN_FRAME)
    ]


def encode_metadata(call_id: int, count: int, token: bytes, session_id: int) -> bytes:
    """The `grpcfd-bin` entry of an RPC's metadata."""
    return _METADATA.pack(1, 0, 0, 0, count, 0, call_id, token, session_id)


# A call that carries no descriptors and can get none back.
UNBOUND_METADATA = _METADATA.pack(1, 0, 0, 0, 0, 0, 0, bytes(TOKEN_SIZE), 0)
