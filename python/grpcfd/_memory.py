# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that two processes share by a memfd, without trust in each other."""
from __future__ import annotations

import fcntl
import mmap
import os
from typing import Union

from grpcfd import _errors, _waiting

# From linux/fcntl.h: Python has them only if it was built where they were known.
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEALS = {1: "F_SEAL_SEAL", 2: "F_SEAL_SHRINK", 4: "F_SEAL_GROW", 8: "F_SEAL_WRITE"}
_SIZE_IS_FIXED = 1 | 2 | 4
_WRITE = 8


def memory(fd: int, max_size: int = 1 << 30, *, frozen: bool = True) -> memoryview:
    """Maps the memfd `fd`, which stays yours, and returns its bytes without a copy.

    numpy.frombuffer(grpcfd.memory(fd), dtype) is an array of them. The mapping lives as long as the
    view, or what was made of it, and does not need `fd`.

    A mapped file that its owner truncates ends the process that reads it (SIGBUS). So the memfd has
    to be sealed against that, and, if `frozen`, against writing: then nobody changes what was
    checked. With frozen=False the sender may write at any moment.

      FAILED_PRECONDITION  it is no memfd, or a seal is missing; the text says which
      INVALID_ARGUMENT     it is a memfd of huge pages (MFD_HUGETLB)
      OUT_OF_RANGE         it is larger than `max_size` bytes
    """
    wanted = _SIZE_IS_FIXED | (_WRITE if frozen else 0)
    try:
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError as error:
        os.fstat(fd)  # If it is closed, this says so.
        raise _errors.failed_precondition(
            f"the file cannot be sealed ({error.strerror}): only a memfd can be mapped safely"
        ) from None
    missing = [name for seal, name in _SEALS.items() if wanted & ~seals & seal]
    if missing:
        raise _errors.failed_precondition(
            f"the sender could still change the memory under your hands: {', '.join(missing)} "
            "missing; grpcfd.sealed_memory() and MappedMemory::Freeze set all seals"
        )
    # Only tmpfs and hugetlbfs know seals, so this asks no other file system.
    if os.fstatvfs(fd).f_bsize > mmap.PAGESIZE:
        raise _errors.invalid_argument(
            "a memfd of huge pages (MFD_HUGETLB) is not mapped: they come from a pool that can run "
            "dry, which is SIGBUS whatever the seals"
        )
    # After the seals: now it cannot change any more.
    size = os.fstat(fd).st_size
    if size > max_size:
        raise _errors.out_of_range(f"the memory has {size} bytes, max_size is {max_size}")
    if size == 0:
        return memoryview(b"")
    # Kernels before 6.7 refuse a shared mapping of what is sealed against writing.
    flags = mmap.MAP_PRIVATE if frozen else mmap.MAP_SHARED
    return memoryview(mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ))


def sealed_memory(data: Union[bytes, bytearray, memoryview], name: str = "grpcfd") -> int:
    """A new memfd with a copy of `data`, which nobody can change any more. It is yours to close.

    NotImplementedError if this Python was built without os.memfd_create.
    """
    if not hasattr(os, "memfd_create"):
        raise NotImplementedError("this Python was built without os.memfd_create")
    view = memoryview(data).cast("B")
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        done = 0
        while done < len(view):
            done += os.write(fd, view[done:])
        fcntl.fcntl(fd, _F_ADD_SEALS, _SIZE_IS_FIXED | _WRITE)
        return fd
    except BaseException:
        _waiting.close_all([fd])
        raise
