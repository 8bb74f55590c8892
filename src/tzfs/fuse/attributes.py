"""The core's records as kernel structs, and what the kernel asks to change as the core's record."""

from __future__ import annotations

import stat
from typing import Final

import pyfuse3

from tzfs.fuse.views import LIVE, SNAPSHOTS_VIEW, VIEW_SHIFT
from tzfs.records import INODE_MAX, NAME_MAX, TIME_MAX_NS, TIME_MIN_NS, AttributeChanges, Inode, Usage

CACHED_S: Final = 86400.0
"""How long the kernel may keep names and attributes, in seconds. Only requests change the live tree, and the
kernel knows those; what changes without one (a rollback) is invalidated by the daemon."""

BLOCK_SIZE: Final = 4096
"""Bytes of a block in statfs and `st_blksize`: a page, which is what the kernel caches and writes back by."""

_SECTOR: Final = 512
"""`st_blocks` counts sectors of 512 bytes, whatever the block size (stat(2))."""


def attributes(inode: Inode, view: int, *, entry_timeout: float = CACHED_S) -> pyfuse3.EntryAttributes:
    """Return the kernel's struct for an inode seen through a view (see `tzfs.fuse.views`).

    entry_timeout: seconds for which the kernel may believe the name that led here. The attributes of a
    `.snapshots` directory follow its directory and the snapshots, so they are not cached.
    """
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = view << VIEW_SHIFT | inode.number
    entry.generation = inode.generation
    entry.entry_timeout = entry_timeout
    entry.attr_timeout = CACHED_S if view != SNAPSHOTS_VIEW else 0.0
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blksize = BLOCK_SIZE
    entry.st_blocks = (inode.stored_bytes + _SECTOR - 1) // _SECTOR
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry


class LiveAttributes:
    """The kernel's structs for live inodes, each built once for as long as the core gives the same inode.

    The same, not just the like of it: an inode never changes, so what was built from it does not either.
    """

    def __init__(self) -> None:
        self._built: dict[int, tuple[Inode, pyfuse3.EntryAttributes]] = {}
        self._renewed: dict[int, int] = {}

    def of(self, inode: Inode) -> pyfuse3.EntryAttributes:
        """Return the struct for an inode in the live tree; nobody may change it."""
        number = inode.number
        built = self._built.get(number)
        if built is not None and built[0] is inode:
            return built[1]
        entry = self.build(inode)
        if len(self._built) >= _BUILT_MAX and built is None:
            self._built.clear()
        self._built[number] = (inode, entry)
        return entry

    def build(self, inode: Inode, *, entry_timeout: float = CACHED_S) -> pyfuse3.EntryAttributes:
        """Return a struct of its own for an inode in the live tree."""
        entry = attributes(inode, LIVE, entry_timeout=entry_timeout)
        entry.generation += self._renewed.get(inode.number, 0)
        return entry

    def renew(self, number: int) -> None:
        """Make an inode another one to the kernel, under the same number, until it has forgotten both."""
        self._renewed[number] = self._renewed.get(number, 0) + 1
        self._built.pop(number, None)

    def forget(self, number: int) -> None:
        """Note that the kernel knows an inode no more."""
        if self._renewed.pop(number, None) is not None:
            self._built.pop(number, None)


_BUILT_MAX: Final = 2048
"""Structs that are kept, of some 300 bytes each."""


def no_entry() -> pyfuse3.EntryAttributes:
    """Return the answer "no such name", which the kernel then remembers for `CACHED_S`."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = CACHED_S
    return entry


def changes(entry: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> AttributeChanges:
    """Return what a setattr request asks for.

    With the writeback cache the kernel owns mtime and ctime and says so by `update_mtime` and `update_ctime`.
    """
    return AttributeChanges(
        mode=stat.S_IMODE(entry.st_mode) if fields.update_mode else None,
        uid=entry.st_uid if fields.update_uid else None,
        gid=entry.st_gid if fields.update_gid else None,
        size=entry.st_size if fields.update_size else None,
        atime_ns=_storable(entry.st_atime_ns) if fields.update_atime else None,
        mtime_ns=_storable(entry.st_mtime_ns) if fields.update_mtime else None,
        ctime_ns=_storable(entry.st_ctime_ns) if fields.update_ctime else None,
    )


def _storable(time_ns: int) -> int:
    """Return a time, or the nearest that can be stored, as other filesystems have it (utimensat(2))."""
    return max(TIME_MIN_NS, min(time_ns, TIME_MAX_NS))


def kept_times(asked: AttributeChanges) -> tuple[int, int] | None:
    """Return mtime and ctime if these are all that is asked for: the kernel hands over what it kept."""
    if asked[:5] != _NOTHING_ELSE or asked.mtime_ns is None or asked.ctime_ns is None:
        return None
    return asked.mtime_ns, asked.ctime_ns


_NOTHING_ELSE: Final = (None,) * 5
"""The fields of AttributeChanges before mtime and ctime, when none is asked for."""


def statistics(usage: Usage, host_free_bytes: int) -> pyfuse3.StatvfsData:
    """Return what `df` shows: used is what the store holds for this filesystem, history included.

    Free is what the quota and the host's disk both still allow, and the size is the sum, so that all three
    are true at once; over the quota, nothing is free.
    """
    free = host_free_bytes
    if usage.quota_bytes:
        free = min(free, max(0, usage.quota_bytes - usage.stored_bytes))
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK_SIZE
    data.f_bfree = data.f_bavail = free // BLOCK_SIZE
    data.f_blocks = data.f_bfree + (usage.stored_bytes + BLOCK_SIZE - 1) // BLOCK_SIZE
    data.f_files = max(usage.inodes_max or INODE_MAX, usage.inodes)
    data.f_ffree = data.f_favail = data.f_files - usage.inodes
    data.f_namemax = NAME_MAX
    return data
