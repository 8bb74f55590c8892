"""One formatted store, opened: its superblock, clock and counters; and the transaction on them.

A `Transaction` is one operation: it reads through itself, stages every change and writes all of them, with
the counters they move, as one atomic batch. What it would take beyond a limit is refused at the commit,
before anything is written.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from tzfs import failpoints, keys
from tzfs.errors import CorruptRecord, Invalid, NewerFormat, NoSpace, NotFormatted
from tzfs.records import (
    FORMAT_VERSION,
    INODE_MAX,
    SALT_SIZE,
    Caller,
    Counters,
    Superblock,
    Usage,
    decode_counters,
    decode_mark,
    decode_superblock,
    decode_table_mark,
    encode_counters,
    encode_mark,
    encode_superblock,
)
from tzfs.versions import VersionedBatch, Versions, scan_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from tzfs.kv import Store

CHUNK_SIZE_DEFAULT: Final = 16 << 10
"""Bytes. Writing a part of a chunk writes it anew; each is a record to store and to find (ADR 008)."""
CHUNK_SIZE_MIN: Final = 512
CHUNK_SIZE_MAX: Final = 1 << 20
"""A FUSE request carries at most 1 MiB: a larger chunk would make every request rewrite one."""

ROOT: Final = 1
"""The inode number of the root directory, as FUSE has it."""


class Volume:
    """A store that holds a filesystem: its properties, its open txn, its totals."""

    def __init__(self, store: Store) -> None:
        """Load what is needed to begin. Raises `NotFormatted`, `NewerFormat`, `CorruptRecord`."""
        value = store.get(keys.SUPERBLOCK)
        if value is None:
            raise NotFormatted("the database holds no tzfs filesystem")
        superblock = decode_superblock(value)
        if superblock.format > FORMAT_VERSION:
            raise NewerFormat(
                f"the filesystem has format {superblock.format}, this tzfs knows up to {FORMAT_VERSION}"
            )
        counters = store.get(keys.COUNTERS)
        if counters is None:
            raise CorruptRecord("the counters are missing")
        sealed = [keys.meta_number(key) for key, _ in scan_all(store, *keys.meta_range(b"S"))]
        self.store = store
        self.superblock = superblock
        self.counters = decode_counters(counters)
        self.versions = Versions(store, superblock.txn, sealed, superblock.rollback_txn)
        self.dead = {
            keys.meta_number(key): decode_mark(value)
            for key, value in scan_all(store, *keys.meta_range(b"D"))
        }
        """Contents that no live inode uses, and the txn in which each died: work for reclaim."""
        self.require_room: Callable[[int], None] = _unlimited
        """Raises `NoSpace` if the host's disk has no room for so many bytes; whoever has a disk sets it."""
        self.unpruned = {keys.meta_number(key) for key, _ in scan_all(store, *keys.meta_range(b"P"))}
        """Snapshots that are deleted and have left past records that no snapshot sees: work for reclaim."""
        self.tables = {
            keys.meta_number(key): decode_table_mark(value)
            for key, value in scan_all(store, *keys.meta_range(b"T"))
        }
        """By content: chunks that went into a table and may not all be named: work for reclaim."""
        self.undisturbed: set[int] = set()
        """Contents of which chunks are on their way into a table; one whose slots are edited drops out."""

    @staticmethod
    def format(store: Store, *, chunk_size: int, quota_bytes: int, inodes_max: int) -> Volume:
        """Make an empty store a volume with no inode yet; chunk_size is a power of two in bytes."""
        if chunk_size & (chunk_size - 1) or not CHUNK_SIZE_MIN <= chunk_size <= CHUNK_SIZE_MAX:
            raise Invalid(f"chunk size {chunk_size}: a power of two, {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX}")
        if store.get(keys.SUPERBLOCK) is not None:
            raise Invalid("the database holds a filesystem already")
        superblock = Superblock(
            FORMAT_VERSION, chunk_size, 1, 0, quota_bytes, inodes_max, os.urandom(SALT_SIZE)
        )
        store.write(
            {
                keys.SUPERBLOCK: encode_superblock(superblock),
                keys.COUNTERS: encode_counters(Counters(ROOT, 0, 0, 0)),
            }
        )
        return Volume(store)

    def awaits_pruning(self, first: int, last: int) -> bool:
        """Tell whether past records may stand that only deleted snapshots from `first` to `last` saw."""
        return any(first <= txn <= last for txn in self.unpruned)

    def usage(self) -> Usage:
        """Return the totals and the limits."""
        counters, superblock = self.counters, self.superblock
        return Usage(
            inodes=counters.inodes,
            live_bytes=counters.live_bytes,
            stored_bytes=counters.stored_bytes,
            inodes_max=superblock.inodes_max,
            quota_bytes=superblock.quota_bytes,
        )


def _unlimited(_size: int) -> None:
    """Let all grow."""


class Transaction(VersionedBatch):
    """One operation on a volume.

    inodes, live_bytes and stored_bytes are the totals as they will be after the commit; whoever stages a
    change that moves one moves it here, in the same breath.
    """

    __slots__ = ("_dead", "inodes", "is_limited", "live_bytes", "next_number", "stored_bytes", "volume")

    def __init__(self, volume: Volume, caller: Caller, as_of: int | None = None) -> None:
        super().__init__(volume.versions, caller, as_of)
        self.volume = volume
        self.next_number, self.inodes, self.live_bytes, self.stored_bytes = volume.counters
        self._dead: dict[int, int | None] = {}
        self.is_limited = True
        """False for a step of something that as a whole adds nothing: it may pass the limits in between."""

    def allocate_number(self) -> int:
        """Return a number that no inode and no content ever had."""
        number = self.next_number
        if number > INODE_MAX:
            raise NoSpace("all inode numbers are used")
        self.next_number = number + 1
        return number

    def mark_dead(self, content: int) -> None:
        """Stage that no live inode uses a content any more: reclaim takes it apart, as of this txn."""
        self.put_raw(keys.dead_content(content), encode_mark(self.txn))
        self._dead[content] = self.txn

    def unmark_dead(self, content: int) -> None:
        """Stage that a content is used again, or that nothing of it is left."""
        self.delete_raw(keys.dead_content(content))
        self._dead[content] = None

    def commit(self) -> None:
        """Write everything at once, or nothing: `NoSpace` beyond a limit, `StoreError` from the engine."""
        if self.staged:
            self._write()

    @failpoints.point("commit")
    def _write(self) -> None:
        before = self.volume.counters
        after = Counters(self.next_number, self.inodes, self.live_bytes, self.stored_bytes)
        if after != before:
            if self.is_limited:
                _require_room(self.volume.superblock, before, after)
            self.staged[keys.COUNTERS] = encode_counters(after)
        self.store.write(self.staged)
        self.volume.counters = after
        for content, txn in self._dead.items():
            if txn is None:
                self.volume.dead.pop(content, None)
            else:
                self.volume.dead[content] = txn


def _require_room(limits: Superblock, before: Counters, after: Counters) -> None:
    """Refuse totals that grow beyond a limit: `NoSpace`. What shrinks, or stays, is fine beyond one too."""
    if limits.quota_bytes and before.stored_bytes < after.stored_bytes > limits.quota_bytes:
        raise NoSpace(f"the quota of {limits.quota_bytes} bytes is used up")
    if limits.inodes_max and before.inodes < after.inodes > limits.inodes_max:
        raise NoSpace(f"all {limits.inodes_max} inodes are used")
