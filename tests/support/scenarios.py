"""A small tree with some history, and one operation of every class to do on it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tzfs.bulk import Bulk, Write
from tzfs.filesystem import Filesystem
from tzfs.kv import Store
from tzfs.records import AttributeChanges, Caller

ALICE = Caller(1000, 1000, 42, b"alice")
CHUNK = 512
"""Bytes of a chunk: small, so that a file of 60 KB has several maps."""


def pattern(size: int, salt: int = 0) -> bytes:
    """Return bytes of which every stretch tells where it stands."""
    return b"".join(b"%07d " % (salt * 1_000_000 + at) for at in range(0, size, 8))[:size]


def find(fs: Filesystem, path: str) -> int:
    """Return the inode number of a path."""
    number = fs.ROOT
    for part in filter(None, path.split("/")):
        number = fs.lookup(number, os.fsencode(part)).number
    return number


def new(fs: Filesystem, path: str, data: bytes = b"") -> int:
    """Make a regular file."""
    parent, _, name = path.rpartition("/")
    number = fs.mknod(find(fs, parent), os.fsencode(name), stat.S_IFREG | 0o644, 0, ALICE).number
    if data:
        fs.write(number, 0, data, ALICE, stamp=True)
    return number


def write_in_bulk(fs: Filesystem, number: int, offset: int, data: bytes) -> None:
    """Write past the log, in four pieces as the kernel might, whatever the size."""
    piece = -(-len(data) // 4)
    cuts = range(0, len(data), piece)
    writes = [Write(number, offset + at, data[at : at + piece], ALICE, stamp=True) for at in cuts]
    bulk = Bulk(fs, fs.store, bytes_min=1)  # type: ignore[arg-type]
    pending = bulk.begin(writes)
    if pending is None:
        fs.write(number, offset, data, ALICE, stamp=True)
        return
    for error in bulk.finish(pending, bulk.build(pending)):
        if error is not None:
            raise error


def prepare(engine: Store) -> Filesystem:
    """Format and fill an empty store."""
    Filesystem.format(engine, chunk_size=CHUNK)
    fs = Filesystem(engine)
    fill(fs)
    return fs


def fill(fs: Filesystem) -> None:
    """Make the tree, with two snapshots behind it and work for reclaim."""
    for name in (b"d", b"full", b"empty"):
        fs.mkdir(1, name, 0o755, ALICE)
    fs.mkdir(find(fs, "d"), b"e", 0o755, ALICE)
    for path, size in (("a", 100), ("big", 60_000), ("d/c", 2000), ("full/x", 10), ("old", 40_000)):
        new(fs, path, pattern(size))
    fs.link(find(fs, "a"), find(fs, "d"), b"a2", ALICE)
    fs.symlink(1, b"s", b"d/c", ALICE)
    fs.setxattr(find(fs, "a"), b"user.colour", b"red", ALICE)
    fs.snapshot(b"one")
    fs.write(find(fs, "big"), 30_000, pattern(5000, 1), ALICE, stamp=True)
    fs.unlink(1, b"old", ALICE)
    fs.setxattr(find(fs, "a"), b"user.colour", b"blue", ALICE)
    new(fs, "later", pattern(3000, 2))
    fs.snapshot(b"two")
    fs.setattr(find(fs, "later"), AttributeChanges(size=100), ALICE)
    fs.rename(old_parent=1, old_name=b"s", new_parent=find(fs, "d"), new_name=b"s", caller=ALICE)
    for at in range(30):
        new(fs, f"d/e/{at}", pattern(100, at))
    new(fs, "orphan", pattern(50_000, 3))
    fs.unlink(1, b"orphan", ALICE)
    fs.setattr(find(fs, "d/c"), AttributeChanges(size=0), ALICE)


def _setattr(path: str, **changes: int) -> Callable[[Filesystem], Any]:
    return lambda fs: fs.setattr(find(fs, path), AttributeChanges(**changes), ALICE)


def _rename(
    old: tuple[str, bytes], new_place: tuple[str, bytes], flags: int = 0
) -> Callable[[Filesystem], Any]:
    return lambda fs: fs.rename(
        old_parent=find(fs, old[0]),
        old_name=old[1],
        new_parent=find(fs, new_place[0]),
        new_name=new_place[1],
        flags=flags,
        caller=ALICE,
    )


def _reclaim(fs: Filesystem) -> None:
    while fs.reclaim(64):
        pass


def _snapshot_delete(fs: Filesystem) -> None:
    fs.delete_snapshot(b"one")
    _reclaim(fs)


def _checkpoint(fs: Filesystem) -> None:
    with tempfile.TemporaryDirectory() as directory:
        fs.store.checkpoint(Path(directory) / "copy")  # type: ignore[attr-defined]


OPERATIONS: dict[str, Callable[[Filesystem], Any]] = {
    "mknod": lambda fs: fs.mknod(find(fs, "d"), b"new", stat.S_IFREG | 0o600, 0, ALICE),
    "mkdir": lambda fs: fs.mkdir(find(fs, "d"), b"new", 0o700, ALICE),
    "symlink": lambda fs: fs.symlink(1, b"new", b"somewhere", ALICE),
    "link": lambda fs: fs.link(find(fs, "a"), 1, b"a3", ALICE),
    "unlink": lambda fs: fs.unlink(1, b"big", ALICE),
    "unlink-one-of-two": lambda fs: fs.unlink(1, b"a", ALICE),
    "rmdir": lambda fs: fs.rmdir(1, b"empty", ALICE),
    "rename": _rename(("", b"big"), ("d/e", b"moved")),
    "rename-over": _rename(("", b"big"), ("", b"a")),
    "rename-of-a-directory": _rename(("d", b"e"), ("full", b"e")),
    "exchange": _rename(("", b"d"), ("", b"a"), 2),
    "chmod": _setattr("a", mode=0o4711),
    "chown": _setattr("a", uid=7, gid=8),
    "truncate": _setattr("big", size=33_333),
    "truncate-to-zero": _setattr("big", size=0),
    "grow": _setattr("a", size=1 << 20),
    "open-with-truncation": lambda fs: fs.truncate_on_open(find(fs, "big"), ALICE),
    "write": lambda fs: fs.write(find(fs, "a"), 50, pattern(100, 9), ALICE, stamp=True),
    "write-many-chunks": lambda fs: fs.write(find(fs, "big"), 20_000, pattern(50_000, 9), ALICE, stamp=True),
    "write-in-bulk": lambda fs: write_in_bulk(fs, find(fs, "big"), 20_000, pattern(60_000, 9)),
    "setxattr": lambda fs: fs.setxattr(find(fs, "big"), b"user.new", b"value", ALICE),
    "removexattr": lambda fs: fs.removexattr(find(fs, "a"), b"user.colour", ALICE),
    "snapshot": lambda fs: fs.snapshot(b"three"),
    "snapshot-delete": _snapshot_delete,
    "rollback": lambda fs: fs.rollback(b"one"),
    "reclaim": _reclaim,
    "sync": lambda fs: fs.store.sync(),
    "flush": lambda fs: fs.store.flush(),  # type: ignore[attr-defined]
    "compact": lambda fs: fs.store.compact(),  # type: ignore[attr-defined]
    "checkpoint": _checkpoint,
    "make-way": lambda fs: fs.store.make_way(),  # type: ignore[attr-defined]
}
"""By name: one operation of each class. Most are one transaction; rollback and reclaim are several."""
