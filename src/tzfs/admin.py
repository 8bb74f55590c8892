"""The commands that a filesystem answers, mounted or not: one table of plain functions.

Each takes a `Filesystem` and JSON arguments and returns a JSON object. A daemon runs them for the
control socket, a command line runs them itself when no daemon has the filesystem open
(`tzfs.session`): the results are the same. Names are bytes in the core and travel as text in which a
byte that is no UTF-8 is a lone surrogate (`os.fsdecode`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from tzfs import check as invariants
from tzfs import files
from tzfs.errors import ControlError
from tzfs.filesystem import Filesystem
from tzfs.history import Change
from tzfs.records import Snapshot

Json = dict[str, Any]


def describe_snapshot(snapshot: Snapshot) -> Json:
    """Return a snapshot as JSON: txn, created_ns (since 1970), labels."""
    return {
        "txn": snapshot.txn,
        "created_ns": snapshot.created_ns,
        "labels": [os.fsdecode(label) for label in snapshot.labels],
    }


def snapshot(fs: Filesystem, *, label: str | None = None) -> Json:
    """Take a snapshot; an unchanged tree gives the last one again. `Exists`, `Invalid`, `ReadOnly`."""
    return describe_snapshot(fs.snapshot(None if label is None else os.fsencode(label)))


def snapshots(fs: Filesystem) -> Json:
    """List the snapshots, oldest first."""
    return {"snapshots": [describe_snapshot(found) for found in fs.snapshots()]}


def snapshot_delete(fs: Filesystem, *, names: list[str]) -> Json:
    """Delete the snapshots that txns or labels name: all, or none if one is missing (`SnapshotMissing`)."""
    txns = sorted({fs.find_snapshot(os.fsencode(name)).txn for name in names})
    for txn in txns:
        fs.delete_snapshot(b"%d" % txn)
    return {"deleted": txns}


def info(fs: Filesystem) -> Json:
    """Return figures: the open txn, snapshots, usage and limits in bytes, work left for reclaim.

    returning_to: the snapshot that a rollback could not reach yet, as the disk is full; None as a rule.
    """
    found = fs.snapshots()
    return {
        "txn": fs.txn,
        "snapshots": len(found),
        "last_snapshot": describe_snapshot(found[-1]) if found else None,
        "chunk_size": fs.chunk_size,
        "read_only": fs.read_only,
        "usage": fs.usage()._asdict(),
        "reclaim_backlog": fs.reclaim_backlog(),
        "returning_to": fs.returning_to,
    }


def snapshot_find(fs: Filesystem, *, name: str) -> Json:
    """Return the snapshot that a txn in digits, a label or `latest` names. `SnapshotMissing`."""
    return describe_snapshot(fs.find_snapshot(os.fsencode(name)))


def sync(_fs: Filesystem) -> Json:
    """Do nothing: whoever runs commands makes durable what was done before one is answered."""
    return {}


def diff(fs: Filesystem, *, old: str, new: str | None = None) -> Json:
    """Return what differs at snapshot `new` (None: now) from snapshot `old`, by path. `SnapshotMissing`."""
    changes = fs.diff(os.fsencode(old), None if new is None else os.fsencode(new))
    return {"changes": [_describe_change(change) for change in changes]}


def _describe_change(change: Change) -> Json:
    return {
        "kind": change.kind,
        "path": os.fsdecode(change.path),
        "old_path": None if change.old_path is None else os.fsdecode(change.old_path),
        "inode": change.inode.number,
        "mode": change.inode.mode,
        "size": change.inode.size,
        "writer": {
            "program": os.fsdecode(change.writer.program),
            "pid": change.writer.pid,
            "uid": change.writer.uid,
        },
    }


def rollback(fs: Filesystem, *, name: str) -> Json:
    """Make the tree what it was at a snapshot; returns the snapshot of the present. `SnapshotMissing`."""
    present, restored = fs.rollback(os.fsencode(name))
    fs.release(restored.inodes)
    return describe_snapshot(present)


def check(fs: Filesystem) -> Json:
    """Check every invariant of docs/format.md; no findings is clean. Reads the whole tree."""
    return {"findings": [finding._asdict() for finding in invariants.check(fs)]}


COMMANDS: Final[dict[str, Callable[..., Json]]] = {
    "snapshot": snapshot,
    "snapshots": snapshots,
    "snapshot_delete": snapshot_delete,
    "snapshot_find": snapshot_find,
    "sync": sync,
    "diff": diff,
    "rollback": rollback,
    "info": info,
    "check": check,
}


def run(fs: Filesystem, command: str, arguments: Json) -> Json:
    """Run a command of the table; `ControlError` if it or its arguments do not exist."""
    function = COMMANDS.get(command)
    if function is None:
        raise ControlError(f"there is no command {command!r}: is the daemon of another version?")
    return files.call(function, fs, command, arguments)
