"""Forks: a new filesystem that begins as another one was, shares its bytes on disk and depends on nobody.

The database is copied by RocksDB's checkpoint, hard links to files that never change, so a fork costs the
same whatever the size. Where it begins at an older snapshot, the copy is rolled back to it, which costs what
changed since; what came later is not part of its history.
"""

from __future__ import annotations

import os
from pathlib import Path

from tzfs import stand_in
from tzfs.catalog import FilesystemRow
from tzfs.filesystem import Filesystem
from tzfs.rocks import RocksStore
from tzfs.session import Session, connect
from tzfs.store import Store


def fork(store: Store, source: str, snapshot: str | None, name: str) -> FilesystemRow:
    """Make filesystem `name` of `source` as it is now, or as it was at a snapshot (a txn or a label).

    Raises `NameTaken`, `InvalidName`, `UnknownFilesystem`, `WrongStatus`, `SnapshotMissing`, `StoreError`.
    """
    store.require_free(name)
    row = store.get(source)
    with connect(store, row) as session:
        return fork_from(store, session, row, snapshot, name)


def fork_from(
    store: Store, session: Session, row: FilesystemRow, snapshot: str | None, name: str
) -> FilesystemRow:
    """Fork the filesystem `row` through a session that is open; as `fork`."""
    store.require_free(name)
    copy = session.checkpoint()
    try:
        _go_back(copy, snapshot)
        return store.adopt(name, row.config, copy)
    finally:
        stand_in.remove(copy)


def _go_back(database: Path, snapshot: str | None) -> None:
    """Make the filesystem in `database` what it was at a snapshot, and forget what came later; sync it."""
    engine = RocksStore.open(database)
    try:
        filesystem = Filesystem(engine)
        if snapshot is not None:
            goal = filesystem.find_snapshot(os.fsencode(snapshot)).txn
            _, restored = filesystem.rollback(b"%d" % goal)
            filesystem.release(restored.inodes)
            for later in filesystem.snapshots():
                if later.txn > goal:
                    filesystem.delete_snapshot(b"%d" % later.txn)
        engine.sync()
    finally:
        engine.close()
