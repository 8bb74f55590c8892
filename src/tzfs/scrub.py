"""Scrub: reading every byte of a database, so that what the disk has lost is found while there is a copy.

RocksDB verifies the checksum of each block that it reads; scrub reads them all, space by space, and goes on
behind a damaged one. Where damage was found, the tree is walked and the files are named whose content or
attributes lie in it. Unlike `check` it keeps nothing in memory but the damage, and can be slowed down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tzfs import inodes, keys
from tzfs.errors import FsError, StoreError
from tzfs.filesystem import Filesystem
from tzfs.kv import Store
from tzfs.records import Inode, decode_entry
from tzfs.versions import Reader, scan_all
from tzfs.volume import ROOT

_PAGE_BYTES: Final = 1 << 20
_PAGE_RECORDS: Final = 512
_KEY_BYTES: Final = 300
"""No key is longer: a name of 255 bytes, its fields, and the txn of a past record."""
_SPACE_NAMES: Final = {
    keys.HEAD: "records",
    keys.PAST: "past records",
    keys.LOG: "the change log",
    keys.DATA: "file content",
    keys.META: "snapshots and counters",
}


class Damage(NamedTuple):
    """Keys that cannot be read: first <= key < end, in one space."""

    first: bytes
    end: bytes
    error: str

    @property
    def space(self) -> str:
        """What the keys hold, in words."""
        return _SPACE_NAMES[self.first[:1]]


class Hit(NamedTuple):
    """A file or directory that damage has hit. snapshot: None is the live tree. what: the part of it."""

    path: bytes
    snapshot: int | None
    what: str


class Step(NamedTuple):
    """What one step of a scrub has read, and what it could not."""

    read_bytes: int
    damage: Damage | None


def scrub(store: Store, chunk_size: int) -> Iterator[Step]:
    """Read and verify everything, about 1 MiB a step."""
    for space in keys.SPACES:
        limit = max(1, _PAGE_BYTES // chunk_size) if space == keys.DATA else _PAGE_RECORDS
        yield from _scrub_space(store, space, bytes((space[0] + 1,)), limit)


def _scrub_space(store: Store, lower: bytes, upper: bytes, limit: int) -> Iterator[Step]:
    while True:
        try:
            pairs = store.scan(lower, upper, limit)
        except StoreError as error:
            if limit > 1:
                # The page begins before the damage: what it has before is read one by one.
                yield from _scrub_space(store, lower, upper, 1)
                return
            end = _behind(store, lower, upper)
            yield Step(0, Damage(lower, end, str(error)))
            lower = end
            continue
        yield Step(sum(len(key) + len(value) for key, value in pairs), None)
        if len(pairs) < limit:
            return
        lower = pairs[-1][0] + b"\0"


def _behind(store: Store, lower: bytes, upper: bytes) -> bytes:
    """Return a key behind the damage at `lower` from which the store can be read again, by bisection."""
    width = _KEY_BYTES
    bad = int.from_bytes(lower.ljust(width, b"\0"), "big")
    good = int.from_bytes(upper.ljust(width, b"\0"), "big")
    while good - bad > 1:
        middle = (bad + good) // 2
        try:
            store.scan(middle.to_bytes(width, "big"), upper, 1)
        except StoreError:
            bad = middle
        else:
            good = middle
    return good.to_bytes(width, "big")


def forget_cached_pages(database: Path) -> None:
    """Let the next reads of a database come from the disk, and not from memory that is still good."""
    for table in database.glob("*.sst"):
        descriptor = os.open(table, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def hits(fs: Filesystem) -> Iterator[Hit]:
    """Walk the live tree and every snapshot, and yield what cannot be read whole. Costs the whole tree."""
    for snapshot in (None, *(row.txn for row in fs.snapshots())):
        reader = fs.versions.live if snapshot is None else fs.versions.at(snapshot)
        for path, what in _unreadable(fs, reader, ROOT, b""):
            yield Hit(path or b"/", snapshot, what)


def _unreadable(fs: Filesystem, reader: Reader, number: int, path: bytes) -> Iterator[tuple[bytes, str]]:
    try:
        inode = inodes.load(reader, number)
    except (FsError, StoreError):
        yield path, "attributes"
        return
    try:
        for _ in scan_all(reader, *keys.xattrs(number)):
            pass
    except (FsError, StoreError):
        yield path, "extended attributes"
    if inode.is_regular:
        if not _is_whole(fs, reader, inode):
            yield path, "content"
    elif inode.is_directory:
        children = []
        try:
            for k, payload in scan_all(reader, *keys.entries_after(number, 0)):
                children.append((keys.split_entry(k).name, decode_entry(payload)))
        except (FsError, StoreError):
            yield path, "some of its names"
        for name, child in children:
            yield from _unreadable(fs, reader, child, path + b"/" + name)


def _is_whole(fs: Filesystem, reader: Reader, inode: Inode) -> bool:
    """Tell whether the content of a file can be read; of a large one with holes, only what is stored."""
    try:
        if inode.chunk0_birth:
            fs.data.read(reader, inode, 0, 1)
        for k, _ in scan_all(reader, *keys.chunk_maps(inode.content)):
            first = keys.split_chunk_map(k)[1] * keys.SEGMENT_CHUNKS * fs.chunk_size
            size = min(keys.SEGMENT_CHUNKS * fs.chunk_size, inode.size - first)
            for offset in range(first, first + size, fs.chunk_size):
                fs.data.read(reader, inode, offset, 1)
    except (FsError, StoreError):
        return False
    return True
