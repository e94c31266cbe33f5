# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Inode URLs: inode://{dev}/{ino}?fd={index}, or ?session={index} for all calls of a session."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Dict, Optional

from grpcfd import _errors

_PATTERN = re.compile(r"inode://([0-9]+)/([0-9]+)(?:\?([^#\s]*))?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class InodeUrl:
    """The name of a descriptor. `index` is None in a URL without one."""

    dev: int
    ino: int
    index: Optional[int] = None
    scoped: bool = False

    def names(self, fd: int) -> bool:
        """Whether it is the name of this file. Asks fstat(2), which can block on a network file."""
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) == (self.dev, self.ino)

    def __str__(self) -> str:
        text = f"inode://{self.dev}/{self.ino}"
        if self.index is None:
            return text
        return f"{text}?{'session' if self.scoped else 'fd'}={self.index}"


def parse(text: str) -> InodeUrl:
    """INVALID_ARGUMENT if it is none. Unknown parameters of the query are ignored."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise _not_a_url(text)
    dev, ino = int(match[1]), int(match[2])
    numbers: Dict[str, int] = {}
    for word in (match[3] or "").split("&"):
        key, _, value = word.partition("=")
        if key not in ("fd", "session"):
            continue
        if numbers or not re.fullmatch("[0-9]+", value, re.ASCII):
            raise _not_a_url(text)
        numbers[key] = int(value)
    index = numbers.get("fd", numbers.get("session"))
    if max(dev, ino) >= 2**64 or (index or 0) >= 2**32:
        raise _errors.invalid_argument(f"a number of {text!r} is too large")
    return InodeUrl(dev, ino, index, "session" in numbers)


def _not_a_url(text: str) -> _errors.FdError:
    return _errors.invalid_argument(
        f"{text!r} is not an inode URL; expected inode://dev/ino?fd=index, "
        "as attach() or SendFd of the sender returned it"
    )


def of(fd: int, index: int, scoped: bool = False) -> InodeUrl:
    status = os.fstat(fd)
    return InodeUrl(status.st_dev, status.st_ino, index, scoped)
