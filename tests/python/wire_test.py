# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes, against the worked example of PROTOCOL.md, and URLs."""
import re

import grpc
import pytest
from conftest import SOURCE

import grpcfd
from grpcfd import _url, _wire

TOKEN = bytes.fromhex("00112233445566778899aabbccddeeff")


def example(name):
    """The bytes of one block of the worked example."""
    text = (SOURCE / "fdchannel/wire/PROTOCOL.md").read_text(encoding="utf-8")
    block = re.search(rf"^```hex {name}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    data = b""
    for line in block.splitlines():
        offset, *rest = line.split("#")[0].split()
        assert int(offset, 16) == len(data)
        data += bytes.fromhex("".join(rest))
    return data


FRAMES = {
    "data": _wire.Frame(_wire.DATA, fd_count=2, call_id=42),
    "credit": _wire.Frame(_wire.CREDIT, numbers=(2,)),
    "discard": _wire.Frame(_wire.DISCARD, code=1, numbers=(43,)),
    "session-data": _wire.Frame(_wire.DATA, fd_count=1, first_index=3),
    "withdraw": _wire.Frame(_wire.WITHDRAW, code=1, numbers=(3,)),
    "close": _wire.Frame(_wire.CLOSE, code=_wire.SHUTDOWN, text="server is shutting down"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_those_of_the_document(name):
    assert _wire.encode_frame(FRAMES[name]) == example(name)
    assert _wire.decode_frame(example(name)) == FRAMES[name]


def test_hello_and_reply_are_those_of_the_document():
    assert _wire.encode_hello(TOKEN, 16, 64, 16, 1) == example("hello")
    named = _wire.encode_hello(TOKEN, 16, 64, 16, 2, bytes(range(16)))
    assert named == example("hello")[:12] + b"\2\0" + example("hello")[14:44] + bytes(
        range(16)
    ) + bytes(4)
    assert _wire.decode_reply(example("hello-reply")) == _wire.Reply(1, 0, 7, 4, 8, 2)


def test_metadata_is_that_of_the_document():
    assert _wire.encode_metadata(42, 2, TOKEN, 7) == example("metadata")


@pytest.mark.parametrize("name", [*FRAMES, "hello-reply"])
def test_no_byte_is_ignored(name):
    """Each byte that may have one value only is refused with another one."""
    good = example(name)
    may_vary = {
        # fd_count, first_index, call_id, attempt: not all values are possible, but many are.
        "data": set(range(2, 20)),
        "session-data": set(range(2, 16)),
        "credit": set(range(24, 32)),
        "discard": set(range(24, 32)),
        "withdraw": set(range(24, 28)),
        "close": set(range(20, 64)),
        "hello-reply": set(range(16, 36)),
    }[name]
    decode = _wire.decode_reply if name == "hello-reply" else _wire.decode_frame
    for k in set(range(len(good))) - may_vary:
        bad = bytearray(good)
        bad[k] ^= 0x80
        with pytest.raises(_wire.Malformed):
            decode(bytes(bad))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        bytes(63),
        bytes(65),
        bytes(64),
        _wire.encode_frame(_wire.Frame(_wire.DATA, fd_count=254, call_id=1)),
        _wire.encode_frame(_wire.Frame(_wire.DATA, fd_count=2, first_index=2**32 - 2, call_id=1)),
        _wire.encode_frame(_wire.Frame(_wire.DATA, fd_count=1, attempt=1)),
        _wire.encode_frame(_wire.Frame(_wire.CREDIT, fd_count=1, numbers=(1,))),
        _wire.encode_frame(_wire.Frame(_wire.DISCARD, numbers=(1, 0))),
        _wire.encode_frame(_wire.Frame(_wire.DISCARD)),
        _wire.encode_frame(_wire.Frame(_wire.CLOSE, text="no code")),
        _wire.encode_frame(_wire.Frame(_wire.CLOSE, code=1, text="a\nb")),
    ],
)
def test_malformed_frames(bad):
    with pytest.raises(_wire.Malformed):
        _wire.decode_frame(bad)


@pytest.mark.parametrize(
    "frame",
    [
        _wire.Frame(_wire.LANDED, code=2, numbers=(1, 2**64 - 1)),
        _wire.Frame(_wire.RESEND, call_id=7, attempt=3),
        _wire.Frame(_wire.RESENT, call_id=7, attempt=3, code=_wire.GONE),
    ],
)
def test_frames_of_version_2(frame):
    data = _wire.encode_frame(frame)
    assert _wire.decode_frame(data) == frame
    with pytest.raises(_wire.Malformed):
        _wire.decode_frame(data, version=1)
    for bad in (data[:1] + b"\1" + data[2:], data[:63] + b"\1"):
        with pytest.raises(_wire.Malformed):
            _wire.decode_frame(bad)


def test_close_text_is_cut():
    frame = _wire.decode_frame(_wire.encode_frame(_wire.Frame(_wire.CLOSE, code=1, text="x" * 99)))
    assert frame.text == "x" * 40


@pytest.mark.parametrize(
    "text, url",
    [
        ("inode://1/2", _url.InodeUrl(1, 2)),
        ("inode://1/2?fd=0", _url.InodeUrl(1, 2, 0)),
        ("inode://1/2?session=3", _url.InodeUrl(1, 2, 3, True)),
        ("INODE://1/2?other=x&fd=4", _url.InodeUrl(1, 2, 4)),
        (f"inode://{2**64 - 1}/0?fd={2**32 - 1}", _url.InodeUrl(2**64 - 1, 0, 2**32 - 1)),
    ],
)
def test_urls(text, url):
    assert _url.parse(text) == url
    assert _url.parse(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file:///etc/hostname",
        "inode://1",
        "inode://1/2?fd=",
        "inode://1/2?fd=-1",
        "inode://1/2?fd=1&fd=2",
        "inode://1/2?fd=1&session=2",
        "inode://1/2\n",
        "inode://1/\u0662",
        f"inode://{2**64}/0",
        f"inode://0/0?fd={2**32}",
    ],
)
def test_bad_urls(text):
    with pytest.raises(grpcfd.FdError) as error:
        _url.parse(text)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
