"""The table of snapshots: taking, labelling, finding and deleting them.

A snapshot is a row: its txn, when it was sealed, its labels. Taking one writes that row and the superblock
with the next txn, whatever the size of the tree. Deleting one removes the row and leaves a mark, by which
reclaim later prunes what that snapshot alone could see.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from tzfs import failpoints, keys
from tzfs.errors import Exists, Invalid, NameTooLong, SnapshotMissing
from tzfs.records import (
    NAME_MAX,
    Snapshot,
    decode_snapshot,
    encode_mark,
    encode_snapshot,
    encode_superblock,
)
from tzfs.versions import scan_all

if TYPE_CHECKING:
    from tzfs.volume import Volume

LATEST: Final = b"latest"
_LABEL = re.compile(rb"[A-Za-z0-9._-]+")
_NUMBER = re.compile(rb"[0-9]+")


def require_label(label: bytes) -> None:
    """Refuse what can be no label: `Invalid`, `NameTooLong`."""
    if len(label) > NAME_MAX:
        raise NameTooLong(f"label of {len(label)} bytes, at most {NAME_MAX}")
    if not _LABEL.fullmatch(label) or _NUMBER.fullmatch(label) or label in {LATEST, b".", b".."}:
        shown = label.decode(errors="backslashreplace")
        raise Invalid(
            f"label {shown!r}: letters, digits and ._- only, no number alone, and not {LATEST.decode()!r}"
        )


class Snapshots:
    """The snapshots of one volume, in memory and in its table."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._rows: dict[int, Snapshot] = {}
        self._labels: dict[bytes, int] = {}
        for key, value in scan_all(volume.store, *keys.meta_range(b"S")):
            self._remember(decode_snapshot(keys.meta_number(key), value))

    def _remember(self, row: Snapshot) -> None:
        self._rows[row.txn] = row
        for label in row.labels:
            self._labels[label] = row.txn

    def list(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        return [self._rows[txn] for txn in self._volume.versions.sealed]

    def find(self, name: bytes) -> Snapshot:
        """Return the snapshot that a txn in digits, a label, or `latest` names. Raises `SnapshotMissing`."""
        sealed = self._volume.versions.sealed
        if name == LATEST and sealed:
            return self._rows[sealed[-1]]
        if _NUMBER.fullmatch(name) and (name == b"0" or name[:1] != b"0") and len(name) < 20:
            txn = int(name)
        else:
            txn = self._labels.get(name, 0)
        row = self._rows.get(txn)
        if row is None:
            raise SnapshotMissing(f"there is no snapshot {name.decode(errors='backslashreplace')}")
        return row

    def changed(self) -> bool:
        """Tell whether no snapshot holds the present: the open txn has a change, or the one before is gone.

        The last snapshot that exists is not enough: a later one may have been deleted, with its changes.
        """
        versions = self._volume.versions
        if not versions.exists(versions.txn - 1):
            return True
        return bool(self._volume.store.scan(*keys.log_range(versions.txn, versions.txn), 1))

    @failpoints.point("seal")
    def take(self, label: bytes | None) -> Snapshot:
        """Seal the open txn, or return the last snapshot when nothing changed since; atomic.

        Raises `Invalid` and `Exists` for the label.
        """
        if label is not None:
            require_label(label)
            if label in self._labels:
                raise Exists(f"label {label.decode()} is taken by snapshot {self._labels[label]}")
        labels = () if label is None else (label,)
        volume = self._volume
        sealed = volume.versions.sealed
        if not self.changed():
            row = self._rows[sealed[-1]]
            row = row._replace(labels=row.labels + labels)
            if labels:
                volume.store.write({keys.snapshot(row.txn): encode_snapshot(row)})
        else:
            row = Snapshot(volume.versions.txn, time.time_ns(), labels)
            superblock = volume.superblock._replace(txn=row.txn + 1)
            volume.store.write(
                {
                    keys.snapshot(row.txn): encode_snapshot(row),
                    keys.SUPERBLOCK: encode_superblock(superblock),
                }
            )
            volume.superblock = superblock
            volume.versions.seal()
        self._remember(row)
        return row

    @failpoints.point("snapshot_delete")
    def delete(self, name: bytes) -> int:
        """Delete the snapshot that `name` names, with all its labels, and return its txn; atomic."""
        row = self.find(name)
        self._volume.store.write({keys.snapshot(row.txn): None, keys.pruning(row.txn): encode_mark(row.txn)})
        self._volume.versions.drop(row.txn)
        self._volume.unpruned.add(row.txn)
        del self._rows[row.txn]
        for label in row.labels:
            del self._labels[label]
        return row.txn
