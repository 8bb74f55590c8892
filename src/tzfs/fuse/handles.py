"""What the adapter remembers of the kernel: open handles, lookup counts, and which program a pid is."""

from __future__ import annotations

import itertools
import time
from array import array
from pathlib import Path
from typing import Final

from tzfs.errors import BadHandle
from tzfs.records import Caller

_PAGE_SHIFT: Final = 5
_PAGE_SIZE: Final = 1 << _PAGE_SHIFT
"""Counts of one page. 32 counts of 8 bytes, the array object and its place in the dict are about 450 bytes:
14 bytes an inode when neighbours are known, as they are after a listing or an untar, and no more than 450 for
an inode whose neighbours are not. A dict of integers takes 100 for each."""
_PAGE_MASK: Final = _PAGE_SIZE - 1
_EMPTY_PAGE: Final = bytes(8 * _PAGE_SIZE)


class LookupCounts:
    """How often the kernel was told of each live inode, less how often it said to have forgotten it.

    Counts are needed, not just marks: the kernel gives back single lookups too (a readdirplus entry that it
    could not link, a revalidation that found another inode), and an orphan may go only with the last one.
    """

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def add(self, number: int) -> None:
        """Count one lookup of an inode."""
        page = self._pages.get(number >> _PAGE_SHIFT)
        if page is None:
            page = self._pages[number >> _PAGE_SHIFT] = array("Q", _EMPTY_PAGE)
        page[number & _PAGE_MASK] += 1

    def subtract(self, number: int, lookups: int) -> bool:
        """Take back `lookups`; tell whether the kernel knows the inode no more."""
        page = self._pages.get(number >> _PAGE_SHIFT)
        if page is None:
            return True
        slot = number & _PAGE_MASK
        if page[slot] > lookups:
            page[slot] -= lookups
            return False
        page[slot] = 0
        if not any(page):
            del self._pages[number >> _PAGE_SHIFT]
        return True

    def __getitem__(self, number: int) -> int:
        page = self._pages.get(number >> _PAGE_SHIFT)
        return 0 if page is None else page[number & _PAGE_MASK]


class Handle:
    """An open file or directory.

    number: its inode. view, at: through which view and in which snapshot (None: live) it was opened.
    caller: who opened it, since read, write and release name no one. batch: entries to read at once when
    listing, which follows how many fitted into the kernel's buffer the last time. writable: opened for
    writing, so the kernel may hold dirty pages of the inode.
    """

    __slots__ = ("at", "batch", "caller", "number", "view", "writable")

    def __init__(
        self, number: int, view: int, at: int | None, caller: Caller, *, writable: bool = False
    ) -> None:
        self.number = number
        self.view = view
        self.at = at
        self.caller = caller
        self.batch = _BATCH_FIRST
        self.writable = writable


_BATCH_FIRST: Final = 26
"""A 4-KiB buffer, the kernel's smallest, takes some 24 entries of readdirplus."""


class Handles:
    """The open handles, by a number of their own that is never used twice."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)
        self._direct: set[int] = set()

    def open(self, number: int, view: int, at: int | None, caller: Caller, *, writable: bool = False) -> int:
        """Return the number of a new handle."""
        fh = next(self._numbers)
        self._handles[fh] = Handle(number, view, at, caller, writable=writable)
        return fh

    def note_direct(self, number: int) -> None:
        """Note that an inode is written past the kernel's pages (O_DIRECT)."""
        self._direct.add(number)

    def has_reliable_pages(self, number: int) -> bool:
        """Tell, at an open, whether the kernel's pages of an inode may be kept over it.

        An asynchronous write with O_DIRECT drops them before it begins and not when it ends (`fuse_direct_IO`
        in fs/fuse/file.c): what was read meanwhile may be old. So each open drops them, as long as the kernel
        knows the inode. The first open after the last write would not do: who opens next may be faster.
        """
        return number not in self._direct

    def forget(self, number: int) -> None:
        """Forget what was noted of an inode that the kernel has forgotten with its pages."""
        self._direct.discard(number)

    def open_for_writing(self) -> set[int]:
        """Return the inodes of the handles that are open for writing. Safe in any thread."""
        return {handle.number for handle in list(self._handles.values()) if handle.writable}

    def writers(self, number: int) -> dict[int, int]:
        """Return the handles by which an inode is open for writing, each with the pid that opened it."""
        return {
            fh: handle.caller.pid
            for fh, handle in self._handles.items()
            if handle.writable and handle.number == number
        }

    def __getitem__(self, fh: int) -> Handle:
        try:
            return self._handles[fh]
        except KeyError:
            raise BadHandle(f"handle {fh}") from None

    def close(self, fh: int) -> None:
        """Forget a handle; one that is not open is ignored, as nobody hears the answer of a release."""
        self._handles.pop(fh, None)

    def __len__(self) -> int:
        return len(self._handles)


UNKNOWN_PROGRAM: Final = b"?"

_PROGRAMS_MAX: Final = 1024
_PROGRAM_EXPIRES_S: Final = 0.02
"""A pid keeps its number when it executes another program, as every command of a shell with a `>` does
right after its first open. Reading again after 20 ms costs a busy process less than 0.1 %."""


class Programs:
    """Names of programs by pid, from /proc, remembered for a moment."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, bytes]] = {}

    def name(self, pid: int) -> bytes:
        """Return the command name of a process, up to 15 bytes; `UNKNOWN_PROGRAM` if it cannot be known.

        pid 0 is the kernel itself or a process of another pid namespace.
        """
        now = time.monotonic()
        known = self._known.get(pid)
        if known is not None and known[0] > now:
            return known[1]
        if len(self._known) >= _PROGRAMS_MAX:
            self._known.clear()
        name = _read_program(pid)
        self._known[pid] = (now + _PROGRAM_EXPIRES_S, name)
        return name


def _read_program(pid: int) -> bytes:
    try:
        with Path(f"/proc/{pid}/comm").open("rb", buffering=0) as comm:
            return comm.read(64).rstrip(b"\n") or UNKNOWN_PROGRAM
    except OSError:
        return UNKNOWN_PROGRAM
