"""Just enough of io_uring(7), by its two system calls: one request at a time, and its result."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import Final, Self

_libc: Final = ctypes.CDLL(None, use_errno=True)

_SYS_SETUP: Final = 425
_SYS_ENTER: Final = 426
_GET_EVENTS: Final = 1
_OFFSET_SQ_RING: Final = 0
_OFFSET_CQ_RING: Final = 0x8000000
_OFFSET_SQES: Final = 0x10000000

OP_FSYNC: Final = 3
OP_READ: Final = 22
OP_WRITE: Final = 23

_PARAMS: Final = struct.Struct("10I 8IQ 8IQ")
"""struct io_uring_params: ten words, then where things are in the ring of submissions and of completions."""
_SUBMISSION: Final = struct.Struct("=BBHiQQIIQ24x")
_COMPLETION: Final = struct.Struct("=Qi4x")


def missing() -> str | None:
    """Return why io_uring cannot be used here, None if it can."""
    try:
        with Ring():
            return None
    except OSError as error:
        return f"io_uring_setup: {errno.errorcode[error.errno or 0]}"


class Ring:
    """A ring with room for one request."""

    def __init__(self) -> None:
        params = ctypes.create_string_buffer(_PARAMS.size)
        self._descriptor = _libc.syscall(_SYS_SETUP, 1, params)
        if self._descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        fields = _PARAMS.unpack(params.raw)
        sq_entries, cq_entries = fields[0], fields[1]
        self._sq_tail, self._sq_mask, self._sq_array = (fields[10 + index] for index in (1, 2, 6))
        self._cq_head, self._cq_tail, self._cq_mask, cqes = (fields[19 + index] for index in (0, 1, 2, 5))
        self._cqes = cqes
        self._sq = mmap.mmap(self._descriptor, self._sq_array + 4 * sq_entries, offset=_OFFSET_SQ_RING)
        self._cq = mmap.mmap(self._descriptor, cqes + _COMPLETION.size * cq_entries, offset=_OFFSET_CQ_RING)
        self._sqes = mmap.mmap(self._descriptor, _SUBMISSION.size * sq_entries, offset=_OFFSET_SQES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for mapped in (self._sq, self._cq, self._sqes):
            mapped.close()
        os.close(self._descriptor)

    def run(self, operation: int, descriptor: int, buffer: ctypes.Array[ctypes.c_char], offset: int) -> int:
        """Run one request to its end and return its result: a count, or an errno below zero."""
        address, size = (0, 0) if operation == OP_FSYNC else (ctypes.addressof(buffer), len(buffer))
        _SUBMISSION.pack_into(self._sqes, 0, operation, 0, 0, descriptor, offset, address, size, 0, 7)
        tail = self._word(self._sq, self._sq_tail)
        self._put(self._sq, self._sq_array + 4 * (tail & self._word(self._sq, self._sq_mask)), 0)
        self._put(self._sq, self._sq_tail, tail + 1)
        if _libc.syscall(_SYS_ENTER, self._descriptor, 1, 1, _GET_EVENTS, None, 0) != 1:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        head = self._word(self._cq, self._cq_head)
        index = head & self._word(self._cq, self._cq_mask)
        token, result = _COMPLETION.unpack_from(self._cq, self._cqes + _COMPLETION.size * index)
        self._put(self._cq, self._cq_head, head + 1)
        assert token == 7
        return int(result)

    @staticmethod
    def _word(memory: mmap.mmap, offset: int) -> int:
        return int.from_bytes(memory[offset : offset + 4], "little")

    @staticmethod
    def _put(memory: mmap.mmap, offset: int, value: int) -> None:
        memory[offset : offset + 4] = value.to_bytes(4, "little")
